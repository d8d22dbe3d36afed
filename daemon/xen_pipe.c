// SPDX-License-Identifier: BSD-2-Clause
#include "xen_pipe.h"

#include <stdlib.h>
#include <string.h>

#include <libxenvchan.h>

#include "xen_store.h"

#define OUT_MAX		  (4u << 20) // bytes waiting; who does not read that much does not read at all
#define MESSAGES_PER_TURN 64

static void over(struct rlmd_pipe *pipe, const char *why)
{
	rlmd_pipe_close(pipe);
	pipe->over(pipe->owner, why);
}

// False: nothing more to do now.
static bool take(struct rlmd_pipe *pipe)
{
	long want = rlmd_wire_missing(&pipe->in, pipe->got);
	int got;

	if (want < 0) {
		over(pipe, "a message of impossible size");
		return false;
	}
	got = want ? libxenvchan_read(pipe->channel, (char *)&pipe->in + pipe->got, (size_t)want) : 0;
	if (got < 0) {
		over(pipe, "closed");
		return false;
	}
	pipe->got += (size_t)got;
	if (got < want)
		return false;
	if (pipe->got == sizeof(pipe->in.header) && pipe->in.header.size != pipe->got)
		return true;
	if (!rlmd_wire_valid(&pipe->in)) {
		over(pipe, "a malformed message");
		return false;
	}
	pipe->got = 0;
	pipe->message(pipe->owner, &pipe->in);
	memset(&pipe->in, 0, sizeof(pipe->in));
	return pipe->channel != NULL;
}

// False: the channel broke.
static bool flush(struct rlmd_pipe *pipe)
{
	while (pipe->out_at < pipe->out_size) {
		int written = libxenvchan_write(pipe->channel, pipe->out + pipe->out_at, pipe->out_size - pipe->out_at);

		if (written < 0)
			return false;
		if (written == 0)
			return true; // the peer notifies when there is room
		pipe->out_at += (size_t)written;
	}
	pipe->out_at = pipe->out_size = 0;
	return true;
}

static void turn(struct rlmd_pipe *pipe)
{
	int left = MESSAGES_PER_TURN;

	if (pipe->broken || !flush(pipe)) {
		over(pipe, "closed, or does not read");
		return;
	}
	while (left > 0 && take(pipe))
		left--;
	if (!pipe->channel)
		return;
	if (left == 0)
		ev_feed_event(pipe->loop, &pipe->again, EV_CUSTOM);
	else if (libxenvchan_is_open(pipe->channel) == 0)
		over(pipe, "closed");
}

static void on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct rlmd_pipe *pipe = io->data;

	// Does not sleep: the descriptor is readable.
	libxenvchan_wait(pipe->channel);
	turn(pipe);
}

static void on_again(struct ev_loop *loop, ev_timer *timer, int events)
{
	turn(timer->data);
}

void rlmd_pipe_open(struct rlmd_pipe *pipe, struct ev_loop *loop, struct libxenvchan *channel)
{
	channel->blocking = 0;
	pipe->channel = channel;
	pipe->loop = loop;
	pipe->broken = false;
	pipe->got = pipe->out_at = pipe->out_size = 0;
	ev_io_init(&pipe->readable, on_readable, libxenvchan_fd_for_select(channel), EV_READ);
	ev_timer_init(&pipe->again, on_again, 0, 0);
	pipe->readable.data = pipe->again.data = pipe;
	ev_io_start(loop, &pipe->readable);
	ev_feed_event(loop, &pipe->again, EV_CUSTOM); // what is there already
}

void rlmd_pipe_close(struct rlmd_pipe *pipe)
{
	struct libxenvchan *channel = pipe->channel;

	if (!channel)
		return;
	rlmd_pipe_abandon(pipe);
	rlmd_store_begin();
	libxenvchan_close(channel);
	rlmd_store_end();
}

void rlmd_pipe_abandon(struct rlmd_pipe *pipe)
{
	if (!pipe->channel)
		return;
	ev_io_stop(pipe->loop, &pipe->readable);
	ev_timer_stop(pipe->loop, &pipe->again);
	ev_clear_pending(pipe->loop, &pipe->readable);
	ev_clear_pending(pipe->loop, &pipe->again);
	pipe->channel = NULL;
	free(pipe->out);
	pipe->out = NULL;
	pipe->out_at = pipe->out_size = pipe->out_room = 0;
}

static bool room_make(struct rlmd_pipe *pipe, size_t more)
{
	size_t room = pipe->out_room ? pipe->out_room : 4096;
	char *grown;

	if (pipe->out_at) {
		memmove(pipe->out, pipe->out + pipe->out_at, pipe->out_size - pipe->out_at);
		pipe->out_size -= pipe->out_at;
		pipe->out_at = 0;
	}
	while (room < pipe->out_size + more)
		room *= 2;
	if (room == pipe->out_room)
		return true;
	grown = room <= OUT_MAX ? realloc(pipe->out, room) : NULL;
	if (!grown)
		return false;
	pipe->out = grown;
	pipe->out_room = room;
	return true;
}

void rlmd_pipe_send(struct rlmd_pipe *pipe, const void *message)
{
	const struct rlmd_wire_header *header = message;

	if (!pipe->channel)
		return;
	if (!room_make(pipe, header->size)) {
		pipe->broken = true;
	} else {
		memcpy(pipe->out + pipe->out_size, message, header->size);
		pipe->out_size += header->size;
		pipe->broken = !flush(pipe);
	}
	if (pipe->broken)
		ev_feed_event(pipe->loop, &pipe->again, EV_CUSTOM);
}

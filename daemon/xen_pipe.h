// SPDX-License-Identifier: BSD-2-Clause
// Whole messages over a libxenvchan channel, in an event loop. Never blocks.
#ifndef RLMD_XEN_PIPE_H
#define RLMD_XEN_PIPE_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>

#include "xen_wire.h"

struct libxenvchan;

struct rlmd_pipe {
	struct libxenvchan *channel; // NULL: closed
	struct ev_loop *loop;
	bool broken;	// ends on its next turn
	ev_io readable;
	ev_timer again; // more to read than one turn may take
	size_t got;	// bytes of the message that is arriving
	union rlmd_wire in;
	char *out; // what the channel does not take yet
	size_t out_at, out_size, out_room;
	void *owner;
	// A message that is complete and as long as its type says.
	void (*message)(void *owner, const union rlmd_wire *message);
	// The other end is gone or broke the rules; the pipe is closed already.
	void (*over)(void *owner, const char *why);
};

// Takes the channel.
void rlmd_pipe_open(struct rlmd_pipe *pipe, struct ev_loop *loop, struct libxenvchan *channel);
// Safe at any time, also from the callbacks; over() is not called.
void rlmd_pipe_close(struct rlmd_pipe *pipe);
// The same, but the channel is not touched: it belongs to another host, and the kernel stumbles over an event channel of there that is closed.
void rlmd_pipe_abandon(struct rlmd_pipe *pipe);
// Lost without a word when the pipe is closed. A peer that does not read ends it, but later: over() is never called from here.
void rlmd_pipe_send(struct rlmd_pipe *pipe, const void *message);

#endif

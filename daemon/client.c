// SPDX-License-Identifier: BSD-2-Clause
#include "client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "broker.h"
#include "closer.h"
#include "log.h"
#include "move.h"
#include "naming.h"
#include "xen.h"

#define MESSAGES_PER_TURN 32   // then the others
#define UNREAD_MAX	  64   // packets waiting, before we stop listening to a client
#define LATER		  0.02 // seconds
#define FDS_MAX		  253  // in a packet, SCM_MAX_FD: what the kernel would have to drop it would close for us

static void flush(struct rlmd_client *client);

void rlmd_client_doom(struct rlmd_client *client, const char *reason)
{
	if (client->doomed)
		return;
	client->doomed = true;
	LL_PREPEND2(client->broker->doomed, client, doomed_next);
	log_debug("%s[%d]: session ends: %s", client->command, (int)client->pid, reason);
	ev_io_stop(client->broker->loop, &client->readable);
	ev_io_stop(client->broker->loop, &client->writable);
	ev_timer_stop(client->broker->loop, &client->later);
	// Comes round at once, so that the loop's prepare step takes the session apart.
	ev_feed_event(client->broker->loop, &client->later, EV_CUSTOM);
}

static void later(struct rlmd_client *client, double seconds)
{
	ev_timer_stop(client->broker->loop, &client->later);
	ev_timer_set(&client->later, seconds, 0);
	ev_timer_start(client->broker->loop, &client->later);
}

static void outbox_watch(struct rlmd_client *client, enum rlmd_outbox_state state)
{
	struct ev_loop *loop = client->broker->loop;

	if (client->doomed)
		return;
	// Who does not take our answers asks nothing more. What others cause still reaches it, up to the outbox's
	// bound.
	if (client->outbox.count > UNREAD_MAX)
		ev_io_stop(loop, &client->readable);
	switch (state) {
	case RLMD_OUTBOX_EMPTY:
		if (!client->paused)
			ev_io_start(loop, &client->readable);
		if (client->reply.text)
			ev_io_start(loop, &client->writable);
		else
			ev_io_stop(loop, &client->writable);
		break;
	case RLMD_OUTBOX_WAITS:
		ev_io_start(loop, &client->writable);
		break;
	case RLMD_OUTBOX_LATER:
		ev_io_stop(loop, &client->writable);
		later(client, LATER);
		break;
	case RLMD_OUTBOX_FULL:
		rlmd_client_doom(client, "it does not read");
		break;
	case RLMD_OUTBOX_BROKEN:
		rlmd_client_doom(client, "it is gone");
		break;
	}
}

void rlmd_client_send(struct rlmd_client *client, const void *msg, const int *fds, unsigned fd_count)
{
	const struct rlm_msg_header *header = msg;
	enum rlmd_outbox_state state;

	if (client->doomed)
		return;
	if (client->guest) {
		rlmd_xen_relay(client, 0, msg);
		return;
	}
	state = rlmd_outbox_send(&client->outbox, msg, header->size, fds, fd_count);
	if (state != RLMD_OUTBOX_EMPTY)
		outbox_watch(client, state);
}

void rlmd_client_note(struct rlmd_client *client, struct rlm_conn_ref conn, enum rlm_why why, bool again)
{
	struct rlm_msg_note note = {
	    .header = {.type = RLM_MSG_NOTE, .size = sizeof(note)}, .conn = conn, .why = why, .again = again};

	rlmd_client_send(client, &note, NULL, 0);
}

void rlmd_client_named(struct rlmd_client *client, struct rlm_conn_ref conn, enum rlm_why why)
{
	struct rlm_msg_named named = {
	    .header = {.type = RLM_MSG_NAMED, .size = sizeof(named)}, .conn = conn, .why = why};

	rlmd_client_send(client, &named, NULL, 0);
}

static void reply_free(struct rlmd_client *client)
{
	if (client->reply.text)
		rlmd_user_answered(client->user, client->reply.length);
	free(client->reply.text);
	client->reply.text = NULL;
}

// Keeps only a few packets of a long reply in the outbox.
static enum rlmd_outbox_state reply_send(struct rlmd_client *client)
{
	enum rlmd_outbox_state state = RLMD_OUTBOX_EMPTY;
	struct rlm_msg_text msg;

	while (client->reply.text && state == RLMD_OUTBOX_EMPTY) {
		size_t left = client->reply.length - client->reply.sent;
		size_t length = left < RLM_TEXT_CHUNK ? left : RLM_TEXT_CHUNK;

		memset(&msg, 0, sizeof(msg));
		msg.header.type = RLM_MSG_REPLY;
		msg.header.size = (uint16_t)(offsetof(struct rlm_msg_text, text) + length);
		msg.more = length < left;
		msg.length = (uint32_t)length;
		memcpy(msg.text, client->reply.text + client->reply.sent, length);
		state = rlmd_outbox_send(&client->outbox, &msg, msg.header.size, NULL, 0);
		client->reply.sent += length;
		if (!msg.more)
			reply_free(client);
	}
	return state;
}

bool rlmd_client_reply(struct rlmd_client *client, char *text)
{
	size_t length = strlen(text);

	if (client->reply.text || client->doomed || !rlmd_user_answer(client->user, length)) {
		free(text);
		return false;
	}
	client->reply.text = text;
	client->reply.length = length;
	client->reply.sent = 0;
	flush(client);
	return true;
}

static void flush(struct rlmd_client *client)
{
	enum rlmd_outbox_state state = rlmd_outbox_flush(&client->outbox);

	if (state == RLMD_OUTBOX_EMPTY)
		state = reply_send(client);
	outbox_watch(client, state);
}

// Returns the number of bytes, 0 at the end of the session, -1: nothing now, -2: broken.
static ssize_t receive(struct rlmd_client *client, union rlm_msg *msg, int *fds, unsigned *fd_count)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {msg, sizeof(*msg)};
	struct msghdr header = {
	    .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
	ssize_t size = recvmsg(client->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*fd_count = 0;
	if (size < 0 && errno == ECONNRESET)
		return 0; // closed with our messages unread
	if (size < 0)
		return errno == EAGAIN || errno == EINTR ? -1 : -2;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds + *fd_count, CMSG_DATA(c), count * sizeof(int));
		*fd_count += count;
	}
	return header.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -2 : size;
}

static bool turn(struct rlmd_client *client)
{
	int fds[FDS_MAX];
	union rlm_msg msg;
	unsigned fd_count;
	ssize_t size;

	memset(&msg, 0, sizeof(msg));
	size = receive(client, &msg, fds, &fd_count);
	if (size > 0)
		rlmd_handle(client->broker, client, &msg, (size_t)size, fds, fd_count);
	else if (size == 0)
		rlmd_client_doom(client, "closed");
	else if (size == -2)
		rlmd_client_doom(client, "receive failed or message too long");
	for (unsigned i = 0; i < fd_count; i++)
		rlmd_close_foreign(fds[i], client->uid);
	return size > 0 && ev_is_active(&client->readable);
}

static void on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct rlmd_client *client = io->data;
	double start = ev_time(), wait;

	for (int i = 0; i < MESSAGES_PER_TURN && turn(client); i++)
		;
	wait = rlmd_user_spent(client->user, start, ev_time());
	if (wait <= 0 || client->doomed)
		return;
	client->paused = true;
	ev_io_stop(loop, &client->readable);
	later(client, wait);
}

static void on_writable(struct ev_loop *loop, ev_io *io, int events)
{
	flush(io->data);
}

static void on_later(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_client *client = timer->data;

	client->paused = false;
	if (!client->doomed)
		flush(client);
}

static bool is_admin(uid_t uid)
{
	return uid == 0 || uid == geteuid();
}

// Takes the reference to domain, which may be NULL.
static void client_init(struct rlmd_broker *broker, struct rlmd_client *client, int fd, struct rlmd_domain *domain)
{
	client->broker = broker;
	client->party.id = ++broker->next_client;
	client->fd = fd;
	memcpy(client->command, "client", 7);
	client->domain = domain;
	if (domain && domain->clients++ == 0)
		broker->domain_count++;
	rlmd_outbox_init(&client->outbox, fd);
	ev_io_init(&client->readable, on_readable, fd, EV_READ);
	ev_io_init(&client->writable, on_writable, fd, EV_WRITE);
	ev_timer_init(&client->later, on_later, 0, 0);
	client->readable.data = client->writable.data = client->later.data = client;
	DL_APPEND(broker->clients, client);
	broker->client_count++;
	broker->counters.clients++;
}

struct rlmd_client *rlmd_client_new_far(struct rlmd_broker *broker, struct rlmd_domain *domain)
{
	struct rlmd_client *client = calloc(1, sizeof(*client));

	if (!client)
		return NULL;
	client->party.far = true;
	client->hello = true;
	client_init(broker, client, -1, rlmd_domain_get(domain));
	return client;
}

struct rlmd_client *rlmd_client_new(struct rlmd_broker *broker, int fd)
{
	struct rlmd_client *client = calloc(1, sizeof(*client));
	struct ucred peer = {.pid = 0};
	socklen_t length = sizeof(peer);
	bool limited = false;

	if (client && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && !rlmd_closer_is_stuck(peer.uid))
		client->user = rlmd_user_get(&broker->users, peer.uid, is_admin(peer.uid), &broker->config.limits, &limited);
	if (!client || !client->user) {
		broker->counters.refused_sessions += limited;
		free(client);
		rlmd_close_session(fd, peer.uid);
		return NULL;
	}
	client->party.account = &client->user->account;
	client_init(broker, client, fd, rlmd_domain_of(&broker->domains, fd, ev_now(broker->loop)));
	client->pid = peer.pid;
	client->uid = peer.uid;
	ev_io_start(broker->loop, &client->readable);
	return client;
}

static void domain_leave(struct rlmd_client *client)
{
	struct rlmd_broker *broker = client->broker;

	if (!client->domain)
		return;
	if (--client->domain->clients == 0)
		broker->domain_count--;
	rlmd_domain_put(&broker->domains, client->domain);
}

void rlmd_client_free(struct rlmd_client *client)
{
	struct rlmd_broker *broker = client->broker;
	struct rlmd_offer *offer, *next;
	struct rlmd_sums last;

	ev_io_stop(broker->loop, &client->readable);
	ev_io_stop(broker->loop, &client->writable);
	ev_timer_stop(broker->loop, &client->later);
	ev_clear_pending(broker->loop, &client->later);
	HASH_ITER (hh, client->offers, offer, next)
		rlmd_offer_free(broker, offer);
	rlmd_move_forget(client);
	rlmd_xen_prepare_forget(client);
	rlmd_leaves_forget(client);
	rlmd_kept_forget(client);
	rlmd_links_close(broker, client);
	rlmd_xen_client_gone(broker, client);
	if (rlmd_table_put(&broker->tables, client->table, &last))
		rlmd_sums_add(&broker->gone, &last);
	if (client->hello)
		rlmd_event(&broker->events, "process-gone", client->domain ? client->domain->name : "", NULL, "%s[%d]",
			   client->command, (int)client->pid);
	rlmd_tickets_unmap(client->tickets);
	rlmd_outbox_deinit(&client->outbox);
	domain_leave(client);
	free(client->request.text);
	reply_free(client);
	rlmd_user_put(&broker->users, client->user);
	rlmd_close_session(client->fd, client->uid);
	DL_DELETE(broker->clients, client);
	broker->client_count--;
	free(client);
}

bool rlmd_client_is_admin(const struct rlmd_client *client)
{
	return is_admin(client->uid);
}

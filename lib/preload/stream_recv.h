// SPDX-License-Identifier: BSD-2-Clause
// One receive, as its two halves see it: stream_recv.c has the ring's, stream_recv_kernel.c the kernel's.
#ifndef RLM_STREAM_RECV_H
#define RLM_STREAM_RECV_H

#include "stream_internal.h"

struct receive {
	struct rlm_conn *c;
	int fd;
	int flags;
	struct cursor at;
	uint64_t total, done;
	struct deadline deadline; // with MSG_WAITALL, until it is set: when the call began
	struct deadline patience; // with what is on its way
	struct rlm_inside inside;
	bool user;
};

static inline int64_t receive_finish(const struct receive *r, int64_t n)
{
	return stream_partial(r->c, r->done, n);
}

// n bytes reached the caller's buffer. boundary: the carrier may change here, and the next byte may be there already. Programs take a short
// receive for an empty socket (with edge-triggered epoll they wait for the next edge), so it must not end at a boundary.
static inline int64_t receive_got(struct receive *r, uint64_t n, bool boundary)
{
	r->done += n;
	if (r->done == r->total || r->flags & MSG_PEEK)
		return (int64_t)r->done;
	if (r->flags & MSG_WAITALL)
		return GO_ON;
	if (!boundary)
		return (int64_t)r->done;
	r->flags |= MSG_DONTWAIT;
	return GO_ON;
}

static inline void receive_be_user(struct receive *r)
{
	if (!r->user)
		stream_enter(r->c);
	r->user = true;
}

extern __thread bool stream_kept_nonblock; // how the call began that has stream_kept

// How a call begins, or goes on that was in the kernel.
static inline int receive_flags(const struct rlm_conn *c, int flags)
{
	return flags | (stream_kept == c ? stream_kept_nonblock ? MSG_DONTWAIT : 0 : conn_is_nonblock(c));
}

static inline void receive_stay_user(struct receive *r)
{
	if (stream_kept != r->c)
		return;
	if (r->user)
		stream_leave(r->c); // twice
	r->user = true;
	stream_kept = NULL;
	rlm_guard_leave();
}

// --- stream_recv_kernel.c ---

// One recvmsg(), as if without MSG_WAITALL; -errno.
int64_t stream_kernel_recv(int fd, const struct cursor *at, int flags);
// rx_lock, and the kernel has the next bytes; releases the lock.
int64_t receive_from_kernel(struct receive *r);
// rx_lock. TCP up to the cut. > 0, 0 end of stream, -errno.
int64_t receive_up_to_cut(struct receive *r, struct rlm_bound *b);
// rx_lock; releases it. Ring is empty and TCP has ended. What was received already goes first; the kernel keeps its answer for the next call.
int64_t receive_after_end(struct receive *r);
// TCP has ended. If the kernel told why when nobody listened, it is told now.
int64_t receive_finish_at_end(const struct receive *r);
// For what is on its way.
int64_t receive_wait_a_moment(struct receive *r);

#endif

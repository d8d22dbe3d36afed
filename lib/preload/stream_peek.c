// SPDX-License-Identifier: BSD-2-Clause
// MSG_PEEK on a connection that is bound to a ring: what is there goes on from one carrier to the next, and a peek moves nothing.
#include "stream_internal.h"

#define PARTS 64

// The next n bytes of the caller's buffers, as entries for the kernel; fewer bytes when there are too many entries.
static int parts_add(struct iovec *parts, int used, struct cursor *at, uint64_t n)
{
	uint64_t part;
	void *p;

	for (; used < PARTS && n && (p = cursor_next(at, n, &part)); n -= part)
		parts[used++] = (struct iovec){p, part};
	return used;
}

static int64_t from_ring(const struct rlm_bound *b, struct cursor at, uint64_t n)
{
	uint64_t tail = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed), done, part;
	void *p;

	for (done = 0; done < n; done += part) {
		p = cursor_next(&at, n - done < STREAM_PIECE ? n - done : STREAM_PIECE, &part);
		if (ring_copy(&b->rx, tail + done, p, part) < 0)
			return done ? (int64_t)done : -EFAULT;
	}
	return cutover_slot_stands(b) ? (int64_t)done : -ECONNRESET;
}

// TCP up to the cut, the ring, and TCP behind the frames. The kernel is asked once, for both of its parts.
int64_t stream_peek(struct rlm_bound *b, int fd, const struct cursor *at, uint64_t total)
{
	struct rx_layout l = cutover_rx_layout(b);
	uint64_t before = total < l.tcp ? total : l.tcp, ring = total - before < l.ring ? total - before : l.ring, seen;
	uint64_t behind = l.more ? total - before - ring : 0;
	struct cursor next = *at, middle;
	struct iovec parts[PARTS];
	struct msghdr msg = {.msg_iov = parts};
	uint8_t frames[RLM_OWED_MAX];
	int used = parts_add(parts, 0, &next, before);
	int64_t n = 0, r;

	middle = next;
	for (uint64_t skipped = 0, part; skipped < ring; skipped += part)
		cursor_next(&next, ring - skipped, &part);
	if (behind && used < PARTS) {
		parts[used++] = (struct iovec){frames, l.frames};
		used = parts_add(parts, used, &next, behind);
	}
	msg.msg_iovlen = (size_t)used;
	if (used)
		n = sys_call3(SYS_recvmsg, fd, &msg, MSG_PEEK | MSG_DONTWAIT);
	if (before && n < (int64_t)before)
		return n;
	if (n < 0)
		cutover_keep_error(b, n);
	seen = n > (int64_t)(before + l.frames) ? (uint64_t)n - before - l.frames : 0;
	r = from_ring(b, middle, ring);
	if (r < 0)
		return before ? (int64_t)before : r;
	n = (int64_t)before + r + ((uint64_t)r == ring ? (int64_t)seen : 0);
	return n || !total ? n : -EAGAIN;
}

// A peek that waits for all of it. The kernel could not be woken out of one when the connection is promoted meanwhile, so this looks
// again and again; nobody is known to do it in earnest.
int64_t stream_peek_all(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	struct deadline deadline = {0};
	struct timespec left;
	int64_t n, last = -1;
	bool nonblock = (flags | conn_is_nonblock(c)) & MSG_DONTWAIT;

	deadline_start(&deadline, stream_timeout_ns(fd, SO_RCVTIMEO));
	for (;;) {
		n = stream_recv(c, fd, iov, iovcnt, flags & ~MSG_WAITALL);
		if (n <= 0 || (uint64_t)n >= iov_total(iov, iovcnt) || nonblock)
			return n;
		if (sys_poll_now(stream_fd(c, fd), POLLRDHUP) > 0 && n == last)
			return n;
		if (deadline.set && !deadline_left(&deadline, &left))
			return n;
		last = n;
		if (sys_call2(SYS_nanosleep, &moment, NULL) == -EINTR)
			return n;
	}
}

// SPDX-License-Identifier: BSD-2-Clause
// Receiving on a connection that may be bound to a ring.
#include "stream_recv.h"

// Ring, under rx_lock: bytes given to the caller; -EFAULT; -ECONNRESET when they cannot be trusted. Room is given back in pieces, so that
// the sender can go on. A bad buffer spoils one of these, as it spoils a whole packet in the kernel.
static int64_t ring_recv(struct receive *r, struct rlm_bound *b, uint64_t available)
{
	struct rlm_ring *ring = &b->rx;
	uint64_t start = atomic_load_explicit(&ring->mine->tail, memory_order_relaxed), most = r->total - r->done, done = 0, taken = 0, n;
	int error = 0;
	void *p;

	if (most > available)
		most = available;
	while (done < most && !error) {
		n = most - done;
		p = cursor_next(&r->at, n < STREAM_PIECE ? n : STREAM_PIECE, &n);
		error = ring_copy(ring, start + done, p, n);
		done += n;
		if (done < most && done - taken < STREAM_PIECE && !error)
			continue;
		if (!cutover_slot_stands(b))
			error = -ECONNRESET;
		if (__builtin_expect(error, 0))
			break;
		stream_took(r->c, b, start + taken, done - taken);
		taken = done;
	}
	if (__builtin_expect(!error, 1))
		return (int64_t)done;
	r->total = r->done + taken; // no more for this call
	return taken ? (int64_t)taken : error;
}

static int64_t would_block(struct receive *r, struct rlm_bound *b)
{
	if (cutover_rx_is_on_its_way(b, r->fd)) {
		receive_be_user(r);
		rlm_lock_drop(&r->c->rx_lock);
		return receive_wait_a_moment(r);
	}
	if (b->rx_state == RX_RING && cutover_rx_look_at_tcp(b, r->fd)) {
		rlm_lock_drop(&r->c->rx_lock);
		return GO_ON;
	}
	rlm_lock_drop(&r->c->rx_lock);
	return receive_finish(r, -EAGAIN);
}

static int64_t wait_for_more(struct receive *r, struct rlm_bound *b)
{
	int n;

	if (r->flags & MSG_DONTWAIT)
		return would_block(r, b);
	receive_be_user(r);
	n = stream_wait_data(r->c, b, r->fd, &r->deadline);
	if (n == 1) {
		rlm_lock_take(&r->c->rx_lock);
		b = stream_bound(r->c);
		r->fd = stream_fd(r->c, r->fd); // it may have been closed meanwhile
		if (b && b->rx_state == RX_RING)
			cutover_rx_look_at_tcp(b, r->fd);
		rlm_lock_drop(&r->c->rx_lock);
	}
	return n < 0 ? receive_finish(r, n) : GO_ON;
}

// Another thread is in the kernel with this socket; TCP is empty as long as it stays there.
static int64_t wait_for_other(struct receive *r, struct rlm_bound *b)
{
	uint32_t seen = atomic_load_explicit(&r->c->events, memory_order_acquire);
	struct deadline moment = {0};
	int n;

	deadline_start(&r->deadline, b->rx_timeout_ns);
	receive_be_user(r);
	rlm_lock_drop(&r->c->rx_lock);
	if (r->flags & MSG_DONTWAIT) {
		if (sys_poll_now(r->fd, POLLIN) <= 0)
			return receive_finish(r, -EAGAIN);
		deadline_start(&moment, 1000000);
		stream_wait_event(r->c, seen, &moment); // it is on its way out
		return GO_ON;
	}
	if (!inside_others(r->c))
		return GO_ON;
	if (stream_forked) // it may be a process that is killed in there
		helper_note_lent();
	n = stream_wait_event(r->c, seen, &r->deadline);
	return n < 0 ? receive_finish(r, n) : GO_ON;
}

static int64_t break_off(struct receive *r, struct rlm_bound *b)
{
	stream_break(r->c, b, r->fd);
	rlm_lock_drop(&r->c->rx_lock);
	return receive_finish(r, -ECONNRESET);
}

static int64_t peek(struct receive *r, struct rlm_bound *b)
{
	int64_t n = stream_peek(b, r->fd, &r->at, r->total);

	if (n == -EAGAIN)
		return wait_for_more(r, b);
	if (n == -ECONNRESET && !cutover_slot_stands(b))
		return break_off(r, b);
	rlm_lock_drop(&r->c->rx_lock);
	return n == 0 && r->total ? receive_finish_at_end(r) : receive_finish(r, n);
}

// Fast path and all the others: one look at the connection. Lock is held on entry, released on return.
static int64_t one_step(struct receive *r, struct rlm_bound *b)
{
	struct rlm_conn *c = r->c;
	uint64_t available = 0;
	enum rx_way way;
	int64_t n;

	if (cutover_is_lost(b)) {
		rlm_lock_drop(&c->rx_lock);
		stream_find_lost(c, r->fd);
		return GO_ON;
	}
	// A peek goes by what the peer says now, and must not look again for ever at what it said before.
	if (atomic_load_explicit(&b->rx_fast, memory_order_relaxed) && !(r->flags & MSG_PEEK)) {
		available = ring_available(&b->rx, r->total - r->done);
		way = available && available != RLM_RING_BROKEN ? RX_WAY_RING : cutover_rx(c, b, r->fd, &available);
	} else {
		way = cutover_rx(c, b, r->fd, &available);
	}
	if (__builtin_expect(way != RX_WAY_RING, 0))
		stream_note_rx(c, b);
	if (__builtin_expect(r->flags & MSG_PEEK, 0) && (way == RX_WAY_RING || way == RX_WAY_LIMIT))
		return peek(r, b);
	switch (way) {
	case RX_WAY_RING:
		if (__builtin_expect(!conn_stat(&arena, c)->rx_carrier, 0))
			stream_note_rx(c, b);
		n = ring_recv(r, b, available);
		if (__builtin_expect(n == -ECONNRESET, 0))
			return break_off(r, b);
		way = cutover_rx_has_ended(b) ? RX_WAY_LIMIT : RX_WAY_RING;
		stream_drop_often(c, b, &c->rx_lock, &b->rx_habit);
		if (__builtin_expect(n < 0, 0))
			return receive_finish(r, n);
		return r->total == 0 ? 0 : receive_got(r, (uint64_t)n, way == RX_WAY_LIMIT);
	case RX_WAY_PLAIN:
	case RX_WAY_SINGLE:
		return receive_from_kernel(r);
	case RX_WAY_LIMIT:
		n = receive_up_to_cut(r, b);
		if (n == -EAGAIN)
			return wait_for_more(r, b);
		break;
	case RX_WAY_WAIT:
		return wait_for_more(r, b);
	case RX_WAY_BUSY:
		return wait_for_other(r, b);
	case RX_WAY_KERNEL:
		return receive_after_end(r);
	default:
		return break_off(r, b);
	}
	rlm_lock_drop(&c->rx_lock);
	if (n == 0 && r->total)
		return receive_finish_at_end(r);
	return n <= 0 ? receive_finish(r, n) : receive_got(r, (uint64_t)n, true);
}

// locked: rx_lock is held.
static int64_t receive(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags, bool locked)
{
	struct receive r = {.c = c, .fd = fd, .flags = receive_flags(c, flags), .at = {iov, iovcnt, 0}, .total = iov_total(iov, iovcnt)};
	struct rlm_bound *b;
	int64_t n;
	bool ours;

	if (__builtin_expect(flags & MSG_WAITALL, 0))
		rlm_clock_now(&r.deadline.at);
	do {
		receive_stay_user(&r);
		if (!locked)
			rlm_lock_take(&c->rx_lock);
		locked = false;
		b = stream_bound(c);
		if (r.user)
			r.fd = stream_fd(c, r.fd);
		ours = r.user || stream_is_current(c, r.fd);
		if (b && !ours && fd_entry(r.fd) == 0) {
			rlm_lock_drop(&c->rx_lock);
			return -EBADF; // being closed right now
		}
		n = b && ours ? one_step(&r, b) : receive_from_kernel(&r);
	} while (n == GO_ON);
	if (r.user)
		stream_leave(c);
	return n;
}

// TCP throws the bytes away unseen; here they must be seen, to find the frames among them.
static __attribute__((noinline)) int64_t waste(struct rlm_conn *c, int fd, uint64_t n, int flags)
{
	uint8_t buffer[4096];
	struct iovec iov = {buffer, n < sizeof(buffer) ? (size_t)n : sizeof(buffer)};

	return receive(c, fd, &iov, 1, flags & ~MSG_TRUNC, false);
}

int64_t stream_recv(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags)
{
	struct cursor at = {iov, iovcnt, 0};

	if (__builtin_expect(flags & (MSG_OOB | MSG_ERRQUEUE), 0))
		return stream_kernel_recv(fd, &at, flags);
	if (__builtin_expect(flags & MSG_TRUNC, 0))
		return waste(c, fd, iov_total(iov, iovcnt), flags);
	if (__builtin_expect((flags & (MSG_PEEK | MSG_WAITALL)) == (MSG_PEEK | MSG_WAITALL), 0))
		return stream_peek_all(c, fd, iov, iovcnt, flags);
	return receive(c, fd, iov, iovcnt, flags, false);
}

int64_t stream_recv_locked(struct rlm_conn *c, int fd, void *data, uint64_t most, int flags)
{
	struct iovec iov = {data, most};

	return receive(c, fd, &iov, 1, flags, true);
}

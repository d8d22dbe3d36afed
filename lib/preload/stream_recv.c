// SPDX-License-Identifier: BSD-2-Clause
// Receiving on a connection that may be bound to a ring.
#include "stream_internal.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

static int64_t kernel_recv(int fd, const struct cursor *at, int flags)
{
	struct iovec scratch[64];
	struct msghdr msg = {.msg_iov = scratch};
	ssize_t n;

	if (at->offset == 0) {
		msg.msg_iov = (struct iovec *)(uintptr_t)at->iov;
		msg.msg_iovlen = (size_t)at->left;
	} else {
		msg.msg_iovlen = (size_t)cursor_rest(at, scratch, 64);
	}
	n = REAL(recvmsg)(fd, &msg, flags & ~MSG_WAITALL);
	return n < 0 ? -errno : n;
}

static void count_plain(struct rlm_conn *c, int fd, int64_t n, int flags)
{
	stream_count(c, &conn_stat(&arena, c)->rx_bytes_plain, fd, flags & MSG_PEEK ? 0 : n);
}

// The connection of which this thread stays a user between settle() and receive(), because it has more to receive: the application may
// have closed its descriptor since the call began. No signal handler comes in between.
__thread struct rlm_conn *stream_kept;
static __thread bool kept_nonblock;

static void keep(struct rlm_conn *c, bool nonblock)
{
	stream_enter(c);
	rlm_guard_enter();
	stream_kept = c;
	kept_nonblock = nonblock;
}

// How a call begins, or goes on that was in the kernel.
static int begin_flags(const struct rlm_conn *c, int flags)
{
	return flags | (stream_kept == c ? kept_nonblock ? MSG_DONTWAIT : 0 : conn_is_nonblock(c));
}

// rx_lock. The thread is not counted any more: the cut may be behind us now.
static void go_on(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available;

	if (b->rx_state != RX_PLAIN && cutover_rx(c, b, fd, &available) == RX_WAY_BROKEN)
		stream_break(c, b, fd);
	stream_note_rx(c, b);
}

// rx_lock. The descriptor that the call was made with may be another socket's by now, while this one has others.
static int descriptor_now(const struct rlm_conn *c, int fd)
{
	int now = stream_fd(c, fd);

	if (now == fd && !stream_is_current(c, fd))
		now = fd_of_conn(c);
	return now < 0 ? fd : now; // it is being closed right now, and not before we drop the lock: see close_last()
}

void stream_came_out(struct rlm_conn *c, int fd)
{
	struct rlm_bound *b;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	fd = descriptor_now(c, fd);
	if (b)
		go_on(c, b, fd);
	rlm_lock_drop(&c->rx_lock);
	wake_conn(c);
}

// After a kernel receive of a bound connection: how much of it is the caller's. Releases the count in rx_inflight.
static int64_t settle(struct rlm_conn *c, int fd, const struct rlm_inside *inside, int64_t n, int flags)
{
	struct rlm_bound *b;
	int64_t whole = n;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	fd = descriptor_now(c, fd);
	if (b && n == 0) {
		if (cutover_rx_ended(b, fd))
			n = STREAM_AGAIN;
	} else if (b) {
		n = cutover_rx_returned(b, fd, n, flags & MSG_PEEK);
		if (n == -ECONNRESET)
			stream_break(c, b, fd);
		if (n == 0 || (flags & MSG_PEEK && n > 0 && n < whole)) // nothing but frames; or a peek met some, and the ring has more
			n = STREAM_AGAIN;
	}
	if (n == STREAM_AGAIN)
		keep(c, inside->nonblock);
	inside_leave(inside, &arena, c);
	if (b)
		go_on(c, b, fd);
	rlm_lock_drop(&c->rx_lock);
	wake_conn(c);
	stream_left(c);
	return n;
}

int64_t stream_plain_recv_end_bound(struct rlm_conn *c, int fd, struct rlm_inside *inside, const struct iovec *iov, int iovcnt,
				    ssize_t n, int flags)
{
	if (n > 0 || (n == 0 && iov_total(iov, iovcnt)))
		return settle(c, fd, inside, n, flags);
	stream_plain_recv_leave(c, fd, inside);
	return n;
}

// TCP up to the cut, under rx_lock. > 0, 0 end of stream, -errno.
static int64_t take_up_to_cut(struct rlm_conn *c, struct rlm_bound *b, int fd, struct cursor *at, uint64_t most, uint64_t limit)
{
	uint64_t n;
	struct cursor next = *at;
	void *p = cursor_next(&next, most < limit ? most : limit, &n);
	int64_t r = rx_take(b, fd, p, n);
	bool all = r > 0 && b->drain && (b->drain -= (uint64_t)r) == 0;

	rx_counted(b);
	if (r > 0) {
		at->offset += (size_t)r; // within the same entry: n did not cross it
		while (at->left && at->offset > at->iov->iov_len) {
			at->offset -= at->iov->iov_len;
			at->iov++;
			at->left--;
		}
		if (all) { // others may wait for TCP, and the ring is next
			wake_conn(c);
			wake_own(b); // last, see wait_data()
		}
		stat_add(&conn_stat(&arena, c)->rx_bytes_plain, (uint64_t)r);
	}
	return r;
}

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

#define GO_ON INT64_MAX // one_step(): nothing final yet

static int64_t finish(const struct receive *r, int64_t n)
{
	return stream_partial(r->c, r->done, n);
}

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

// TCP has ended. If the kernel told why when nobody listened, it is told now.
static int64_t finish_at_end(const struct receive *r)
{
	struct rlm_bound *b;

	if (r->done)
		return (int64_t)r->done;
	rlm_lock_take(&r->c->tx_lock);
	b = stream_bound(r->c);
	if (b)
		stream_stop_sending(b);
	rlm_lock_drop(&r->c->tx_lock);
	return -stream_error(r->c);
}

// n bytes reached the caller's buffer. boundary: the carrier may change here, and the next byte may be there already. Programs take a short
// receive for an empty socket (with edge-triggered epoll they wait for the next edge), so it must not end at a boundary.
static int64_t got(struct receive *r, uint64_t n, bool boundary)
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

static void be_user(struct receive *r)
{
	if (!r->user)
		stream_enter(r->c);
	r->user = true;
}

// What was readable stays so: the sender's helper is about to send it again. Only one that is stopped takes longer than a moment.
#define ON_ITS_WAY_MS 200

static int64_t wait_a_moment(struct receive *r)
{
	const struct timespec moment = {.tv_nsec = 50000};
	struct timespec left;

	deadline_start(&r->patience, ON_ITS_WAY_MS * 1000000u);
	if (!deadline_left(&r->patience, &left))
		return finish(r, -EAGAIN);
	sys_call2(SYS_nanosleep, &moment, NULL);
	return GO_ON;
}

// No lock.
static bool is_on_its_way(const struct receive *r)
{
	struct rlm_bound *b;
	bool is;

	rlm_lock_take(&r->c->rx_lock);
	b = stream_bound(r->c);
	is = b && cutover_rx_is_on_its_way(b, r->fd);
	rlm_lock_drop(&r->c->rx_lock);
	return is;
}

// Cancelled, or left by siglongjmp(), inside the kernel.
static void abandoned(void *arg)
{
	struct receive *r = arg;

	if (r->user)
		stream_leave(r->c);
	stream_plain_recv_leave(r->c, r->fd, &r->inside);
}

// Counted in rx_inflight. For a call that has bytes already, the kernel would begin anew: with a whole SO_RCVTIMEO, and beyond the mark of urgent
// data, where every receive ends.
static int64_t recv_in_kernel(struct receive *r)
{
	struct pollfd p = {.fd = r->fd, .events = POLLIN | POLLRDHUP};
	struct timespec left;
	uint64_t timeout;
	int at_mark = 0;
	int64_t n;

	if (r->done && sys_ioctl(r->fd, SIOCATMARK, &at_mark) == 0 && at_mark)
		return -EAGAIN;
	if (!r->done || r->flags & MSG_DONTWAIT)
		return kernel_recv(r->fd, &r->at, r->flags);
	timeout = r->deadline.set ? 0 : stream_timeout_ns(r->fd, SO_RCVTIMEO);
	if (timeout)
		deadline_set(&r->deadline, timeout);
	if (!r->deadline.set)
		return kernel_recv(r->fd, &r->at, r->flags);
	do {
		if (!deadline_left(&r->deadline, &left))
			return -EAGAIN;
		if (REAL(ppoll)(&p, 1, &left, NULL) < 0)
			return -errno;
		n = kernel_recv(r->fd, &r->at, r->flags | MSG_DONTWAIT);
	} while (n == -EAGAIN);
	return n;
}

// rx_lock held, way says that the kernel has the next bytes; releases the lock.
static int64_t from_kernel(struct receive *r)
{
	struct _pthread_cleanup_buffer cleanup;
	struct cursor next;
	uint64_t moved, step;
	int64_t n;

	inside_enter(&r->inside, &arena, r->c);
	rlm_lock_drop(&r->c->rx_lock);
	stream_enter_kernel(r->c, &r->user);
	_pthread_cleanup_push(&cleanup, abandoned, r);
	n = recv_in_kernel(r);
	_pthread_cleanup_pop(&cleanup, 0);
	count_plain(r->c, r->fd, n, r->flags);
	if (n >= 0 && r->total > r->done) {
		n = settle(r->c, r->fd, &r->inside, n, r->flags);
	} else {
		stream_plain_recv_leave(r->c, r->fd, &r->inside);
		if (n == -EPERM && !(atomic_load_explicit(&r->c->flags, memory_order_relaxed) & RLM_CONN_BARRED))
			n = STREAM_AGAIN; // in repair mode for a moment, see binding.c; not if the program set it
	}
	if (n == STREAM_AGAIN)
		return GO_ON;
	if (n == 0 && r->total)
		return finish_at_end(r);
	if (n == -EAGAIN && r->flags & MSG_DONTWAIT && is_on_its_way(r)) {
		be_user(r);
		return wait_a_moment(r);
	}
	if (n <= 0)
		return finish(r, n);
	next = r->at;
	for (moved = 0; moved < (uint64_t)n; moved += step)
		if (!cursor_next(&next, (uint64_t)n - moved, &step))
			break;
	r->at = next;
	return got(r, (uint64_t)n, atomic_load_explicit(&r->c->bound, memory_order_relaxed) != 0);
}

static void stay_user(struct receive *r)
{
	if (stream_kept != r->c)
		return;
	if (r->user)
		stream_leave(r->c); // twice
	r->user = true;
	stream_kept = NULL;
	rlm_guard_leave();
}

static int64_t would_block(struct receive *r, struct rlm_bound *b)
{
	if (cutover_rx_is_on_its_way(b, r->fd)) {
		be_user(r);
		rlm_lock_drop(&r->c->rx_lock);
		return wait_a_moment(r);
	}
	if (b->rx_state == RX_RING && cutover_rx_look_at_tcp(b, r->fd)) {
		rlm_lock_drop(&r->c->rx_lock);
		return GO_ON;
	}
	rlm_lock_drop(&r->c->rx_lock);
	return finish(r, -EAGAIN);
}

static int64_t wait_for_more(struct receive *r, struct rlm_bound *b)
{
	int n;

	if (r->flags & MSG_DONTWAIT)
		return would_block(r, b);
	be_user(r);
	n = stream_wait_data(r->c, b, r->fd, &r->deadline);
	if (n == 1) {
		rlm_lock_take(&r->c->rx_lock);
		b = stream_bound(r->c);
		r->fd = stream_fd(r->c, r->fd); // it may have been closed meanwhile
		if (b && b->rx_state == RX_RING)
			cutover_rx_look_at_tcp(b, r->fd);
		rlm_lock_drop(&r->c->rx_lock);
	}
	return n < 0 ? finish(r, n) : GO_ON;
}

// Another thread is in the kernel with this socket; TCP is empty as long as it stays there.
static int64_t wait_for_other(struct receive *r, struct rlm_bound *b)
{
	uint32_t seen = atomic_load_explicit(&r->c->events, memory_order_acquire);
	struct deadline moment = {0};
	int n;

	deadline_start(&r->deadline, b->rx_timeout_ns);
	be_user(r);
	rlm_lock_drop(&r->c->rx_lock);
	if (r->flags & MSG_DONTWAIT) {
		if (sys_poll_now(r->fd, POLLIN) <= 0)
			return finish(r, -EAGAIN);
		deadline_start(&moment, 1000000);
		stream_wait_event(r->c, seen, &moment); // it is on its way out
		return GO_ON;
	}
	if (!inside_others(r->c))
		return GO_ON;
	if (stream_forked) // it may be a process that is killed in there
		helper_note_lent();
	n = stream_wait_event(r->c, seen, &r->deadline);
	return n < 0 ? finish(r, n) : GO_ON;
}

// Ring is empty and TCP has ended. What was received already goes first; the kernel keeps its answer for the next call.
static int64_t ask_kernel(struct receive *r)
{
	int64_t n;

	rlm_lock_drop(&r->c->rx_lock);
	if (r->done)
		return (int64_t)r->done;
	n = kernel_recv(r->fd, &r->at, r->flags);
	return n || !r->total ? n : finish_at_end(r);
}

static int64_t break_off(struct receive *r, struct rlm_bound *b)
{
	stream_break(r->c, b, r->fd);
	rlm_lock_drop(&r->c->rx_lock);
	return finish(r, -ECONNRESET);
}

static int64_t peek(struct receive *r, struct rlm_bound *b)
{
	int64_t n = stream_peek(b, r->fd, &r->at, r->total);

	if (n == -EAGAIN)
		return wait_for_more(r, b);
	if (n == -ECONNRESET && !cutover_slot_stands(b))
		return break_off(r, b);
	rlm_lock_drop(&r->c->rx_lock);
	return n == 0 && r->total ? finish_at_end(r) : finish(r, n);
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
			return finish(r, n);
		return r->total == 0 ? 0 : got(r, (uint64_t)n, way == RX_WAY_LIMIT);
	case RX_WAY_PLAIN:
	case RX_WAY_SINGLE:
		return from_kernel(r);
	case RX_WAY_LIMIT:
		n = take_up_to_cut(c, b, r->fd, &r->at, r->total - r->done, b->drain);
		if (n == -EAGAIN)
			return wait_for_more(r, b);
		break;
	case RX_WAY_WAIT:
		return wait_for_more(r, b);
	case RX_WAY_BUSY:
		return wait_for_other(r, b);
	case RX_WAY_KERNEL:
		return ask_kernel(r);
	default:
		return break_off(r, b);
	}
	rlm_lock_drop(&c->rx_lock);
	if (n == 0 && r->total)
		return finish_at_end(r);
	return n <= 0 ? finish(r, n) : got(r, (uint64_t)n, true);
}

// locked: rx_lock is held.
static int64_t receive(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags, bool locked)
{
	struct receive r = {.c = c, .fd = fd, .flags = begin_flags(c, flags), .at = {iov, iovcnt, 0}, .total = iov_total(iov, iovcnt)};
	struct rlm_bound *b;
	int64_t n;

	if (__builtin_expect(flags & MSG_WAITALL, 0))
		rlm_clock_now(&r.deadline.at);
	do {
		stay_user(&r);
		if (!locked)
			rlm_lock_take(&c->rx_lock);
		locked = false;
		b = stream_bound(c);
		if (r.user)
			r.fd = stream_fd(c, r.fd);
		if (b && !r.user && !stream_is_current(c, r.fd) && fd_entry(r.fd) == 0) {
			rlm_lock_drop(&c->rx_lock);
			return -EBADF; // being closed right now
		}
		n = b && (r.user || stream_is_current(c, r.fd)) ? one_step(&r, b) : from_kernel(&r);
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
		return kernel_recv(fd, &at, flags);
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

// SPDX-License-Identifier: BSD-2-Clause
// What of a receive is the kernel's: in and out of it, and which of its bytes are the caller's.
#include "stream_recv.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

int64_t stream_kernel_recv(int fd, const struct cursor *at, int flags)
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
__thread bool stream_kept_nonblock;

static void keep(struct rlm_conn *c, bool nonblock)
{
	stream_enter(c);
	rlm_guard_enter();
	stream_kept = c;
	stream_kept_nonblock = nonblock;
}

// rx_lock, which it drops. The thread is not counted any more: the cut may be behind us now.
static void go_on(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available;

	if (b && b->rx_state != RX_PLAIN && cutover_rx(c, b, fd, &available) == RX_WAY_BROKEN)
		stream_break(c, b, fd);
	if (b)
		stream_note_rx(c, b);
	rlm_lock_drop(&c->rx_lock);
	if (b)
		helper_ensure(); // a forked child may have none yet
	wake_conn(c);
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
	go_on(c, b, descriptor_now(c, fd));
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
	go_on(c, b, fd);
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

int64_t receive_up_to_cut(struct receive *r, struct rlm_bound *b)
{
	uint64_t most = r->total - r->done, n;
	struct cursor next = r->at;
	void *p = cursor_next(&next, most < b->drain ? most : b->drain, &n);
	int64_t got = rx_take(b, r->fd, p, n);
	bool all = got > 0 && b->drain && (b->drain -= (uint64_t)got) == 0;

	rx_counted(b);
	if (got > 0) {
		r->at.offset += (size_t)got; // within the same entry: n did not cross it
		while (r->at.left && r->at.offset > r->at.iov->iov_len) {
			r->at.offset -= r->at.iov->iov_len;
			r->at.iov++;
			r->at.left--;
		}
		if (all) { // others may wait for TCP, and the ring is next
			wake_conn(r->c);
			wake_own(b); // last, see wait_data()
		}
		stat_add(&conn_stat(&arena, r->c)->rx_bytes_plain, (uint64_t)got);
	}
	return got;
}

int64_t receive_finish_at_end(const struct receive *r)
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

// What was readable stays so: the sender's helper is about to send it again. Only one that is stopped takes longer than a moment.
#define ON_ITS_WAY_MS 200

int64_t receive_wait_a_moment(struct receive *r)
{
	const struct timespec moment = {.tv_nsec = 50000};
	struct timespec left;

	deadline_start(&r->patience, ON_ITS_WAY_MS * 1000000u);
	if (!deadline_left(&r->patience, &left))
		return receive_finish(r, -EAGAIN);
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
		return stream_kernel_recv(r->fd, &r->at, r->flags);
	timeout = r->deadline.set ? 0 : stream_timeout_ns(r->fd, SO_RCVTIMEO);
	if (timeout)
		deadline_set(&r->deadline, timeout);
	if (!r->deadline.set)
		return stream_kernel_recv(r->fd, &r->at, r->flags);
	do {
		if (!deadline_left(&r->deadline, &left))
			return -EAGAIN;
		if (REAL(ppoll)(&p, 1, &left, NULL) < 0)
			return -errno;
		n = stream_kernel_recv(r->fd, &r->at, r->flags | MSG_DONTWAIT);
	} while (n == -EAGAIN);
	return n;
}

int64_t receive_from_kernel(struct receive *r)
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
		return receive_finish_at_end(r);
	if (n == -EAGAIN && r->flags & MSG_DONTWAIT && is_on_its_way(r)) {
		receive_be_user(r);
		return receive_wait_a_moment(r);
	}
	if (n <= 0)
		return receive_finish(r, n);
	next = r->at;
	for (moved = 0; moved < (uint64_t)n; moved += step)
		if (!cursor_next(&next, (uint64_t)n - moved, &step))
			break;
	r->at = next;
	return receive_got(r, (uint64_t)n, atomic_load_explicit(&r->c->bound, memory_order_relaxed) != 0);
}

int64_t receive_after_end(struct receive *r)
{
	int64_t n;

	rlm_lock_drop(&r->c->rx_lock);
	if (r->done)
		return (int64_t)r->done;
	n = stream_kernel_recv(r->fd, &r->at, r->flags);
	return n || !r->total ? n : receive_finish_at_end(r);
}

// SPDX-License-Identifier: BSD-2-Clause
// Sending on a connection that may be bound to a ring.
#include "stream_internal.h"

#define FILE_PLAIN (1u << 20) // what the kernel sends of a file before the connection is looked at again

// What is to be sent: an array of buffers, or a file from its position or *offset on.
struct load {
	struct cursor at;
	int file; // -1: none
	off64_t *offset;
	bool more; // it was not the connection that ended it
	int error; // of the buffer
};

// A kernel send that may end without returning: cancelled, or left by siglongjmp().
struct kernel_call {
	struct _pthread_cleanup_buffer cleanup;
	struct rlm_conn *conn;
	bool user;
};

static void leave_kernel(struct rlm_conn *c)
{
	FAMILY_LEAVE(&arena, c, tx_inflight);
	stream_left(c);
}

static void abandoned(void *arg)
{
	struct kernel_call *call = arg;

	if (call->user)
		stream_leave(call->conn);
	leave_kernel(call->conn);
}

static ssize_t kernel_send_file(int fd, struct load *load, uint64_t most)
{
	uint64_t part = most < FILE_PLAIN ? most : FILE_PLAIN;
	ssize_t n = REAL(sendfile64)(fd, load->file, load->offset, part);

	load->more = n == (ssize_t)part;
	return n;
}

static void skip(struct cursor *at, uint64_t n)
{
	uint64_t step;

	for (; n; n -= step)
		cursor_next(at, n, &step);
}

// In pieces, if the array has to be copied because its first entry was sent in part.
static ssize_t kernel_send_vector(int fd, struct cursor at, int flags)
{
	struct iovec scratch[64];
	struct msghdr msg;
	ssize_t n, sent = 0;

	for (;; sent += n) {
		if (at.offset == 0 && at.left > 64)
			msg = (struct msghdr){.msg_iov = (struct iovec *)(uintptr_t)at.iov, .msg_iovlen = (size_t)at.left};
		else
			msg = (struct msghdr){.msg_iov = scratch, .msg_iovlen = (size_t)cursor_rest(&at, scratch, 64)};
		if (sent && !msg.msg_iovlen)
			return sent;
		n = REAL(sendmsg)(fd, &msg, flags);
		if (n <= 0)
			return sent ? sent : n;
		if ((uint64_t)n < iov_total(msg.msg_iov, (int)msg.msg_iovlen))
			return sent + n;
		skip(&at, (uint64_t)n);
	}
}

// Counted in tx_inflight already.
static int64_t kernel_send(struct rlm_conn *c, int fd, struct load *load, uint64_t most, int flags, bool user)
{
	struct kernel_call call = {.conn = c, .user = user};
	ssize_t n;

	_pthread_cleanup_push(&call.cleanup, abandoned, &call);
	n = load->file < 0 ? kernel_send_vector(fd, load->at, flags) : kernel_send_file(fd, load, most);
	_pthread_cleanup_pop(&call.cleanup, 0);
	if (n < 0)
		n = -errno;
	stream_count(c, &conn_stat(&arena, c)->tx_bytes_plain, fd, n);
	leave_kernel(c);
	return n;
}

// From the page cache into n bytes at `head`, not visible before ring_publish(). What is not in the cache is not waited for: we hold a lock.
static uint64_t put_file(const struct rlm_ring *r, uint64_t head, struct load *load, uint64_t n)
{
	uint64_t at = head & (r->size - 1), first = n < r->size - at ? n : r->size - at;
	struct iovec iov[2] = {{r->bytes + at, first}, {r->bytes, n - first}};
	off64_t offset = load->offset ? *load->offset : -1;
	long got = sys_call6(SYS_preadv2, load->file, iov, 2, offset, 0, RWF_NOWAIT);

	load->more = got < (long)n;
	if (got <= 0)
		return 0;
	if (load->offset)
		*load->offset += got;
	return (uint64_t)got;
}

static uint64_t put_next(const struct rlm_ring *r, uint64_t head, struct load *load, uint64_t most)
{
	uint64_t n;
	void *p;

	if (__builtin_expect(load->file >= 0, 0))
		return put_file(r, head, load, most);
	p = cursor_next(&load->at, most, &n);
	ring_prefetch(r, head, n);
	load->error = ring_put(r, head, p, n);
	return n;
}

#define HOLD_MAX 16384u // bytes held back; TCP sends what fills a segment

// Puts what fits, at most `most` bytes; tx_lock held. hold: more is to come, the receiver need not see it yet. < 0: the peer's counters are
// impossible.
static int64_t ring_send(struct rlm_conn *c, struct rlm_bound *b, struct load *load, uint64_t most, bool hold)
{
	struct rlm_ring *r = &b->tx;
	uint64_t head = ring_next(r), before = ring_head(r);
	uint64_t done = 0, room, n, unpublished = 0;

	while (done < most && !load->more) {
		room = ring_room(r, head, most - done);
		if (room == RLM_RING_BROKEN)
			return -1;
		if (room == 0)
			break;
		if (room > STREAM_PIECE)
			room = STREAM_PIECE;
		if (room > most - done)
			room = most - done;
		n = put_next(r, head, load, room);
		if (__builtin_expect(load->error, 0)) {
			head -= unpublished;
			done -= unpublished;
			break;
		}
		head += n;
		done += n;
		unpublished += n;
		if (unpublished >= STREAM_PIECE && done < most) {
			ring_publish(r, head);
			unpublished = 0;
		}
	}
	if (__builtin_expect(!cutover_slot_stands(b), 0))
		return -1;
	if (hold && done == most && head - ring_head(r) < HOLD_MAX && stream_is_ours_alone(c, b)) {
		ring_hold(r, head);
		atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
		helper_note_held();
		if (ring_head(r) != before)
			wake_receiver(b);
	} else if (done || ring_holds(r)) {
		ring_publish(r, head);
		wake_receiver(b);
	}
	if (done)
		stat_add(&conn_stat(&arena, c)->tx_bytes_ring, done);
	return (int64_t)done;
}

// Test aids: RLM_TEST_FLAP and RLM_TEST_DEMOTE_AFTER end a round after so many ring bytes.
static void spend_budget(struct rlm_conn *c, struct rlm_bound *b, int fd, uint64_t sent)
{
	if (b->tx_budget > sent) {
		b->tx_budget -= sent;
		return;
	}
	b->tx_budget = settings.test_flap;
	if (settings.test_demote_after)
		b->tx_stop = 1;
	cutover_tx_wish(b);
	cutover_tx(c, b, fd, false);
	stream_note_tx(c, b);
}

static int64_t forbidden_flags(struct rlm_conn *c, int fd, struct load *load, uint64_t total, int flags)
{
	int r = stream_to_kernel(c, fd, RLM_WHY_OPTION);

	if (r < 0)
		return r;
	FAMILY_ENTER(&arena, c, tx_inflight);
	return kernel_send(c, fd, load, total, flags, false);
}

// tx_lock. The bytes were put into the ring of a receiver who has closed. If none of them was read, and TCP knows, its answer is that of this
// call. Else they came before the close, or are the first that a closed receiver is sent, and the END makes its kernel answer.
int64_t stream_sent_to_left(struct rlm_conn *c, struct rlm_bound *b, int fd, int flags, int64_t done)
{
	uint64_t unread = ring_next(&b->tx) - atomic_load_explicit(&b->tx.peer->tail, memory_order_acquire);

	if (unread >= (uint64_t)done && sys_poll_now(fd, 0) & (POLLERR | POLLHUP)) {
		long r = sys_send(fd, NULL, 0, flags);

		b->tx_dead = 1;
		if (r < 0)
			return r;
	}
	cutover_tx(c, b, fd, false);
	stream_note_tx(c, b);
	return done;
}

// One send, over however many looks at the connection. A look begins with tx_lock, and releases it.
struct sending {
	struct rlm_conn *c;
	int fd;
	int flags;
	struct load *load;
	uint64_t total, done;
	struct deadline deadline;
	bool user;
};

static int64_t finish(const struct sending *s, int64_t error)
{
	return s->done ? (int64_t)s->done : error;
}

static void be_user(struct sending *s)
{
	if (!s->user)
		stream_enter(s->c);
	s->user = true;
}

static int64_t through_kernel(struct sending *s)
{
	FAMILY_ENTER(&arena, s->c, tx_inflight);
	rlm_lock_drop(&s->c->tx_lock);
	stream_enter_kernel(s->c, &s->user);
	return kernel_send(s->c, s->fd, s->load, s->total - s->done, s->flags, s->user);
}

static int64_t by_tcp(struct sending *s, struct rlm_bound *b)
{
	int64_t n = s->done ? 0 : cutover_take_error(b);

	if (__builtin_expect(n != 0, 0)) {
		rlm_lock_drop(&s->c->tx_lock);
		return n;
	}
	n = through_kernel(s);
	if (n < (int64_t)(s->total - s->done))
		atomic_fetch_add_explicit(&b->tx_blocked, 1, memory_order_relaxed); // of a later binding: no harm
	return stream_partial(s->c, s->done, n);
}

// The kernel must take what is owed first.
static int64_t wait_for_tcp(struct sending *s, struct rlm_bound *b)
{
	int n;

	b->tx_blocked++;
	deadline_start(&s->deadline, b->tx_timeout_ns);
	be_user(s);
	rlm_lock_drop(&s->c->tx_lock);
	n = s->flags & MSG_DONTWAIT ? -EAGAIN : stream_wait_tcp_writable(s->c, s->fd, &s->deadline);
	return n < 0 ? finish(s, n) : GO_ON;
}

// The ring was full: is there another way by now? Then the next look finds it.
static bool is_full_no_more(struct rlm_bound *b)
{
	if (b->tx_state != TX_RING || ring_room(&b->tx, ring_head(&b->tx), 1))
		return true;
	if (!cutover_tx_is_asked(b))
		return false;
	atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
	return true;
}

static int64_t wait_for_room(struct sending *s, struct rlm_bound *b)
{
	int n;

	if (b->tx_stop && !b->tx_need) { // it may have to be read by somebody else: TCP has room
		cutover_tx_need(b);
		rlm_lock_drop(&s->c->tx_lock);
		return GO_ON;
	}
	helper_note_full(b);
	if (s->flags & MSG_DONTWAIT) {
		b->tx_blocked++;
		rlm_lock_drop(&s->c->tx_lock);
		return finish(s, -EAGAIN);
	}
	if (is_full_no_more(b)) {
		rlm_lock_drop(&s->c->tx_lock);
		return GO_ON;
	}
	be_user(s);
	n = stream_wait_room(s->c, b, s->fd, &s->deadline);
	return n < 0 ? finish(s, n) : GO_ON;
}

static int64_t by_ring(struct sending *s, struct rlm_bound *b)
{
	bool hold = s->flags & MSG_MORE || atomic_load_explicit(&s->c->flags, memory_order_relaxed) & RLM_CONN_CORKED;
	int64_t n = ring_send(s->c, b, s->load, s->total - s->done, hold);

	if (__builtin_expect(n < 0, 0)) {
		stream_break(s->c, b, s->fd);
		rlm_lock_drop(&s->c->tx_lock);
		return finish(s, -ECONNRESET);
	}
	s->done += (uint64_t)n;
	if (__builtin_expect(b->tx_budget != 0, 0))
		spend_budget(s->c, b, s->fd, (uint64_t)n);
	if (__builtin_expect(s->load->error, 0)) {
		rlm_lock_drop(&s->c->tx_lock);
		return finish(s, s->load->error);
	}
	if (s->done != s->total && !s->load->more)
		return wait_for_room(s, b);
	n = stream_sent(s->c, b, s->fd, s->flags, (int64_t)s->done);
	stream_drop_often(s->c, b, &s->c->tx_lock, &b->tx_habit);
	return n;
}

static enum tx_way find_way(struct sending *s, struct rlm_bound *b)
{
	enum tx_way way;

	if (atomic_load_explicit(&b->tx_fast, memory_order_relaxed))
		return TX_WAY_RING;
	way = cutover_tx(s->c, b, s->fd, true);
	if (b->tx_punched) {
		b->tx_punched = 0;
		helper_note_activity();
	}
	stream_note_tx(s->c, b);
	return way;
}

static int64_t one_step(struct sending *s)
{
	struct rlm_bound *b = stream_bound(s->c);
	bool ours;

	if (s->user)
		s->fd = stream_fd(s->c, s->fd);
	ours = s->user || stream_is_current(s->c, s->fd);
	if (b && !ours && fd_entry(s->fd) == 0) {
		rlm_lock_drop(&s->c->tx_lock);
		return -EBADF; // being closed right now
	}
	if (!b || !ours)
		return stream_partial(s->c, s->done, through_kernel(s));
	if (cutover_is_lost(b)) {
		rlm_lock_drop(&s->c->tx_lock);
		stream_find_lost(s->c, s->fd);
		return GO_ON;
	}
	switch (find_way(s, b)) {
	case TX_WAY_RING:
		return by_ring(s, b);
	case TX_WAY_PLAIN:
		return by_tcp(s, b);
	default:
		return wait_for_tcp(s, b);
	}
}

// locked: tx_lock is held, and the flags are known to be harmless.
static int64_t send_load(struct rlm_conn *c, int fd, struct load *load, uint64_t total, int flags, bool locked)
{
	struct sending s = {.c = c, .fd = fd, .flags = flags | conn_is_nonblock(c), .load = load, .total = total};
	int64_t n;

	if (__builtin_expect(flags & ~STREAM_SEND_FLAGS, 0))
		return forbidden_flags(c, fd, load, total, flags);
	do {
		if (!locked)
			rlm_lock_take(&c->tx_lock);
		locked = false;
		n = one_step(&s);
	} while (n == GO_ON);
	if (s.user)
		stream_leave(c);
	return n;
}

void stream_plain_send_was_bound(struct rlm_conn *c)
{
	struct rlm_bound *b = stream_bound(c);

	if (b)
		atomic_fetch_add_explicit(&b->tx_blocked, 1, memory_order_relaxed); // of a later binding: no harm
}

int64_t stream_send(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags)
{
	struct load load = {.at = {iov, iovcnt, 0}, .file = -1};

	return send_load(c, fd, &load, iov_total(iov, iovcnt), flags, false);
}

int64_t stream_send_locked(struct rlm_conn *c, int fd, const void *data, uint64_t n, int flags)
{
	struct iovec iov = {(void *)(uintptr_t)data, n};
	struct load load = {.at = {&iov, 1, 0}, .file = -1};

	return send_load(c, fd, &load, n, flags, true);
}

int64_t stream_send_file(struct rlm_conn *c, int fd, int file, off64_t *offset, uint64_t n, bool *more)
{
	struct load load = {.file = file, .offset = offset};
	int64_t sent = send_load(c, fd, &load, n, 0, false);

	*more = load.more;
	return sent;
}

// SPDX-License-Identifier: BSD-2-Clause
// Sending on a connection that may be bound to a ring.
#include "stream_internal.h"

// Flags that mean the same to a ring. Others send the connection back to TCP for good.
#define RING_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_EOR | MSG_CONFIRM | MSG_DONTROUTE)
#define PUBLISH_EVERY (64u << 10) // a long copy becomes visible in pieces, so that the receiver can start

static int64_t kernel_send(struct rlm_conn *c, int fd, const struct cursor *at, int flags)
{
	struct iovec scratch[64];
	struct msghdr msg = {.msg_iov = scratch};
	bool whole = at->offset == 0 && at->left > 64;
	ssize_t n;

	if (whole) {
		msg.msg_iov = (struct iovec *)(uintptr_t)at->iov;
		msg.msg_iovlen = (size_t)at->left;
	} else {
		msg.msg_iovlen = (size_t)cursor_rest(at, scratch, 64);
	}
	n = REAL(sendmsg)(fd, &msg, flags);
	if (n < 0)
		n = -errno;
	atomic_fetch_sub_explicit(&c->tx_inflight, 1, memory_order_release);
	stream_count(c, &conn_stat(&arena, c)->tx_bytes_plain, fd, n);
	return n;
}

// Puts what fits, at most `most` bytes; tx_lock held. < 0: the peer's counters are impossible.
static int64_t ring_send(struct rlm_conn *c, struct rlm_bound *b, struct cursor *at, uint64_t most)
{
	struct rlm_ring *r = &b->tx;
	uint64_t head = atomic_load_explicit(&r->mine->head, memory_order_relaxed);
	uint64_t done = 0, room, n, unpublished = 0;
	void *p;

	while (done < most) {
		room = ring_room(r, head, most - done);
		if (room == RLM_RING_BROKEN)
			return -1;
		if (room == 0)
			break;
		if (room > PUBLISH_EVERY)
			room = PUBLISH_EVERY;
		if (room > most - done)
			room = most - done;
		p = cursor_next(at, room, &n);
		ring_prefetch(r, head, n);
		ring_put(r, head, p, n);
		head += n;
		done += n;
		unpublished += n;
		if (unpublished >= PUBLISH_EVERY && done < most) {
			ring_publish(r, head);
			unpublished = 0;
		}
	}
	if (done) {
		ring_publish_fenced(r, head); // pairs with wake_listen()
		wake_receiver(b);
		stat_add(&conn_stat(&arena, c)->tx_bytes_ring, done);
	}
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
	cutover_tx_end(b);
	cutover_tx(c, b, fd, false);
	stream_note_tx(c, b);
}

static int64_t forbidden_flags(struct rlm_conn *c, int fd, const struct cursor *at, int flags)
{
	int r = stream_to_kernel(c, fd, RLM_WHY_OPTION);

	if (r < 0)
		return r;
	atomic_fetch_add_explicit(&c->tx_inflight, 1, memory_order_seq_cst);
	return kernel_send(c, fd, at, flags);
}

static void be_user(struct rlm_conn *c, bool *user)
{
	if (!*user)
		stream_enter(c);
	*user = true;
}

static int64_t send_all(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags, bool *user)
{
	struct cursor at = {iov, iovcnt, 0};
	struct deadline deadline = {0};
	uint64_t total = iov_total(iov, iovcnt), done = 0;
	struct rlm_bound *b;
	enum tx_way way;
	int64_t n;

	if (__builtin_expect(flags & ~RING_FLAGS, 0))
		return forbidden_flags(c, fd, &at, flags);
	for (;;) {
		rlm_lock_take(&c->tx_lock);
		b = stream_bound(c);
		if (*user)
			fd = stream_fd(c, fd);
		if (b && !*user && !stream_is_current(c, fd) && fd_entry(fd) == 0) {
			rlm_lock_drop(&c->tx_lock);
			return -EBADF; // being closed right now
		}
		if (!b || (!*user && !stream_is_current(c, fd))) {
			atomic_fetch_add_explicit(&c->tx_inflight, 1, memory_order_seq_cst);
			rlm_lock_drop(&c->tx_lock);
			n = kernel_send(c, fd, &at, flags);
			return n < 0 && done ? (int64_t)done : n < 0 ? n : (int64_t)done + n;
		}
		if (atomic_load_explicit(&b->tx_fast, memory_order_relaxed)) {
			way = TX_WAY_RING;
		} else {
			way = cutover_tx(c, b, fd, true);
			if (b->tx_punched) {
				b->tx_punched = 0;
				helper_note_activity();
			}
			stream_note_tx(c, b);
		}
		if (way == TX_WAY_RING) {
			n = ring_send(c, b, &at, total - done);
			if (__builtin_expect(n < 0, 0)) {
				stream_break(c, b, fd);
				rlm_lock_drop(&c->tx_lock);
				return done ? (int64_t)done : -ECONNRESET;
			}
			done += (uint64_t)n;
			if (__builtin_expect(b->tx_budget != 0, 0))
				spend_budget(c, b, fd, (uint64_t)n);
			if (done == total) {
				rlm_lock_drop(&c->tx_lock);
				return (int64_t)done;
			}
			if (conn_is_nonblock(c, flags)) {
				b->tx_blocked++;
				rlm_lock_drop(&c->tx_lock);
				return done ? (int64_t)done : -EAGAIN;
			}
			if (b->tx_state != TX_RING) {
				rlm_lock_drop(&c->tx_lock);
				continue;
			}
			if (atomic_load_explicit(&b->tx.peer->rx_ask, memory_order_relaxed) == b->tx_round) {
				atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
				rlm_lock_drop(&c->tx_lock);
				continue;
			}
			be_user(c, user);
			n = stream_wait_room(c, b, fd, &deadline);
		} else if (way == TX_WAY_PLAIN) {
			atomic_fetch_add_explicit(&c->tx_inflight, 1, memory_order_seq_cst);
			rlm_lock_drop(&c->tx_lock);
			n = kernel_send(c, fd, &at, flags);
			return n < 0 && done ? (int64_t)done : n < 0 ? n : (int64_t)done + n;
		} else {
			deadline_start(&deadline, b->tx_timeout_ns);
			be_user(c, user);
			rlm_lock_drop(&c->tx_lock);
			n = conn_is_nonblock(c, flags) ? -EAGAIN : stream_wait_tcp_writable(fd, &deadline);
		}
		if (n < 0)
			return done ? (int64_t)done : n;
	}
}

int64_t stream_send(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags)
{
	bool user = false;
	int64_t n = send_all(c, fd, iov, iovcnt, flags, &user);

	if (user)
		stream_leave(c);
	return n;
}

// SPDX-License-Identifier: BSD-2-Clause
// Waiting in blocking calls: spin while that pays, then sleep on the peer's bell and the connection's own event count.
#include "stream_internal.h"

static int after_sleep(const struct rlm_conn *c, long r)
{
	if (atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_CLOSING)
		return -EBADF;
	if (r == -ETIMEDOUT)
		return -EAGAIN;
	return r == -EINTR ? -EINTR : 0;
}

// `ready` has looked at everything after the caller listened; see wake.h.
static long sleep_unless(bool ready, const struct rlm_bound *b, uint32_t bell, const struct rlm_conn *c,
			 uint32_t events, const struct deadline *d)
{
	if (ready)
		return 0;
	return sys_futex_wait2(&b->tx.peer->bell, bell, &c->events, events, d->set ? &d->at : NULL);
}

int stream_wait_data(struct rlm_conn *c, struct rlm_bound *b, int fd, struct deadline *d)
{
	const struct rlm_slot_shared *peer = b->rx.peer;
	uint64_t head = b->rx.cached, start;
	uint32_t round = atomic_load_explicit(&peer->tx_round, memory_order_relaxed), bell, events;
	bool ready, tcp = false, asked = b->rx_asked;
	long r;

	atomic_fetch_add_explicit(&c->users, 1, memory_order_seq_cst);
	deadline_start(d, b->rx_timeout_ns);
	rlm_lock_drop(&c->rx_lock);
	helper_ensure();
	if (!asked && wake_spin(&peer->head, head, &b->rx_spin)) {
		atomic_fetch_sub_explicit(&c->users, 1, memory_order_seq_cst);
		return 0;
	}
	start = sys_ticks();
	bell = atomic_load_explicit(&peer->bell, memory_order_acquire);
	events = atomic_load_explicit(&c->events, memory_order_acquire);
	wake_listen(b, RLM_WAIT_RX_FUTEX);
	ready = (!asked && atomic_load_explicit(&peer->head, memory_order_acquire) != head) ||
		atomic_load_explicit(&peer->tx_round, memory_order_acquire) != round ||
		atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_CLOSING;
	if (!ready)
		ready = tcp = sys_poll_now(fd, POLLIN | POLLRDHUP) != 0;
	r = sleep_unless(ready, b, bell, c, events, d);
	wake_unlisten(b, RLM_WAIT_RX_FUTEX);
	wake_slept(&b->rx_spin, sys_ticks() - start);
	r = after_sleep(c, r);
	atomic_fetch_sub_explicit(&c->users, 1, memory_order_seq_cst);
	return r < 0 ? (int)r : tcp || !ready;
}

int stream_wait_room(struct rlm_conn *c, struct rlm_bound *b, int fd, struct deadline *d)
{
	const struct rlm_slot_shared *peer = b->tx.peer;
	uint64_t tail = b->tx.cached, start;
	uint32_t ask = atomic_load_explicit(&peer->rx_ask, memory_order_relaxed), bell, events;
	bool ready;
	long r;

	atomic_fetch_add_explicit(&c->users, 1, memory_order_seq_cst);
	deadline_start(d, b->tx_timeout_ns);
	rlm_lock_drop(&c->tx_lock);
	helper_ensure();
	if (wake_spin(&peer->tail, tail, &b->tx_spin)) {
		atomic_fetch_sub_explicit(&c->users, 1, memory_order_seq_cst);
		return 0;
	}
	start = sys_ticks();
	bell = atomic_load_explicit(&peer->bell, memory_order_acquire);
	events = atomic_load_explicit(&c->events, memory_order_acquire);
	wake_listen(b, RLM_WAIT_TX_FUTEX);
	ready = atomic_load_explicit(&peer->tail, memory_order_acquire) != tail ||
		atomic_load_explicit(&peer->rx_ask, memory_order_acquire) != ask || b->tx_stop ||
		atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_CLOSING ||
		sys_poll_now(fd, POLLRDHUP) != 0;
	r = sleep_unless(ready, b, bell, c, events, d);
	wake_unlisten(b, RLM_WAIT_TX_FUTEX);
	wake_slept(&b->tx_spin, sys_ticks() - start);
	r = after_sleep(c, r);
	atomic_fetch_sub_explicit(&c->users, 1, memory_order_seq_cst);
	return (int)r;
}

int stream_wait_tcp_writable(int fd, struct deadline *d)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	struct timespec left = {0, 0};
	long r;

	if (d->set && !deadline_left(d, &left))
		return -EAGAIN;
	r = sys_call5(SYS_ppoll, &p, 1, d->set ? &left : NULL, 0, 8);
	if (r == 0)
		return -EAGAIN;
	return r < 0 ? (int)r : 0;
}

int stream_wait_event(struct rlm_conn *c, uint32_t seen, struct deadline *d)
{
	long r;

	atomic_fetch_add_explicit(&c->users, 1, memory_order_seq_cst);
	helper_ensure();
	r = sys_futex_wait2(&c->events, seen, &c->events, seen, d->set ? &d->at : NULL);
	r = after_sleep(c, r);
	atomic_fetch_sub_explicit(&c->users, 1, memory_order_seq_cst);
	return (int)r;
}

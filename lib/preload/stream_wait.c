// SPDX-License-Identifier: BSD-2-Clause
// Waiting in blocking calls: spin while that pays, then sleep on the peer's bell and the connection's own event count.
#include <pthread.h>

#include "bells.h"
#include "stream_internal.h"

// What a thread that is cancelled in its sleep leaves behind.
struct sleep {
	struct rlm_conn *c;
	struct rlm_bound *b;
	uint32_t bit;
	long result;
};

static void woken(void *arg)
{
	struct sleep *s = arg;

	wake_unlisten(s->b, s->bit);
}

static void let_go(struct rlm_bound *b)
{
	atomic_fetch_sub_explicit(&b->holders, 1, memory_order_release);
}

static void cancelled(void *arg)
{
	struct sleep *s = arg;

	woken(arg);
	let_go(s->b);
	stream_leave(s->c);
}

static int outcome(long r)
{
	return r == -ETIMEDOUT ? -EAGAIN : r == -EINTR ? -EINTR : 0;
}

// Like a socket call: a signal handler with SA_RESTART lets it sleep on. A cancellation point.
static void sleep_forever(struct sleep *s, uint32_t bell, uint32_t events)
{
	// What another kernel writes wakes nobody here: the helper thread passes its doorbell on to the connection's own count.
	bool alone = s->b->bell_port != 0;
	const _Atomic uint32_t *word = alone ? &s->c->events : &s->b->tx.peer->bell;
	struct _pthread_cleanup_buffer cleanup;
	int type;

	_pthread_cleanup_push(&cleanup, cancelled, s);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	s->result = sys_futex_wait2(word, alone ? events : bell, &s->c->events, events, NULL);
	pthread_setcanceltype(type, NULL);
	_pthread_cleanup_pop(&cleanup, 0);
}

// Like a socket call with a time-out: any signal handler ends it. futex_waitv would be restarted, poll is not.
static void sleep_until(struct sleep *s, int fd, short events, const struct deadline *d)
{
	struct pollfd p[2] = {{.fd = fd, .events = events}};
	struct _pthread_cleanup_buffer cleanup;
	struct timespec left;

	s->result = -ETIMEDOUT;
	if (!deadline_left(d, &left))
		return;
	_pthread_cleanup_push(&cleanup, cancelled, s);
	s->result = bells_ppoll(p, 1, &left, NULL);
	_pthread_cleanup_pop(&cleanup, 0);
	if (s->result <= 0)
		s->result = s->result < 0 ? -errno : -ETIMEDOUT;
}

// The slot is being left: only TCP has news, and the helper tells.
static int wait_without_slot(struct rlm_conn *c, int fd, struct deadline *d)
{
	uint32_t seen = atomic_load_explicit(&c->events, memory_order_acquire);
	int r;

	if (sys_poll_now(fd, POLLIN | POLLRDHUP) != 0)
		return 1;
	r = stream_wait_event(c, seen, d);
	return r < 0 ? r : 1;
}

static int wait_data(struct rlm_conn *c, struct rlm_bound *b, int fd, struct deadline *d)
{
	const struct rlm_slot_shared *peer = b->rx.peer;
	struct sleep sleep = {c, b, 0, 0};
	uint64_t head = b->rx.cached, start;
	uint32_t round = atomic_load_explicit(&peer->tx_round, memory_order_relaxed), bell, events;
	bool ready, tcp = false, from_ring = b->rx_state == RX_RING && !b->rx_asked;
	short news = b->rx_past ? POLLIN | POLLRDHUP : POLLRDHUP; // CUT is for whoever is still in the kernel
	int r;

	events = atomic_load_explicit(&c->events, memory_order_acquire); // under the lock: what others make of the state is news
	rlm_lock_drop(&c->rx_lock);
	helper_ensure();
	if (from_ring && (wake_hold_back(b) || wake_spin(&peer->head, head, &b->rx_spin)))
		return 0;
	sleep.bit = d->set ? RLM_WAIT_RX_FD : RLM_WAIT_RX_FUTEX;
	if (d->set)
		bells_prepare(b->doorbell_mine);
	start = sys_ticks();
	bell = atomic_load_explicit(&peer->bell, memory_order_acquire);
	wake_listen(b, sleep.bit);
	ready = (from_ring && atomic_load_explicit(&peer->head, memory_order_acquire) != head) ||
		atomic_load_explicit(&peer->tx_round, memory_order_acquire) != round ||
		atomic_load_explicit(&c->events, memory_order_acquire) != events;
	if (!ready)
		ready = tcp = sys_poll_now(fd, news) != 0;
	if (!ready && d->set)
		sleep_until(&sleep, fd, news, d);
	else if (!ready)
		sleep_forever(&sleep, bell, events);
	woken(&sleep);
	wake_slept(&b->rx_spin, sys_ticks() - start);
	r = outcome(sleep.result);
	return r < 0 ? r : tcp || !ready;
}

int stream_wait_data(struct rlm_conn *c, struct rlm_bound *b, int fd, struct deadline *d)
{
	int r;

	deadline_start(d, b->rx_timeout_ns);
	if (__builtin_expect(b->leaving, 0)) {
		rlm_lock_drop(&c->rx_lock);
		return wait_without_slot(c, fd, d);
	}
	atomic_fetch_add_explicit(&b->holders, 1, memory_order_relaxed);
	r = wait_data(c, b, fd, d);
	let_go(b);
	return r;
}

static int wait_room(struct rlm_conn *c, struct rlm_bound *b, int fd, struct deadline *d)
{
	const struct rlm_slot_shared *peer = b->tx.peer;
	struct sleep sleep = {c, b, 0, 0};
	uint64_t tail = b->tx.cached, start;
	uint32_t round = b->tx_round, bell, events;
	short closed;
	bool ready;

	rlm_lock_drop(&c->tx_lock);
	helper_ensure();
	if (wake_spin(&peer->tail, tail, &b->tx_spin))
		return 0;
	sleep.bit = d->set ? RLM_WAIT_TX_FD : RLM_WAIT_TX_FUTEX;
	if (d->set)
		bells_prepare(b->doorbell_mine);
	start = sys_ticks();
	closed = b->tx_probed ? 0 : POLLRDHUP; // after that only an error is news
	bell = atomic_load_explicit(&peer->bell, memory_order_acquire);
	events = atomic_load_explicit(&c->events, memory_order_acquire);
	wake_listen(b, sleep.bit);
	ready = atomic_load_explicit(&peer->tail, memory_order_acquire) != tail ||
		cutover_tx_is_asked(b) || (b->tx_stop && !b->tx_need) || b->tx_dead ||
		b->tx_state != TX_RING || b->tx_round != round || // taken back and begun anew: empty, with the tail where it was
		sys_poll_now(fd, closed) != 0;
	if (!ready && d->set)
		sleep_until(&sleep, fd, closed, d);
	else if (!ready)
		sleep_forever(&sleep, bell, events);
	else
		b->tx_stop |= sys_poll_now(fd, POLLRDHUP) > 0; // the helper says so too, a little later
	woken(&sleep);
	wake_slept(&b->tx_spin, sys_ticks() - start);
	return outcome(sleep.result);
}

int stream_wait_room(struct rlm_conn *c, struct rlm_bound *b, int fd, struct deadline *d)
{
	int r;

	deadline_start(d, b->tx_timeout_ns);
	atomic_fetch_add_explicit(&b->holders, 1, memory_order_relaxed);
	r = wait_room(c, b, fd, d);
	let_go(b);
	return r;
}

static void user_cancelled(void *conn)
{
	stream_leave(conn);
}

int stream_wait_event(struct rlm_conn *c, uint32_t seen, struct deadline *d)
{
	struct _pthread_cleanup_buffer cleanup;
	int type;
	long r;

	helper_ensure();
	_pthread_cleanup_push(&cleanup, user_cancelled, c);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	r = sys_futex_wait2(&c->events, seen, &c->events, seen, d->set ? &d->at : NULL);
	pthread_setcanceltype(type, NULL);
	_pthread_cleanup_pop(&cleanup, 0);
	return outcome(r);
}

// A poll would not be restarted after a signal, as a send is. The look has the kernel tell the helper when there is room, and the helper us.
int stream_wait_tcp_writable(struct rlm_conn *c, int fd, struct deadline *d)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	struct timespec left = {0, 0};
	uint32_t seen;
	int r;

	if (d->set && !deadline_left(d, &left))
		return -EAGAIN;
	if (!c) { // holds locks: no cancellation point
		r = (int)sys_call5(SYS_ppoll, &p, 1, d->set ? &left : NULL, NULL, 8);
		return r == 0 ? -EAGAIN : r < 0 ? r : 0;
	}
	seen = atomic_load_explicit(&c->events, memory_order_acquire);
	if (sys_poll_now(fd, POLLOUT) != 0)
		return 0;
	return stream_wait_event(c, seen, d);
}

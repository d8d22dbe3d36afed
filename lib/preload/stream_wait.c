// SPDX-License-Identifier: BSD-2-Clause
// Waiting in blocking calls: spin while that pays, then sleep on the peer's bell and the connection's own event count.
#include <pthread.h>

#include "ready.h"
#include "stream_internal.h"

struct abandoned {
	void (*abandon)(void *);
	void *arg;
};

static void leave_sleep(void *arg)
{
	const struct abandoned *a = arg;
	int type;

	pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type); // a jump leaves it as it was in the sleep
	a->abandon(a->arg);
}

static bool has_changed(const struct futex_waitv *words, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (atomic_load_explicit((const _Atomic uint32_t *)(uintptr_t)words[i].uaddr, memory_order_acquire) != words[i].val)
			return true;
	return false;
}

#define LOOK_FIRST 10000000u // ns
#define LOOK_LAST 1000000000u

// As sys_futex_wait_any(), where there is none, see wake_one_word. The first word is the one that is to be fast.
static long sleep_on_first(const struct futex_waitv *words, unsigned n, const struct timespec *deadline)
{
	const _Atomic uint32_t *first = (const _Atomic uint32_t *)(uintptr_t)words[0].uaddr;
	uint32_t handled = signals_handled, ending = signals_ending;
	struct deadline look = {0};
	bool last;
	long r;

	for (uint64_t pause = LOOK_FIRST; !has_changed(words, n); pause = pause < LOOK_LAST / 2 ? pause * 2 : LOOK_LAST) {
		if (signals_ending != ending)
			return -EINTR;
		look.set = false;
		deadline_start(&look, pause);
		last = deadline && rlm_time_minus(*deadline, look.at).tv_sec < 0;
		r = sys_futex_wait_until(first, (uint32_t)words[0].val, last ? deadline : &look.at);
		// With a time-out the kernel restarts nothing. Without, it would have, unless a handler says otherwise.
		if (r == -EINTR && !deadline && signals_handled != handled)
			handled = signals_handled;
		else if (r != -ETIMEDOUT || last)
			return r;
	}
	return -EAGAIN;
}

long stream_sleep(const struct futex_waitv *words, unsigned n, const struct timespec *deadline, void (*abandon)(void *), void *arg)
{
	struct abandoned abandoned = {abandon, arg};
	struct _pthread_cleanup_buffer cleanup;
	int type;
	long r;

	_pthread_cleanup_push(&cleanup, leave_sleep, &abandoned);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	r = wake_one_word ? sleep_on_first(words, n, deadline) : sys_futex_wait_any(words, n, deadline);
	pthread_setcanceltype(type, NULL);
	_pthread_cleanup_pop(&cleanup, 0);
	return r;
}

unsigned stream_words(const struct rlm_conn *c, const struct rlm_bound *b, struct futex_waitv *words)
{
	const _Atomic uint32_t *bell = &b->tx.peer->bell;
	unsigned n = 0;

	// What another kernel writes wakes nobody here: the helper thread passes its doorbell on to the connection's own count.
	if (!b->bell_port)
		words[n++] = sys_word(bell, atomic_load_explicit(bell, memory_order_acquire));
	words[n++] = sys_word(&c->events, atomic_load_explicit(&c->events, memory_order_acquire));
	return n;
}

// A thread in its sleep, and what it leaves behind when it is cancelled there.
struct sleep {
	struct rlm_conn *c;
	struct rlm_bound *b;
	uint32_t bit;
	struct futex_waitv words[3];
	unsigned n;
};

static void let_go(struct rlm_bound *b)
{
	atomic_fetch_sub_explicit(&b->holders, 1, memory_order_release);
}

static void cancelled(void *arg)
{
	struct sleep *s = arg;

	wake_unlisten(s->b, s->bit);
	let_go(s->b);
	stream_leave(s->c);
}

static void begin(struct sleep *s)
{
	s->n = stream_words(s->c, s->b, s->words);
	wake_listen(s->b, s->bit);
}

// Like a socket call: a signal handler with SA_RESTART lets it sleep on, unless there is a time-out. words: with room for one more.
static int sleep_on(struct futex_waitv *words, unsigned n, const struct deadline *d, void (*abandon)(void *), void *arg)
{
	long r;

	if (d->set && d->signals != signals_handled) // and nothing else has come
		return -EINTR;
	if (d->set)
		words[n++] = sys_word(&signals_handled, d->signals);
	r = stream_sleep(words, n, d->set ? &d->at : NULL, abandon, arg);
	return r == -ETIMEDOUT ? -EAGAIN : r == -EINTR ? -EINTR : 0;
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
	struct sleep sleep = {.c = c, .b = b, .bit = RLM_WAIT_RX_FUTEX};
	uint64_t head = b->rx.cached, start;
	uint32_t round = atomic_load_explicit(&peer->tx_round, memory_order_relaxed);
	uint32_t events = ready_events(c); // under the lock: what others make of the state is news
	bool ready, from_ring = b->rx_state == RX_RING && !b->rx_asked, quiet = from_ring && ready_tcp_is_quiet(b, events);
	short news = b->rx_past ? POLLIN | POLLRDHUP : POLLRDHUP; // CUT is for whoever is still in the kernel
	long tcp = 0;
	int r = 0;

	rlm_lock_drop(&c->rx_lock);
	helper_ensure();
	if (from_ring && (wake_hold_back(b) || wake_spin(&peer->head, head, &b->rx_spin)))
		return 0;
	start = sys_ticks();
	begin(&sleep);
	ready = (from_ring && atomic_load_explicit(&peer->head, memory_order_acquire) != head) ||
		atomic_load_explicit(&peer->tx_round, memory_order_acquire) != round ||
		ready_events(c) != events;
	if (!ready && !quiet) {
		tcp = sys_poll_now(fd, news);
		ready_note_kernel(c, events, (uint32_t)news, (uint32_t)tcp);
		quiet = from_ring && news & POLLIN && !tcp;
	}
	if (!ready && !tcp)
		r = sleep_on(sleep.words, sleep.n, d, cancelled, &sleep);
	wake_unlisten(b, sleep.bit);
	wake_slept(&b->rx_spin, sys_ticks() - start);
	if (r < 0)
		return r;
	return tcp || (!ready && !(quiet && ready_events(c) == events));
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
	struct sleep sleep = {.c = c, .b = b, .bit = RLM_WAIT_TX_FUTEX};
	uint64_t tail = b->tx.cached, start;
	uint32_t round = b->tx_round;
	short closed;
	int r = 0;

	rlm_lock_drop(&c->tx_lock);
	helper_ensure();
	if (wake_spin(&peer->tail, tail, &b->tx_spin))
		return 0;
	start = sys_ticks();
	closed = b->tx_probed ? 0 : POLLRDHUP; // after that only an error is news
	begin(&sleep);
	if (atomic_load_explicit(&peer->tail, memory_order_acquire) != tail ||
		cutover_tx_is_asked(b) || (b->tx_stop && !b->tx_need) || b->tx_dead ||
		b->tx_state != TX_RING || b->tx_round != round || // taken back and begun anew: empty, with the tail where it was
		sys_poll_now(fd, closed) != 0)
		b->tx_stop |= sys_poll_now(fd, POLLRDHUP) > 0; // the helper says so too, a little later
	else
		r = sleep_on(sleep.words, sleep.n, d, cancelled, &sleep);
	wake_unlisten(b, sleep.bit);
	wake_slept(&b->tx_spin, sys_ticks() - start);
	return r;
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
	struct futex_waitv words[2] = {sys_word(&c->events, seen)};

	helper_ensure();
	return sleep_on(words, 1, d, user_cancelled, c);
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

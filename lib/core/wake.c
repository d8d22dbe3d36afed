// SPDX-License-Identifier: BSD-2-Clause
// Event counts, doorbells and the spin policy. The protocol is in wake.h; tests/model/wakeup.pml checks it.
#include "wake.h"

#include <limits.h>
#include <unistd.h>

#define BELL_EVERYBODY INT_MAX

void wake_ring_bell(struct rlm_bound *b, uint32_t seen, uint32_t bits)
{
	const uint64_t one = 1;
	struct rlm_slot_shared *mine = b->tx.mine;

	seen &= bits;
	// Pairs with the waiter's load of `bell` before it listened: its futex sees another value or gets the wake.
	atomic_fetch_add_explicit(&mine->bell, 1, memory_order_seq_cst);
	if (seen & (RLM_WAIT_RX_FUTEX | RLM_WAIT_TX_FUTEX))
		sys_futex_wake(&mine->bell, BELL_EVERYBODY);
	if (seen & (RLM_WAIT_RX_FD | RLM_WAIT_TX_FD))
		sys_write(b->doorbell_peer, &one, sizeof(one));
}

void wake_all(struct rlm_bound *b)
{
	uint32_t seen;

	atomic_thread_fence(memory_order_seq_cst);
	seen = atomic_load_explicit(&b->tx.peer->waiting, memory_order_relaxed);
	wake_ring_bell(b, seen, RLM_WAIT_RX | RLM_WAIT_TX);
}

void wake_listen(struct rlm_bound *b, uint32_t bit)
{
	struct rlm_slot_shared *mine = b->tx.mine;
	uint32_t w;

	rlm_lock_take(&b->wait_lock);
	b->waiters[__builtin_ctz(bit)]++;
	w = atomic_load_explicit(&mine->waiting, memory_order_relaxed);
	atomic_store_explicit(&mine->waiting, (w + RLM_WAIT_SEQUENCE) | bit, memory_order_relaxed);
	rlm_lock_drop(&b->wait_lock);
	// Pairs with the fence before wake_receiver()/wake_sender() look at `waiting`.
	atomic_thread_fence(memory_order_seq_cst);
}

void wake_unlisten(struct rlm_bound *b, uint32_t bit)
{
	struct rlm_slot_shared *mine = b->tx.mine;
	uint32_t w;

	rlm_lock_take(&b->wait_lock);
	if (--b->waiters[__builtin_ctz(bit)] == 0) {
		w = atomic_load_explicit(&mine->waiting, memory_order_relaxed);
		atomic_store_explicit(&mine->waiting, w & ~bit, memory_order_relaxed);
	}
	rlm_lock_drop(&b->wait_lock);
}

void wake_conn(struct rlm_conn *c)
{
	atomic_fetch_add_explicit(&c->events, 1, memory_order_seq_cst);
	if (atomic_load_explicit(&c->users, memory_order_seq_cst))
		sys_futex_wake(&c->events, BELL_EVERYBODY);
}

static bool spin_enabled;

void wake_init(unsigned cpus, int enabled)
{
	spin_enabled = enabled && cpus > 1;
}

#define SPIN_ROUND 16         // loads between two looks at the clock
#define SPIN_PREEMPTED 60000u // ticks between two looks that only a lost CPU explains

bool wake_may_spin(const _Atomic uint32_t *budget)
{
	return spin_enabled && atomic_load_explicit(budget, memory_order_relaxed) >= RLM_SPIN_MIN;
}

bool wake_spin_on(_Atomic uint32_t *budget, uint64_t start, uint64_t last, uint64_t now)
{
	uint32_t limit = atomic_load_explicit(budget, memory_order_relaxed);

	if (now - last > SPIN_PREEMPTED) // others want this CPU: the peer is probably one of them
		limit /= 4;
	else if (now - start > limit)
		limit /= 2;
	else
		return true;
	atomic_store_explicit(budget, limit, memory_order_relaxed);
	return false;
}

void wake_spin_paid(_Atomic uint32_t *budget)
{
	uint32_t limit = atomic_load_explicit(budget, memory_order_relaxed);

	if (limit < RLM_SPIN_MAX)
		atomic_store_explicit(budget, limit + limit / 4, memory_order_relaxed);
}

bool wake_spin(const _Atomic uint64_t *word, uint64_t old, _Atomic uint32_t *budget)
{
	uint64_t start, last, now;

	if (!wake_may_spin(budget))
		return false;
	last = start = sys_ticks();
	for (;; last = now) {
		for (int i = 0; i < SPIN_ROUND; i++) {
			if (atomic_load_explicit(word, memory_order_relaxed) != old) {
				wake_spin_paid(budget);
				return true;
			}
			sys_pause();
		}
		now = sys_ticks();
		if (!wake_spin_on(budget, start, last, now))
			return false;
	}
}

bool wake_hold_back(struct rlm_hold *h, const struct rlm_ring *rx)
{
	uint64_t tail = atomic_load_explicit(&rx->mine->tail, memory_order_relaxed);
	uint64_t head = atomic_load_explicit(&rx->mine->head, memory_order_relaxed);
	uint64_t came = tail - h->tail, until;

	if (head != h->head || !came || !spin_enabled)
		h->ticks = 0;
	else if (came < RLM_HOLD_BATCH)
		h->ticks = h->ticks < RLM_HOLD_FIRST	? RLM_HOLD_FIRST
			   : h->ticks < RLM_HOLD_MAX	? h->ticks + h->ticks / 4
							: RLM_HOLD_MAX;
	h->tail = tail;
	h->head = head;
	if (!h->ticks)
		return false;
	until = sys_ticks() + h->ticks;
	do
		sys_pause();
	while ((int64_t)(sys_ticks() - until) < 0);
	return atomic_load_explicit(&rx->peer->head, memory_order_relaxed) != rx->cached;
}

void wake_slept(_Atomic uint32_t *budget, uint64_t ticks)
{
	uint32_t limit = atomic_load_explicit(budget, memory_order_relaxed);

	// Spinning a little longer would have caught it: come back slowly, so that a crowded machine is left in peace.
	if (ticks < RLM_SPIN_MAX && limit < RLM_SPIN_MAX)
		atomic_store_explicit(budget, limit + limit / 8 + RLM_SPIN_MIN / 4, memory_order_relaxed);
}

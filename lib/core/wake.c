// SPDX-License-Identifier: BSD-2-Clause
// Event counts, doorbells and the spin policy. The protocol is in wake.h; tests/model/wakeup.pml checks it.
#include "wake.h"

#include <limits.h>
#include <linux/membarrier.h>
#include <unistd.h>

#define BELL_EVERYBODY INT_MAX

void wake_ring_bell(struct rlm_bound *b, uint32_t seen, uint32_t bits)
{
	struct rlm_slot_shared *mine = b->tx.mine;

	seen &= bits;
	if (atomic_load_explicit(&b->tx.peer->rx_ask, memory_order_acquire) == RLM_ASK_LEFT)
		atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed); // the sender looks again, see cutover_tx_peer_left()
	// Pairs with the waiter's load of `bell` before it listened: its futex sees another value or gets the wake.
	atomic_fetch_add_explicit(&mine->bell, 1, memory_order_seq_cst);
	if (seen & (RLM_WAIT_RX_FUTEX | RLM_WAIT_TX_FUTEX) && !b->bell_port)
		sys_futex_wake(&mine->bell, BELL_EVERYBODY);
	if (seen & (RLM_WAIT_RX_FD | RLM_WAIT_TX_FD) || (seen && b->bell_port))
		sys_ring(b->doorbell_peer, b->bell_port);
}

void wake_all(struct rlm_bound *b)
{
	uint32_t seen;

	atomic_thread_fence(memory_order_seq_cst);
	seen = atomic_load_explicit(&b->tx.peer->waiting, memory_order_relaxed);
	wake_ring_bell(b, seen, RLM_WAIT_RX | RLM_WAIT_TX);
}

void wake_own(struct rlm_bound *b)
{
	const uint64_t one = 1;

	// Pairs with the fence in wake_listen(): whoever comes later sees the change itself.
	atomic_thread_fence(memory_order_seq_cst);
	if (b->doorbell_mine >= 0 &&
	    atomic_load_explicit(&b->tx.mine->waiting, memory_order_relaxed) & (RLM_WAIT_RX_FD | RLM_WAIT_TX_FD))
		sys_write(b->doorbell_mine, &one, sizeof(one));
}

// --- senders without a fence ---

bool wake_is_reached;
static _Atomic bool may_be_light;

void wake_barrier_init(void)
{
	may_be_light = wake_is_reached = sys_call3(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

static void look_away(uint64_t ticks)
{
	uint64_t start = sys_ticks();
	int64_t passed, enough = (int64_t)ticks;

	do {
		sys_pause();
		passed = (int64_t)(sys_ticks() - start);
	} while (passed < enough && passed > -enough); // a domain that moves to another host may find an older clock there
}

#define STORES_TAKE 1000000u // ticks, thousands of times what a store takes to be seen

static void barrier_everywhere(void)
{
	if (sys_call3(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0)
		return;
	may_be_light = false; // a system call filter forbids it since; nothing is left but time
	look_away(STORES_TAKE);
}

void wake_be_light(struct rlm_bound *b)
{
	struct rlm_slot_shared *mine = b->rx.mine;
	uint32_t w;

	// Only within this kernel does membarrier(2) reach the sender.
	if (b->bell_port || !atomic_load_explicit(&may_be_light, memory_order_relaxed))
		return;
	rlm_lock_take(&b->wait_lock);
	w = atomic_load_explicit(&mine->waiting, memory_order_relaxed);
	if (!(w & RLM_WAIT_RX))
		atomic_store_explicit(&mine->waiting, w | RLM_WAIT_LIGHT, memory_order_relaxed);
	rlm_lock_drop(&b->wait_lock);
}

// --- sleeping ---

void wake_listen(struct rlm_bound *b, uint32_t bit)
{
	struct rlm_slot_shared *mine = b->tx.mine;
	uint32_t w, light;

	rlm_lock_take(&b->wait_lock);
	b->waiters[__builtin_ctz(bit)]++;
	w = atomic_load_explicit(&mine->waiting, memory_order_relaxed);
	light = bit & RLM_WAIT_RX ? w & RLM_WAIT_LIGHT : 0;
	atomic_store_explicit(&mine->waiting, ((w - light) + RLM_WAIT_SEQUENCE) | bit, memory_order_relaxed);
	if (__builtin_expect(light, 0)) {
		b->rx_hold.waits = 0;
		barrier_everywhere();
	}
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

bool wake_one_word;

void wake_conn(struct rlm_conn *c)
{
	const _Atomic uint32_t *bell;

	atomic_fetch_add_explicit(&c->events, 1, memory_order_seq_cst);
	if (!atomic_load_explicit(&c->users, memory_order_seq_cst))
		return;
	sys_futex_wake(&c->events, BELL_EVERYBODY);
	bell = atomic_load_explicit(&c->bell, memory_order_relaxed);
	if (__builtin_expect(wake_one_word && bell, 0))
		sys_futex_wake(bell, BELL_EVERYBODY); // an old one: wakes nobody, or somebody for nothing
}

static uint32_t spin_most;
static bool alone; // a peer of this kernel does nothing while we spin

void wake_init(unsigned cpus, uint32_t most)
{
	spin_most = most;
	alone = cpus <= 1;
}

static bool is_enabled(const struct rlm_spin *spin)
{
	return spin_most && (!alone || atomic_load_explicit(&spin->far, memory_order_relaxed));
}

#define SPIN_ROUND 16 // loads between two looks at the clock

void wake_spin_init(struct rlm_spin *spin, bool far)
{
	*spin = (struct rlm_spin){.budget = RLM_SPIN_START, .wanted = RLM_SPIN_STREAK_MIN, .far = far};
}

bool wake_may_spin(const struct rlm_spin *spin)
{
	return is_enabled(spin) && atomic_load_explicit(&spin->budget, memory_order_relaxed) >= RLM_SPIN_MIN;
}

static void failed(struct rlm_spin *spin, uint32_t budget)
{
	uint16_t wanted = atomic_load_explicit(&spin->wanted, memory_order_relaxed);

	atomic_store_explicit(&spin->budget, budget, memory_order_relaxed);
	if (budget < RLM_SPIN_MIN && wanted < RLM_SPIN_STREAK_MAX)
		atomic_store_explicit(&spin->wanted, (uint16_t)(wanted * 2), memory_order_relaxed);
}

bool wake_spin_on(struct rlm_spin *spin, uint64_t start, uint64_t last, uint64_t now)
{
	uint32_t budget = atomic_load_explicit(&spin->budget, memory_order_relaxed);

	if (now - last > spin_most / 4) // others want this CPU: the peer is probably one of them
		failed(spin, budget / 4);
	else if (now - start > budget)
		failed(spin, budget / 2);
	else
		return true;
	return false;
}

void wake_spin_paid(struct rlm_spin *spin)
{
	uint32_t budget = atomic_load_explicit(&spin->budget, memory_order_relaxed);
	uint16_t wanted = atomic_load_explicit(&spin->wanted, memory_order_relaxed);

	if (budget < spin_most)
		atomic_store_explicit(&spin->budget, budget + budget / 4, memory_order_relaxed);
	if (wanted > RLM_SPIN_STREAK_MIN)
		atomic_store_explicit(&spin->wanted, (uint16_t)(wanted - 1), memory_order_relaxed);
}

bool wake_spin(const _Atomic uint64_t *word, uint64_t old, struct rlm_spin *spin)
{
	uint64_t start, last, now;

	if (!wake_may_spin(spin))
		return false;
	last = start = sys_ticks();
	for (;; last = now) {
		for (int i = 0; i < SPIN_ROUND; i++) {
			if (atomic_load_explicit(word, memory_order_relaxed) != old) {
				wake_spin_paid(spin);
				return true;
			}
			sys_pause();
		}
		now = sys_ticks();
		if (!wake_spin_on(spin, start, last, now))
			return false;
	}
}

bool wake_hold_back(struct rlm_bound *b)
{
	struct rlm_hold *h = &b->rx_hold;
	const struct rlm_ring *rx = &b->rx;
	uint64_t tail = atomic_load_explicit(&rx->mine->tail, memory_order_relaxed);
	uint64_t head = atomic_load_explicit(&rx->mine->head, memory_order_relaxed);
	uint64_t came = tail - h->tail;

	if (head != h->head || !came || !is_enabled(&b->rx_spin))
		h->ticks = 0;
	else if (came < RLM_HOLD_BATCH)
		h->ticks = h->ticks < RLM_HOLD_FIRST	? RLM_HOLD_FIRST
			   : h->ticks < RLM_HOLD_MAX	? h->ticks + h->ticks / 4
							: RLM_HOLD_MAX;
	h->tail = tail;
	h->head = head;
	if (!h->ticks)
		return false;
	if (++h->waits % RLM_HOLD_LIGHT == 0)
		wake_be_light(b);
	look_away(h->ticks);
	return atomic_load_explicit(&rx->peer->head, memory_order_relaxed) != rx->cached;
}

void wake_slept(struct rlm_spin *spin, uint64_t ticks)
{
	uint32_t budget = atomic_load_explicit(&spin->budget, memory_order_relaxed);
	uint16_t streak = atomic_load_explicit(&spin->streak, memory_order_relaxed);

	if (budget >= RLM_SPIN_MIN && budget >= ticks) {
		streak = 0;
	} else if (ticks / 2 >= spin_most) { // not a short one
		streak = streak > RLM_SPIN_SETBACK ? (uint16_t)(streak - RLM_SPIN_SETBACK) : 0;
	} else if (++streak >= atomic_load_explicit(&spin->wanted, memory_order_relaxed)) {
		streak = 0;
		budget = (uint32_t)(ticks + ticks / 4);
		if (budget > spin_most)
			budget = spin_most;
		if (budget < 2 * RLM_SPIN_MIN) // one that is too small to survive a failure would help nobody
			budget = 2 * RLM_SPIN_MIN;
		atomic_store_explicit(&spin->budget, budget, memory_order_relaxed);
	}
	atomic_store_explicit(&spin->streak, streak, memory_order_relaxed);
}

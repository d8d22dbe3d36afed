// SPDX-License-Identifier: BSD-2-Clause
// Sleeping without losing a wake-up, and spinning no longer than it pays.
//
// Waiter:     bell = peer->bell; add its bit to mine->waiting (with a new sequence number); full fence; look at everything once more;
//             sleep on (peer->bell == bell and conn->events == events).
// Publisher:  publish; full fence; look at peer->waiting; if a bit it serves is set and the word is not the one it rang for last:
//             bell++, FUTEX_WAKE, eventfd.
// Store-then-load on both sides with a full fence between: either the waiter sees the publication or the publisher sees the bit.
//
// The fence is most of what a small message costs its sender. So a receiver that gets many of them and does not sleep takes it over: it sets
// RLM_WAIT_LIGHT in `waiting`, and whoever sees that publishes without a fence. Before a receiver sleeps, it takes the bit back, and if it was set
// has membarrier(2) make each CPU that runs one of us pass a full fence. What was published before that fence is seen by the waiter's
// last look; who publishes after it sees the waiter's bit. Both steps are under wait_lock: whoever listens next comes after that fence, too.
//
// The sequence number in `waiting` makes each sleep a new value, so the publisher rings once per sleep and not once per message.
#ifndef RLM_WAKE_H
#define RLM_WAKE_H

#include "conn.h"
#include "sys.h"

#define RLM_WAIT_BITS 0xfu
#define RLM_WAIT_SEQUENCE 0x20u

void wake_ring_bell(struct rlm_bound *b, uint32_t seen, uint32_t bits);

// This process is among those that membarrier(2) reaches.
extern bool wake_is_reached;

// After publishing data.
static inline void wake_receiver(struct rlm_bound *b)
{
	const _Atomic uint32_t *waiting = &b->tx.peer->waiting;
	uint32_t seen;

	atomic_signal_fence(memory_order_seq_cst);
	seen = atomic_load_explicit(waiting, memory_order_relaxed);
	if (__builtin_expect(!(seen & RLM_WAIT_LIGHT) || !wake_is_reached, 1)) {
		atomic_thread_fence(memory_order_seq_cst); // pairs with the one in wake_listen()
		seen = atomic_load_explicit(waiting, memory_order_relaxed);
	}

	if (__builtin_expect((seen & RLM_WAIT_RX) && seen != atomic_load_explicit(&b->tx_rung, memory_order_relaxed), 0)) {
		atomic_store_explicit(&b->tx_rung, seen, memory_order_relaxed);
		wake_ring_bell(b, seen, RLM_WAIT_RX);
	}
}

// After freeing room and a full fence.
static inline void wake_sender(struct rlm_bound *b)
{
	uint32_t seen = atomic_load_explicit(&b->rx.peer->waiting, memory_order_relaxed);

	if (__builtin_expect((seen & RLM_WAIT_TX) && seen != atomic_load_explicit(&b->rx_rung, memory_order_relaxed), 0)) {
		atomic_store_explicit(&b->rx_rung, seen, memory_order_relaxed);
		wake_ring_bell(b, seen, RLM_WAIT_TX);
	}
}

// After anything else that the peer may wait for: whoever sleeps there looks again.
void wake_all(struct rlm_bound *b);

// The direction has another carrier: whoever sleeps in poll or epoll here looks again.
void wake_own(struct rlm_bound *b);

// Publishes that somebody here is about to sleep; full fence included. Undone by wake_unlisten().
void wake_listen(struct rlm_bound *b, uint32_t bit);
void wake_unlisten(struct rlm_bound *b, uint32_t bit);

// Takes the fence over from the sender, if that is possible, until somebody listens for data.
void wake_be_light(struct rlm_bound *b);

// Bumps the connection's own event count and wakes whoever sleeps on it in this family.
void wake_conn(struct rlm_conn *c);

// No futex_waitv(2): it came with Linux 5.16, and filters of system calls that are older than it, as containers have, do not let it through.
// Who sleeps in a call then sleeps on the bell alone. wake_conn() wakes it there too, but the kernel does not compare `events`
// for it: news that come between its last look and its sleep are missed. So it wakes up to look, at first soon, then ever more seldom (stream_wait.c).
// Set before anybody sleeps.
extern bool wake_one_word;

// Spinning. A budget is in ticks (about CPU cycles), one per direction, and follows success: it grows while spinning pays and halves
// when it does not. When it is down, sleeps that were short enough to be spun away bring it back to what they took, after a number of them; a long one
// takes a few from the count. That number doubles each time spinning then fails, so that a crowded machine is soon left in peace.
//
// Two ends that both sleep keep each other asleep: each wait then holds two wake-ups, 40 to 50 us each where a CPU idles deeply (virtual machines).
// The first end to spin still waits for the other's wake-up. So the largest budget has room for one of these and some work,
// and a sleep counts as short up to twice that. Where wake-ups take much longer than there (emulation), a user can say so.
#define RLM_SPIN_MAX 240000u          // unless the user says otherwise,
#define RLM_SPIN_MAX_MAX 1000000000u // up to this
#define RLM_SPIN_START 30000u
#define RLM_SPIN_MIN 3000u
#define RLM_SPIN_STREAK_MIN 4u
#define RLM_SPIN_STREAK_MAX 64u
#define RLM_SPIN_SETBACK 4u

// most: the largest budget, 0: no spinning at all. With one CPU only peers in other domains are waited for in that way.
void wake_init(unsigned cpus, uint32_t most);
// Once per process, at best before it has threads (with them the kernel takes milliseconds), and in a forked child.
void wake_barrier_init(void);
void wake_spin_init(struct rlm_spin *spin, bool far);

// Spins until *word != old or the budget is spent. true: it changed.
bool wake_spin(const _Atomic uint64_t *word, uint64_t old, struct rlm_spin *spin);

// Holding back. A receiver that looks at `head` all the time takes the cache line away from a sender of small messages for each of them:
// a stream of 64-byte sends then runs at a fifth of its speed. So when only the peer sends and comes in small pieces, the
// receiver looks away for a moment before it looks again; it stops doing so as soon as nothing came of it.
#define RLM_HOLD_FIRST 2000u // ticks
#define RLM_HOLD_MAX 16000u
#define RLM_HOLD_BATCH 16384u // bytes per wait that are enough
#define RLM_HOLD_LIGHT 64u    // waits without a sleep that make up for a membarrier(2)

// Before spinning for data: looks away for as long as it paid lately. true: data came meanwhile.
bool wake_hold_back(struct rlm_bound *b);
// The same for loops that look at more than one word: begin, go on after each look at the clock, tell success.
bool wake_may_spin(const struct rlm_spin *spin);
bool wake_spin_on(struct rlm_spin *spin, uint64_t start, uint64_t last, uint64_t now);
void wake_spin_paid(struct rlm_spin *spin);
// Tells what a sleep took, so that a budget that fell too low comes back.
void wake_slept(struct rlm_spin *spin, uint64_t ticks);

#endif

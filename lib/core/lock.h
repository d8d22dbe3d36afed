// SPDX-License-Identifier: BSD-2-Clause
// A futex lock for memory that a family of processes shares. The word holds the owner's thread id, so that a lock whose
// owner was killed can be taken over: what it protects is written so that an update is visible as a whole or not at all.
// Never held while sleeping, never in fork's child by a thread that does not exist there.
#ifndef RLM_LOCK_H
#define RLM_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct rlm_lock {
	_Atomic uint32_t word; // 0 free; thread id; | RLM_LOCK_WAITERS
};

#define RLM_LOCK_WAITERS 0x80000000u

extern __thread uint32_t rlm_self_tid; // 0 until first use; fork's child resets it

uint32_t rlm_lock_tid(void);
void rlm_lock_slow(struct rlm_lock *lock, uint32_t tid);
void rlm_lock_wake(struct rlm_lock *lock);

static inline uint32_t rlm_tid(void)
{
	return rlm_self_tid ? rlm_self_tid : rlm_lock_tid();
}

// A signal handler that needs a lock which its own thread holds would wait for ever. So while a thread holds a lock (or is about to take
// one), handlers are put off: lib/preload/hooks_signal.c asks rlm_guard_defer(), and the last rlm_lock_drop() lets the signal in.
struct rlm_guard {
	volatile uint32_t depth;    // locks held
	volatile uint32_t deferred; // signal number, 0 = none; all others are blocked then
};

extern __thread struct rlm_guard rlm_guard;

// In a handler, with its arguments. true: not now, return at once.
bool rlm_guard_defer(int signal, const void *info, void *context);
void rlm_guard_run(void);
// In fork's child, which holds no locks.
void rlm_guard_fork_child(void);

static inline void rlm_guard_enter(void)
{
	rlm_guard.depth++;
	atomic_signal_fence(memory_order_seq_cst);
}

static inline void rlm_guard_leave(void)
{
	atomic_signal_fence(memory_order_seq_cst);
	if (__builtin_expect(--rlm_guard.depth == 0 && rlm_guard.deferred, 0))
		rlm_guard_run();
}

static inline bool rlm_lock_grab(struct rlm_lock *lock)
{
	uint32_t zero = 0;

	return atomic_compare_exchange_strong_explicit(&lock->word, &zero, rlm_tid(), memory_order_acquire,
						       memory_order_relaxed);
}

static inline bool rlm_lock_try(struct rlm_lock *lock)
{
	rlm_guard_enter();
	if (rlm_lock_grab(lock))
		return true;
	rlm_guard_leave();
	return false;
}

static inline void rlm_lock_take(struct rlm_lock *lock)
{
	rlm_guard_enter();
	if (__builtin_expect(!rlm_lock_grab(lock), 0))
		rlm_lock_slow(lock, rlm_tid());
}

static inline void rlm_lock_drop(struct rlm_lock *lock)
{
	if (__builtin_expect(atomic_exchange_explicit(&lock->word, 0, memory_order_seq_cst) & RLM_LOCK_WAITERS, 0))
		rlm_lock_wake(lock);
	rlm_guard_leave();
}

static inline bool rlm_lock_is_mine(const struct rlm_lock *lock)
{
	return (atomic_load_explicit(&lock->word, memory_order_relaxed) & ~RLM_LOCK_WAITERS) == rlm_tid();
}

static inline void rlm_fence_after_rmw(void)
{
#if defined(__x86_64__)
	atomic_signal_fence(memory_order_seq_cst); // the locked instruction was the fence
#else
	atomic_thread_fence(memory_order_seq_cst);
#endif
}

#endif

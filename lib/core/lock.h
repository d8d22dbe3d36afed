// SPDX-License-Identifier: BSD-2-Clause
// A futex lock for memory that a family of processes shares. The word holds the owner's thread id, so that a lock whose
// owner was killed can be taken over: what it protects is written so that an update is visible as a whole or not at all,
// or so that the next owner can tell what was done, see rx_counted().
// Never held while sleeping, never in fork's child by a thread that does not exist there.
//
// Keeping. A locked instruction costs as much as the rest of a small send, and most locks are taken by one thread all the time. Such a
// thread may keep the lock when it leaves it: `word` says so, and from then on it goes in and out with plain stores to a cell of its own.
//
//   keeper:  cell = lock; look at `word`: still kept by me? Else cell = NULL, and the ordinary way.
//   other:   takes `word` away from the keeper; membarrier(2); waits until the keeper's cell does not name the lock.
//
// The system call makes each running thread of the process execute a full fence. If the keeper looked at `word` before that, its
// store to the cell is visible after it, and the other one waits; if it looks later, it finds that the lock is not its own any more. So
// the keeper needs no fence. A cell is written by its thread alone: a store that comes late, of one who lost the lock long ago, says
// nothing about its new keeper. tests/model/lock.pml checks this.
// membarrier(2) reaches the caller's own process alone: what several processes use is not kept, see rlm_lock_end_keeping().
#ifndef RLM_LOCK_H
#define RLM_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rlm_lock {
	_Atomic uint32_t word; // 0 free; owner's thread id; | RLM_LOCK_WAITERS; or keeper's thread id | RLM_LOCK_KEPT
};

#define RLM_LOCK_WAITERS 0x80000000u
#define RLM_LOCK_KEPT 0x40000000u

extern __thread uint32_t rlm_self_tid; // 0 until first use; fork's child resets it

uint32_t rlm_lock_tid(void);
void rlm_lock_slow(struct rlm_lock *lock, uint32_t tid);
void rlm_lock_wake(struct rlm_lock *lock);

static inline uint32_t rlm_tid(void)
{
	return rlm_self_tid ? rlm_self_tid : rlm_lock_tid();
}

// --- keeping ---

#define RLM_KEEPER_LOCKS 4

// A thread that keeps locks. Found by its id; private to the process.
struct rlm_keeper {
	_Alignas(64) _Atomic(struct rlm_lock *) in[RLM_KEEPER_LOCKS]; // the kept locks it has now
	_Atomic uint32_t outs;                                        // event count: it left one that was taken away
	_Atomic uint32_t tid;                                         // whose cells these are
};

extern __thread struct rlm_keeper *rlm_self_keeper; // NULL until it keeps one; fork's child resets it

// Who takes a lock how often, written under that lock. Whenever a kept lock is taken away, keeping it again takes longer.
struct rlm_habit {
	uint32_t tid;
	uint16_t streak; // takes in a row
	uint16_t wanted;
	bool kept;
};

// Asks the kernel for membarrier(2); without it, and before, nothing is kept. To be called while the process has one thread: later it
// takes long.
void rlm_lock_init(void);
// A full fence in each running thread of the process.
void rlm_lock_barrier(void);
// From here on no lock is kept that is not kept now.
void rlm_lock_stop_keeping(void);
// Nobody keeps the lock, which is not the caller's. Those who might keep it again were told not to; then came a barrier.
void rlm_lock_end_keeping(struct rlm_lock *lock);
void rlm_lock_fork_child(void);
// The owner takes it so often that it should keep it. To be asked once for each take that was not rlm_lock_is_kept().
bool rlm_habit_pays(struct rlm_habit *habit);
// The owner drops the lock and keeps it, if nobody waits for it.
void rlm_lock_keep(struct rlm_lock *lock, struct rlm_habit *habit);

bool rlm_lock_try_kept(struct rlm_lock *lock);
void rlm_lock_step_out_slow(struct rlm_keeper *self);

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

// The keeper's cell goes back. Whoever took the lock away meanwhile may be asleep.
static inline void rlm_lock_step_out(struct rlm_lock *lock)
{
	struct rlm_keeper *self = rlm_self_keeper;
	int i = 0;

	while (atomic_load_explicit(&self->in[i], memory_order_relaxed) != lock)
		i++;
	atomic_store_explicit(&self->in[i], NULL, memory_order_release); // pairs with is_in()
	atomic_signal_fence(memory_order_seq_cst);
	if (__builtin_expect(!(atomic_load_explicit(&lock->word, memory_order_relaxed) & RLM_LOCK_KEPT), 0))
		rlm_lock_step_out_slow(self);
}

// true: this thread keeps the lock, and has it now.
static inline bool rlm_lock_step_in(struct rlm_lock *lock)
{
	struct rlm_keeper *self = rlm_self_keeper;
	struct rlm_lock *other;
	uint32_t mine;
	int i = 0;

	if (!self)
		return false;
	mine = atomic_load_explicit(&self->tid, memory_order_relaxed) | RLM_LOCK_KEPT;
	if (atomic_load_explicit(&lock->word, memory_order_relaxed) != mine)
		return false;
	while ((other = atomic_load_explicit(&self->in[i], memory_order_relaxed)))
		if (other == lock || ++i == RLM_KEEPER_LOCKS)
			return false;
	atomic_store_explicit(&self->in[i], lock, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst); // the real one is rlm_lock_barrier(), executed by who takes it away
	if (__builtin_expect(atomic_load_explicit(&lock->word, memory_order_acquire) == mine, 1))
		return true;
	rlm_lock_step_out(lock);
	return false;
}

static inline bool rlm_lock_try(struct rlm_lock *lock)
{
	rlm_guard_enter();
	if (rlm_lock_step_in(lock) || rlm_lock_grab(lock) || rlm_lock_try_kept(lock))
		return true;
	rlm_guard_leave();
	return false;
}

static inline void rlm_lock_take(struct rlm_lock *lock)
{
	rlm_guard_enter();
	if (!rlm_lock_step_in(lock) && __builtin_expect(!rlm_lock_grab(lock), 0))
		rlm_lock_slow(lock, rlm_tid());
}

// Of its holder: as keeper?
static inline bool rlm_lock_is_kept(const struct rlm_lock *lock)
{
	return (atomic_load_explicit(&lock->word, memory_order_relaxed) & ~RLM_LOCK_WAITERS) != rlm_tid();
}

static inline void rlm_lock_drop_kept(struct rlm_lock *lock)
{
	rlm_lock_step_out(lock);
	rlm_guard_leave();
}

static inline void rlm_lock_drop(struct rlm_lock *lock)
{
	if (rlm_lock_is_kept(lock)) {
		rlm_lock_drop_kept(lock);
		return;
	}
	if (__builtin_expect(atomic_exchange_explicit(&lock->word, 0, memory_order_seq_cst) & RLM_LOCK_WAITERS, 0))
		rlm_lock_wake(lock);
	rlm_guard_leave();
}

bool rlm_lock_is_mine(const struct rlm_lock *lock);

#endif

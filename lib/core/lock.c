// SPDX-License-Identifier: BSD-2-Clause
// Slow paths of the family lock: keeping, contention, and owners that died.
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include "sys.h"

__thread uint32_t rlm_self_tid;

uint32_t rlm_lock_tid(void)
{
	rlm_self_tid = (uint32_t)sys_tid();
	return rlm_self_tid;
}

// A process that was killed is there as a zombie until its parent waits for it, and the parent may be who asks.
static bool is_zombie(uint32_t tid)
{
	char path[32], text[256], *state;
	long n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/stat", tid);
	fd = (int)sys_call4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return false;
	n = sys_read(fd, text, sizeof(text) - 1);
	sys_close(fd);
	text[n > 0 ? n : 0] = 0;
	state = strrchr(text, ')');
	return state && state[1] == ' ' && (state[2] == 'Z' || state[2] == 'X');
}

static bool owner_is_gone(uint32_t word)
{
	uint32_t tid = word & ~RLM_LOCK_WAITERS;

	return tid && (sys_call2(SYS_kill, tid, 0) == -ESRCH || is_zombie(tid));
}

// --- keeping ---

#define KEEPERS 256u
#define HABIT_MIN 32u
#define HABIT_MAX 4096u

__thread struct rlm_keeper *rlm_self_keeper;

static struct rlm_keeper keepers[KEEPERS]; // by thread id
static bool has_barrier;
static _Atomic bool may_keep;

void rlm_lock_init(void)
{
	has_barrier = sys_call3(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
	may_keep = has_barrier;
}

void rlm_lock_barrier(void)
{
	if (has_barrier)
		sys_call3(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

void rlm_lock_stop_keeping(void)
{
	may_keep = false;
	rlm_lock_barrier();
}

void rlm_lock_fork_child(void)
{
	rlm_self_tid = 0;
	rlm_self_keeper = NULL;
	for (uint32_t i = 0; i < KEEPERS; i++)
		if (keepers[i].tid)
			memset(&keepers[i], 0, sizeof(keepers[i]));
	if (may_keep)
		rlm_lock_init();
}

// The calling thread's, unless a living thread has its place.
static struct rlm_keeper *keeper_claim(uint32_t tid)
{
	struct rlm_keeper *k = &keepers[tid % KEEPERS];
	uint32_t owner = atomic_load_explicit(&k->tid, memory_order_relaxed);

	if (owner != tid && ((owner && !owner_is_gone(owner)) || !atomic_compare_exchange_strong(&k->tid, &owner, tid)))
		return NULL;
	rlm_self_keeper = k;
	return k;
}

bool rlm_habit_pays(struct rlm_habit *h)
{
	if (h->kept || h->wanted < HABIT_MIN) {
		h->wanted = (uint16_t)(h->wanted < HABIT_MIN ? HABIT_MIN : h->wanted < HABIT_MAX ? h->wanted * 2 : HABIT_MAX);
		h->streak = 0;
		h->kept = false; // it was taken away
	}
	if (h->tid != rlm_tid()) {
		h->tid = rlm_tid();
		h->streak = 0;
	}
	return ++h->streak >= h->wanted && atomic_load_explicit(&may_keep, memory_order_relaxed);
}

void rlm_lock_keep(struct rlm_lock *lock, struct rlm_habit *h)
{
	uint32_t word = rlm_tid();

	h->streak = 0;
	if (rlm_self_keeper || keeper_claim(word)) {
		h->kept = true;
		if (atomic_compare_exchange_strong_explicit(&lock->word, &word, word | RLM_LOCK_KEPT, memory_order_release,
							    memory_order_relaxed)) {
			rlm_guard_leave();
			return;
		}
		h->kept = false; // somebody waits for it
	}
	rlm_lock_drop(lock);
}

static bool is_in(const struct rlm_keeper *k, const struct rlm_lock *lock)
{
	for (int i = 0; i < RLM_KEEPER_LOCKS; i++)
		if (atomic_load_explicit(&k->in[i], memory_order_acquire) == lock) // pairs with rlm_lock_step_out()
			return true;
	return false;
}

// From its keeper, as `word` says. false: look again.
static bool take_away(struct rlm_lock *lock, uint32_t word, uint32_t tid)
{
	struct rlm_keeper *k = &keepers[(word & ~RLM_LOCK_KEPT) % KEEPERS];
	uint32_t outs;

	if (!atomic_compare_exchange_strong_explicit(&lock->word, &word, tid | RLM_LOCK_WAITERS, memory_order_acquire,
						     memory_order_relaxed))
		return false;
	rlm_lock_barrier();
	for (int i = 0;; i++) {
		outs = atomic_load_explicit(&k->outs, memory_order_acquire);
		if (!is_in(k, lock))
			return true;
		if (i < 100)
			sys_pause();
		else
			sys_futex_wait(&k->outs, outs, NULL);
	}
}

void rlm_lock_step_out_slow(struct rlm_keeper *self)
{
	atomic_fetch_add_explicit(&self->outs, 1, memory_order_release);
	sys_futex_wake(&self->outs, INT_MAX);
}

// One who is in may be in for ever, if an instruction in there raised a signal.
bool rlm_lock_try_kept(struct rlm_lock *lock)
{
	uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);

	return word & RLM_LOCK_KEPT && !is_in(&keepers[(word & ~RLM_LOCK_KEPT) % KEEPERS], lock) &&
	       take_away(lock, word, rlm_tid());
}

void rlm_lock_end_keeping(struct rlm_lock *lock)
{
	if (!atomic_load_explicit(&lock->word, memory_order_relaxed))
		return;
	rlm_guard_enter();
	rlm_lock_slow(lock, rlm_tid());
	rlm_lock_drop(lock);
}

bool rlm_lock_is_mine(const struct rlm_lock *lock)
{
	uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);

	return (word & ~RLM_LOCK_WAITERS) == rlm_tid() || (rlm_self_keeper && is_in(rlm_self_keeper, lock));
}

// --- contention ---

void rlm_lock_slow(struct rlm_lock *lock, uint32_t tid)
{
	const struct timespec patience = {.tv_nsec = 50 * 1000 * 1000};
	uint32_t word;
	long r;

	for (int i = 0; i < 100 && !(atomic_load_explicit(&lock->word, memory_order_relaxed) & RLM_LOCK_KEPT); i++) {
		sys_pause();
		if (rlm_lock_grab(lock))
			return;
	}
	for (;;) {
		word = atomic_load_explicit(&lock->word, memory_order_relaxed);
		if (word & RLM_LOCK_KEPT) {
			if (take_away(lock, word, tid))
				return;
			continue;
		}
		if (word == 0) {
			// WAITERS: others may sleep that a plain take would forget.
			if (atomic_compare_exchange_weak_explicit(&lock->word, &word, tid | RLM_LOCK_WAITERS,
								  memory_order_acquire, memory_order_relaxed))
				return;
			continue;
		}
		if (!(word & RLM_LOCK_WAITERS) &&
		    !atomic_compare_exchange_weak_explicit(&lock->word, &word, word | RLM_LOCK_WAITERS,
							   memory_order_relaxed, memory_order_relaxed))
			continue;
		word |= RLM_LOCK_WAITERS;
		r = sys_futex_wait(&lock->word, word, &patience);
		if ((r == -ETIMEDOUT || r == -EINTR) && owner_is_gone(word) &&
		    atomic_compare_exchange_strong_explicit(&lock->word, &word, tid | RLM_LOCK_WAITERS,
							    memory_order_acquire, memory_order_relaxed))
			return;
	}
}

void rlm_lock_wake(struct rlm_lock *lock)
{
	sys_futex_wake(&lock->word, 1);
}

// --- handlers put off ---

__thread struct rlm_guard rlm_guard;
static __thread siginfo_t deferred_info;
static __thread uint64_t deferred_mask; // of the thread, before it was interrupted

#define BIT(signal) (1ull << ((signal) - 1))
#define SIGNALS_BYTES 8

// What is raised by an instruction cannot wait; 32 and 33 are libc's own.
static const uint64_t never_blocked =
	BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGSYS) | BIT(SIGABRT) | BIT(32) | BIT(33);

bool rlm_guard_defer(int signal, const void *info, void *context)
{
	ucontext_t *interrupted = context;
	uint64_t all = ~never_blocked;

	if (!rlm_guard.depth)
		return false;
	memcpy(&deferred_info, info, sizeof(deferred_info));
	memcpy(&deferred_mask, &interrupted->uc_sigmask, sizeof(deferred_mask));
	memcpy(&interrupted->uc_sigmask, &all, sizeof(all)); // from the handler's return on
	rlm_guard.deferred = (uint32_t)signal;
	return true;
}

// The thread gets its signal once more, with everything that belongs to it, as soon as the old mask is back.
void rlm_guard_run(void)
{
	int signal = (int)rlm_guard.deferred;
	siginfo_t info = deferred_info;
	uint64_t mask = deferred_mask;

	rlm_guard.deferred = 0;
	sys_call4(SYS_rt_tgsigqueueinfo, sys_call0(SYS_getpid), sys_tid(), signal, &info);
	sys_call4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, SIGNALS_BYTES);
}

void rlm_guard_fork_child(void)
{
	uint64_t mask = deferred_mask;

	rlm_guard.depth = 0;
	if (!rlm_guard.deferred)
		return;
	rlm_guard.deferred = 0; // it was sent to the parent
	sys_call4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, SIGNALS_BYTES);
}

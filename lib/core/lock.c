// SPDX-License-Identifier: BSD-2-Clause
// Slow paths of the family lock: contention, and owners that died.
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
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

void rlm_lock_slow(struct rlm_lock *lock, uint32_t tid)
{
	const struct timespec patience = {.tv_nsec = 50 * 1000 * 1000};
	uint32_t word;
	long r;

	for (int i = 0; i < 100; i++) {
		sys_pause();
		if (rlm_lock_grab(lock))
			return;
	}
	for (;;) {
		word = atomic_load_explicit(&lock->word, memory_order_relaxed);
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

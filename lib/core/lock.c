// SPDX-License-Identifier: BSD-2-Clause
// Slow paths of the family lock: contention, and owners that died.
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

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
		if (rlm_lock_try(lock))
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

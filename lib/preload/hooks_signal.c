// SPDX-License-Identifier: BSD-2-Clause
// Signal handlers. One that uses a connection must not find a lock that the call it interrupted holds. So the kernel gets a handler of
// ours, which puts the signal off while its thread holds a lock (microseconds, see lock.h), and calls the application's at once else.
//
// The kernel's record decides whether a handler is set at all; what we keep is which one. Handlers that are set by other ways than
// sigaction() and libc's older calls for it run as ever.
#include "hooks.h"

#include <string.h>

#define SIGNALS 65

static struct rlm_lock lock; // handlers that would wait for it are put off
static struct {
	void (*_Atomic handler)(int, siginfo_t *, void *);
	struct sigaction installed; // as the kernel has it
	int flags;                  // as the application set them
} actions[SIGNALS];

static void run_or_defer(int signal, siginfo_t *info, void *context)
{
	if (!rlm_guard_defer(signal, info, context)) {
		atomic_load_explicit(&actions[signal].handler, memory_order_acquire)(signal, info, context);
		return;
	}
	if (actions[signal].installed.sa_flags & (int)SA_RESETHAND) // it has not been handled yet
		REAL(sigaction)(signal, &actions[signal].installed, NULL);
}

// Those that an instruction raises come in the middle of anything, and cannot wait.
static bool can_wait(int signal)
{
	return signal > 0 && signal < SIGNALS && signal != SIGSEGV && signal != SIGBUS && signal != SIGFPE &&
	       signal != SIGILL && signal != SIGTRAP && signal != SIGSYS && signal != SIGABRT;
}

static bool is_handler(const struct sigaction *action)
{
	return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN && action->sa_handler != SIG_ERR &&
	       action->sa_sigaction != run_or_defer;
}

// What the application is told of a record of the kernel.
static void show(int signal, struct sigaction *action)
{
	if (action->sa_sigaction != run_or_defer)
		return;
	action->sa_sigaction = atomic_load_explicit(&actions[signal].handler, memory_order_relaxed);
	action->sa_flags = actions[signal].flags;
}

static int set(int signal, const struct sigaction *action, struct sigaction *old)
{
	struct sigaction mine = *action, was;
	void (*handler)(int, siginfo_t *, void *) = atomic_load_explicit(&actions[signal].handler, memory_order_relaxed);
	int r;

	mine.sa_sigaction = run_or_defer;
	mine.sa_flags |= SA_SIGINFO;
	atomic_store_explicit(&actions[signal].handler, action->sa_sigaction, memory_order_release);
	r = REAL(sigaction)(signal, &mine, &was);
	if (r < 0) {
		atomic_store_explicit(&actions[signal].handler, handler, memory_order_release);
		return r;
	}
	if (was.sa_sigaction == run_or_defer) {
		was.sa_sigaction = handler;
		was.sa_flags = actions[signal].flags;
	}
	actions[signal].installed = mine;
	actions[signal].flags = action->sa_flags;
	if (old)
		*old = was;
	return r;
}

RLM_EXPORT int sigaction(int signal, const struct sigaction *restrict action, struct sigaction *restrict old)
{
	int r;

	if (!fdtable || !can_wait(signal))
		return REAL(sigaction)(signal, action, old);
	rlm_lock_take(&lock);
	if (action && is_handler(action)) {
		r = set(signal, action, old);
	} else {
		r = REAL(sigaction)(signal, action, old);
		if (r == 0 && old)
			show(signal, old);
	}
	rlm_lock_drop(&lock);
	return r;
}

// What libc makes of such a call depends on more than its arguments: it sets the handler, and then we put ours in its place.
static sighandler_t set_by(sighandler_t (*real)(int, sighandler_t), int number, sighandler_t handler)
{
	struct sigaction action = {.sa_handler = handler}, now;
	sighandler_t old;

	if (!fdtable || !can_wait(number))
		return real(number, handler);
	rlm_lock_take(&lock);
	old = real(number, handler);
	if ((void *)old == (void *)run_or_defer)
		old = (sighandler_t)(void *)atomic_load_explicit(&actions[number].handler, memory_order_relaxed);
	if (old != SIG_ERR && is_handler(&action) && REAL(sigaction)(number, NULL, &now) == 0 && now.sa_handler == handler)
		set(number, &now, NULL);
	rlm_lock_drop(&lock);
	return old;
}

RLM_EXPORT sighandler_t signal(int number, sighandler_t handler)
{
	return set_by(REAL(signal), number, handler);
}

RLM_EXPORT sighandler_t sysv_signal(int number, sighandler_t handler)
{
	return set_by(REAL(sysv_signal), number, handler);
}

RLM_EXPORT sighandler_t __sysv_signal(int number, sighandler_t handler)
{
	return set_by(REAL(sysv_signal), number, handler);
}

RLM_EXPORT sighandler_t sigset(int number, sighandler_t handler)
{
	return set_by(REAL(sigset), number, handler);
}

void hook_signal_fork_child(void)
{
	atomic_store_explicit(&lock.word, 0, memory_order_relaxed);
}

// SPDX-License-Identifier: BSD-2-Clause
// Signal handlers. One that uses a connection must not find a lock that the call it interrupted holds. So the kernel gets a handler of
// ours, which puts the signal off while its thread holds a lock (microseconds, see lock.h), and calls the application's at once else.
//
// SIGSEGV and SIGBUS come also when a call of ours meets a buffer that the program cannot touch, which must be EFAULT. From the first
// connection on that is known, the kernel has a handler of ours for these two even when the application has none; it lets
// the copy fail (core/copy.h), and does with all others what would have been done without it. A thread that has them blocked, or a program
// that ignores them, is killed by the kernel without asking anyone.
//
// Handlers are counted as they begin: poll() and calls with a time-out end for any of them, whatever its flags say.
//
// The kernel's record decides whether a handler is set at all; what we keep is which one. Handlers that are set by system calls that libc
// does not make run as ever, uncounted.
#include "hooks.h"

#include "copy.h"
#include "settings.h"
#include "signals.h"
#include "sys.h"

#define SIGNALS 65

// What libc adds to the flags that it gives to the kernel, and shows.
#if defined(__x86_64__)
#define LIBC_FLAGS 0x04000000 // SA_RESTORER
#else
#define LIBC_FLAGS 0
#endif

static struct rlm_lock lock; // handlers that would wait for it are put off
bool signals_watching;       // SIGSEGV and SIGBUS are ours
__thread _Atomic uint32_t signals_handled, signals_ending;
static struct {
	void (*_Atomic handler)(int, siginfo_t *, void *);
	struct sigaction installed; // as the kernel has it
	int flags;                  // as the kernel would have them without us
} actions[SIGNALS];

static void count(_Atomic uint32_t *mine)
{
	atomic_store_explicit(mine, atomic_load_explicit(mine, memory_order_relaxed) + 1, memory_order_relaxed);
}

static void run(void (*handler)(int, siginfo_t *, void *), int signal, siginfo_t *info, void *context)
{
	count(&signals_handled);
	if (!(actions[signal].flags & SA_RESTART))
		count(&signals_ending);
	handler(signal, info, context);
}

static void run_or_defer(int signal, siginfo_t *info, void *context)
{
	if (!rlm_guard_defer(signal, info, context)) {
		run(atomic_load_explicit(&actions[signal].handler, memory_order_acquire), signal, info, context);
		return;
	}
	if (actions[signal].installed.sa_flags & (int)SA_RESETHAND) // it has not been handled yet
		REAL(sigaction)(signal, &actions[signal].installed, NULL);
}

// The end that the program would have found without us, at the same instruction.
static void end_by_default(int signal, siginfo_t *info)
{
	const struct sigaction standard = {.sa_handler = SIG_DFL};

	REAL(sigaction)(signal, &standard, NULL);
	sys_call4(SYS_rt_tgsigqueueinfo, sys_call0(SYS_getpid), sys_tid(), signal, info);
}

static void repair_or_run(int signal, siginfo_t *info, void *context)
{
	void (*handler)(int, siginfo_t *, void *);

	if (info->si_code > 0 && copy_repair(context))
		return;
	handler = atomic_load_explicit(&actions[signal].handler, memory_order_acquire);
	if ((void *)handler == (void *)SIG_DFL) {
		end_by_default(signal, info);
		return;
	}
	if (actions[signal].flags & (int)SA_RESETHAND)
		atomic_store_explicit(&actions[signal].handler, (void *)SIG_DFL, memory_order_relaxed);
	run(handler, signal, info, context);
}

// Those that an instruction raises come in the middle of anything, and cannot wait.
static bool can_wait(int signal)
{
	return signal > 0 && signal < SIGNALS && signal != SIGSEGV && signal != SIGBUS && signal != SIGFPE &&
	       signal != SIGILL && signal != SIGTRAP && signal != SIGSYS && signal != SIGABRT;
}

static bool is_watched(int signal)
{
	return signals_watching && (signal == SIGSEGV || signal == SIGBUS);
}

static bool is_ours(const struct sigaction *action)
{
	return action->sa_sigaction == run_or_defer || action->sa_sigaction == repair_or_run;
}

// Is the kernel to have a handler of ours in this one's place?
static bool is_wrapped(int signal, const struct sigaction *action)
{
	if (action->sa_handler == SIG_DFL)
		return is_watched(signal);
	return action->sa_handler != SIG_IGN && action->sa_handler != SIG_ERR && action->sa_handler != SIG_HOLD && !is_ours(action);
}

// What the application is told of a record of the kernel.
static void show(int signal, struct sigaction *action)
{
	if (!is_ours(action))
		return;
	action->sa_sigaction = atomic_load_explicit(&actions[signal].handler, memory_order_relaxed);
	action->sa_flags = actions[signal].flags;
}

static int set(int signal, const struct sigaction *action, struct sigaction *old)
{
	struct sigaction mine = *action, was;
	void (*handler)(int, siginfo_t *, void *) = atomic_load_explicit(&actions[signal].handler, memory_order_relaxed);
	int r;

	mine.sa_sigaction = is_watched(signal) ? repair_or_run : run_or_defer;
	mine.sa_flags |= SA_SIGINFO;
	if (is_watched(signal))
		mine.sa_flags &= ~(int)SA_RESETHAND;
	if (action->sa_handler == SIG_DFL)
		mine.sa_flags |= SA_ONSTACK; // the stack itself may be what cannot be touched
	atomic_store_explicit(&actions[signal].handler, action->sa_sigaction, memory_order_release);
	r = REAL(sigaction)(signal, &mine, &was);
	if (r < 0) {
		atomic_store_explicit(&actions[signal].handler, handler, memory_order_release);
		return r;
	}
	if (is_ours(&was)) {
		was.sa_sigaction = handler;
		was.sa_flags = actions[signal].flags;
	}
	actions[signal].installed = mine;
	actions[signal].flags = action->sa_flags | LIBC_FLAGS;
	if (old)
		*old = was;
	return r;
}

RLM_EXPORT int sigaction(int signal, const struct sigaction *restrict action, struct sigaction *restrict old)
{
	int r;

	if (!settings.enabled || !(can_wait(signal) || is_watched(signal)))
		return REAL(sigaction)(signal, action, old);
	rlm_lock_take(&lock);
	if (action && is_wrapped(signal, action) && !hook_in_vfork()) {
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
	struct sigaction action = {.sa_handler = handler}, now, was;
	sighandler_t old;

	if (!settings.enabled || !(can_wait(number) || is_watched(number)))
		return real(number, handler);
	rlm_lock_take(&lock);
	old = real(number, handler);
	was.sa_handler = old;
	if (old != SIG_ERR && is_ours(&was))
		old = (sighandler_t)(void *)atomic_load_explicit(&actions[number].handler, memory_order_relaxed);
	if (old != SIG_ERR && is_wrapped(number, &action) && !hook_in_vfork() &&
	    REAL(sigaction)(number, NULL, &now) == 0 && now.sa_handler == handler)
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

void signals_start(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS};
	struct sigaction now;

	if (hook_in_vfork())
		return;
	rlm_lock_take(&lock);
	signals_watching = true;
	for (unsigned i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		if (REAL(sigaction)(signals[i], NULL, &now) == 0 && is_wrapped(signals[i], &now) && set(signals[i], &now, NULL) == 0)
			actions[signals[i]].flags = now.sa_flags;
	rlm_lock_drop(&lock);
}

void signals_unwatch(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS};
	struct sigaction now;

	rlm_lock_take(&lock);
	for (unsigned i = 0; signals_watching && i < sizeof(signals) / sizeof(*signals); i++) {
		if (REAL(sigaction)(signals[i], NULL, &now) < 0 || !is_ours(&now))
			continue;
		show(signals[i], &now);
		REAL(sigaction)(signals[i], &now, NULL);
	}
	signals_watching = false;
	rlm_lock_drop(&lock);
}

// The helper thread may be at work above.
void hook_signal_fork_prepare(void)
{
	rlm_lock_take(&lock);
}

void hook_signal_fork_parent(void)
{
	rlm_lock_drop(&lock);
}

void hook_signal_fork_child(void)
{
	atomic_store_explicit(&lock.word, 0, memory_order_relaxed);
}

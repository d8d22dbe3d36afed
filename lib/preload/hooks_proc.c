// SPDX-License-Identifier: BSD-2-Clause
// Processes: fork by its other names, the end, sandboxes, and what a thread may leave only if it is alone. exec is in hooks_exec.c.
//
// fork(), daemon(), forkpty() run the handlers that init.c has registered with pthread_atfork(). vfork() is not hooked:
// its child would return through a stack frame that the parent still needs. It shares our memory, so hooks that change
// the table ask hook_in_vfork(). _Fork(), clone() and the system calls run no handlers; these hooks do.
#include "hooks.h"

#include <linux/nsfs.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <threads.h>
#include <unistd.h>

#include "engine.h"
#include "epoll.h"
#include "helper.h"
#include "session.h"
#include "settings.h"
#include "signals.h"
#include "sys.h"
#include "wake.h"

bool hook_in_vfork(void)
{
	return settings.enabled && process_id && process_id != (int)sys_call0(SYS_getpid);
}

// --- fork by other names ---

void hook_fork_prepare(void)
{
	engine_lock();
	if (engine_started)
		stream_fork_prepare();
	hook_signal_fork_prepare();
}

void hook_fork_parent(void)
{
	hook_signal_fork_parent();
	if (engine_started)
		stream_fork_parent();
	engine_unlock();
}

void hook_fork_child(void)
{
	process_id = (int)sys_call0(SYS_getpid);
	rlm_lock_fork_child();
	if (settings.enabled)
		wake_barrier_init();
	rlm_guard_fork_child();
	if (engine_started)
		stream_fork_child();
	hook_signal_fork_child();
	engine_fork_child();
}

void hook_fork_done(long pid)
{
	int saved = errno;

	if (pid == 0)
		hook_fork_child();
	else
		hook_fork_parent();
	errno = saved;
}

RLM_EXPORT pid_t _Fork(void)
{
	pid_t pid;

	hook_fork_prepare();
	pid = REAL(_Fork)();
	hook_fork_done(pid);
	return pid;
}

struct clone_start {
	int (*fn)(void *);
	void *arg;
};

static int clone_child(void *arg)
{
	struct clone_start start = *(struct clone_start *)arg;

	hook_fork_done(0);
	_exit(start.fn(start.arg)); // libc would end this thread alone, and leave the helper's
}

RLM_EXPORT int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	struct clone_start start = {fn, arg};
	void *rest[3];
	va_list args;
	int r;

	va_start(args, arg);
	for (int i = 0; i < 3; i++)
		rest[i] = va_arg(args, void *);
	va_end(args);
	if (flags & (CLONE_VM | CLONE_FILES) || !fn || !stack)
		return REAL(clone)(fn, stack, flags, arg, rest[0], rest[1], rest[2]);
	hook_fork_prepare();
	r = REAL(clone)(clone_child, stack, flags, &start, rest[0], rest[1], rest[2]);
	hook_fork_done(r);
	return r;
}

// --- the end ---

RLM_EXPORT void pthread_exit(void *value)
{
	if (process_id && (int)rlm_tid() == process_id)
		helper_main_thread_ends();
	for (;;)
		REAL(pthread_exit)(value);
}

RLM_EXPORT void thrd_exit(int value)
{
	pthread_exit((void *)(intptr_t)value);
}

// exit() and quick_exit() call this inside libc: init.c has registered with them.
RLM_EXPORT void _exit(int status)
{
	if (!hook_in_vfork())
		stream_before_exit();
	for (;;)
		REAL(_exit)(status);
}

RLM_EXPORT void _Exit(int status)
{
	_exit(status);
}

// The child closes descriptors 0 to 2 inside libc.
RLM_EXPORT int daemon(int nochdir, int noclose)
{
	int r = REAL(daemon)(nochdir, noclose);

	for (int fd = 0; fd <= 2 && r == 0 && !noclose; fd++)
		if (fd_kind(fd) != FD_UNKNOWN)
			stream_forget(fd);
	return r;
}

// --- sandboxes ---

// Others of the family may go on with the connections, so those that are on TCP are not barred.
static bool leave_all(void)
{
	bool done = true;

	for (int fd = 0; fd <= fd_highest(); fd++) {
		struct rlm_conn *c = fd_conn(fd);

		if (c && c->bound && (stream_to_kernel_whole(c, fd) < 0 || c->bound))
			done = false;
	}
	return done;
}

// The process will not be allowed what we do beside its own calls, and may be killed for trying. So everything goes back to TCP, what
// comes is not looked at, and no thread of ours is left.
void hook_before_sandbox(void)
{
	if (!leave_all())
		return;
	settings.enabled = false;
	helper_stop();
	leave_all(); // the helper may have been binding one
	signals_unwatch();
	rlm_lock_stop_keeping();
	stream_end_keeping();
	epoll_stop();
}

// --- what a thread may leave only if it is alone ---

void hook_be_alone(void)
{
	if (settings.enabled && !hook_in_vfork())
		helper_pause();
}

RLM_EXPORT int unshare(int flags)
{
	if (flags & (CLONE_FILES | CLONE_NEWUSER | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM))
		hook_be_alone();
	return REAL(unshare)(flags);
}

// The broker's socket cannot be found by its path any more: so we meet it before.
RLM_EXPORT int chroot(const char *path)
{
	bool ours = settings.enabled && !hook_in_vfork();
	int r;

	if (ours && engine_started)
		helper_meet_broker();
	r = REAL(chroot)(path);
	if (ours && r == 0)
		session_path_ends();
	return r;
}

// Network namespaces are changed often, and by any thread.
RLM_EXPORT int setns(int fd, int type)
{
	if (type != CLONE_NEWNET && (type || sys_ioctl(fd, NS_GET_NSTYPE, NULL) != CLONE_NEWNET))
		hook_be_alone();
	return REAL(setns)(fd, type);
}

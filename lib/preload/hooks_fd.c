// SPDX-License-Identifier: BSD-2-Clause
// Descriptors: closed, duplicated, their flags and ioctls, and handed to stdio.
//
// A child of vfork() shares our memory but not our descriptors: what it does to its own must not change our table.
#include "hooks.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sockios.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "sys.h"

int __dprintf_chk(int fd, int flag, const char *format, ...) __attribute__((format(printf, 3, 4)));
int __vdprintf_chk(int fd, int flag, const char *format, va_list args) __attribute__((format(printf, 3, 0)));

// --- close ---

RLM_EXPORT int close(int fd)
{
	enum fd_kind kind = fd_kind(fd);

	if (kind == FD_INTERNAL)
		return (int)rlm_result(-EBADF);
	if (kind != FD_UNKNOWN && !hook_in_vfork())
		stream_forget(fd);
	return REAL(close)(fd);
}

static void forget_range(unsigned first, unsigned last)
{
	for (unsigned fd = first; fd <= last; fd++)
		if (fd_kind((int)fd) != FD_UNKNOWN)
			stream_forget((int)fd);
}

// The thread leaves the others' descriptor table: for both, these connections are TCP's from now on.
static void unshare_range(unsigned first, unsigned last)
{
	for (unsigned fd = first; fd <= last; fd++) {
		struct rlm_conn *c = fd_conn((int)fd);

		if (c)
			stream_to_kernel(c, (int)fd, RLM_WHY_SHARED);
	}
}

// Around our own descriptors, of which there are few.
static int close_pieces(unsigned first, unsigned last, unsigned end, int flags)
{
	unsigned start = first;

	for (unsigned fd = first; fd <= end; fd++) {
		if (fd_kind((int)fd) != FD_INTERNAL)
			continue;
		if (start < fd && REAL(close_range)(start, fd - 1, flags) < 0)
			return -1;
		start = fd + 1;
	}
	return start <= last ? REAL(close_range)(start, last, flags) : 0;
}

RLM_EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	int highest = fd_highest();
	unsigned end = highest < 0 || (unsigned)highest > last ? last : (unsigned)highest;

	if (!REAL(close_range))
		return (int)rlm_result(-ENOSYS);
	if (highest < 0 || first > last || first > (unsigned)highest || hook_in_vfork() || flags & ~CLOSE_RANGE_UNSHARE)
		return REAL(close_range)(first, last, flags);
	if (flags & CLOSE_RANGE_UNSHARE) {
		unshare_range(first, end);
		hook_be_alone();
	} else {
		forget_range(first, end);
	}
	return close_pieces(first, last, end, flags);
}

RLM_EXPORT void closefrom(int low)
{
	if (fd_highest() < low || hook_in_vfork() || close_range(low < 0 ? 0 : (unsigned)low, ~0u, 0) < 0)
		REAL(closefrom)(low);
}

// --- duplicates ---

int hook_duplicated(int oldfd, int newfd)
{
	struct rlm_conn *c = fd_conn(oldfd);

	if (newfd < 0 || (fd_kind(oldfd) == FD_UNKNOWN && fd_kind(newfd) == FD_UNKNOWN))
		return newfd;
	if (hook_in_vfork()) {
		if (c)
			stream_to_kernel(c, oldfd, RLM_WHY_SHARED); // may well survive the exec that comes
		return newfd;
	}
	hook_fresh(newfd);
	stream_duplicated(oldfd, newfd);
	if (c && newfd <= 2)
		stream_to_kernel(c, newfd, RLM_WHY_STDIO);
	return newfd;
}

RLM_EXPORT int dup(int fd)
{
	if (fd_kind(fd) == FD_INTERNAL)
		return (int)rlm_result(-EBADF);
	return hook_duplicated(fd, REAL(dup)(fd));
}

static bool number_is_possible(int fd)
{
	struct rlimit limit;

	return fd >= 0 && (getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)fd < limit.rlim_cur);
}

// Makes room for a duplicate that is going to succeed. 0, or -errno when it must not be tried.
static int replace(int oldfd, int newfd)
{
	enum fd_kind kind = fd_kind(newfd);

	if (fd_kind(oldfd) == FD_INTERNAL)
		return -EBADF;
	if (kind == FD_UNKNOWN || oldfd == newfd || hook_in_vfork())
		return 0;
	if (sys_fcntl(oldfd, F_GETFD, 0) < 0 || !number_is_possible(newfd))
		return 0; // the kernel says so
	if (kind == FD_INTERNAL)
		return fd_relocate_internal(newfd);
	stream_forget(newfd);
	return 0;
}

RLM_EXPORT int dup2(int oldfd, int newfd)
{
	int r = replace(oldfd, newfd);

	if (r < 0)
		return (int)rlm_result(r);
	r = REAL(dup2)(oldfd, newfd);
	return oldfd == newfd ? r : hook_duplicated(oldfd, r);
}

RLM_EXPORT int dup3(int oldfd, int newfd, int flags)
{
	int r = flags & ~O_CLOEXEC ? 0 : replace(oldfd, newfd);

	if (r < 0)
		return (int)rlm_result(r);
	return hook_duplicated(oldfd, REAL(dup3)(oldfd, newfd, flags));
}

// --- flags ---

// Signals for readiness come from TCP, which does not see what a ring carries.
static void wants_signals(int fd)
{
	struct rlm_conn *c = fd_conn(fd);

	if (c)
		stream_to_kernel(c, fd, RLM_WHY_OPTION);
	else if (fd_kind(fd) == FD_SOCKET)
		fd_set_entry(fd, FD_SOCKET, (fd_entry(fd) & FD_VALUE_MASK) | SOCKET_BARRED);
}

static void nonblock_set(int fd, bool nonblock)
{
	struct rlm_conn *c = fd_conn(fd);
	uint32_t value = fd_entry(fd) & FD_VALUE_MASK & ~SOCKET_NONBLOCK;

	if (c)
		stream_set_nonblock(c, nonblock);
	else if (fd_kind(fd) == FD_SOCKET)
		fd_set_entry(fd, FD_SOCKET, value | (nonblock ? SOCKET_NONBLOCK : 0));
}

static int control(int (*real)(int, int, ...), int fd, int cmd, long arg)
{
	enum fd_kind kind = fd_kind(fd);
	int r;

	if (kind == FD_INTERNAL)
		return (int)rlm_result(-EBADF);
	if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)
		return hook_duplicated(fd, real(fd, cmd, arg));
	if (kind == FD_UNKNOWN)
		return real(fd, cmd, arg);
	if (cmd == F_SETOWN || cmd == F_SETOWN_EX || cmd == F_SETSIG || (cmd == F_SETFL && arg & O_ASYNC))
		wants_signals(fd);
	r = real(fd, cmd, arg);
	if (r >= 0 && cmd == F_SETFL)
		nonblock_set(fd, arg & O_NONBLOCK);
	return r;
}

RLM_EXPORT int fcntl(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	return control(REAL(fcntl), fd, cmd, arg);
}

RLM_EXPORT int fcntl64(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	return control(REAL(fcntl64) ? REAL(fcntl64) : REAL(fcntl), fd, cmd, arg);
}

RLM_EXPORT int ioctl(int fd, unsigned long request, ...)
{
	struct rlm_conn *c = fd_conn(fd);
	va_list args;
	void *arg;
	int r;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (__builtin_expect(fd_kind(fd) == FD_UNKNOWN, 1))
		return REAL(ioctl)(fd, request, arg);
	if (request == FIOASYNC || request == FIOSETOWN || request == SIOCSPGRP)
		wants_signals(fd);
	r = REAL(ioctl)(fd, request, arg);
	if (r >= 0 && request == FIONBIO)
		nonblock_set(fd, *(const int *)arg);
	else if (r >= 0 && request == FIONREAD && c)
		*(int *)arg = stream_unread(c, fd, *(const int *)arg);
	else if (r >= 0 && request == SIOCOUTQ && c)
		*(int *)arg = stream_unsent(c, *(const int *)arg);
	else if (r >= 0 && request == SIOCATMARK && c)
		*(int *)arg = stream_at_mark(c, fd, *(const int *)arg);
	return r;
}

// --- stdio, which reads and writes inside libc ---

static int to_stdio(int fd)
{
	struct rlm_conn *c = fd_conn(fd);

	if (c && stream_to_kernel(c, fd, RLM_WHY_STDIO) < 0)
		return (int)rlm_result(-ENOMEM);
	return 0;
}

static void forget_stream(FILE *file)
{
	int saved = errno, fd = fileno(file);

	if (fd >= 0 && fd_kind(fd) != FD_UNKNOWN && !hook_in_vfork())
		stream_forget(fd);
	errno = saved;
}

RLM_EXPORT FILE *fdopen(int fd, const char *mode)
{
	return to_stdio(fd) < 0 ? NULL : REAL(fdopen)(fd, mode);
}

RLM_EXPORT int fclose(FILE *file)
{
	forget_stream(file);
	return REAL(fclose)(file);
}

RLM_EXPORT FILE *freopen(const char *restrict path, const char *restrict mode, FILE *restrict file)
{
	forget_stream(file);
	return REAL(freopen)(path, mode, file);
}

RLM_EXPORT FILE *freopen64(const char *restrict path, const char *restrict mode, FILE *restrict file)
{
	forget_stream(file);
	return REAL(freopen64)(path, mode, file);
}

RLM_EXPORT int vdprintf(int fd, const char *restrict format, va_list args)
{
	return to_stdio(fd) < 0 ? -1 : REAL(vdprintf)(fd, format, args);
}

RLM_EXPORT int dprintf(int fd, const char *restrict format, ...)
{
	va_list args;
	int r;

	va_start(args, format);
	r = to_stdio(fd) < 0 ? -1 : REAL(vdprintf)(fd, format, args);
	va_end(args);
	return r;
}

RLM_EXPORT int __vdprintf_chk(int fd, int flag, const char *format, va_list args)
{
	return to_stdio(fd) < 0 ? -1 : REAL(__vdprintf_chk)(fd, flag, format, args);
}

RLM_EXPORT int __dprintf_chk(int fd, int flag, const char *format, ...)
{
	va_list args;
	int r;

	va_start(args, format);
	r = to_stdio(fd) < 0 ? -1 : REAL(__vdprintf_chk)(fd, flag, format, args);
	va_end(args);
	return r;
}

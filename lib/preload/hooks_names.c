// SPDX-License-Identifier: BSD-2-Clause
// Second names under which libc offers the same functions. Old libraries, and some programs that go by such a name on purpose, use them.
#include "hooks.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

ssize_t __read(int fd, void *buf, size_t len);
ssize_t __write(int fd, const void *buf, size_t len);
ssize_t __send(int fd, const void *buf, size_t len, int flags);
int __close(int fd);
int __connect(int fd, const struct sockaddr *addr, socklen_t len);
int __dup2(int oldfd, int newfd);
int __fcntl(int fd, int cmd, ...);
int __poll(struct pollfd *fds, nfds_t n, int timeout);
int __select(int n, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout);
int __sigaction(int signal, const struct sigaction *action, struct sigaction *old);
int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
FILE *_IO_fdopen(int fd, const char *mode);
int _IO_fclose(FILE *file);
sighandler_t bsd_signal(int number, sighandler_t handler);

RLM_EXPORT ssize_t __read(int fd, void *buf, size_t len)
{
	return read(fd, buf, len);
}

RLM_EXPORT ssize_t __write(int fd, const void *buf, size_t len)
{
	return write(fd, buf, len);
}

RLM_EXPORT ssize_t __send(int fd, const void *buf, size_t len, int flags)
{
	return send(fd, buf, len, flags);
}

RLM_EXPORT int __close(int fd)
{
	return close(fd);
}

RLM_EXPORT int __connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	return connect(fd, addr, len);
}

RLM_EXPORT int __dup2(int oldfd, int newfd)
{
	return dup2(oldfd, newfd);
}

RLM_EXPORT int __fcntl(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	return fcntl(fd, cmd, arg);
}

RLM_EXPORT int __poll(struct pollfd *fds, nfds_t n, int timeout)
{
	return poll(fds, n, timeout);
}

RLM_EXPORT int __select(int n, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
{
	return select(n, in, out, except, timeout);
}

RLM_EXPORT int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	void *rest[3];
	va_list args;

	va_start(args, arg);
	for (int i = 0; i < 3; i++)
		rest[i] = va_arg(args, void *);
	va_end(args);
	return clone(fn, stack, flags, arg, rest[0], rest[1], rest[2]);
}

RLM_EXPORT int sockatmark(int fd)
{
	int at;

	return ioctl(fd, SIOCATMARK, &at) < 0 ? -1 : at;
}

RLM_EXPORT FILE *_IO_fdopen(int fd, const char *mode)
{
	return fdopen(fd, mode);
}

RLM_EXPORT int _IO_fclose(FILE *file)
{
	return fclose(file);
}

RLM_EXPORT int __sigaction(int signal, const struct sigaction *action, struct sigaction *old)
{
	return sigaction(signal, action, old);
}

RLM_EXPORT sighandler_t ssignal(int number, sighandler_t handler)
{
	return signal(number, handler);
}

RLM_EXPORT sighandler_t bsd_signal(int number, sighandler_t handler)
{
	return signal(number, handler);
}

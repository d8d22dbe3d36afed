// SPDX-License-Identifier: BSD-2-Clause
// syscall(): the same calls by number. The kernel's own conventions differ from libc's in a few places: signal sets of
// eight bytes, time-outs that are written back.
#include "hooks.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "helper.h"
#include "sys.h"

#define KERNEL_SIGSET 8

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_landlock_restrict_self
#define SYS_landlock_restrict_self 446
#endif
#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif

#define INT(i) ((int)a[i])
#define PTR(i) ((void *)a[i])

static long pass_on(long number, const long a[6])
{
	return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

// The caller's set is as large as the kernel's, not as libc's.
static const sigset_t *signal_set(const void *kernel, sigset_t *set)
{
	if (!kernel)
		return NULL;
	memset(set, 0, sizeof(*set));
	memcpy(set, kernel, KERNEL_SIGSET);
	return set;
}

// The kernel writes back what is left of a time-out, unless the call failed; libc's functions do not.
static void take_time(struct timespec *timeout, const struct timespec *start, int result)
{
	int saved = errno;
	struct timespec now;

	if (!timeout || (result < 0 && saved != EINTR))
		return;
	rlm_clock_now(&now);
	*timeout = rlm_time_minus(*timeout, rlm_time_minus(now, *start));
	if (timeout->tv_sec < 0)
		*timeout = (struct timespec){0, 0};
	errno = saved;
}

static long do_ppoll(const long a[6])
{
	struct timespec *timeout = PTR(2), start;
	sigset_t set;
	int r;

	if ((PTR(3) && a[4] != KERNEL_SIGSET) || (timeout && hook_is_bad(timeout)))
		return pass_on(SYS_ppoll, a);
	rlm_clock_now(&start);
	r = ppoll(PTR(0), (nfds_t)a[1], timeout, signal_set(PTR(3), &set));
	take_time(timeout, &start, r);
	return r;
}

static long do_pselect(const long a[6])
{
	const struct {
		const void *set;
		size_t size;
	} *mask = PTR(5);
	struct timespec *timeout = PTR(4), start;
	sigset_t set;
	int r;

	if ((mask && (hook_is_bad(mask) || (mask->set && mask->size != KERNEL_SIGSET))) ||
	    (timeout && hook_is_bad(timeout)))
		return pass_on(SYS_pselect6, a);
	rlm_clock_now(&start);
	r = pselect(INT(0), PTR(1), PTR(2), PTR(3), timeout, signal_set(mask ? mask->set : NULL, &set));
	take_time(timeout, &start, r);
	return r;
}

static long do_epoll_pwait(const long a[6])
{
	sigset_t set;

	if (PTR(4) && a[5] != KERNEL_SIGSET)
		return pass_on(SYS_epoll_pwait, a);
	return epoll_pwait(INT(0), PTR(1), INT(2), INT(3), signal_set(PTR(4), &set));
}

static long do_epoll_pwait2(const long a[6])
{
	sigset_t set;

	if (PTR(4) && a[5] != KERNEL_SIGSET)
		return pass_on(SYS_epoll_pwait2, a);
	return epoll_pwait2(INT(0), PTR(1), INT(2), PTR(3), signal_set(PTR(4), &set));
}

// A child with descriptors and memory of its own is what fork() makes.
static long do_clone(long number, uint64_t flags, const long a[6])
{
	long pid;

	if (flags & (CLONE_VM | CLONE_FILES))
		return pass_on(number, a);
	hook_fork_prepare();
	pid = pass_on(number, a);
	hook_fork_done(pid);
	return pid;
}

static long do_clone3(const long a[6])
{
	const struct clone_args *args = PTR(0);

	return do_clone(SYS_clone3, hook_is_bad(args) ? CLONE_VM : args->flags, a);
}

// What goes through io_uring goes past every hook.
static long do_io_uring_setup(const long a[6])
{
	long r = pass_on(SYS_io_uring_setup, a);

	if (r >= 0)
		hook_bar_all();
	return r;
}

// liburing makes its system calls itself.
struct io_uring;
struct io_uring_params;
int io_uring_setup(unsigned entries, struct io_uring_params *params);
int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *params);
int io_uring_queue_init_mem(unsigned entries, struct io_uring *ring, struct io_uring_params *params, void *buffer, size_t size);

static int uring_made(int r)
{
	if (r >= 0)
		hook_bar_all();
	return r;
}

RLM_EXPORT int io_uring_setup(unsigned entries, struct io_uring_params *params)
{
	int (*real)(unsigned, struct io_uring_params *) = dlsym(RTLD_NEXT, "io_uring_setup");

	return real ? uring_made(real(entries, params)) : -ENOSYS;
}

RLM_EXPORT int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	int (*real)(unsigned, struct io_uring *, unsigned) = dlsym(RTLD_NEXT, "io_uring_queue_init");

	return real ? uring_made(real(entries, ring, flags)) : -ENOSYS;
}

RLM_EXPORT int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
	int (*real)(unsigned, struct io_uring *, struct io_uring_params *) = dlsym(RTLD_NEXT, "io_uring_queue_init_params");

	return real ? uring_made(real(entries, ring, params)) : -ENOSYS;
}

RLM_EXPORT int io_uring_queue_init_mem(unsigned entries, struct io_uring *ring, struct io_uring_params *params, void *buffer, size_t size)
{
	int (*real)(unsigned, struct io_uring *, struct io_uring_params *, void *, size_t) = dlsym(RTLD_NEXT, "io_uring_queue_init_mem");

	return real ? uring_made(real(entries, ring, params, buffer, size)) : -ENOSYS;
}

static uint64_t socket_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	return sys_getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) < 0 ? 0 : cookie;
}

// A process can take a descriptor from itself: a duplicate.
static long do_pidfd_getfd(const long a[6])
{
	long fd = pass_on(SYS_pidfd_getfd, a);

	if (fd < 0)
		return fd;
	if (fd_conn(INT(1)) && socket_cookie(INT(1)) == socket_cookie((int)fd))
		return hook_duplicated(INT(1), (int)fd);
	hook_received((int)fd);
	return fd;
}

static bool is_socket_map(int map)
{
	struct bpf_map_info info = {.type = 0};
	union bpf_attr attr = {.info = {.bpf_fd = (uint32_t)map, .info_len = sizeof(info), .info = (uintptr_t)&info}};

	return sys_call3(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) == 0 &&
	       (info.type == BPF_MAP_TYPE_SOCKMAP || info.type == BPF_MAP_TYPE_SOCKHASH);
}

// A socket that gets into such a map may be read and written by BPF programs.
static long do_bpf(const long a[6])
{
	const union bpf_attr *attr = PTR(1);
	struct rlm_conn *c;
	int fd;

	if (INT(0) == BPF_MAP_UPDATE_ELEM && !hook_is_bad(attr) && is_socket_map((int)attr->map_fd) &&
	    !hook_is_bad((const void *)(uintptr_t)attr->value)) {
		fd = *(const int *)(uintptr_t)attr->value;
		c = fd_conn(fd);
		if (c && stream_to_kernel(c, fd, RLM_WHY_OPTION) < 0)
			return rlm_result(-EBUSY);
	}
	return pass_on(SYS_bpf, a);
}

static long io_by_number(long number, const long a[6])
{
	switch (number) {
	case SYS_read:
		return read(INT(0), PTR(1), (size_t)a[2]);
	case SYS_write:
		return write(INT(0), PTR(1), (size_t)a[2]);
	case SYS_readv:
		return readv(INT(0), PTR(1), INT(2));
	case SYS_writev:
		return writev(INT(0), PTR(1), INT(2));
	case SYS_preadv2: // the offset comes in two halves, of which the first is all of it
		return preadv64v2(INT(0), PTR(1), INT(2), a[3], INT(5));
	case SYS_pwritev2:
		return pwritev64v2(INT(0), PTR(1), INT(2), a[3], INT(5));
	case SYS_sendfile:
		return sendfile64(INT(0), INT(1), PTR(2), (size_t)a[3]);
	case SYS_splice:
		return splice(INT(0), PTR(1), INT(2), PTR(3), (size_t)a[4], (unsigned)a[5]);
	case SYS_sendto:
		return sendto(INT(0), PTR(1), (size_t)a[2], INT(3), (const struct sockaddr *)PTR(4), (socklen_t)a[5]);
	case SYS_sendmsg:
		return sendmsg(INT(0), PTR(1), INT(2));
	case SYS_sendmmsg:
		return sendmmsg(INT(0), PTR(1), (unsigned)a[2], INT(3));
	case SYS_recvfrom:
		return recvfrom(INT(0), PTR(1), (size_t)a[2], INT(3), (struct sockaddr *)PTR(4), PTR(5));
	case SYS_recvmsg:
		return recvmsg(INT(0), PTR(1), INT(2));
	case SYS_recvmmsg:
		return recvmmsg(INT(0), PTR(1), (unsigned)a[2], INT(3), PTR(4));
	default:
		return pass_on(number, a);
	}
}

static long socket_by_number(long number, const long a[6])
{
	switch (number) {
	case SYS_socket:
		return socket(INT(0), INT(1), INT(2));
	case SYS_connect:
		return connect(INT(0), (const struct sockaddr *)PTR(1), (socklen_t)a[2]);
	case SYS_accept:
		return accept(INT(0), (struct sockaddr *)PTR(1), PTR(2));
	case SYS_accept4:
		return accept4(INT(0), (struct sockaddr *)PTR(1), PTR(2), INT(3));
	case SYS_shutdown:
		return shutdown(INT(0), INT(1));
	case SYS_getsockopt:
		return getsockopt(INT(0), INT(1), INT(2), PTR(3), PTR(4));
	case SYS_setsockopt:
		return setsockopt(INT(0), INT(1), INT(2), PTR(3), (socklen_t)a[4]);
	default:
		return io_by_number(number, a);
	}
}

static long ready_by_number(long number, const long a[6])
{
	switch (number) {
#ifdef SYS_poll
	case SYS_poll:
		return poll(PTR(0), (nfds_t)a[1], INT(2));
	case SYS_select:
		return select(INT(0), PTR(1), PTR(2), PTR(3), PTR(4));
	case SYS_epoll_create:
		return epoll_create(INT(0));
	case SYS_epoll_wait:
		return epoll_wait(INT(0), PTR(1), INT(2), INT(3));
#endif
	case SYS_ppoll:
		return do_ppoll(a);
	case SYS_pselect6:
		return do_pselect(a);
	case SYS_epoll_create1:
		return epoll_create1(INT(0));
	case SYS_epoll_ctl:
		return epoll_ctl(INT(0), INT(1), INT(2), PTR(3));
	case SYS_epoll_pwait:
		return do_epoll_pwait(a);
	case SYS_epoll_pwait2:
		return do_epoll_pwait2(a);
	default:
		return socket_by_number(number, a);
	}
}

static long descriptor_by_number(long number, const long a[6])
{
	switch (number) {
	case SYS_close:
		return close(INT(0));
	case SYS_close_range:
		return close_range((unsigned)a[0], (unsigned)a[1], INT(2));
	case SYS_dup:
		return dup(INT(0));
#ifdef SYS_dup2
	case SYS_dup2:
		return dup2(INT(0), INT(1));
#endif
	case SYS_dup3:
		return dup3(INT(0), INT(1), INT(2));
	case SYS_pidfd_getfd:
		return do_pidfd_getfd(a);
	case SYS_fcntl:
		return fcntl(INT(0), INT(1), a[2]);
	case SYS_ioctl:
		return ioctl(INT(0), (unsigned long)a[1], PTR(2));
	default:
		return ready_by_number(number, a);
	}
}

static long do_landlock_restrict_self(const long a[6])
{
	long r = pass_on(SYS_landlock_restrict_self, a);

	if (r == 0)
		hook_follow(SYS_landlock_restrict_self, a);
	return r;
}

RLM_EXPORT long syscall(long number, ...)
{
	long a[6];
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	switch (number) {
#ifdef SYS_fork
	case SYS_fork:
		return do_clone(number, 0, a);
#endif
#ifdef SYS_vfork
	case SYS_vfork: // its child would return through our frames: give it a copy of the memory
		return do_clone(SYS_clone, 0, (const long[6]){CLONE_VFORK | SIGCHLD});
#endif
	case SYS_clone:
		return do_clone(number, (uint64_t)a[0], a);
	case SYS_clone3:
		return do_clone3(a);
	case SYS_exit:
		if (process_id && (int)rlm_tid() == process_id)
			helper_main_thread_ends();
		return pass_on(number, a);
	case SYS_exit_group:
		_exit(INT(0));
	case SYS_execve:
		return execve(PTR(0), PTR(1), PTR(2));
	case SYS_execveat:
		return execveat(INT(0), PTR(1), PTR(2), PTR(3), INT(4));
	case SYS_io_uring_setup:
		return do_io_uring_setup(a);
	case SYS_unshare:
		return unshare(INT(0));
	case SYS_setns:
		return setns(INT(0), INT(1));
	case SYS_bpf:
		return do_bpf(a);
	case SYS_capset:
		return capset(PTR(0), PTR(1));
	case SYS_landlock_restrict_self:
		return do_landlock_restrict_self(a);
	case SYS_prctl:
		return prctl(INT(0), a[1], a[2], a[3], a[4]);
	case SYS_seccomp:
		if (a[0] == SECCOMP_SET_MODE_STRICT || a[0] == SECCOMP_SET_MODE_FILTER)
			hook_before_sandbox();
		return REAL(syscall)(number, a[0], a[1], a[2]);
	default:
		return descriptor_by_number(number, a);
	}
}

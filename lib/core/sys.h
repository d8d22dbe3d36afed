// SPDX-License-Identifier: BSD-2-Clause
// The kernel, called directly: -errno instead of errno, no cancellation points, no symbol that librlm itself interposes.
#ifndef RLM_SYS_H
#define RLM_SYS_H

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include "rlm/proto.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

#if defined(__x86_64__)
static inline long sys_call(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
static inline long sys_call(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
#else
#error "librlm knows the system call convention of x86-64 and arm64 only"
#endif

#define sys_call0(n) sys_call(n, 0, 0, 0, 0, 0, 0)
#define sys_call1(n, a) sys_call(n, (long)(a), 0, 0, 0, 0, 0)
#define sys_call2(n, a, b) sys_call(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define sys_call3(n, a, b, c) sys_call(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define sys_call4(n, a, b, c, d) sys_call(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define sys_call5(n, a, b, c, d, e) sys_call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define sys_call6(n, a, b, c, d, e, f)                                                                                 \
	sys_call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline long sys_send(int fd, const void *buf, size_t len, int flags)
{
	return sys_call6(SYS_sendto, fd, buf, len, flags, 0, 0);
}

static inline long sys_recv(int fd, void *buf, size_t len, int flags)
{
	return sys_call6(SYS_recvfrom, fd, buf, len, flags, 0, 0);
}

static inline long sys_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	return sys_call5(SYS_getsockopt, fd, level, name, value, len);
}

static inline long sys_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	return sys_call5(SYS_setsockopt, fd, level, name, value, len);
}

static inline long sys_ioctl(int fd, unsigned long request, void *arg)
{
	return sys_call3(SYS_ioctl, fd, request, arg);
}

static inline long sys_fcntl(int fd, int cmd, long arg)
{
	return sys_call3(SYS_fcntl, fd, cmd, arg);
}

static inline long sys_close(int fd)
{
	return sys_call1(SYS_close, fd);
}

static inline long sys_read(int fd, void *buf, size_t len)
{
	return sys_call3(SYS_read, fd, buf, len);
}

static inline long sys_write(int fd, const void *buf, size_t len)
{
	return sys_call3(SYS_write, fd, buf, len);
}

// Rings a doorbell: an eventfd, or with a port an event channel.
static inline void sys_ring(int fd, uint32_t port)
{
	const uint64_t one = 1;
	struct rlm_evtchn_notify notify = {port};

	if (port)
		sys_ioctl(fd, RLM_EVTCHN_NOTIFY, &notify);
	else
		sys_write(fd, &one, sizeof(one));
}

// What poll() says right now about one descriptor: revents. A signal that comes meanwhile interrupts even a poll that does not wait.
static inline long sys_poll_now(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	struct timespec zero;
	long r;

	do {
		zero = (struct timespec){0, 0};
		r = sys_call5(SYS_ppoll, &p, 1, &zero, 0, 8);
	} while (r == -EINTR);
	return r <= 0 ? 0 : (unsigned short)p.revents;
}

static inline long sys_poll_wait(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return sys_call5(SYS_ppoll, &p, 1, 0, 0, 8);
}

static inline int sys_tid(void)
{
	return (int)sys_call0(SYS_gettid);
}

static inline long sys_futex_wait(const _Atomic uint32_t *word, uint32_t value, const struct timespec *timeout)
{
	return sys_call4(SYS_futex, word, FUTEX_WAIT, value, timeout);
}

// deadline: absolute CLOCK_MONOTONIC. -EINTR for any handler.
static inline long sys_futex_wait_until(const _Atomic uint32_t *word, uint32_t value, const struct timespec *deadline)
{
	return sys_call6(SYS_futex, word, FUTEX_WAIT_BITSET, value, deadline, NULL, FUTEX_BITSET_MATCH_ANY);
}

static inline long sys_futex_wake(const _Atomic uint32_t *word, int count)
{
	return sys_call3(SYS_futex, word, FUTEX_WAKE, count);
}

static inline struct futex_waitv sys_word(const _Atomic uint32_t *word, uint32_t value)
{
	return (struct futex_waitv){.val = value, .uaddr = (uintptr_t)word, .flags = FUTEX_32};
}

// Sleeps while all of the words have their values. `deadline`: absolute CLOCK_MONOTONIC or NULL.
// -EINTR only for a handler without SA_RESTART: after any other the kernel looks at the words again, and sleeps on.
static inline long sys_futex_wait_any(const struct futex_waitv *words, unsigned n, const struct timespec *deadline)
{
	return sys_call5(SYS_futex_waitv, words, n, 0, deadline, CLOCK_MONOTONIC);
}

static inline long sys_futex_wait2(const _Atomic uint32_t *a, uint32_t a_value, const _Atomic uint32_t *b,
				   uint32_t b_value, const struct timespec *deadline)
{
	const struct futex_waitv words[2] = {sys_word(a, a_value), sys_word(b, b_value)};

	return sys_futex_wait_any(words, 2, deadline);
}

// Milliseconds on a clock that only goes forward, some of them late.
static inline uint64_t sys_ms(void)
{
	struct timespec t;

	sys_call2(SYS_clock_gettime, CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline uint64_t sys_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	uint64_t t;

	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
	return t * 64; // about the unit of a CPU cycle
#endif
}

static inline void sys_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	__asm__ volatile("yield");
#endif
}

#endif

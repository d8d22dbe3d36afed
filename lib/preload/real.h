// SPDX-License-Identifier: BSD-2-Clause
// The functions behind ours: the next definition in the process's search order (libc's, or another preloaded library's).
#ifndef RLM_REAL_H
#define RLM_REAL_H

#include <aio.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

struct rlm_real {
#define X(ret, name, args) ret(*name) args;
#include "symbols.def"
#undef X
};

extern struct rlm_real rlm_real;
extern bool rlm_real_ready;

// Resolves all names; also called before our constructor ran. A name that libc lacks is NULL.
void rlm_real_init(void);

#define REAL(name)                                                                                                     \
	(__extension__({                                                                                               \
		if (__builtin_expect(!rlm_real_ready, 0))                                                              \
			rlm_real_init();                                                                               \
		rlm_real.name;                                                                                         \
	}))

// The time by which the kernel counts time-outs, CLOCK_MONOTONIC. Without a system call where the kernel allows that, and past libc's function:
// another preloaded library may show the program another time.
void rlm_clock_init(void); // once, at the start
void rlm_clock_now(struct timespec *now);

static inline struct timespec rlm_time_plus(struct timespec a, struct timespec b)
{
	struct timespec sum = {a.tv_sec + b.tv_sec, a.tv_nsec + b.tv_nsec};

	if (sum.tv_nsec >= 1000000000) {
		sum.tv_nsec -= 1000000000;
		sum.tv_sec++;
	}
	return sum;
}

static inline struct timespec rlm_time_minus(struct timespec a, struct timespec b)
{
	struct timespec rest = {a.tv_sec - b.tv_sec, a.tv_nsec - b.tv_nsec};

	if (rest.tv_nsec < 0) {
		rest.tv_nsec += 1000000000;
		rest.tv_sec--;
	}
	return rest;
}

// What is left until then. false: it has passed, *left is 0.
static inline bool rlm_clock_left(const struct timespec *until, struct timespec *left)
{
	struct timespec now;

	rlm_clock_now(&now);
	*left = rlm_time_minus(*until, now);
	if (left->tv_sec >= 0)
		return true;
	*left = (struct timespec){0, 0};
	return false;
}

#define RLM_EXPORT __attribute__((visibility("default")))

// Our own -errno convention to libc's, in hooks only.
static inline ssize_t rlm_result(int64_t r)
{
	if (__builtin_expect(r < 0, 0)) {
		errno = (int)-r;
		return -1;
	}
	return (ssize_t)r;
}

#endif

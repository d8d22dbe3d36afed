// SPDX-License-Identifier: BSD-2-Clause
// Time: one clock for everything that is measured.
#ifndef BENCH_CLOCK_H
#define BENCH_CLOCK_H

#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

static inline uint64_t clock_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

// CPU time of the whole process and the moment it was read.
struct bench_cpu {
	uint64_t wall, user, system; // ns
};

static inline struct bench_cpu cpu_now(void)
{
	struct rusage u;
	struct bench_cpu c = {.wall = clock_now()};

	getrusage(RUSAGE_SELF, &u);
	c.user = (uint64_t)u.ru_utime.tv_sec * NS_PER_S + (uint64_t)u.ru_utime.tv_usec * 1000;
	c.system = (uint64_t)u.ru_stime.tv_sec * NS_PER_S + (uint64_t)u.ru_stime.tv_usec * 1000;
	return c;
}

static inline struct bench_cpu cpu_since(struct bench_cpu from)
{
	struct bench_cpu c = cpu_now();

	c.wall -= from.wall;
	c.user -= from.user;
	c.system -= from.system;
	return c;
}

#endif

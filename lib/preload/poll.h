// SPDX-License-Identifier: BSD-2-Clause
// What poll() and select() have in common.
#ifndef RLM_POLL_H
#define RLM_POLL_H

#include <poll.h>
#include <signal.h>

#include "stream_internal.h"

#define POLL_FEW      16 // descriptors
#define POLL_ON_STACK 64 // more take memory

static inline uint64_t poll_ns(const struct timespec *timeout)
{
	return timeout ? (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec : 0;
}

// Count of descriptors with events, or -errno. The time-out counts from the first sleep, unless the deadline is set. A cancellation point.
int poll_run(struct pollfd *fds, nfds_t n, const struct timespec *timeout, struct deadline *deadline, const sigset_t *mask);

#endif

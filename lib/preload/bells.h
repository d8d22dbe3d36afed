// SPDX-License-Identifier: BSD-2-Clause
// An epoll instance of each thread's own with the doorbells it may sleep on, registered edge-triggered: every ring is an edge for
// every instance, so threads cannot take each other's. Made when first needed, anew in fork's child, closed when the thread ends.
#ifndef RLM_BELLS_H
#define RLM_BELLS_H

#include <poll.h>
#include <signal.h>

// ppoll() on fds[0..n) and the bells, with the kernel's result; fds has room for one more. > 0 may also mean: only look again. When no
// descriptor can be had for the bells, it says so every millisecond. A cancellation point.
int bells_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *left, const sigset_t *mask);
void bells_add(int doorbell);
// Forgets old rings that a poll has shown, before it would show them again. What rings after that is seen by the next poll.
void bells_harvest(void);

#endif

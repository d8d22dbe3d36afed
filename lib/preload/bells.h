// SPDX-License-Identifier: BSD-2-Clause
// An epoll instance of each thread's own with the doorbells it may sleep on, registered edge-triggered: every ring is an edge for
// every instance, so threads cannot take each other's. Made when first needed, anew in fork's child, closed when the thread ends.
#ifndef RLM_BELLS_H
#define RLM_BELLS_H

// To be polled for POLLIN together with whatever else is waited for.
int bells_fd(void);
void bells_add(int doorbell);
// Forgets old rings. Before listening (wake.h): what rings after that is seen by the poll.
void bells_harvest(void);
// Both of these for one doorbell.
void bells_prepare(int doorbell);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// epoll instances that hold connections of ours. See epoll.c.
#ifndef RLM_EPOLL_H
#define RLM_EPOLL_H

#include "fdtable.h"

// The connection gets its slot: from here on these instances watch ring and TCP themselves. Helper thread.
// false: some instance cannot watch it, so it must stay on TCP.
bool epoll_conn_binds(struct rlm_conn *c, struct rlm_bound *b);
// It has it now, and calls look there: what nobody could listen to until now is listened to. Helper thread.
void epoll_conn_is_bound(struct rlm_conn *c);
// Both directions are plain for good: back to the application's instances.
void epoll_conn_unbinds(struct rlm_conn *c);
// The connection is leaving its slot: whoever listens there comes back and listens no more. Helper thread.
void epoll_conn_leaves(struct rlm_conn *c);
// No connection will move in any more: instances without one are the kernel's alone again.
void epoll_stop(void);
// Returns when nobody looks any more at a slot that had been left before the call.
void epoll_wait_for_lookers(void);
// A descriptor of the connection is about to be closed.
void epoll_forget_conn(int fd, struct rlm_conn *c);
// The last one is, and the broker has a duplicate for a moment: as long as that is open the kernel's instances would go on reporting it.
void epoll_take_out(int fd);

// Descriptors of an instance.
void epoll_forget(uint32_t index);
void epoll_duplicated(uint32_t index);

void epoll_fork_prepare(void);
void epoll_fork_parent(void);
void epoll_fork_child(void);

// An instance that is itself polled (by poll, select or another epoll): is something ready in it that the kernel cannot see?
bool epoll_is_ready(int epoll_fd);
// It is going to be slept on through the kernel: have every doorbell rung.
void epoll_arm(int epoll_fd);

#endif

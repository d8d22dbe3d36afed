// SPDX-License-Identifier: BSD-2-Clause
// Between helper.c, helper_jobs.c and helper_pin.c.
#ifndef RLM_HELPER_INTERNAL_H
#define RLM_HELPER_INTERNAL_H

#include "helper.h"

// --- helper.c; any thread ---

struct rlm_conn_ref helper_conn_ref(const struct rlm_conn *c);
// Has it look at its jobs and notes. It may not have been started.
void helper_poke(void);
// The caller is the helper thread.
bool helper_is_me(void);
// Helper thread: looks for dead processes in a while.
void helper_arm_sweep(void);

// --- helper_jobs.c ---

// Helper thread: does all that is in the queue.
void helper_run_jobs(void);
void helper_jobs_fork_child(void);

// --- helper_pin.c ---

void helper_pins_fork_child(void);

#endif

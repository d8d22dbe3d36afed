// SPDX-License-Identifier: BSD-2-Clause
// Receives of this thread that are in the kernel, the innermost first. A signal handler that uses the connection whose receive it
// interrupted must not wait for its own thread to come out; as long as it runs, that thread takes nothing.
#ifndef RLM_INSIDE_H
#define RLM_INSIDE_H

#include "family.h"

struct rlm_inside {
	struct rlm_conn *conn;
	struct rlm_inside *outer;
	bool nonblock; // O_NONBLOCK when the call began
};

extern __thread struct rlm_inside *rlm_inside;

// Counted in rx_inflight and in the thread's list at once, as any handler sees it.
static inline void inside_enter(struct rlm_inside *i, const struct rlm_arena *a, struct rlm_conn *c)
{
	*i = (struct rlm_inside){c, rlm_inside, atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_NONBLOCK};
	rlm_guard_enter();
	rlm_inside = i;
	FAMILY_ENTER(a, c, rx_inflight);
	rlm_guard_leave();
}

static inline void inside_leave(const struct rlm_inside *i, const struct rlm_arena *a, struct rlm_conn *c)
{
	rlm_guard_enter();
	rlm_inside = i->outer;
	FAMILY_LEAVE(a, c, rx_inflight);
	rlm_guard_leave();
}

// Other threads, which may take bytes from the kernel at any time.
static inline uint32_t inside_others(const struct rlm_conn *c)
{
	uint32_t all = atomic_load_explicit(&c->rx_inflight, memory_order_seq_cst);

	for (const struct rlm_inside *i = rlm_inside; i && all; i = i->outer)
		all -= i->conn == c;
	return all;
}

// The thread that forked is inside in the child as well. arena: with the child's place.
static inline void inside_fork_child(const struct rlm_arena *a)
{
	for (const struct rlm_inside *i = rlm_inside; i; i = i->outer)
		FAMILY_ENTER(a, i->conn, rx_inflight);
}

#endif

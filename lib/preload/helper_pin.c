// SPDX-License-Identifier: BSD-2-Clause
// Keeps the application from closing what the helper thread uses.
//
// The helper works on the application's own descriptors, and must not use one that the application is closing: it publishes the connection
// as pinned, then looks whether the table still names it (both seq_cst). close() clears the entry, then looks at the pin. One
// of them sees the other; close() waits the microseconds until the pin is gone.
#include "binding.h"
#include "helper_internal.h"
#include "stream_internal.h"

static _Atomic uint32_t pinned;        // index of a connection + 1
static _Atomic uint32_t pinned_naming; // the same, while a naming lasts and other messages are served

int helper_pin(const struct rlm_conn *c)
{
	atomic_store_explicit(&pinned, conn_index(&arena, c) + 1, memory_order_seq_cst);
	return fd_of_conn(c);
}

void helper_unpin(void)
{
	atomic_store_explicit(&pinned, 0, memory_order_seq_cst);
}

bool helper_has_pinned(const struct rlm_conn *c)
{
	return atomic_load_explicit(&pinned, memory_order_seq_cst) == conn_index(&arena, c) + 1;
}

int helper_pin_naming(const struct rlm_conn *c)
{
	atomic_store_explicit(&pinned_naming, conn_index(&arena, c) + 1, memory_order_seq_cst);
	return fd_of_conn(c);
}

void helper_unpin_naming(void)
{
	atomic_store_explicit(&pinned_naming, 0, memory_order_seq_cst);
}

void helper_wait_unpinned(const struct rlm_conn *c)
{
	uint32_t me = conn_index(&arena, c) + 1;

	while (atomic_load_explicit(&pinned, memory_order_seq_cst) == me ||
	       atomic_load_explicit(&pinned_naming, memory_order_seq_cst) == me)
		sys_call0(SYS_sched_yield);
}

void helper_pins_fork_child(void)
{
	atomic_store_explicit(&pinned, 0, memory_order_relaxed);
	atomic_store_explicit(&pinned_naming, 0, memory_order_relaxed);
}

// SPDX-License-Identifier: BSD-2-Clause
// The engine is what a process needs from its first socket on: the tables that it shares with its children, and two descriptors for them.
// A program that has no sockets has none of that, and starts as quickly as without us.
#ifndef RLM_ENGINE_H
#define RLM_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>

extern _Atomic bool engine_started;

bool engine_start_now(void);

// Before a descriptor gets its first entry. false: everything stays on TCP. Leaves errno alone.
static inline bool engine_start(void)
{
	return __builtin_expect(atomic_load_explicit(&engine_started, memory_order_acquire), 1) || engine_start_now();
}

// Held by whoever starts the engine, forks, or binds a connection: a child is made before or after it, never in between.
void engine_lock(void);
void engine_unlock(void);
void engine_fork_child(void);

#endif

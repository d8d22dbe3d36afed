// SPDX-License-Identifier: BSD-2-Clause
// Signal handlers: SIGSEGV and SIGBUS as the answer to a bad buffer, and whether one ran; see hooks_signal.c.
#ifndef RLM_SIGNALS_H
#define RLM_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

// Handlers of the application that have begun in this thread. A sleep that any handler is to end sleeps on this word too: the kernel
// looks at it again after a handler with SA_RESTART.
extern __thread _Atomic uint32_t signals_handled;
// Those of them without SA_RESTART.
extern __thread _Atomic uint32_t signals_ending;

extern bool signals_watching;

void signals_start(void);
// With each connection that gets known: from the first on, copies of a bad buffer fail. Any thread.
static inline void signals_watch(void)
{
	if (__builtin_expect(!signals_watching, 0))
		signals_start();
}
// The kernel alone is concerned again.
void signals_unwatch(void);

#endif

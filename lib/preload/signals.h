// SPDX-License-Identifier: BSD-2-Clause
// SIGSEGV and SIGBUS as the answer to a bad buffer, see hooks_signal.c.
#ifndef RLM_SIGNALS_H
#define RLM_SIGNALS_H

#include <stdbool.h>

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

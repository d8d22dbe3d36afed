// SPDX-License-Identifier: BSD-2-Clause
// SIGSEGV and SIGBUS as the answer to a bad buffer, see hooks_signal.c.
#ifndef RLM_SIGNALS_H
#define RLM_SIGNALS_H

// Call before a connection is bound: from then on copies of a bad buffer fail. Once; costs nothing later. Any thread.
void signals_watch(void);
// The kernel alone is concerned again.
void signals_unwatch(void);

#endif

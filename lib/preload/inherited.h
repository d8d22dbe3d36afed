// SPDX-License-Identifier: BSD-2-Clause
// Connections that this program was started with, or was given by another process.
#ifndef RLM_INHERITED_H
#define RLM_INHERITED_H

#include "fdtable.h"

// At the start: knows them from now on, as RLM_CONN_INHERITED.
void inherited_adopt(void);
// Nobody but this process has it, for certain. Takes milliseconds; helper thread, not before inherited_wait_ms() have passed.
unsigned inherited_wait_ms(void);
bool inherited_is_alone(const struct rlm_conn *c, int fd);

#endif

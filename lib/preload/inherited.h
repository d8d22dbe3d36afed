// SPDX-License-Identifier: BSD-2-Clause
// Connections that this program was started with.
#ifndef RLM_INHERITED_H
#define RLM_INHERITED_H

#include "fdtable.h"

// At the start: knows them from now on, as RLM_CONN_INHERITED.
void inherited_adopt(void);
// Nobody but this process has it, for certain. Takes milliseconds.
bool inherited_is_alone(const struct rlm_conn *c, int fd);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Whose a connection is that came by exec or in a message: what tests need that hand connections over.
#ifndef RLM_TEST_OWNERS_H
#define RLM_TEST_OWNERS_H

#include "pair.h"

#include <sys/file.h>

// Whether others have such a connection can be told only by those who see all processes.
bool ownership_can_be_seen(void);
// Nobody is seen to be alone while any process of the machine leaves descriptors in a queue. Tests that do so, in other runs of this program and
// other builds (LOCK_SH), and those that want to be alone (LOCK_EX), keep out of each other's way. LOCK_UN ends it.
void queues_lock(int how);
// Through somebody who echoes: the next bytes of a's stream, from *at on.
void echo_some(struct pair *p, uint64_t *at);

#endif

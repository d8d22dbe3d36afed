// SPDX-License-Identifier: BSD-2-Clause
// Links that end while their connections live: a domain moves, a group is split, memory is lost. Helper thread only.
#ifndef RLM_LEAVING_H
#define RLM_LEAVING_H

#include <stdbool.h>

#include "rlm/proto.h"

// LEAVE came: everything of the link goes back to TCP. Answered by LEFT, later.
void leaving_begin(const struct rlm_msg_leave *m);
// The session with rlmd is over, and with it what holds links between Xen domains together: these end by themselves, at both ends.
void leaving_far(void);
// A link's location is not ours any more: what is on it ends, or goes on over TCP where that is exact.
void leaving_lost(void);
// There may be connections that stream_retire() has to end.
void leaving_again(void);
// One step for whatever is leaving. Milliseconds until the next one is worth while, -1: nothing is.
int leaving_go_on(void);

#endif

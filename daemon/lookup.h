// SPDX-License-Identifier: BSD-2-Clause
// Reads a connection's initial sequence numbers without touching its socket: a BPF program, run once per reading and attached to
// nothing, looks the socket up by its addresses and copies the numbers out. So a busy connection need not be held still for its name.
//
// The program reads without the socket's lock. Its numbers count only if TCP_INFO, which takes the lock, shows the same counters
// before and after: then nothing was sent, or received, in between.
//   own  = snd_nxt - bytes sent - 1        peer = rcv_nxt - bytes received - 1
#ifndef RLMD_LOOKUP_H
#define RLMD_LOOKUP_H

#include <stdbool.h>

#include "domain.h"
#include "registry.h"

struct rlmd_lookup {
	int program[2]; // for IPv4 and IPv6; -1: the kernel does not let us
	int netlink;
};

// Never fails: without the privilege nothing is found.
void rlmd_lookup_init(struct rlmd_lookup *lookup);
void rlmd_lookup_deinit(struct rlmd_lookup *lookup);
bool rlmd_lookup_possible(const struct rlmd_lookup *lookup);
// false: not found (bound to a device, say), not established, or no quiet moment.
bool rlmd_lookup_isn(struct rlmd_lookup *lookup, int sock, const struct rlmd_tuple *tuple, struct rlmd_domain *domain,
		     struct rlmd_isn *isn);

#endif

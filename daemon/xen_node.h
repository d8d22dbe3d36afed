// SPDX-License-Identifier: BSD-2-Clause
// What a domain's rlmd says of it in xenstore, in RLMD_WIRE_ASK_NODE, where dom0 reads it whether a channel is there or not:
//
//   ask NUMBER          wants a channel. The number is new each time it asks
//   quiet NUMBER        has closed everything, as CLOSE told it to, and wants a channel if the domain is not going to be suspended after all
//   ... open            as long as it may have memory of another domain mapped, or an event channel: it must not be suspended
//
// No node: no rlmd, and nothing open. One that was killed leaves what it said last; only the next one, which looks, can take that back.
#ifndef RLMD_XEN_NODE_H
#define RLMD_XEN_NODE_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "xen_wire.h"

#define RLMD_NODE_SIZE 64

static inline void rlmd_node_write(char value[RLMD_NODE_SIZE], bool quiet, const char *number, bool open)
{
	snprintf(value, RLMD_NODE_SIZE, "%s %.24s%s", quiet ? "quiet" : "ask", number, open ? " open" : "");
}

static inline bool rlmd_node_is_open(const char *value)
{
	const char *end = strrchr(value, ' ');

	return end && strcmp(end, " open") == 0;
}

static inline bool rlmd_node_is_quiet(const char *value)
{
	return strncmp(value, "quiet ", 6) == 0;
}

// "": none.
static inline void rlmd_node_number(const char *value, char number[25])
{
	if (sscanf(value, "%*7s %24s", number) != 1)
		number[0] = 0;
}

#endif

// SPDX-License-Identifier: BSD-2-Clause
// In which order epoll tells.
//
// The kernel tells first what happened first. A ring does not tell since when it has something, and while only rings are looked at what comes by
// TCP is not seen: so what TCP brought, an end or a new connection, goes before what is found on rings in the same call.
#ifndef RLM_EPOLL_ORDER_H
#define RLM_EPOLL_ORDER_H

#include <string.h>
#include <sys/epoll.h>

// A part of an answer: n events; so many of them, the first ones, happened before whatever else there is to tell.
struct part {
	int n;
	int first;
};

// out[at] is not for the application.
static inline void events_drop(struct epoll_event *out, int *n, int at)
{
	--*n;
	memmove(out + at, out + at + 1, (size_t)(*n - at) * sizeof(*out));
}

static inline void events_reverse(struct epoll_event *e, int n)
{
	for (int i = 0; i < n / 2; i++) {
		struct epoll_event other = e[i];

		e[i] = e[n - 1 - i];
		e[n - 1 - i] = other;
	}
}

// The m events that follow n others go before these.
static inline void events_move_before(struct epoll_event *e, int n, int m)
{
	if (n <= 0 || m <= 0)
		return;
	events_reverse(e, n);
	events_reverse(e + n, m);
	events_reverse(e, n + m);
}

#endif

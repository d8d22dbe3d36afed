// SPDX-License-Identifier: BSD-2-Clause
// The last things that happened, for rlmctl events. Bounded: the oldest make room. Pure.
#ifndef RLMD_EVENT_H
#define RLMD_EVENT_H

#include <stdint.h>

#define RLMD_EVENTS_MAX 4096u

struct rlmd_event {
	double time; // seconds since the epoch
	char what[24];
	char domain[2][64]; // of whom it is about; the second "" when there is only one
	char text[160];
};

struct rlmd_events {
	uint64_t next; // number of the next event; older than next - RLMD_EVENTS_MAX are forgotten
	struct rlmd_event *ring;
};

int rlmd_events_init(struct rlmd_events *events);
void rlmd_events_deinit(struct rlmd_events *events);
void rlmd_event(struct rlmd_events *events, const char *what, const char *domain, const char *other_domain,
		const char *format, ...) __attribute__((format(printf, 5, 6)));
// NULL: forgotten, or not happened yet.
const struct rlmd_event *rlmd_event_at(const struct rlmd_events *events, uint64_t number);
uint64_t rlmd_events_first(const struct rlmd_events *events);

#endif

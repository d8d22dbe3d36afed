// SPDX-License-Identifier: BSD-2-Clause
#include "event.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int rlmd_events_init(struct rlmd_events *events)
{
	events->next = 0;
	events->ring = calloc(RLMD_EVENTS_MAX, sizeof(*events->ring));
	return events->ring ? 0 : -ENOMEM;
}

void rlmd_events_deinit(struct rlmd_events *events)
{
	free(events->ring);
	events->ring = NULL;
}

void rlmd_event(struct rlmd_events *events, const char *what, const char *domain, const char *other_domain,
		const char *format, ...)
{
	struct rlmd_event *event = &events->ring[events->next++ % RLMD_EVENTS_MAX];
	struct timespec now;
	va_list ap;

	clock_gettime(CLOCK_REALTIME, &now);
	event->time = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
	snprintf(event->what, sizeof(event->what), "%s", what);
	snprintf(event->domain[0], sizeof(event->domain[0]), "%s", domain ? domain : "");
	snprintf(event->domain[1], sizeof(event->domain[1]), "%s", other_domain ? other_domain : "");
	va_start(ap, format);
	vsnprintf(event->text, sizeof(event->text), format, ap);
	va_end(ap);
}

uint64_t rlmd_events_first(const struct rlmd_events *events)
{
	return events->next > RLMD_EVENTS_MAX ? events->next - RLMD_EVENTS_MAX : 0;
}

const struct rlmd_event *rlmd_event_at(const struct rlmd_events *events, uint64_t number)
{
	if (number >= events->next || number < rlmd_events_first(events))
		return NULL;
	return &events->ring[number % RLMD_EVENTS_MAX];
}

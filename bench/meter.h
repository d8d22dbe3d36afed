// SPDX-License-Identifier: BSD-2-Clause
// A measuring window over a growing count: leaves out the warm-up, and looks at the clock once in many calls only.
#ifndef BENCH_METER_H
#define BENCH_METER_H

#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "params.h"

#define METER_CALLS 64		 // calls between two looks at the clock
#define METER_BYTES (1ull << 20) // the same for bytes

struct bench_meter {
	uint64_t next;	    // count at which to look at the clock, whatever the calls
	unsigned countdown; // calls until then
	bool open, closed;
	uint64_t start;
	uint64_t t0, t1; // the window, ns
	uint64_t v0, v1; // the count at its ends
	const struct bench_params *params;
};

void meter_init(struct bench_meter *m, const struct bench_params *p);
void meter_tick(struct bench_meter *m, uint64_t count);
// At the end of the stream: closes the window where it stands.
void meter_finish(struct bench_meter *m, uint64_t count);
double meter_rate(const struct bench_meter *m);

static inline void meter_count(struct bench_meter *m, uint64_t count)
{
	if (__builtin_expect(count < m->next && --m->countdown, 1))
		return;
	meter_tick(m, count);
}

#endif

// SPDX-License-Identifier: BSD-2-Clause
// A histogram of times with logarithmic buckets: any value to better than 0.5 %, in constant memory and time.
//
// Values below 2^HIST_SUB have a bucket each. Above, every power of two is cut into 2^(HIST_SUB-1) equal buckets and
// a bucket answers with its middle: the error is at most half a bucket, 1/256 of the value.
#ifndef BENCH_HIST_H
#define BENCH_HIST_H

#include <stdint.h>

#define HIST_SUB     8
#define HIST_HALF    (1u << (HIST_SUB - 1))
#define HIST_BITS    40 // larger values (18 minutes in ns) count as the largest
#define HIST_BUCKETS ((HIST_BITS - HIST_SUB + 2) * HIST_HALF)

struct bench_hist {
	uint64_t count, sum, min, max;
	uint64_t buckets[HIST_BUCKETS];
};

static inline unsigned hist_index(uint64_t value)
{
	unsigned shift;

	if (value < 2 * HIST_HALF)
		return (unsigned)value;
	if (value >> HIST_BITS)
		return HIST_BUCKETS - 1;
	shift = 63 - (unsigned)__builtin_clzll(value) - (HIST_SUB - 1);
	return shift * HIST_HALF + (unsigned)(value >> shift);
}

static inline void hist_add(struct bench_hist *h, uint64_t value)
{
	h->count++;
	h->sum += value;
	if (value < h->min)
		h->min = value;
	if (value > h->max)
		h->max = value;
	h->buckets[hist_index(value)]++;
}

void hist_init(struct bench_hist *h);
void hist_merge(struct bench_hist *into, const struct bench_hist *from);
// The value that `fraction` (0..1) of all values do not exceed; 0 when empty.
double hist_quantile(const struct bench_hist *h, double fraction);
double hist_mean(const struct bench_hist *h);

#endif

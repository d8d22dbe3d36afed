// SPDX-License-Identifier: BSD-2-Clause
// A histogram of times with logarithmic buckets.
#include "hist.h"

#include <math.h>
#include <string.h>

void hist_init(struct bench_hist *h)
{
	memset(h, 0, sizeof(*h));
	h->min = UINT64_MAX;
}

void hist_merge(struct bench_hist *into, const struct bench_hist *from)
{
	into->count += from->count;
	into->sum += from->sum;
	if (from->min < into->min)
		into->min = from->min;
	if (from->max > into->max)
		into->max = from->max;
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
}

static double bucket_middle(unsigned index)
{
	unsigned shift;
	uint64_t low;

	if (index < 2 * HIST_HALF)
		return index;
	shift = index / HIST_HALF - 1;
	low = (uint64_t)(index - shift * HIST_HALF) << shift;
	return (double)low + (double)((1ull << shift) - 1) / 2;
}

double hist_quantile(const struct bench_hist *h, double fraction)
{
	uint64_t rank = (uint64_t)ceil(fraction * (double)h->count);
	uint64_t seen = 0;

	if (!h->count)
		return 0;
	if (rank < 1)
		rank = 1;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen >= rank)
			return fmin(fmax(bucket_middle(i), (double)h->min), (double)h->max);
	}
	return (double)h->max;
}

double hist_mean(const struct bench_hist *h)
{
	return h->count ? (double)h->sum / (double)h->count : 0;
}

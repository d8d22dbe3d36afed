// SPDX-License-Identifier: BSD-2-Clause
// Decisions and streams that follow from a seed.
#include "chaos.h"

#include <string.h>
#include <time.h>

// Finaliser of splitmix64.
uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

uint64_t rng_next(struct rng *rng)
{
	rng->state += 0x9e3779b97f4a7c15u;
	return mix(rng->state);
}

uint64_t rng_below(struct rng *rng, uint64_t n)
{
	return rng_next(rng) % n;
}

uint64_t rng_size(struct rng *rng, uint64_t max)
{
	unsigned bits = 64 - (unsigned)__builtin_clzll(max);
	uint64_t size = 1 + rng_below(rng, 1ull << rng_below(rng, bits + 1));

	return size > max ? max : size;
}

void stream_fill(uint64_t seed, uint64_t position, uint8_t *bytes, size_t size)
{
	while (size > 0) {
		uint64_t word = mix(seed ^ (position / 8));
		size_t skip = position % 8, n = 8 - skip;

		if (n > size)
			n = size;
		memcpy(bytes, (uint8_t *)&word + skip, n);
		bytes += n;
		position += n;
		size -= n;
	}
}

size_t stream_check(uint64_t seed, uint64_t position, const uint8_t *bytes, size_t size)
{
	size_t done = 0;

	while (done < size) {
		uint64_t word = mix(seed ^ ((position + done) / 8));
		size_t skip = (position + done) % 8, n = 8 - skip;

		if (n > size - done)
			n = size - done;
		if (memcmp(bytes + done, (uint8_t *)&word + skip, n) != 0) {
			while (bytes[done] == ((uint8_t *)&word)[skip]) {
				done++;
				skip++;
			}
			return done;
		}
		done += n;
	}
	return size;
}

uint64_t stream_locate(uint64_t seed, uint64_t position, const uint8_t *bytes, size_t size)
{
	const uint64_t window = 8u << 20;

	if (size < 4)
		return UINT64_MAX;
	if (size > 16)
		size = 16;
	for (uint64_t d = 0; d < window; d++) {
		if (stream_check(seed, position + d, bytes, size) == size)
			return position + d;
		if (d <= position && stream_check(seed, position - d, bytes, size) == size)
			return position - d;
	}
	return UINT64_MAX;
}

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

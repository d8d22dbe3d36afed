// SPDX-License-Identifier: BSD-2-Clause
// What --verify sends: a pseudo-random stream in which every eight bytes tell their own position.
#include "pattern.h"

#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// Finaliser of splitmix64 (Steele, Lea, Flood 2014) and its inverse.
static inline uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t unmix(uint64_t x)
{
	x = (x ^ (x >> 31) ^ (x >> 62)) * 0x319642b2d24d8ec3ull;
	x = (x ^ (x >> 27) ^ (x >> 54)) * 0x96de1b173f119089ull;
	return x ^ (x >> 30) ^ (x >> 60);
}

uint64_t pattern_seed(uint64_t test_seed, unsigned connection, bool from_server)
{
	return mix(test_seed + 2 * (uint64_t)connection + from_server);
}

static inline uint64_t word_at(uint64_t seed, uint64_t index)
{
	return htole64(mix(seed + index));
}

void pattern_fill(uint64_t seed, uint64_t position, void *data, size_t n)
{
	uint8_t *out = data;
	uint64_t index = position / 8;
	size_t skip = position % 8;
	uint64_t word;

	if (skip) {
		size_t part = 8 - skip < n ? 8 - skip : n;

		word = word_at(seed, index++);
		memcpy(out, (uint8_t *)&word + skip, part);
		out += part;
		n -= part;
	}
	for (; n >= 8; n -= 8, out += 8) {
		word = word_at(seed, index++);
		memcpy(out, &word, 8);
	}
	word = word_at(seed, index);
	memcpy(out, &word, n);
}

static int64_t first_difference(uint64_t seed, uint64_t position, const uint8_t *data, size_t n)
{
	uint8_t right[8];

	for (size_t at = 0; at < n; at += 8) {
		size_t part = n - at < 8 ? n - at : 8;

		pattern_fill(seed, position + at, right, part);
		for (size_t i = 0; i < part; i++)
			if (right[i] != data[at + i])
				return (int64_t)(at + i);
	}
	return -1;
}

int64_t pattern_check(uint64_t seed, uint64_t position, const void *data, size_t n)
{
	const uint8_t *in = data;
	size_t head = (8 - position % 8) % 8;
	uint64_t index = (position + head) / 8;
	uint64_t wrong = 0;
	uint64_t word;
	size_t at;

	if (head > n)
		head = n;
	// Differences are collected without a branch per word; where they are is looked for only if there are any.
	for (at = head; at + 8 <= n; at += 8) {
		memcpy(&word, in + at, 8);
		wrong |= word ^ word_at(seed, index++);
	}
	if (wrong)
		return first_difference(seed, position, in, n);
	if (first_difference(seed, position, in, head) >= 0)
		return first_difference(seed, position, in, head);
	if (at < n) {
		int64_t d = first_difference(seed, position + at, in + at, n - at);

		return d < 0 ? -1 : (int64_t)at + d;
	}
	return -1;
}

bool pattern_locate(uint64_t seed, const void *data, size_t n, uint64_t *position)
{
	const uint8_t *in = data;
	uint64_t a, b, index;

	for (size_t shift = 0; shift < 8 && shift + 16 <= n; shift++) {
		memcpy(&a, in + shift, 8);
		memcpy(&b, in + shift + 8, 8);
		index = unmix(le64toh(a)) - seed;
		if (unmix(le64toh(b)) - seed != index + 1 || index > UINT64_MAX / 8)
			continue;
		if (index * 8 < shift)
			continue;
		*position = index * 8 - shift;
		return true;
	}
	return false;
}

void pattern_explain(uint64_t seed, uint64_t position, const void *data, size_t n, size_t at, char *text, size_t size)
{
	const uint8_t *got = (const uint8_t *)data + at;
	size_t shown = n - at < 8 ? n - at : 8;
	uint8_t right[8];
	char hex[2][2 * 8 + 1] = {"", ""};
	uint64_t belongs, where = position + at;
	int len;

	pattern_fill(seed, where, right, shown);
	for (size_t i = 0; i < shown; i++) {
		snprintf(hex[0] + 2 * i, 3, "%02x", right[i]);
		snprintf(hex[1] + 2 * i, 3, "%02x", got[i]);
	}
	len = snprintf(text, size, "wrong data at byte %" PRIu64 ": expected %s, got %s", where, hex[0], hex[1]);
	if (len < 0 || (size_t)len >= size)
		return;
	if (!pattern_locate(seed, got, n - at, &belongs))
		return;
	if (belongs > where)
		snprintf(text + len, size - (size_t)len,
			 ", which belongs at byte %" PRIu64 ": %" PRIu64 " bytes are missing", belongs,
			 belongs - where);
	else if (belongs < where)
		snprintf(text + len, size - (size_t)len,
			 ", which belongs at byte %" PRIu64 ": %" PRIu64 " bytes came twice", belongs, where - belongs);
}

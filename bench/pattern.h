// SPDX-License-Identifier: BSD-2-Clause
// What --verify sends: a pseudo-random stream in which every eight bytes tell their own position.
//
// The word at position 8i is a bijective mix of (seed + i). So any byte that is lost, doubled, reordered or changed
// shows at once, and the mix can be undone: pattern_locate() tells where in the stream wrong bytes belong.
#ifndef BENCH_PATTERN_H
#define BENCH_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The stream of one direction of one connection.
uint64_t pattern_seed(uint64_t test_seed, unsigned connection, bool from_server);
void pattern_fill(uint64_t seed, uint64_t position, void *data, size_t n);
// -1 when all n bytes are right, else the index of the first wrong one.
int64_t pattern_check(uint64_t seed, uint64_t position, const void *data, size_t n);
// Where these bytes (23 or more) belong in the stream.
bool pattern_locate(uint64_t seed, const void *data, size_t n, uint64_t *position);
// One line that tells what is wrong at data[at], which should be the stream's byte position + at.
void pattern_explain(uint64_t seed, uint64_t position, const void *data, size_t n, size_t at, char *text, size_t size);

#endif

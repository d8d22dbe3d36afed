// SPDX-License-Identifier: BSD-2-Clause
// Numbers as people write and read them.
#ifndef BENCH_UNITS_H
#define BENCH_UNITS_H

#include <stddef.h>
#include <stdint.h>

#define UNITS_TEXT 32

// "64", "128K", "1M", "2G" (powers of 1024), "300MB" (powers of 1000). 0 or -EINVAL.
int units_parse_size(const char *text, uint64_t *value);
// "SIZE" or "FROM:TO". 0 or -EINVAL.
int units_parse_range(const char *text, uint64_t *from, uint64_t *to);
// "0.5", "10", "200ms" in seconds. 0 or -EINVAL.
int units_parse_time(const char *text, uint64_t *ns);

// Each writes at most UNITS_TEXT bytes and returns its buffer.
const char *units_size(char *text, uint64_t bytes);    // 64 B, 16 KiB
const char *units_rate(char *text, double per_second); // 1.23 G, for bytes or messages
const char *units_duration(char *text, double ns);     // 532 ns, 12.3 us

#endif

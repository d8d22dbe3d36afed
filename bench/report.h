// SPDX-License-Identifier: BSD-2-Clause
// What a client prints for people.
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <jansson.h>

#include "net.h"
#include "run.h"

void report_header(const struct bench_params *p, const struct net_address *a);
// A test with "summary" and "carrier", see result.h.
void report_test(const json_t *test, const struct bench_params *p);

// Reports every interval while the run goes on, from a thread of its own.
struct report_intervals;
struct report_intervals *report_intervals_start(const struct bench_run *run, uint64_t interval_ns, bool quiet);
// What was reported, as JSON.
json_t *report_intervals_stop(struct report_intervals *r);

#endif

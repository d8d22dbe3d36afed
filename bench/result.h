// SPDX-License-Identifier: BSD-2-Clause
// What a test found, as JSON: one side's part, and the whole.
#ifndef BENCH_RESULT_H
#define BENCH_RESULT_H

#include <jansson.h>

#include "run.h"

// Which part of the payload went through shared memory, summed over connections.
struct carrier_sum {
	uint64_t ring, plain;
	unsigned why; // of the last connection that is not on a ring
	bool known;
};

void carrier_add(struct carrier_sum *s, const struct rlm_info *info);
json_t *carrier_to_json(const struct carrier_sum *s);

// After run_join().
json_t *result_of_side(const struct bench_run *run);
json_t *result_of_cpu(const struct bench_cpu *cpu);
// Adds "summary" and "carrier" to {"params", "client", "server"}.
void result_summarise(json_t *test, const struct bench_params *p);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// One comparison: what is compared, with what, and what came out.
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include <jansson.h>
#include <stdbool.h>

#include "child.h"
#include "options.h"
#include "preset.h"
#include "veth.h"

#define COMPARE_TEXT 256
#define COMPARE_PATH 4096

// One column of one row in one run.
struct sample {
	bool ok;
	double value;	   // by the row's metric
	double messages;   // per second
	double cpu[2];	   // percent of one CPU, by enum bench_side
	double p99, p999;  // ns, not for streams
	double ring_share; // of the bytes that librlm saw
	char why[64];	   // it is not all
};

struct cell {
	struct sample *samples; // one per run
	unsigned count;
	// of the good ones:
	unsigned good;
	double median, low, high;
	double messages, cpu[2], p99, p999; // medians
	double ring_share;		    // lowest
	const char *why;
};

struct compare {
	const struct compare_options *options;
	const struct preset *preset;
	unsigned columns; // those that are run
	unsigned row_count;
	struct cell cells[PRESET_ROWS][COL_COUNT];
	unsigned failures;
	char failure[COMPARE_TEXT]; // the last one

	char exe[COMPARE_PATH], lib[COMPARE_PATH], rlmd[COMPARE_PATH];
	char dir[64]; // of our own, "" before it exists
	char broker[128];
	struct child broker_child;
	struct veth veth;
	double busy; // CPUs that others used before we began
	char model[128];
};

static inline bool compare_has(const struct compare *c, enum column_id column)
{
	return c->columns & (1u << column);
}

// Runs one point. The result is ok or c->failure tells.
void measure_point(struct compare *c, const struct row *row, enum column_id column, struct sample *s);

void cell_summarise(struct cell *cell);
// The subject's gain over the base: more is better whatever the metric; 0 when unknown.
double compare_gain(const struct compare *c, unsigned row, enum column_id subject, enum column_id base);

void table_print(const struct compare *c, FILE *to);
json_t *compare_to_json(const struct compare *c);
// 0 or -errno.
int svg_write(const struct compare *c, FILE *to);

#endif

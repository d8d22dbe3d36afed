// SPDX-License-Identifier: BSD-2-Clause
// What `compare` compares: columns are ways for the bytes to go, rows are tests.
#ifndef BENCH_PRESET_H
#define BENCH_PRESET_H

#include <stdint.h>

#include "params.h"

enum column_id {
	COL_TCP,
	COL_VETH,
	COL_UNIX,
	COL_RING,
	COL_RLM,
	COL_LOADED, // the client has librlm, the server has not
	COL_COUNT,
};

struct column {
	const char *name;  // on the command line and in JSON
	const char *title; // for people
};

extern const struct column compare_columns[COL_COUNT];

enum metric {
	METRIC_BANDWIDTH, // bytes per second
	METRIC_TIME,	  // median round trip, ns
	METRIC_RATE,	  // per second
	METRIC_COUNT,
};

struct row {
	enum bench_mode mode;
	enum metric metric;
	uint64_t size;
	enum bench_wait client, server;
	const char *title; // NULL: the size
};

#define PRESET_ROWS 20

struct preset {
	const char *name;
	const char *title;
	const char *note;	      // printed under the table, or NULL
	unsigned columns;	      // bits 1 << enum column_id
	enum column_id base, subject; // of the ratios
	uint64_t time_ns;	      // measured, per point and run
	uint64_t bytes;		      // instead, for streams
	bool recv_is_size;	      // receives ask for one message
	bool plot;
	unsigned pairs;		      // at once
	unsigned cpus;		      // that they share, 0: all
	struct row rows[PRESET_ROWS]; // size 0 at the end
};

// NULL: no such preset.
const struct preset *preset_find(const char *name);

#endif

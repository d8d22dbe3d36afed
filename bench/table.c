// SPDX-License-Identifier: BSD-2-Clause
// A comparison as a table for people and as JSON.
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "compare.h"
#include "units.h"

#define CELL_WIDTH	  23
#define ROW_WIDTH	  14
#define MESSAGES_MAX_SIZE 1024 // rows up to this size are shown in messages per second too

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

// Sorts v.
static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), compare_double);
	return n == 0 ? 0 : n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// The median of one field of the good samples; scratch has room for all. Leaves it sorted.
static double field_median(const struct cell *cell, size_t offset, double *scratch)
{
	unsigned n = 0;

	for (unsigned i = 0; i < cell->count; i++)
		if (cell->samples[i].ok)
			memcpy(&scratch[n++], (const char *)&cell->samples[i] + offset, sizeof(double));
	return median(scratch, n);
}

void cell_summarise(struct cell *cell)
{
	double *v = calloc(cell->count + 1, sizeof(*v));

	cell->good = 0;
	cell->ring_share = 1;
	for (unsigned i = 0; i < cell->count; i++) {
		const struct sample *s = &cell->samples[i];

		if (!s->ok)
			continue;
		cell->good++;
		if (s->ring_share <= cell->ring_share) {
			cell->ring_share = s->ring_share;
			cell->why = s->why;
		}
	}
	if (v && cell->good) {
		cell->messages = field_median(cell, offsetof(struct sample, messages), v);
		cell->cpu[0] = field_median(cell, offsetof(struct sample, cpu[0]), v);
		cell->cpu[1] = field_median(cell, offsetof(struct sample, cpu[1]), v);
		cell->p99 = field_median(cell, offsetof(struct sample, p99), v);
		cell->p999 = field_median(cell, offsetof(struct sample, p999), v);
		cell->median = field_median(cell, offsetof(struct sample, value), v);
		cell->low = v[0];
		cell->high = v[cell->good - 1];
	}
	free(v);
}

double compare_gain(const struct compare *c, unsigned row, enum column_id subject, enum column_id base)
{
	const struct cell *s = &c->cells[row][subject], *b = &c->cells[row][base];

	if (!s->good || !b->good || s->median <= 0 || b->median <= 0)
		return 0;
	return c->preset->rows[row].metric == METRIC_TIME ? b->median / s->median : s->median / b->median;
}

struct view {
	const char *title, *unit;
	double scale;
	enum metric metric;
};

static const struct view *view_of(const struct compare *c, enum metric metric)
{
	static const struct view views[METRIC_COUNT] = {
	    [METRIC_BANDWIDTH] = {"Stream", "MB/s", 1e-6, METRIC_BANDWIDTH},
	    [METRIC_TIME] = {"Round trip, median of each run", "us", 1e-3, METRIC_TIME},
	    [METRIC_RATE] = {"Transactions", "per second", 1, METRIC_RATE},
	};
	static const struct view paper = {"Bandwidth", "Mb/s", 8e-6, METRIC_BANDWIDTH};

	return c->preset->bytes ? &paper : &views[metric];
}

static int digits(double v)
{
	return v < 10 ? 2 : v < 100 ? 1 : 0;
}

// Printed width in columns of a terminal: everything here is ASCII.
static void print_cell(FILE *to, const struct cell *cell, double scale)
{
	double m = cell->median * scale, low = cell->low * scale, high = cell->high * scale;
	char text[64];

	if (!cell->good)
		snprintf(text, sizeof(text), "-");
	else
		snprintf(text, sizeof(text), "%.*f (%.*f..%.*f)", digits(m), m, digits(low), low, digits(high), high);
	fprintf(to, " %*s", CELL_WIDTH, text);
}

static const char *row_title(const struct row *row, char *text)
{
	return row->title ? row->title : units_size(text, row->size);
}

static void print_gain(FILE *to, double gain)
{
	if (gain > 0)
		fprintf(to, " %9.*f", gain < 10 ? 3 : digits(gain), gain);
	else
		fprintf(to, " %9s", "-");
}

static void print_titles(const struct compare *c, FILE *to, bool ring)
{
	fprintf(to, "%*s", ROW_WIDTH, "");
	for (int k = 0; k < COL_COUNT; k++)
		if (compare_has(c, (enum column_id)k))
			fprintf(to, " %*s", CELL_WIDTH, compare_columns[k].title);
	fprintf(to, " %9s", c->preset->subject == COL_LOADED ? "vs bare" : "vs TCP");
	if (ring)
		fprintf(to, " %9s", "vs ring");
	fputc('\n', to);
}

static void print_group(const struct compare *c, FILE *to, enum metric metric)
{
	const struct view *v = view_of(c, metric);
	bool ring = compare_has(c, COL_RING) && compare_has(c, COL_RLM);
	char text[UNITS_TEXT];

	fprintf(to, "\n%s, %s: median of %u runs (lowest..highest)\n", v->title, v->unit, c->options->runs);
	print_titles(c, to, ring);
	for (unsigned r = 0; r < c->row_count; r++) {
		if (c->preset->rows[r].metric != metric)
			continue;
		fprintf(to, "%*s", ROW_WIDTH, row_title(&c->preset->rows[r], text));
		for (int k = 0; k < COL_COUNT; k++)
			if (compare_has(c, (enum column_id)k))
				print_cell(to, &c->cells[r][k], v->scale);
		print_gain(to, compare_gain(c, r, c->preset->subject, c->preset->base));
		if (ring)
			print_gain(to, compare_gain(c, r, COL_RLM, COL_RING));
		fputc('\n', to);
	}
}

static void print_messages(const struct compare *c, FILE *to)
{
	char text[UNITS_TEXT];
	bool begun = false;

	for (unsigned r = 0; r < c->row_count; r++) {
		const struct row *row = &c->preset->rows[r];

		if (row->mode != MODE_STREAM || row->size > MESSAGES_MAX_SIZE || c->preset->bytes)
			continue;
		if (!begun)
			fprintf(to, "\nSends, million per second\n");
		begun = true;
		fprintf(to, "%*s", ROW_WIDTH, row_title(row, text));
		for (int k = 0; k < COL_COUNT; k++)
			if (compare_has(c, (enum column_id)k))
				fprintf(to, " %*.2f", CELL_WIDTH, c->cells[r][k].messages / 1e6);
		fputc('\n', to);
	}
}

static void print_cpu(const struct compare *c, FILE *to)
{
	char text[UNITS_TEXT], cell[64];

	fprintf(to, "\nCPU time, percent of one CPU: sender or client, receiver or server\n");
	for (unsigned r = 0; r < c->row_count; r++) {
		fprintf(to, "%-6s %*s", bench_mode_names[c->preset->rows[r].mode], ROW_WIDTH - 7,
			row_title(&c->preset->rows[r], text));
		for (int k = 0; k < COL_COUNT; k++) {
			const struct cell *x = &c->cells[r][k];

			if (!compare_has(c, (enum column_id)k))
				continue;
			snprintf(cell, sizeof(cell), "%.0f, %.0f", x->cpu[0], x->cpu[1]);
			fprintf(to, " %*s", CELL_WIDTH, x->good ? cell : "-");
		}
		fputc('\n', to);
	}
}

void table_print(const struct compare *c, FILE *to)
{
	bool has[METRIC_COUNT] = {false};
	struct utsname u;

	uname(&u);
	fprintf(to, "%s\n%s, %ld CPUs, %s %s\n", c->preset->title, c->model[0] ? c->model : u.machine,
		sysconf(_SC_NPROCESSORS_ONLN), u.sysname, u.release);
	for (unsigned r = 0; r < c->row_count; r++)
		has[c->preset->rows[r].metric] = true;
	for (int m = 0; m < METRIC_COUNT; m++)
		if (has[m])
			print_group(c, to, (enum metric)m);
	print_messages(c, to);
	print_cpu(c, to);
	fprintf(to,
		"\n\"vs\": how many times better, the higher the better: ratio of rates, inverse ratio of times.\n");
	if (c->preset->note)
		fprintf(to, "%s\n", c->preset->note);
	fflush(to);
}

static json_t *cell_to_json(const struct cell *cell, enum column_id column)
{
	json_t *values = json_array(), *json;

	for (unsigned i = 0; i < cell->count; i++)
		if (cell->samples[i].ok)
			json_array_append_new(values, json_real(cell->samples[i].value));
	json =
	    json_pack("{s:f, s:f, s:f, s:o, s:f, s:f, s:f, s:f, s:f}", "median", cell->median, "low", cell->low, "high",
		      cell->high, "values", values, "messages_per_second", cell->messages, "client_cpu_percent",
		      cell->cpu[0], "server_cpu_percent", cell->cpu[1], "p99_ns", cell->p99, "p999_ns", cell->p999);
	if (column == COL_RLM)
		json_object_set_new(json, "ring_share", json_real(cell->ring_share));
	return json;
}

static json_t *row_to_json(const struct compare *c, unsigned r)
{
	static const char *const units[METRIC_COUNT] = {"bytes_per_second", "p50_ns", "per_second"};
	const struct row *row = &c->preset->rows[r];
	json_t *columns = json_object(), *gains = json_object();
	char text[UNITS_TEXT];

	for (int k = 0; k < COL_COUNT; k++) {
		double gain = compare_gain(c, r, c->preset->subject, (enum column_id)k);

		if (!c->cells[r][k].good)
			continue;
		json_object_set_new(columns, compare_columns[k].name, cell_to_json(&c->cells[r][k], (enum column_id)k));
		if (k != (int)c->preset->subject && gain > 0)
			json_object_set_new(gains, compare_columns[k].name, json_real(gain));
	}
	return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:o, s:o}", "mode", bench_mode_names[row->mode], "size",
			 (json_int_t)row->size, "title", row_title(row, text), "client_wait",
			 bench_wait_names[row->client], "server_wait", bench_wait_names[row->server], "unit",
			 units[row->metric], "columns", columns, "gain_over", gains);
}

json_t *compare_to_json(const struct compare *c)
{
	json_t *rows = json_array();
	struct utsname u;

	uname(&u);
	for (unsigned r = 0; r < c->row_count; r++)
		json_array_append_new(rows, row_to_json(c, r));
	return json_pack("{s:i, s:s, s:i, s:{s:s, s:i, s:s, s:f}, s:s, s:i, s:o}", "version", 1, "preset",
			 c->preset->name, "runs", (int)c->options->runs, "machine", "model", c->model, "cpus",
			 (int)sysconf(_SC_NPROCESSORS_ONLN), "kernel", u.release, "busy_cpus_before", c->busy,
			 "subject", compare_columns[c->preset->subject].name, "failures", (int)c->failures, "rows",
			 rows);
}

// SPDX-License-Identifier: BSD-2-Clause
// rlm-bench compare: runs every point in every column, all columns of a row one right after the other and the whole
// again for each run, so that whatever disturbs the machine disturbs all columns alike.
#include "compare.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "units.h"

#define BUSY_LOOK_MS   300
#define BUSY_LIMIT     0.15 // CPUs in use by others, above which figures are doubtful
#define BROKER_SECONDS 5
#define RING_SHARE_MIN 0.9

static void note(const char *text, const char *why)
{
	fprintf(stderr, "rlm-bench: %s%s%s\n", text, why ? ": " : "", why ? why : "");
}

// Beside rlm-bench in a build tree, or where it is installed.
static bool find_beside(const struct compare *c, const char *given, const char *name, const char *const *places,
			char *path)
{
	char dir[COMPARE_PATH];
	char *slash;

	if (given)
		return realpath(given, path) != NULL;
	snprintf(dir, sizeof(dir), "%s", c->exe);
	slash = strrchr(dir, '/');
	if (slash)
		*slash = '\0';
	for (; *places; places++) {
		char trial[COMPARE_PATH + 64];

		snprintf(trial, sizeof(trial), "%s/%s%s", dir, *places, name);
		if (realpath(trial, path))
			return true;
	}
	return false;
}

static void drop_column(struct compare *c, enum column_id column, const char *what, const char *why)
{
	if (!compare_has(c, column))
		return;
	c->columns &= ~(1u << column);
	note(what, why);
}

static bool broker_start(struct compare *c)
{
	char config[128];
	struct child_spec s = {.argv = {c->rlmd, "--socket", c->broker, "--config", config, "--log", "error"},
			       .netns = -1,
			       .errors = true,
			       .pass_fd = -1};
	uint64_t deadline = clock_now() + BROKER_SECONDS * NS_PER_S;
	struct stat st;
	FILE *f;

	snprintf(c->broker, sizeof(c->broker), "%s/rlmd.sock", c->dir);
	snprintf(config, sizeof(config), "%s/rlmd.conf", c->dir); // empty: defaults, whatever /etc says
	f = fopen(config, "we");
	if (!f)
		return false;
	fclose(f);
	if (child_start(&c->broker_child, &s) < 0)
		return false;
	while (stat(c->broker, &st) < 0 && clock_now() < deadline && !child_interrupted)
		usleep(5000);
	return stat(c->broker, &st) == 0;
}

static void find_librlm(struct compare *c)
{
	static const char *const lib_places[] = {"", "../lib/", "../lib/" LIB_TRIPLET "/", NULL};
	static const char *const bin_places[] = {"", "../sbin/", NULL};
	const char *wrong = NULL;

	if (!compare_has(c, COL_RLM) && !compare_has(c, COL_LOADED))
		return;
	if (!find_beside(c, c->options->lib, "librlm.so", lib_places, c->lib))
		wrong = "librlm.so is not there (--lib)";
	else if (!find_beside(c, c->options->rlmd, "rlmd", bin_places, c->rlmd))
		wrong = "rlmd is not there (--rlmd)";
	else if (!broker_start(c))
		wrong = "rlmd does not start";
	if (!wrong)
		return;
	drop_column(c, COL_RLM, "column librlm is left out", wrong);
	drop_column(c, COL_LOADED, "column loaded is left out", wrong);
}

static void make_veth(struct compare *c)
{
	const char *why;

	if (compare_has(c, COL_VETH) && veth_init(&c->veth, &why) < 0)
		drop_column(c, COL_VETH, "column veth is left out", why);
}

static bool choose_columns(struct compare *c)
{
	char *list, *save = NULL;
	unsigned chosen = 0;

	c->columns = c->preset->columns;
	if (!c->options->columns)
		return true;
	list = strdup(c->options->columns);
	for (char *w = list ? strtok_r(list, ",", &save) : NULL; w; w = strtok_r(NULL, ",", &save)) {
		int i = 0;

		while (i < COL_COUNT && strcmp(compare_columns[i].name, w) != 0)
			i++;
		if (i == COL_COUNT || !(c->preset->columns & (1u << i))) {
			fprintf(stderr, "rlm-bench: --columns %s: this preset has no such column\n", w);
			free(list);
			return false;
		}
		chosen |= 1u << i;
	}
	free(list);
	c->columns = chosen;
	return chosen != 0;
}

// Ticks of all CPUs that were not idle; *all gets everything.
static double busy_ticks(double *all)
{
	double t[8] = {0};
	FILE *f = fopen("/proc/stat", "re");

	*all = 0;
	if (!f)
		return 0;
	if (fscanf(f, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]) ==
	    8)
		for (int i = 0; i < 8; i++)
			*all += t[i];
	fclose(f);
	return *all - t[3] - t[4];
}

static void look_at_machine(struct compare *c)
{
	double before_all, after_all;
	double before = busy_ticks(&before_all), after;
	char line[256];
	FILE *f = fopen("/proc/cpuinfo", "re");

	while (f && !c->model[0] && fgets(line, sizeof(line), f))
		sscanf(line, "model name : %127[^\n]", c->model);
	if (f)
		fclose(f);
	usleep(BUSY_LOOK_MS * 1000);
	after = busy_ticks(&after_all);
	if (after_all > before_all)
		c->busy = (after - before) / (after_all - before_all) * (double)sysconf(_SC_NPROCESSORS_ONLN);
	if (c->busy > BUSY_LIMIT)
		fprintf(stderr, "rlm-bench: other programs use %.1f CPUs: the figures will not be what they could be\n",
			c->busy);
}

static bool limit_cpus(unsigned cpus)
{
	cpu_set_t mine, few;
	unsigned n = 0;

	if (sched_getaffinity(0, sizeof(mine), &mine) < 0)
		return false;
	CPU_ZERO(&few);
	for (int i = 0; i < CPU_SETSIZE && n < cpus; i++) {
		if (CPU_ISSET(i, &mine)) {
			CPU_SET(i, &few);
			n++;
		}
	}
	return sched_setaffinity(0, sizeof(few), &few) == 0;
}

// What a stopped child may have left, and nothing else: the directory has no subdirectories.
static void remove_dir(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(dir);
}

static int set_up(struct compare *c)
{
	ssize_t n = readlink("/proc/self/exe", c->exe, sizeof(c->exe) - 1);

	c->veth.netns[0] = c->veth.netns[1] = -1;
	if (n <= 0) {
		note("/proc is needed", NULL);
		return -ENOENT;
	}
	snprintf(c->dir, sizeof(c->dir), "/tmp/rlm-bench-XXXXXX");
	if (!mkdtemp(c->dir)) {
		note("no temporary directory", strerror(errno));
		c->dir[0] = '\0';
		return -ENOENT;
	}
	child_catch_signals();
	if (c->preset->cpus && !limit_cpus(c->preset->cpus))
		note("cannot choose CPUs", strerror(errno));
	look_at_machine(c);
	make_veth(c);
	find_librlm(c);
	if (c->columns)
		return 0;
	note("nothing is left to run", NULL);
	return -ENOENT;
}

static void tear_down(struct compare *c)
{
	child_stop(&c->broker_child, SIGTERM);
	child_kill_all();
	veth_deinit(&c->veth);
	if (c->dir[0])
		remove_dir(c->dir);
}

static bool runs_here(const struct row *row, enum column_id column)
{
	return column != COL_RING || (row->client == WAIT_BLOCK && row->server == WAIT_BLOCK);
}

static void progress(const struct compare *c, unsigned run, unsigned row, enum column_id column)
{
	char size[UNITS_TEXT];

	if (c->options->quiet || !isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r\033[Krun %u of %u: %s %s, %s", run + 1, c->options->runs,
		bench_mode_names[c->preset->rows[row].mode], units_size(size, c->preset->rows[row].size),
		compare_columns[column].title);
}

static void run_row(struct compare *c, unsigned run, unsigned r)
{
	const struct row *row = &c->preset->rows[r];

	for (unsigned k = 0; k < COL_COUNT && !child_interrupted; k++) {
		// Every other run in the opposite order: no column always comes after the same one.
		enum column_id column = (enum column_id)(run % 2 ? COL_COUNT - 1 - k : k);
		struct cell *cell = &c->cells[r][column];

		if (!compare_has(c, column) || !runs_here(row, column))
			continue;
		progress(c, run, r, column);
		measure_point(c, row, column, &cell->samples[cell->count]);
		if (!cell->samples[cell->count++].ok && !child_interrupted)
			note("failed", c->failure);
	}
}

static bool make_cells(struct compare *c)
{
	while (c->row_count < PRESET_ROWS && c->preset->rows[c->row_count].size)
		c->row_count++;
	for (unsigned r = 0; r < c->row_count; r++) {
		for (unsigned k = 0; k < COL_COUNT; k++) {
			c->cells[r][k].samples = calloc(c->options->runs, sizeof(struct sample));
			if (!c->cells[r][k].samples)
				return false;
		}
	}
	return true;
}

// A column that was not what it says is worse than none.
static bool check_carrier(const struct compare *c)
{
	bool ok = true;

	for (unsigned r = 0; r < c->row_count; r++) {
		const struct cell *cell = &c->cells[r][COL_RLM];
		char size[UNITS_TEXT];

		if (!cell->good || cell->ring_share >= RING_SHARE_MIN)
			continue;
		fprintf(stderr, "rlm-bench: librlm, %s %s: only %.1f %% of the bytes went through shared memory (%s)\n",
			bench_mode_names[c->preset->rows[r].mode], units_size(size, c->preset->rows[r].size),
			100 * cell->ring_share, cell->why);
		ok = false;
	}
	return ok;
}

static bool write_file(const char *path, const struct compare *c, int (*write)(const struct compare *, FILE *))
{
	FILE *f = fopen(path, "we");
	bool ok = f && write(c, f) == 0;

	if (f && fclose(f) != 0)
		ok = false;
	if (!ok)
		note(path, strerror(errno));
	return ok;
}

static int write_json(const struct compare *c, FILE *to)
{
	json_t *json = compare_to_json(c);
	int r = json_dumpf(json, to, JSON_INDENT(2) | JSON_REAL_PRECISION(9));

	json_decref(json);
	return r < 0 || fputc('\n', to) == EOF ? -EIO : 0;
}

static int report(struct compare *c)
{
	bool ok = c->failures == 0;

	for (unsigned r = 0; r < c->row_count; r++)
		for (unsigned k = 0; k < COL_COUNT; k++)
			cell_summarise(&c->cells[r][k]);
	table_print(c, stdout);
	ok &= check_carrier(c);
	if (c->options->json)
		ok &= write_file(c->options->json, c, write_json);
	if (c->options->svg && c->preset->plot)
		ok &= write_file(c->options->svg, c, svg_write);
	else if (c->options->svg)
		note("this preset is a table only, there is nothing to plot by size", NULL);
	return ok ? EXIT_OK : EXIT_FAILED;
}

int compare_main(const struct compare_options *o)
{
	static struct compare c;
	int status = EXIT_FAILED;

	c.options = o;
	c.preset = preset_find(o->preset);
	if (!c.preset) {
		fprintf(
		    stderr,
		    "rlm-bench: --preset %s: must be default, paper, rr, small, epoll, oversubscribed or plain-cost\n",
		    o->preset);
		return EXIT_USAGE;
	}
	if (!choose_columns(&c))
		return EXIT_USAGE;
	if (set_up(&c) == 0 && make_cells(&c)) {
		for (unsigned run = 0; run < o->runs; run++)
			for (unsigned r = 0; r < c.row_count && !child_interrupted; r++)
				run_row(&c, run, r);
		if (!o->quiet && isatty(STDERR_FILENO))
			fputs("\r\033[K", stderr);
		if (!child_interrupted)
			status = report(&c);
	}
	tear_down(&c);
	for (unsigned r = 0; r < c.row_count; r++)
		for (unsigned k = 0; k < COL_COUNT; k++)
			free(c.cells[r][k].samples);
	return child_interrupted ? 128 + child_interrupted : status;
}

// SPDX-License-Identifier: BSD-2-Clause
// One point of a comparison: starts the pairs of server and client, waits for them, reads what they found.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "compare.h"

#define PAIRS_MAX      8
#define SERVER_SECONDS 5   // to listen, and to end
#define SPARE_SECONDS  20  // that a client may take beyond its own time
#define BYTES_SECONDS  300 // for a given number of bytes
#define NUMBER_TEXT    32

struct pair {
	struct child server, client;
	char port[NUMBER_TEXT];
	char path[COMPARE_TEXT];
};

__attribute__((format(printf, 4, 5))) static void failed(struct compare *c, const struct row *row,
							 enum column_id column, const char *format, ...)
{
	char what[COMPARE_TEXT / 2];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	snprintf(c->failure, sizeof(c->failure), "%s, %s of %llu bytes: %s", compare_columns[column].title,
		 bench_mode_names[row->mode], (unsigned long long)row->size, what);
	c->failures++;
}

static void add(struct child_spec *s, const char *option, const char *value)
{
	unsigned n = 0;

	while (s->argv[n])
		n++;
	if (n + 3 > CHILD_ARGS)
		abort();
	s->argv[n] = option;
	if (value)
		s->argv[n + 1] = value;
}

static struct child_spec spec_of(const struct compare *c, enum column_id column, enum bench_side side)
{
	struct child_spec s = {.argv = {c->exe, side == SIDE_CLIENT ? "client" : "server"}, .netns = -1, .pass_fd = -1};

	s.errors = getenv("RLM_LOG") != NULL;
	if (column == COL_VETH)
		s.netns = c->veth.netns[side];
	if (column == COL_RLM || (column == COL_LOADED && side == SIDE_CLIENT)) {
		s.preload = c->lib;
		s.broker = c->broker;
	}
	return s;
}

static bool is_unix(enum column_id column)
{
	return column == COL_UNIX || column == COL_RING;
}

static bool start_server(struct compare *c, enum column_id column, struct pair *p)
{
	struct child_spec s = spec_of(c, column, SIDE_SERVER);
	char fd_text[NUMBER_TEXT];
	int ready[2];
	bool ok;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return false;
	snprintf(fd_text, sizeof(fd_text), "%d", ready[1]);
	s.pass_fd = ready[1];
	add(&s, "--once", NULL);
	add(&s, "--quiet", NULL);
	add(&s, "--ready-fd", fd_text);
	if (is_unix(column)) {
		add(&s, "--unix", p->path);
	} else {
		add(&s, "--bind", column == COL_VETH ? VETH_SERVER_ADDRESS : "127.0.0.1");
		add(&s, "--port", "0");
	}
	ok = child_start(&p->server, &s) == 0;
	close(ready[1]);
	ok = ok && child_read_line(ready[0], p->port, sizeof(p->port), clock_now() + SERVER_SECONDS * NS_PER_S);
	close(ready[0]);
	return ok;
}

static uint64_t point_time(const struct compare *c)
{
	return c->options->time_ns ? c->options->time_ns : c->preset->time_ns;
}

static bool start_client(struct compare *c, const struct row *row, enum column_id column, struct pair *p)
{
	struct child_spec s = spec_of(c, column, SIDE_CLIENT);
	char size[NUMBER_TEXT], length[NUMBER_TEXT], warmup[NUMBER_TEXT];

	s.capture = true;
	snprintf(size, sizeof(size), "%llu", (unsigned long long)row->size);
	add(&s, "--json", NULL);
	add(&s, "--mode", bench_mode_names[row->mode]);
	add(&s, "--size", size);
	if (c->preset->bytes && !c->options->time_ns) {
		snprintf(length, sizeof(length), "%llu", (unsigned long long)c->preset->bytes);
		add(&s, "--bytes", length);
	} else {
		double seconds = (double)point_time(c) / 1e9;

		snprintf(length, sizeof(length), "%.6f", seconds);
		// Long enough for the kernel's buffers to grow and for librlm to take the connection.
		snprintf(warmup, sizeof(warmup), "%.6f",
			 seconds / 4 < 0.1   ? 0.1
			 : seconds / 4 > 0.5 ? 0.5
					     : seconds / 4);
		add(&s, "--time", length);
		add(&s, "--warmup", warmup);
	}
	if (c->preset->recv_is_size)
		add(&s, "--recv-size", size);
	if (row->client == WAIT_EPOLL || row->client == WAIT_BUSY)
		add(&s, row->client == WAIT_EPOLL ? "--epoll" : "--busy", NULL);
	add(&s, "--server-wait", bench_wait_names[row->server]);
	if (is_unix(column)) {
		add(&s, "--unix", p->path);
	} else {
		add(&s, "--host", column == COL_VETH ? VETH_SERVER_ADDRESS : "127.0.0.1");
		add(&s, "--port", p->port);
	}
	if (column == COL_RING)
		add(&s, "--ring", NULL);
	return child_start(&p->client, &s) == 0;
}

static double number(const json_t *json, const char *name)
{
	return json_number_value(json_object_get(json, name));
}

// Adds one client's findings to the sample.
static bool take(const json_t *test, const struct row *row, struct sample *s)
{
	const json_t *summary = json_object_get(test, "summary");
	const json_t *carrier = json_object_get(test, "carrier");
	const char *why = json_string_value(json_object_get(carrier, "why"));
	double share = number(carrier, "ring_share");
	static const char *const fields[METRIC_COUNT] = {"bytes_per_second", "p50_ns", "per_second"};

	if (!summary || number(summary, fields[row->metric]) <= 0)
		return false;
	s->value += number(summary, fields[row->metric]);
	s->messages += number(summary, row->mode == MODE_STREAM ? "messages_per_second" : "per_second");
	s->cpu[SIDE_CLIENT] += number(summary, "client_cpu_percent");
	s->cpu[SIDE_SERVER] += number(summary, "server_cpu_percent");
	s->p99 += number(summary, "p99_ns");
	s->p999 += number(summary, "p999_ns");
	if (share < s->ring_share) {
		s->ring_share = share;
		snprintf(s->why, sizeof(s->why), "%s", why ? why : "");
	}
	return true;
}

static bool collect(struct compare *c, const struct row *row, enum column_id column, struct pair *p, struct sample *s,
		    uint64_t deadline)
{
	int status;
	char *text = child_output(&p->client, deadline, &status);
	json_t *json = text ? json_loads(text, 0, NULL) : NULL;
	const char *error = json_string_value(json_object_get(json, "error"));
	bool ok = json && !error && status == 0 && take(json_array_get(json_object_get(json, "tests"), 0), row, s);

	if (!text)
		failed(c, row, column, "did not end in time");
	else if (error)
		failed(c, row, column, "%s", error);
	else if (!ok && WIFSIGNALED(status))
		failed(c, row, column, "the client died of signal %d", WTERMSIG(status));
	else if (!ok)
		failed(c, row, column, "the client found nothing (exit status %d)", WEXITSTATUS(status));
	json_decref(json);
	free(text);
	return ok;
}

void measure_point(struct compare *c, const struct row *row, enum column_id column, struct sample *s)
{
	struct pair pairs[PAIRS_MAX] = {0};
	unsigned n = c->preset->pairs, started = 0;
	uint64_t deadline;

	*s = (struct sample){.ok = true, .ring_share = 1};
	for (unsigned i = 0; i < n && s->ok; i++) {
		snprintf(pairs[i].path, sizeof(pairs[i].path), "%s/s%u", c->dir, i);
		s->ok = start_server(c, column, &pairs[i]);
	}
	if (!s->ok)
		failed(c, row, column, "the server did not start");
	for (; started < n && s->ok; started++)
		s->ok = start_client(c, row, column, &pairs[started]);
	deadline = clock_now() + point_time(c) + (c->preset->bytes ? BYTES_SECONDS : SPARE_SECONDS) * NS_PER_S;
	for (unsigned i = 0; i < started; i++)
		if (!collect(c, row, column, &pairs[i], s, s->ok ? deadline : 0))
			s->ok = false;
	for (unsigned i = 0; i < n; i++) {
		if (!s->ok)
			child_stop(&pairs[i].server, SIGKILL);
		else if (!child_end(&pairs[i].server, clock_now() + SERVER_SECONDS * NS_PER_S) && !child_interrupted)
			failed(c, row, column, "the server did not end");
		unlink(pairs[i].path);
	}
	if (row->metric == METRIC_TIME)
		s->value /= n;
	s->p99 /= n;
	s->p999 /= n;
}

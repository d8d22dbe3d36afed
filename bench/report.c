// SPDX-License-Identifier: BSD-2-Clause
// What a client prints for people.
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "units.h"

static const char *carrier_name(const struct bench_params *p, const struct net_address *a)
{
	return p->ring_size ? "bare ring" : a->path ? "UNIX socket" : "TCP";
}

void report_header(const struct bench_params *p, const struct net_address *a)
{
	static const char *const titles[MODE_COUNT] = {"stream", "request and response",
						       "connect, request, response, close"};
	static const char *const waits[WAIT_COUNT] = {"blocking", "epoll", "busy"};

	printf("%s over %s, %u connection%s, client %s, server %s%s%s\n", titles[p->mode], carrier_name(p, a),
	       p->parallel, p->parallel == 1 ? "" : "s", waits[p->wait[SIDE_CLIENT]], waits[p->wait[SIDE_SERVER]],
	       p->bidir	    ? ", both directions"
	       : p->reverse ? ", server to client"
			    : "",
	       p->verify ? ", verified" : "");
	if (p->mode == MODE_STREAM)
		printf("%10s %12s %12s %12s %11s %11s  %s\n", "size", "up", "down", "messages", "client CPU",
		       "server CPU", "carrier");
	else
		printf("%10s %12s %9s %9s %9s %9s %9s %11s %11s  %s\n", "size", "rate", "mean", "p50", "p99", "p99.9",
		       "max", "client CPU", "server CPU", "carrier");
	fflush(stdout);
}

static double field(const json_t *json, const char *name)
{
	return json_number_value(json_object_get(json, name));
}

static const char *rate_text(char *text, const json_t *summary, const char *name, const char *unit)
{
	char rate[UNITS_TEXT];
	json_t *value = json_object_get(summary, name);

	if (!value)
		return "-";
	snprintf(text, UNITS_TEXT + 8, "%s%s", units_rate(rate, json_number_value(value)), unit);
	return text;
}

static const char *carrier_text(char *text, size_t size, const json_t *test)
{
	const json_t *carrier = json_object_get(test, "carrier");
	const char *name = json_string_value(json_object_get(carrier, "name"));
	const char *why = json_string_value(json_object_get(carrier, "why"));

	if (strcmp(name, "ring") == 0)
		snprintf(text, size, "shared memory (%.2f %% of the bytes)", 100 * field(carrier, "ring_share"));
	else if (strcmp(name, "plain") == 0)
		snprintf(text, size, "socket (%s)", why);
	else
		snprintf(text, size, "%s", name);
	return text;
}

void report_test(const json_t *test, const struct bench_params *p)
{
	const json_t *s = json_object_get(test, "summary");
	char size[UNITS_TEXT], a[UNITS_TEXT + 8], b[UNITS_TEXT + 8], c[UNITS_TEXT + 8], t[5][UNITS_TEXT], carrier[128];

	carrier_text(carrier, sizeof(carrier), test);
	if (p->mode == MODE_STREAM)
		printf("%10s %12s %12s %12s %9.0f %% %9.0f %%  %s\n", units_size(size, p->size),
		       rate_text(a, s, "up_bytes_per_second", "B/s"), rate_text(b, s, "down_bytes_per_second", "B/s"),
		       rate_text(c, s, "messages_per_second", "/s"), field(s, "client_cpu_percent"),
		       field(s, "server_cpu_percent"), carrier);
	else
		printf("%10s %12s %9s %9s %9s %9s %9s %9.0f %% %9.0f %%  %s\n", units_size(size, p->size),
		       rate_text(a, s, "per_second", "/s"), units_duration(t[0], field(s, "mean_ns")),
		       units_duration(t[1], field(s, "p50_ns")), units_duration(t[2], field(s, "p99_ns")),
		       units_duration(t[3], field(s, "p999_ns")), units_duration(t[4], field(s, "max_ns")),
		       field(s, "client_cpu_percent"), field(s, "server_cpu_percent"), carrier);
	fflush(stdout);
}

struct report_intervals {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t stop;
	const struct bench_run *run;
	uint64_t interval;
	bool quiet, stopped;
	json_t *json;
};

static void take(const struct bench_run *run, uint64_t count[2])
{
	count[0] = count[1] = 0;
	for (unsigned i = 0; i < run->params->parallel; i++) {
		count[0] += atomic_load_explicit(&run->conns[i].tx_count, memory_order_relaxed);
		count[1] += atomic_load_explicit(&run->conns[i].rx_count, memory_order_relaxed);
	}
}

static void report_interval(struct report_intervals *r, double from, double to, double tx, double rx)
{
	char a[UNITS_TEXT], b[UNITS_TEXT];
	bool stream = r->run->params->mode == MODE_STREAM;

	if (stream)
		json_array_append_new(r->json, json_pack("{s:f, s:f, s:f, s:f}", "from_s", from, "to_s", to,
							 "up_bytes_per_second", tx, "down_bytes_per_second", rx));
	else
		json_array_append_new(r->json,
				      json_pack("{s:f, s:f, s:f}", "from_s", from, "to_s", to, "per_second", tx));
	if (r->quiet)
		return;
	if (stream)
		printf("  %8.2f s to %.2f s: up %sB/s, down %sB/s\n", from, to, units_rate(a, tx), units_rate(b, rx));
	else
		printf("  %8.2f s to %.2f s: %s/s\n", from, to, units_rate(a, tx));
	fflush(stdout);
}

static void *intervals_main(void *arg)
{
	struct report_intervals *r = arg;
	uint64_t start = clock_now(), last = start, now, before[2], count[2];

	take(r->run, before);
	pthread_mutex_lock(&r->lock);
	for (uint64_t next = start + r->interval; !r->stopped; next += r->interval) {
		struct timespec until = {(time_t)(next / NS_PER_S), (long)(next % NS_PER_S)};
		int e = 0;
		double seconds;

		while (!r->stopped && e != ETIMEDOUT)
			e = pthread_cond_timedwait(&r->stop, &r->lock, &until);
		if (r->stopped)
			break;
		now = clock_now();
		seconds = (double)(now - last) / 1e9;
		take(r->run, count);
		report_interval(r, (double)(last - start) / 1e9, (double)(now - start) / 1e9,
				(double)(count[0] - before[0]) / seconds, (double)(count[1] - before[1]) / seconds);
		memcpy(before, count, sizeof(before));
		last = now;
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

struct report_intervals *report_intervals_start(const struct bench_run *run, uint64_t interval_ns, bool quiet)
{
	struct report_intervals *r = calloc(1, sizeof(*r));
	pthread_condattr_t attr;

	if (!r)
		return NULL;
	*r = (struct report_intervals){.run = run, .interval = interval_ns, .quiet = quiet, .json = json_array()};
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->stop, &attr);
	pthread_condattr_destroy(&attr);
	if (pthread_create(&r->thread, NULL, intervals_main, r) == 0)
		return r;
	json_decref(r->json);
	free(r);
	return NULL;
}

json_t *report_intervals_stop(struct report_intervals *r)
{
	json_t *json = r->json;

	pthread_mutex_lock(&r->lock);
	r->stopped = true;
	pthread_cond_signal(&r->stop);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	pthread_cond_destroy(&r->stop);
	pthread_mutex_destroy(&r->lock);
	free(r);
	return json;
}

// SPDX-License-Identifier: BSD-2-Clause
// The client: runs its tests one after the other and puts both ends' findings together.
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "crr.h"
#include "options.h"
#include "report.h"
#include "result.h"

#define FAIL_TEXT (BENCH_ERROR + 64)

static char failure[FAIL_TEXT];

static int fail(int r, const char *what)
{
	snprintf(failure, sizeof(failure), "%s: %s", what, strerror(-r));
	return r;
}

// The server's answer; NULL when it refused or has gone.
static json_t *ask(int control, json_t *question)
{
	json_t *answer;
	const char *error;

	if (control_send(control, question) < 0 || !(answer = control_receive(control))) {
		snprintf(failure, sizeof(failure), "the server has gone");
		return NULL;
	}
	error = json_string_value(json_object_get(answer, "error"));
	if (!error || json_object_get(answer, "cpu")) // a result may contain an error
		return answer;
	snprintf(failure, sizeof(failure), "server: %s", error);
	json_decref(answer);
	return NULL;
}

static int open_control(const struct net_peer *peer)
{
	struct greeting g = greeting_make(GREETING_CONTROL, 0, 0);
	int fd = net_connect(peer);
	int r;

	if (fd < 0)
		return fail(fd, "cannot connect");
	r = greeting_send(fd, &g, -1);
	if (r == 0)
		return fd;
	close(fd);
	return fail(r, "cannot greet the server");
}

static int open_conn(struct bench_conn *c, const struct bench_params *p, const struct net_peer *peer, uint64_t token)
{
	struct greeting g = greeting_make(GREETING_DATA, token, c->index);
	int memfd = -1;
	int r;

	c->fd = net_connect(peer);
	if (c->fd < 0) {
		r = c->fd;
		c->fd = -1;
		return fail(r, "cannot connect");
	}
	if (p->nodelay)
		net_nodelay(c->fd);
	if (p->ring_size && !(c->ring = ring_end_new(p->ring_size, c->fd, &memfd)))
		return fail(-errno, "cannot make shared memory");
	r = greeting_send(c->fd, &g, memfd);
	if (memfd >= 0)
		close(memfd);
	return r < 0 ? fail(r, "cannot greet the server") : 0;
}

static int open_conns(struct bench_run *run, const struct net_peer *peer, uint64_t token)
{
	const struct bench_params *p = run->params;

	crr_peer = *peer;
	crr_token = token;
	if (p->mode == MODE_CRR)
		return 0;
	for (unsigned i = 0; i < p->parallel; i++) {
		int r = open_conn(&run->conns[i], p, peer, token);

		if (r < 0)
			return r;
	}
	return 0;
}

// Describes the test and returns the session's token, or 0.
static uint64_t open_session(int control, const struct bench_params *p)
{
	json_t *answer = ask(control, params_to_json(p));
	const char *text = json_string_value(json_object_get(answer, "token"));
	uint64_t token = text ? strtoull(text, NULL, 16) : 0;

	if (answer && !token)
		snprintf(failure, sizeof(failure), "the server does not speak this protocol");
	json_decref(answer);
	return token;
}

// The part between the connections' being there and their end.
static int measure(struct bench_run *run, int control, json_t *test, uint64_t interval_ns, bool quiet)
{
	struct report_intervals *intervals;
	json_t *answer = ask(control, json_pack("{s:b}", "start", 1));
	int r;

	if (!answer)
		return -ECONNABORTED;
	json_decref(answer);
	r = run_start(run);
	if (r < 0)
		return fail(r, "cannot start");
	intervals = interval_ns ? report_intervals_start(run, interval_ns, quiet) : NULL;
	run_join(run);
	if (intervals)
		json_object_set_new(test, "intervals", report_intervals_stop(intervals));
	json_object_set_new(test, "client", result_of_side(run));
	answer = ask(control, json_pack("{s:b}", "finish", 1));
	if (!answer)
		return -ECONNABORTED;
	json_object_set_new(test, "server", answer);
	result_summarise(test, run->params);
	return 0;
}

// What either side complains about: wrong data rather than the broken connections that follow from it.
static int verdict(const json_t *test)
{
	static const char *const sides[] = {"client", "server"};
	int status = EXIT_OK;

	for (int i = 0; i < 2; i++) {
		const json_t *side = json_object_get(test, sides[i]);
		const char *error = json_string_value(json_object_get(side, "error"));
		bool wrong = json_is_true(json_object_get(side, "wrong_data"));

		if (!error || (status != EXIT_OK && !wrong))
			continue;
		if (status == EXIT_WRONG_DATA)
			continue;
		snprintf(failure, sizeof(failure), "%s%s", wrong ? "" : i ? "server: " : "client: ", error);
		status = wrong ? EXIT_WRONG_DATA : EXIT_FAILED;
	}
	return status;
}

static int run_test(const struct client_options *o, const struct net_peer *peer, const struct bench_params *p,
		    json_t *test)
{
	struct bench_run *run;
	uint64_t token;
	int control, status = EXIT_FAILED;

	control = open_control(peer);
	if (control < 0)
		return EXIT_FAILED;
	token = open_session(control, p);
	if (!token)
		goto out_control;
	run = run_new(p, SIDE_CLIENT);
	if (!run) {
		fail(-ENOMEM, "cannot start");
		goto out_control;
	}
	if (open_conns(run, peer, token) == 0 && measure(run, control, test, o->interval_ns, o->json) == 0)
		status = verdict(test);
	run_free(run);
out_control:
	close(control);
	return status;
}

static uint64_t round_up(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

static struct bench_params params_of_size(const struct client_options *o, uint64_t size)
{
	struct bench_params p = o->params;

	p.size = size;
	if (o->response_follows)
		p.response = size;
	if (o->recv_follows)
		p.recv_size = size > p.recv_size ? size : p.recv_size;
	if (p.mode == MODE_STREAM && p.limit) {
		p.limit = round_up(p.limit, size);
		p.warmup_limit = round_up(p.warmup_limit, size);
	}
	return p;
}

int client_main(const struct client_options *o)
{
	struct net_peer peer;
	json_t *tests = json_array(), *all;
	const char *wrong;
	int status = EXIT_OK;
	int r = net_resolve(&o->address, &peer, &wrong);

	if (r < 0) {
		fprintf(stderr, "rlm-bench: %s: %s\n", o->address.host ? o->address.host : o->address.port, wrong);
		return EXIT_FAILED;
	}
	for (uint64_t size = o->params.size; size <= o->size_to && status == EXIT_OK; size *= 2) {
		struct bench_params p = params_of_size(o, size);
		json_t *test = json_object();

		json_object_set_new(test, "params", params_to_json(&p));
		if (!o->json && size == o->params.size)
			report_header(&p, &o->address);
		status = run_test(o, &peer, &p, test);
		if (!o->json && json_object_get(test, "summary"))
			report_test(test, &p);
		json_array_append_new(tests, test);
	}
	all = json_pack("{s:i, s:o}", "version", 1, "tests", tests);
	if (status != EXIT_OK) {
		fprintf(stderr, "rlm-bench: %s\n", failure);
		json_object_set_new(all, "error", json_string(failure));
	}
	if (o->json) {
		json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
		putchar('\n');
	}
	json_decref(all);
	return status;
}

// SPDX-License-Identifier: BSD-2-Clause
// One side of a test: its connections, its threads, and what they found.
#include "run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pattern.h"

#define BUFFER_ALIGN 4096u

static int conn_init(struct bench_conn *c, const struct bench_params *p, enum bench_side side, unsigned index)
{
	bool server = side == SIDE_SERVER;
	uint64_t tx = p->size > p->response ? p->size : p->response;
	uint64_t rx = tx > p->recv_size ? tx : p->recv_size;

	c->fd = -1;
	c->index = index;
	c->tx_seed = pattern_seed(p->seed, index, server);
	c->rx_seed = pattern_seed(p->seed, index, !server);
	meter_init(&c->rx_meter, p);
	if (posix_memalign((void **)&c->tx_buf, BUFFER_ALIGN, tx) ||
	    posix_memalign((void **)&c->rx_buf, BUFFER_ALIGN, rx))
		return -ENOMEM;
	pattern_fill(c->tx_seed, 0, c->tx_buf, tx);
	memset(c->rx_buf, 0, rx); // present before it is measured
	return 0;
}

static void worker_init(struct bench_run *run, void (*work)(struct bench_worker *), struct bench_conn **conns,
			unsigned n)
{
	struct bench_worker *w = &run->workers[run->worker_count++];

	w->run = run;
	w->work = work;
	w->conns = conns;
	w->conn_count = n;
}

// Blocking ends: a thread for each direction of each connection.
static void plan_blocking(struct bench_run *run)
{
	const struct bench_params *p = run->params;

	for (unsigned i = 0; i < p->parallel; i++) {
		struct bench_conn **c = &run->order[i];

		*c = &run->conns[i];
		if (p->mode == MODE_CRR)
			worker_init(run, work_crr_client, c, 1);
		else if (p->mode == MODE_RR)
			worker_init(run, run->side == SIDE_CLIENT ? work_rr_client : work_rr_server, c, 1);
		if (p->mode != MODE_STREAM)
			continue;
		if (params_sends(p, run->side))
			worker_init(run, work_stream_tx, c, 1);
		if (params_receives(p, run->side))
			worker_init(run, work_stream_rx, c, 1);
	}
}

static void plan_events(struct bench_run *run)
{
	const struct bench_params *p = run->params;
	unsigned at = 0;

	for (unsigned t = 0; t < p->threads; t++) {
		unsigned n = p->parallel / p->threads + (t < p->parallel % p->threads);

		worker_init(run, work_events, run->order + at, n);
		for (unsigned i = 0; i < n; i++, at++)
			run->order[at] = &run->conns[at];
	}
}

static int make_histograms(struct bench_run *run)
{
	if (run->side != SIDE_CLIENT || run->params->mode == MODE_STREAM)
		return 0;
	for (unsigned i = 0; i < run->worker_count; i++) {
		run->workers[i].hist = malloc(sizeof(struct bench_hist));
		if (!run->workers[i].hist)
			return -ENOMEM;
		hist_init(run->workers[i].hist);
	}
	return 0;
}

struct bench_run *run_new(const struct bench_params *p, enum bench_side side)
{
	struct bench_run *run = calloc(1, sizeof(*run));

	if (!run)
		return NULL;
	run->params = p;
	run->side = side;
	run->order = calloc(p->parallel, sizeof(*run->order));
	run->workers = calloc(2 * p->parallel, sizeof(*run->workers));
	run->conns = aligned_alloc(64, p->parallel * sizeof(*run->conns));
	if (!run->conns || !run->order || !run->workers)
		goto err_run;
	memset(run->conns, 0, p->parallel * sizeof(*run->conns));
	for (unsigned i = 0; i < p->parallel; i++)
		run->conns[i].fd = -1;
	for (unsigned i = 0; i < p->parallel; i++)
		if (conn_init(&run->conns[i], p, side, i) < 0)
			goto err_run;
	if (p->wait[side] == WAIT_BLOCK)
		plan_blocking(run);
	else
		plan_events(run);
	if (make_histograms(run) < 0)
		goto err_run;
	return run;

err_run:
	run_free(run);
	return NULL;
}

// A peer that still sends to a side that has given up must not wait for room for ever: only close() refuses its data.
static void close_conns(struct bench_run *run)
{
	for (unsigned i = 0; i < run->params->parallel; i++) {
		if (run->conns[i].fd >= 0)
			close(run->conns[i].fd);
		run->conns[i].fd = -1;
	}
}

void run_free(struct bench_run *run)
{
	if (run->conns)
		close_conns(run);
	for (unsigned i = 0; run->conns && i < run->params->parallel; i++) {
		struct bench_conn *c = &run->conns[i];

		if (c->ring)
			ring_end_free(c->ring);
		free(c->tx_buf);
		free(c->rx_buf);
	}
	for (unsigned i = 0; run->workers && i < run->worker_count; i++)
		free(run->workers[i].hist);
	free(run->conns);
	free(run->order);
	free(run->workers);
	free(run);
}

static void *worker_main(void *arg)
{
	struct bench_worker *w = arg;

	w->work(w);
	return NULL;
}

int run_start(struct bench_run *run)
{
	run->cpu = cpu_now();
	for (unsigned i = 0; i < run->worker_count; i++) {
		struct bench_worker *w = &run->workers[i];
		int e;

		w->tx_end = sender_end(run->params);
		e = pthread_create(&w->thread, NULL, worker_main, w);
		if (e) {
			// Those that run see their connections end.
			worker_fail(w, NULL, -e, "cannot start a thread");
			for (unsigned k = 0; k < i; k++)
				pthread_join(run->workers[k].thread, NULL);
			return -e;
		}
	}
	return 0;
}

int run_join(struct bench_run *run)
{
	const struct bench_worker *failed;

	for (unsigned i = 0; i < run->worker_count; i++)
		pthread_join(run->workers[i].thread, NULL);
	run->cpu = cpu_since(run->cpu);
	close_conns(run);
	failed = run_failed(run);
	return failed ? failed->status : 0;
}

// Wrong data says more than the broken connections that follow from it.
const struct bench_worker *run_failed(const struct bench_run *run)
{
	const struct bench_worker *failed = NULL;

	for (unsigned i = 0; i < run->worker_count; i++) {
		const struct bench_worker *w = &run->workers[i];

		if (w->status && (!failed || (w->status == -EILSEQ && failed->status != -EILSEQ)))
			failed = w;
	}
	return failed;
}

static void run_break_off(struct bench_run *run)
{
	for (unsigned i = 0; i < run->params->parallel; i++) {
		if (run->conns[i].ring)
			ring_end_finish(run->conns[i].ring);
		if (run->conns[i].fd >= 0)
			shutdown(run->conns[i].fd, SHUT_RDWR);
	}
}

void worker_fail(struct bench_worker *w, const struct bench_conn *c, int status, const char *what)
{
	if (!w->status) {
		w->status = status;
		if (c)
			snprintf(w->error, sizeof(w->error), "connection %u: %s: %s", c->index, what,
				 strerror(-status));
		else
			snprintf(w->error, sizeof(w->error), "%s: %s", what, strerror(-status));
	}
	run_break_off(w->run);
}

void worker_wrong_data(struct bench_worker *w, const struct bench_conn *c, uint64_t position, const void *data,
		       size_t n, size_t at)
{
	char text[BENCH_ERROR - 64];

	pattern_explain(c->rx_seed, position, data, n, at, text, sizeof(text));
	w->status = -EILSEQ;
	snprintf(w->error, sizeof(w->error), "connection %u, %s: %s", c->index,
		 w->run->side == SIDE_CLIENT ? "server to client" : "client to server", text);
	run_break_off(w->run);
}

void conn_note_carrier(struct bench_conn *c)
{
	if (!c->ring && rlm_socket_info(c->fd, &c->info) == 0)
		c->info_valid = true;
}

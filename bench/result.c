// SPDX-License-Identifier: BSD-2-Clause
// What a test found, as JSON.
#include "result.h"

#include <errno.h>

void carrier_add(struct carrier_sum *s, const struct rlm_info *info)
{
	s->ring += info->tx_bytes_ring + info->rx_bytes_ring;
	s->plain += info->tx_bytes_plain + info->rx_bytes_plain;
	if (info->why != RLM_WHY_ACCELERATED || !s->known)
		s->why = info->why;
	s->known = true;
}

json_t *carrier_to_json(const struct carrier_sum *s)
{
	return json_pack("{s:I, s:I, s:s}", "ring_bytes", (json_int_t)s->ring, "plain_bytes", (json_int_t)s->plain,
			 "why", s->known ? rlm_why_words(s->why) : "unknown");
}

json_t *result_of_cpu(const struct bench_cpu *cpu)
{
	double wall = cpu->wall ? (double)cpu->wall : 1;

	return json_pack("{s:f, s:f, s:f, s:f}", "wall_s", (double)cpu->wall / 1e9, "user_s", (double)cpu->user / 1e9,
			 "system_s", (double)cpu->system / 1e9, "percent",
			 100 * (double)(cpu->user + cpu->system) / wall);
}

static json_t *rx_to_json(const struct bench_run *run)
{
	uint64_t bytes = 0, calls = 0;
	double rate = 0, seconds = 0;

	for (unsigned i = 0; i < run->params->parallel; i++) {
		const struct bench_conn *c = &run->conns[i];
		double window = (double)(c->rx_meter.t1 - c->rx_meter.t0) / 1e9;

		bytes += atomic_load(&c->rx_count);
		calls += atomic_load(&c->rx_calls);
		rate += meter_rate(&c->rx_meter);
		if (window > seconds)
			seconds = window;
	}
	return json_pack("{s:I, s:I, s:f, s:f}", "bytes", (json_int_t)bytes, "calls", (json_int_t)calls, "seconds",
			 seconds, "bytes_per_second", rate);
}

static json_t *tx_to_json(const struct bench_run *run)
{
	uint64_t bytes = 0, calls = 0;

	for (unsigned i = 0; i < run->params->parallel; i++) {
		bytes += atomic_load(&run->conns[i].tx_count);
		calls += atomic_load(&run->conns[i].tx_calls);
	}
	return json_pack("{s:I, s:I}", "bytes", (json_int_t)bytes, "calls", (json_int_t)calls);
}

static json_t *times_to_json(const struct bench_run *run)
{
	static struct bench_hist all; // too large for a stack; one test at a time in a client
	double rate = 0;

	hist_init(&all);
	for (unsigned i = 0; i < run->worker_count; i++) {
		const struct bench_worker *w = &run->workers[i];

		hist_merge(&all, w->hist);
		if (w->t1 > w->t0)
			rate += (double)w->hist->count * 1e9 / (double)(w->t1 - w->t0);
	}
	return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "count", (json_int_t)all.count, "per_second", rate,
			 "mean_ns", hist_mean(&all), "min_ns", all.count ? (double)all.min : 0.0, "p50_ns",
			 hist_quantile(&all, 0.5), "p99_ns", hist_quantile(&all, 0.99), "p999_ns",
			 hist_quantile(&all, 0.999), "max_ns", (double)all.max);
}

json_t *result_of_side(const struct bench_run *run)
{
	const struct bench_params *p = run->params;
	const struct bench_worker *failed = run_failed(run);
	json_t *side = json_object();
	struct carrier_sum carrier = {0};

	json_object_set_new(side, "cpu", result_of_cpu(&run->cpu));
	for (unsigned i = 0; i < p->parallel; i++)
		if (run->conns[i].info_valid)
			carrier_add(&carrier, &run->conns[i].info);
	json_object_set_new(side, "carrier", carrier_to_json(&carrier));
	if (p->mode == MODE_STREAM && params_sends(p, run->side))
		json_object_set_new(side, "tx", tx_to_json(run));
	if (p->mode == MODE_STREAM && params_receives(p, run->side))
		json_object_set_new(side, "rx", rx_to_json(run));
	if (p->mode != MODE_STREAM && run->side == SIDE_CLIENT)
		json_object_set_new(side, "times", times_to_json(run));
	if (failed) {
		json_object_set_new(side, "error", json_string(failed->error));
		json_object_set_new(side, "wrong_data", json_boolean(failed->status == -EILSEQ));
	}
	return side;
}

static double number_at(const json_t *json, const char *a, const char *b, const char *c)
{
	return json_number_value(json_object_get(json_object_get(json_object_get(json, a), b), c));
}

static void summarise_stream(json_t *summary, const json_t *test, const struct bench_params *p)
{
	double up = number_at(test, "server", "rx", "bytes_per_second");
	double down = number_at(test, "client", "rx", "bytes_per_second");

	if (params_sends(p, SIDE_CLIENT))
		json_object_set_new(summary, "up_bytes_per_second", json_real(up));
	if (params_sends(p, SIDE_SERVER))
		json_object_set_new(summary, "down_bytes_per_second", json_real(down));
	json_object_set_new(summary, "bytes_per_second", json_real(up + down));
	json_object_set_new(summary, "messages_per_second", json_real((up + down) / (double)p->size));
}

void result_summarise(json_t *test, const struct bench_params *p)
{
	json_t *summary = json_object();
	double ring = number_at(test, "client", "carrier", "ring_bytes");
	double plain = number_at(test, "client", "carrier", "plain_bytes");
	const char *why =
	    json_string_value(json_object_get(json_object_get(json_object_get(test, "client"), "carrier"), "why"));

	if (p->mode == MODE_STREAM)
		summarise_stream(summary, test, p);
	else
		json_object_update(summary, json_object_get(json_object_get(test, "client"), "times"));
	json_object_set_new(summary, "client_cpu_percent", json_real(number_at(test, "client", "cpu", "percent")));
	json_object_set_new(summary, "server_cpu_percent", json_real(number_at(test, "server", "cpu", "percent")));
	json_object_set_new(test, "summary", summary);
	json_object_set_new(test, "carrier",
			    json_pack("{s:s, s:f, s:s}", "name",
				      p->ring_size ? "bare ring"
				      : ring > 0   ? "ring"
						   : "plain",
				      "ring_share", ring + plain > 0 ? ring / (ring + plain) : 0.0, "why",
				      why ? why : ""));
}

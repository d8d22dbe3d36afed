// SPDX-License-Identifier: BSD-2-Clause
// What one test does: names, limits, JSON.
#include "params.h"

#include <errno.h>
#include <string.h>

#include "clock.h"
#include "rlm/layout.h"

const char *const bench_mode_names[MODE_COUNT] = {"stream", "rr", "crr"};
const char *const bench_wait_names[WAIT_COUNT] = {"block", "epoll", "busy"};

int params_name(const char *const *names, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -EINVAL;
}

static const char *check_sizes(const struct bench_params *p)
{
	if (p->size < 1 || p->size > PARAMS_SIZE_MAX || p->response < 1 || p->response > PARAMS_SIZE_MAX ||
	    p->recv_size < 1 || p->recv_size > PARAMS_SIZE_MAX)
		return "sizes must be from 1 byte to 64 MiB";
	if (p->mode == MODE_CRR && p->size < PARAMS_CRR_MIN)
		return "crr needs requests of at least 16 bytes";
	return NULL;
}

static const char *check_ring(const struct bench_params *p)
{
	if (p->ring_size < RLM_RING_SIZE_MIN || p->ring_size > RLM_RING_SIZE_MAX || (p->ring_size & (p->ring_size - 1)))
		return "the ring size must be a power of two from 4K to 64M";
	if (p->mode == MODE_CRR || p->bidir || p->wait[0] != WAIT_BLOCK || p->wait[1] != WAIT_BLOCK)
		return "the bare ring has one-way streams and rr with blocking ends only";
	return NULL;
}

const char *params_check(const struct bench_params *p)
{
	const char *wrong = check_sizes(p);

	if (wrong)
		return wrong;
	if (p->parallel < 1 || p->parallel > PARAMS_PARALLEL_MAX)
		return "the number of connections must be from 1 to 1024";
	if (p->threads < 1 || p->threads > p->parallel)
		return "there cannot be more threads than connections";
	if (p->threads < p->parallel && p->mode != MODE_CRR && (p->wait[0] == WAIT_BLOCK || p->wait[1] == WAIT_BLOCK))
		return "several connections per thread need --epoll or --busy";
	if (p->mode == MODE_CRR && (p->threads != p->parallel || p->wait[0] != WAIT_BLOCK))
		return "crr uses blocking calls and one thread per connection";
	if (p->time_ns > 86400 * NS_PER_S || p->warmup_ns > 86400 * NS_PER_S)
		return "time is limited to a day";
	if (!p->limit && !p->time_ns)
		return "the test has no end";
	if (p->mode != MODE_STREAM && (p->reverse || p->bidir))
		return "--reverse and --bidir are for streams";
	return p->ring_size ? check_ring(p) : NULL;
}

json_t *params_to_json(const struct bench_params *p)
{
	return json_pack(
	    "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:b, s:b, s:b, s:b}", "mode",
	    bench_mode_names[p->mode], "client_wait", bench_wait_names[p->wait[SIDE_CLIENT]], "server_wait",
	    bench_wait_names[p->wait[SIDE_SERVER]], "size", (json_int_t)p->size, "response", (json_int_t)p->response,
	    "recv_size", (json_int_t)p->recv_size, "time_ns", (json_int_t)p->time_ns, "warmup_ns",
	    (json_int_t)p->warmup_ns, "limit", (json_int_t)p->limit, "warmup_limit", (json_int_t)p->warmup_limit,
	    "seed", (json_int_t)p->seed, "corrupt", (json_int_t)p->corrupt, "parallel", (int)p->parallel, "threads",
	    (int)p->threads, "ring_size", (int)p->ring_size, "verify", p->verify, "reverse", p->reverse, "bidir",
	    p->bidir, "nodelay", p->nodelay);
}

const char *params_from_json(struct bench_params *p, const json_t *json)
{
	json_int_t size, response, recv_size, time_ns, warmup_ns, limit, warmup_limit, seed, corrupt;
	const char *mode, *wait[2];
	int parallel, threads, ring_size, verify, reverse, bidir, nodelay;
	int m, c, s;

	if (json_unpack(
		(json_t *)json,
		"{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:b, s:b, s:b, s:b}",
		"mode", &mode, "client_wait", &wait[0], "server_wait", &wait[1], "size", &size, "response", &response,
		"recv_size", &recv_size, "time_ns", &time_ns, "warmup_ns", &warmup_ns, "limit", &limit, "warmup_limit",
		&warmup_limit, "seed", &seed, "corrupt", &corrupt, "parallel", &parallel, "threads", &threads,
		"ring_size", &ring_size, "verify", &verify, "reverse", &reverse, "bidir", &bidir, "nodelay",
		&nodelay) < 0)
		return "malformed test description";
	m = params_name(bench_mode_names, MODE_COUNT, mode);
	c = params_name(bench_wait_names, WAIT_COUNT, wait[0]);
	s = params_name(bench_wait_names, WAIT_COUNT, wait[1]);
	if (m < 0 || c < 0 || s < 0)
		return "unknown mode";
	*p = (struct bench_params){
	    .mode = (enum bench_mode)m,
	    .wait = {(enum bench_wait)c, (enum bench_wait)s},
	    .size = (uint64_t)size,
	    .response = (uint64_t)response,
	    .recv_size = (uint64_t)recv_size,
	    .time_ns = (uint64_t)time_ns,
	    .warmup_ns = (uint64_t)warmup_ns,
	    .limit = (uint64_t)limit,
	    .warmup_limit = (uint64_t)warmup_limit,
	    .seed = (uint64_t)seed,
	    .corrupt = (uint64_t)corrupt,
	    .parallel = (uint32_t)parallel,
	    .threads = (uint32_t)threads,
	    .ring_size = (uint32_t)ring_size,
	    .verify = verify,
	    .reverse = reverse,
	    .bidir = bidir,
	    .nodelay = nodelay,
	};
	return params_check(p);
}

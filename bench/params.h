// SPDX-License-Identifier: BSD-2-Clause
// What one test does. The client decides, and tells the server in JSON.
#ifndef BENCH_PARAMS_H
#define BENCH_PARAMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum bench_mode {
	MODE_STREAM,
	MODE_RR,  // request and response on a standing connection
	MODE_CRR, // connect, request, response, close
	MODE_COUNT,
};

enum bench_wait {
	WAIT_BLOCK, // blocking calls, one connection per thread
	WAIT_EPOLL, // non-blocking, level-triggered epoll
	WAIT_BUSY,  // non-blocking, tried again at once
	WAIT_COUNT,
};

enum bench_side {
	SIDE_CLIENT,
	SIDE_SERVER,
};

#define PARAMS_NONE	    UINT64_MAX
#define PARAMS_SIZE_MAX	    (64ull << 20)
#define PARAMS_PARALLEL_MAX 1024u
#define PARAMS_CRR_MIN	    16u // a request of crr begins with the connection's greeting

struct bench_params {
	enum bench_mode mode;
	enum bench_wait wait[2]; // by enum bench_side
	uint64_t size;		 // bytes per send, per request
	uint64_t response;	 // bytes per response
	uint64_t recv_size;	 // bytes asked of each receive
	uint64_t time_ns;	 // measured time when limit is 0
	uint64_t warmup_ns;	 // before it
	uint64_t limit;		 // per connection: bytes (stream) or transactions; 0: time decides
	uint64_t warmup_limit;	 // before it
	uint64_t seed;
	uint64_t corrupt;   // stream position at which the client sends a wrong byte, or PARAMS_NONE
	uint32_t parallel;  // connections
	uint32_t threads;   // on each side
	uint32_t ring_size; // not 0: a bare shared-memory ring in place of the sockets
	bool verify, reverse, bidir, nodelay;
};

extern const char *const bench_mode_names[MODE_COUNT];
extern const char *const bench_wait_names[WAIT_COUNT];

// Index of `name` in names[], or -EINVAL.
int params_name(const char *const *names, int count, const char *name);

// NULL or what is wrong, in words.
const char *params_check(const struct bench_params *p);
json_t *params_to_json(const struct bench_params *p);
// NULL or what is wrong. Checked already.
const char *params_from_json(struct bench_params *p, const json_t *json);

static inline bool params_sends(const struct bench_params *p, enum bench_side side)
{
	return p->bidir || p->reverse == (side == SIDE_SERVER);
}

static inline bool params_receives(const struct bench_params *p, enum bench_side side)
{
	return p->bidir || p->reverse == (side == SIDE_CLIENT);
}

#endif

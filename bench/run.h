// SPDX-License-Identifier: BSD-2-Clause
// One side of a test: its connections, its threads, and what they found.
//
// Life: run_new(); each connection's descriptor (or ring) is put in place; run_start() makes the threads; run_join()
// waits for them and closes the descriptors, which the run owns.
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include <pthread.h>
#include <stdatomic.h>

#include "hist.h"
#include "meter.h"
#include "params.h"
#include "ring_end.h"
#include "rlm/rlm.h"

#define BENCH_ERROR 512

struct bench_conn {
	int fd; // -1: not there yet
	unsigned index;
	struct ring_end *ring; // instead of fd; fd then only tells that the peer lives
	uint8_t *tx_buf, *rx_buf;
	uint64_t tx_seed, rx_seed;
	struct bench_meter rx_meter;
	struct rlm_info info; // as of the end of the measurement
	bool info_valid;

	// event.c: what is under way
	uint64_t tx_left, rx_left; // bytes of the current message
	uint64_t tx_total, rx_total;
	uint64_t done, started_at;
	uint32_t interest; // epoll events registered
	bool tx_open, rx_open;

	// progress, written by the connection's threads alone
	_Alignas(64) _Atomic uint64_t tx_count; // bytes sent, or transactions
	_Atomic uint64_t tx_calls;
	_Alignas(64) _Atomic uint64_t rx_count; // bytes received
	_Atomic uint64_t rx_calls;
};

struct bench_worker {
	pthread_t thread;
	struct bench_run *run;
	struct bench_conn **conns;
	unsigned conn_count;
	void (*work)(struct bench_worker *w);
	struct bench_hist *hist; // round trips; NULL where none are measured
	uint64_t t0, t1;	 // window in which they were counted
	uint64_t tx_end;	 // when a stream's sender stops
	int status;		 // 0 or -errno; -EILSEQ: verification failed
	char error[BENCH_ERROR];
};

struct bench_run {
	const struct bench_params *params;
	enum bench_side side;
	struct bench_conn *conns;
	struct bench_conn **order; // conns by worker
	struct bench_worker *workers;
	unsigned worker_count;
	struct bench_cpu cpu; // at the start; after run_join(): used since
};

struct bench_run *run_new(const struct bench_params *p, enum bench_side side);
void run_free(struct bench_run *run);
int run_start(struct bench_run *run);
// 0 or the first worker's -errno.
int run_join(struct bench_run *run);
const struct bench_worker *run_failed(const struct bench_run *run);

// Reports an error of a worker; every other connection of the run is shut down so that nobody waits for it.
void worker_fail(struct bench_worker *w, const struct bench_conn *c, int status, const char *what);
void worker_wrong_data(struct bench_worker *w, const struct bench_conn *c, uint64_t position, const void *data,
		       size_t n, size_t at);
// Remembers what carries the connection now.
void conn_note_carrier(struct bench_conn *c);

// The time until which a stream's sender goes on, and a batch of messages between two looks at the clock.
static inline uint64_t sender_end(const struct bench_params *p)
{
	// A little longer than the receiver measures, so that the receiver's window never contains the end of the
	// stream.
	return p->limit ? UINT64_MAX : clock_now() + p->warmup_ns + p->time_ns + 20 * NS_PER_MS;
}

static inline unsigned sender_batch(const struct bench_params *p)
{
	uint64_t n = (256u << 10) / p->size;

	return n < 1 ? 1 : n > 1024 ? 1024 : (unsigned)n;
}

// Thread bodies.
void work_stream_tx(struct bench_worker *w);
void work_stream_rx(struct bench_worker *w);
void work_rr_client(struct bench_worker *w);
void work_rr_server(struct bench_worker *w);
void work_events(struct bench_worker *w);
void work_crr_client(struct bench_worker *w);

#endif

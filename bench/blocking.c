// SPDX-License-Identifier: BSD-2-Clause
// Streams and round trips with blocking calls, one connection per thread.
//
// The loops are written once and compiled for each carrier, with and without verification, so that a message costs one
// call and nothing else.
#include <errno.h>
#include <sys/socket.h>

#include "pattern.h"
#include "run.h"

#define INLINE static inline __attribute__((always_inline))

typedef ssize_t io_send(struct bench_conn *c, const void *data, size_t n);
typedef ssize_t io_recv(struct bench_conn *c, void *data, size_t n);

INLINE ssize_t socket_send(struct bench_conn *c, const void *data, size_t n)
{
	const uint8_t *at = data;
	size_t left = n;
	ssize_t r;

	for (;;) {
		r = send(c->fd, at, left, 0);
		if (__builtin_expect(r == (ssize_t)left, 1))
			return (ssize_t)n;
		if (r < 0 && errno != EINTR)
			return -1;
		if (r > 0) {
			at += r;
			left -= (size_t)r;
		}
	}
}

INLINE ssize_t socket_recv(struct bench_conn *c, void *data, size_t n)
{
	ssize_t r;

	do
		r = recv(c->fd, data, n, 0);
	while (__builtin_expect(r < 0, 0) && errno == EINTR);
	return r;
}

INLINE ssize_t shm_send(struct bench_conn *c, const void *data, size_t n)
{
	return ring_end_send(c->ring, data, n);
}

INLINE ssize_t shm_recv(struct bench_conn *c, void *data, size_t n)
{
	return ring_end_recv(c->ring, data, n);
}

static void finish_sending(struct bench_conn *c)
{
	conn_note_carrier(c);
	if (c->ring)
		ring_end_finish(c->ring);
	else
		shutdown(c->fd, SHUT_WR);
}

// Spoils the byte that --corrupt asks for.
static void corrupt(const struct bench_worker *w, uint8_t *data, uint64_t position, size_t n)
{
	uint64_t at = w->run->params->corrupt - position;

	if (w->run->side == SIDE_CLIENT && at < n)
		data[at] ^= 0x20;
}

INLINE void stream_tx(struct bench_worker *w, io_send put, bool verify)
{
	const struct bench_params *p = w->run->params;
	struct bench_conn *c = w->conns[0];
	uint64_t limit = p->limit ? p->limit + p->warmup_limit : UINT64_MAX;
	uint64_t total = 0, calls = 0;
	size_t size = p->size;
	unsigned batch = sender_batch(p);

	while (total < limit) {
		uint64_t stop = limit - total < batch * size ? limit : total + batch * size;

		while (total < stop) {
			if (verify) {
				pattern_fill(c->tx_seed, total, c->tx_buf, size);
				corrupt(w, c->tx_buf, total, size);
			}
			if (__builtin_expect(put(c, c->tx_buf, size) < 0, 0)) {
				worker_fail(w, c, -errno, "send");
				return;
			}
			total += size;
			calls++;
		}
		atomic_store_explicit(&c->tx_count, total, memory_order_relaxed);
		atomic_store_explicit(&c->tx_calls, calls, memory_order_relaxed);
		if (!p->limit && clock_now() >= w->tx_end)
			break;
	}
	finish_sending(c);
}

INLINE void stream_rx(struct bench_worker *w, io_recv get, bool verify)
{
	const struct bench_params *p = w->run->params;
	struct bench_conn *c = w->conns[0];
	uint64_t total = 0, calls = 0;

	for (;;) {
		ssize_t r = get(c, c->rx_buf, p->recv_size);

		if (__builtin_expect(r <= 0, 0)) {
			if (r < 0)
				worker_fail(w, c, -errno, "receive");
			break;
		}
		if (verify) {
			int64_t wrong = pattern_check(c->rx_seed, total, c->rx_buf, (size_t)r);

			if (wrong >= 0) {
				worker_wrong_data(w, c, total, c->rx_buf, (size_t)r, (size_t)wrong);
				break;
			}
		}
		total += (uint64_t)r;
		atomic_store_explicit(&c->rx_count, total, memory_order_relaxed);
		atomic_store_explicit(&c->rx_calls, ++calls, memory_order_relaxed);
		meter_count(&c->rx_meter, total);
	}
	meter_finish(&c->rx_meter, total);
	if (!p->bidir) // else the sending thread does
		conn_note_carrier(c);
}

// One whole message. 1, 0 at the end of the stream, -1 when the worker has failed.
INLINE int receive_message(struct bench_worker *w, struct bench_conn *c, io_recv get, size_t size, uint64_t position,
			   bool verify)
{
	size_t got = 0;
	int64_t wrong;

	while (got < size) {
		ssize_t r = get(c, c->rx_buf + got, size - got);

		if (__builtin_expect(r <= 0, 0)) {
			if (r == 0 && got == 0)
				return 0;
			worker_fail(w, c, r < 0 ? -errno : -ECONNABORTED, "receive");
			return -1;
		}
		got += (size_t)r;
	}
	if (!verify)
		return 1;
	wrong = pattern_check(c->rx_seed, position, c->rx_buf, size);
	if (wrong < 0)
		return 1;
	worker_wrong_data(w, c, position, c->rx_buf, size, (size_t)wrong);
	return -1;
}

INLINE int send_message(struct bench_worker *w, struct bench_conn *c, io_send put, size_t size, uint64_t position,
			bool verify)
{
	if (verify) {
		pattern_fill(c->tx_seed, position, c->tx_buf, size);
		corrupt(w, c->tx_buf, position, size);
	}
	if (__builtin_expect(put(c, c->tx_buf, size) >= 0, 1))
		return 0;
	worker_fail(w, c, -errno, "send");
	return -1;
}

INLINE void rr_client(struct bench_worker *w, io_send put, io_recv get, bool verify)
{
	const struct bench_params *p = w->run->params;
	struct bench_conn *c = w->conns[0];
	uint64_t warm_count = p->limit ? p->warmup_limit : 0;
	uint64_t total_count = p->limit ? p->warmup_limit + p->limit : UINT64_MAX;
	uint64_t last = clock_now();
	uint64_t warm = p->limit ? 0 : last + p->warmup_ns;
	uint64_t end = p->limit ? UINT64_MAX : warm + p->time_ns;
	uint64_t done = 0, now = last;
	bool open = false;

	while ((now < end || w->hist->count == 0) && done < total_count) {
		if (!open && now >= warm && done >= warm_count) {
			open = true;
			w->t0 = now;
		}
		if (send_message(w, c, put, p->size, done * p->size, verify) < 0)
			return;
		switch (receive_message(w, c, get, p->response, done * p->response, verify)) {
		case 0:
			worker_fail(w, c, -ECONNABORTED, "receive");
			return;
		case -1:
			return;
		}
		now = clock_now();
		if (open)
			hist_add(w->hist, now - last);
		last = now;
		atomic_store_explicit(&c->tx_count, ++done, memory_order_relaxed);
	}
	w->t1 = now;
	finish_sending(c);
}

INLINE void rr_server(struct bench_worker *w, io_send put, io_recv get, bool verify)
{
	const struct bench_params *p = w->run->params;
	struct bench_conn *c = w->conns[0];

	for (uint64_t done = 0;; done++) {
		if (receive_message(w, c, get, p->size, done * p->size, verify) <= 0)
			break;
		if (send_message(w, c, put, p->response, done * p->response, verify) < 0)
			break;
	}
	conn_note_carrier(c);
}

void work_stream_tx(struct bench_worker *w)
{
	bool verify = w->run->params->verify;

	if (w->conns[0]->ring && verify)
		stream_tx(w, shm_send, true);
	else if (w->conns[0]->ring)
		stream_tx(w, shm_send, false);
	else if (verify)
		stream_tx(w, socket_send, true);
	else
		stream_tx(w, socket_send, false);
}

void work_stream_rx(struct bench_worker *w)
{
	bool verify = w->run->params->verify;

	if (w->conns[0]->ring && verify)
		stream_rx(w, shm_recv, true);
	else if (w->conns[0]->ring)
		stream_rx(w, shm_recv, false);
	else if (verify)
		stream_rx(w, socket_recv, true);
	else
		stream_rx(w, socket_recv, false);
}

void work_rr_client(struct bench_worker *w)
{
	bool verify = w->run->params->verify;

	if (w->conns[0]->ring && verify)
		rr_client(w, shm_send, shm_recv, true);
	else if (w->conns[0]->ring)
		rr_client(w, shm_send, shm_recv, false);
	else if (verify)
		rr_client(w, socket_send, socket_recv, true);
	else
		rr_client(w, socket_send, socket_recv, false);
}

void work_rr_server(struct bench_worker *w)
{
	bool verify = w->run->params->verify;

	if (w->conns[0]->ring && verify)
		rr_server(w, shm_send, shm_recv, true);
	else if (w->conns[0]->ring)
		rr_server(w, shm_send, shm_recv, false);
	else if (verify)
		rr_server(w, socket_send, socket_recv, true);
	else
		rr_server(w, socket_send, socket_recv, false);
}

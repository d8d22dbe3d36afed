// SPDX-License-Identifier: BSD-2-Clause
// Connect, request, response, close.
#include "crr.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "pattern.h"
#include "run.h"

#define INFO_EVERY 256 // connections between two looks at what carries them

struct net_peer crr_peer;
uint64_t crr_token;

int crr_serve(int fd, const struct bench_params *p, unsigned connection, uint8_t *buffer, struct rlm_info *info)
{
	size_t rest = p->size - sizeof(struct greeting);
	uint64_t seed = pattern_seed(p->seed, connection, false);
	int r = receive_all(fd, buffer, rest);

	if (r < 0)
		return r;
	if (p->verify && pattern_check(seed, 0, buffer, rest) >= 0)
		return -EILSEQ;
	pattern_fill(pattern_seed(p->seed, connection, true), 0, buffer, p->verify ? p->response : 0);
	r = send_all(fd, buffer, p->response);
	if (r < 0)
		return r;
	if (info)
		rlm_socket_info(fd, info);
	return recv(fd, buffer, 1, 0) == 0 ? 0 : -ECONNABORTED;
}

static int one_transaction(struct bench_worker *w, struct bench_conn *c, bool look)
{
	const struct bench_params *p = w->run->params;
	int64_t wrong;
	int r;

	c->fd = net_connect(&crr_peer);
	if (c->fd < 0) {
		r = c->fd;
		c->fd = -1;
		worker_fail(w, c, r, "connect");
		return r;
	}
	if (p->nodelay)
		net_nodelay(c->fd);
	r = send_all(c->fd, c->tx_buf, p->size);
	if (r == 0)
		r = receive_all(c->fd, c->rx_buf, p->response);
	if (r < 0) {
		worker_fail(w, c, r, "transaction");
		return r;
	}
	if (look)
		conn_note_carrier(c);
	close(c->fd);
	c->fd = -1;
	wrong = p->verify ? pattern_check(c->rx_seed, 0, c->rx_buf, p->response) : -1;
	if (wrong >= 0)
		worker_wrong_data(w, c, 0, c->rx_buf, p->response, (size_t)wrong);
	return wrong >= 0 ? -EILSEQ : 0;
}

void work_crr_client(struct bench_worker *w)
{
	const struct bench_params *p = w->run->params;
	struct bench_conn *c = w->conns[0];
	struct greeting g = greeting_make(GREETING_DATA, crr_token, c->index);
	uint64_t last = clock_now(), now = last;
	uint64_t warm = p->limit ? 0 : last + p->warmup_ns;
	uint64_t end = p->limit ? UINT64_MAX : warm + p->time_ns;
	uint64_t total = p->limit ? p->warmup_limit + p->limit : UINT64_MAX;
	bool open = false;

	memcpy(c->tx_buf, &g, sizeof(g));
	pattern_fill(c->tx_seed, 0, c->tx_buf + sizeof(g), p->size - sizeof(g));
	if (p->corrupt < p->size - sizeof(g))
		c->tx_buf[sizeof(g) + p->corrupt] ^= 0x20;
	for (uint64_t done = 0; (now < end || w->hist->count == 0) && done < total;) {
		if (!open && now >= warm && (!p->limit || done >= p->warmup_limit)) {
			open = true;
			w->t0 = now;
		}
		if (one_transaction(w, c, done % INFO_EVERY == 0) < 0)
			return;
		now = clock_now();
		if (open)
			hist_add(w->hist, now - last);
		last = now;
		atomic_store_explicit(&c->tx_count, ++done, memory_order_relaxed);
	}
	w->t1 = now;
}

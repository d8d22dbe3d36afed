// SPDX-License-Identifier: BSD-2-Clause
// Streams and round trips on non-blocking sockets: level-triggered epoll, or busy: every connection tried again at
// once.
//
// A thread has a set of connections. Each has an open direction or two and the message under way in each.
// One receive per event, as most event loops do.
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pattern.h"
#include "run.h"

#define EVENTS 64

struct event_loop {
	struct bench_worker *w;
	const struct bench_params *p;
	int epoll;     // -1: busy
	unsigned live; // connections with an open direction
	unsigned batch;
	uint64_t warm, end, warm_count, total_count; // rr client
	bool open;
};

// Wrong or broken: the worker has failed and the loop ends.
#define STEP_FAILED (-1)

static uint32_t wanted(const struct event_loop *l, const struct bench_conn *c)
{
	bool stream = l->p->mode == MODE_STREAM;

	return (c->rx_open ? EPOLLIN : 0u) | (c->tx_open && (stream || c->tx_left) ? EPOLLOUT : 0u);
}

static int update_interest(struct event_loop *l, struct bench_conn *c)
{
	uint32_t want = wanted(l, c);
	struct epoll_event e = {.events = want, .data.ptr = c};

	if (l->epoll < 0 || want == c->interest)
		return 0;
	c->interest = want;
	if (epoll_ctl(l->epoll, EPOLL_CTL_MOD, c->fd, &e) == 0)
		return 0;
	worker_fail(l->w, c, -errno, "epoll_ctl");
	return STEP_FAILED;
}

static void close_direction(struct event_loop *l, struct bench_conn *c, bool *direction)
{
	*direction = false;
	if (!c->tx_open && !c->rx_open)
		l->live--;
}

static void finish_sending(struct event_loop *l, struct bench_conn *c)
{
	conn_note_carrier(c);
	shutdown(c->fd, SHUT_WR);
	close_direction(l, c, &c->tx_open);
}

static void prepare_message(struct event_loop *l, struct bench_conn *c, size_t size)
{
	uint64_t spoil = l->p->corrupt - c->tx_total;

	c->tx_left = size;
	if (!l->p->verify)
		return;
	pattern_fill(c->tx_seed, c->tx_total, c->tx_buf, size);
	if (l->w->run->side == SIDE_CLIENT && spoil < size)
		c->tx_buf[spoil] ^= 0x20;
}

// Sends what is left of the message. 1: all of it, 0: would block.
static int push(struct event_loop *l, struct bench_conn *c, size_t size)
{
	while (c->tx_left) {
		ssize_t r = send(c->fd, c->tx_buf + (size - c->tx_left), c->tx_left, 0);

		if (r >= 0) {
			c->tx_left -= (size_t)r;
			c->tx_total += (uint64_t)r;
			continue;
		}
		if (errno == EAGAIN)
			return 0;
		if (errno == EINTR)
			continue;
		worker_fail(l->w, c, -errno, "send");
		return STEP_FAILED;
	}
	return 1;
}

static int stream_writable(struct event_loop *l, struct bench_conn *c)
{
	const struct bench_params *p = l->p;
	uint64_t limit = p->limit ? p->limit + p->warmup_limit : UINT64_MAX;
	uint64_t calls = atomic_load_explicit(&c->tx_calls, memory_order_relaxed);
	int r = 1;

	for (unsigned i = 0; i < l->batch && (c->tx_left || c->tx_total < limit); i++) {
		if (!c->tx_left)
			prepare_message(l, c, p->size);
		r = push(l, c, p->size);
		if (r != 1)
			break;
		calls++;
	}
	atomic_store_explicit(&c->tx_calls, calls, memory_order_relaxed);
	atomic_store_explicit(&c->tx_count, c->tx_total, memory_order_relaxed);
	if (r == STEP_FAILED)
		return r;
	if (!c->tx_left && (c->tx_total >= limit || (!p->limit && clock_now() >= l->w->tx_end)))
		finish_sending(l, c);
	return 0;
}

static int check(struct event_loop *l, struct bench_conn *c, const uint8_t *data, size_t n)
{
	int64_t wrong = l->p->verify ? pattern_check(c->rx_seed, c->rx_total, data, n) : -1;

	if (wrong < 0)
		return 0;
	worker_wrong_data(l->w, c, c->rx_total, data, n, (size_t)wrong);
	return STEP_FAILED;
}

// Bytes, 0: would block, STEP_FAILED; at the end of the stream *end.
static ssize_t pull(struct event_loop *l, struct bench_conn *c, void *data, size_t n, bool *end)
{
	ssize_t r = recv(c->fd, data, n, 0);

	*end = false;
	if (r > 0)
		return check(l, c, data, (size_t)r) < 0 ? STEP_FAILED : r;
	if (r == 0) {
		*end = true;
		return 0;
	}
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	worker_fail(l->w, c, -errno, "receive");
	return STEP_FAILED;
}

static int stream_readable(struct event_loop *l, struct bench_conn *c)
{
	bool end;
	ssize_t r = pull(l, c, c->rx_buf, l->p->recv_size, &end);

	if (r > 0) {
		c->rx_total += (uint64_t)r;
		atomic_store_explicit(&c->rx_count, c->rx_total, memory_order_relaxed);
		atomic_store_explicit(&c->rx_calls, atomic_load_explicit(&c->rx_calls, memory_order_relaxed) + 1,
				      memory_order_relaxed);
		meter_count(&c->rx_meter, c->rx_total);
	}
	if (end) {
		meter_finish(&c->rx_meter, c->rx_total);
		if (!l->p->bidir)
			conn_note_carrier(c);
		close_direction(l, c, &c->rx_open);
	}
	return r < 0 ? STEP_FAILED : 0;
}

// Ends the round trip at `now` and begins the next, or finishes.
static int rr_turn(struct event_loop *l, struct bench_conn *c, uint64_t now)
{
	if (l->open)
		hist_add(l->w->hist, now - c->started_at);
	atomic_store_explicit(&c->tx_count, ++c->done, memory_order_relaxed);
	if ((now >= l->end && l->w->hist->count) || c->done >= l->total_count) {
		l->w->t1 = now;
		close_direction(l, c, &c->rx_open);
		finish_sending(l, c);
		return 0;
	}
	if (!l->open && now >= l->warm && c->done >= l->warm_count) {
		l->open = true;
		l->w->t0 = now;
	}
	c->started_at = now;
	c->rx_left = l->p->response;
	prepare_message(l, c, l->p->size);
	return push(l, c, l->p->size) < 0 ? STEP_FAILED : 0;
}

static int rr_readable(struct event_loop *l, struct bench_conn *c)
{
	bool client = l->w->run->side == SIDE_CLIENT;
	size_t size = client ? l->p->response : l->p->size;
	bool end;
	ssize_t r;

	if (c->tx_left && !client)
		return 0; // the response first
	r = pull(l, c, c->rx_buf + (size - c->rx_left), c->rx_left, &end);
	if (r < 0)
		return STEP_FAILED;
	if (end) {
		if (client || c->rx_left != size) {
			worker_fail(l->w, c, -ECONNABORTED, "receive");
			return STEP_FAILED;
		}
		conn_note_carrier(c);
		close_direction(l, c, &c->tx_open);
		close_direction(l, c, &c->rx_open);
		return 0;
	}
	c->rx_total += (uint64_t)r;
	c->rx_left -= (size_t)r;
	if (c->rx_left)
		return 0;
	if (client)
		return rr_turn(l, c, clock_now());
	c->rx_left = size;
	prepare_message(l, c, l->p->response);
	return push(l, c, l->p->response) < 0 ? STEP_FAILED : 0;
}

static int rr_writable(struct event_loop *l, struct bench_conn *c)
{
	return c->tx_left && push(l, c, l->w->run->side == SIDE_CLIENT ? l->p->size : l->p->response) < 0 ? STEP_FAILED
													  : 0;
}

static int step(struct event_loop *l, struct bench_conn *c, uint32_t events)
{
	bool stream = l->p->mode == MODE_STREAM;

	if (c->rx_open && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) &&
	    (stream ? stream_readable(l, c) : rr_readable(l, c)) < 0)
		return STEP_FAILED;
	if (c->tx_open && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) &&
	    (stream ? stream_writable(l, c) : rr_writable(l, c)) < 0)
		return STEP_FAILED;
	return update_interest(l, c);
}

// epoll must not report the hang-up of a connection that both directions have left.
static void retire(struct event_loop *l, struct bench_conn *c)
{
	if (l->epoll >= 0 && !c->rx_open && !c->tx_open)
		epoll_ctl(l->epoll, EPOLL_CTL_DEL, c->fd, NULL);
}

static void loop_epoll(struct event_loop *l)
{
	struct epoll_event events[EVENTS];

	while (l->live) {
		int n = epoll_wait(l->epoll, events, EVENTS, -1);

		if (n < 0 && errno != EINTR) {
			worker_fail(l->w, NULL, -errno, "epoll_wait");
			return;
		}
		for (int i = 0; i < n; i++) {
			struct bench_conn *c = events[i].data.ptr;

			if (step(l, c, events[i].events) < 0)
				return;
			retire(l, c);
		}
	}
}

static void loop_busy(struct event_loop *l)
{
	while (l->live)
		for (unsigned i = 0; i < l->w->conn_count; i++)
			if (step(l, l->w->conns[i], EPOLLIN | EPOLLOUT) < 0)
				return;
}

static int begin(struct event_loop *l, struct bench_conn *c)
{
	const struct bench_run *run = l->w->run;
	bool client = run->side == SIDE_CLIENT;
	struct epoll_event e = {.data.ptr = c};

	if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	c->tx_open = l->p->mode == MODE_RR || params_sends(l->p, run->side);
	c->rx_open = l->p->mode == MODE_RR || params_receives(l->p, run->side);
	l->live++;
	if (l->p->mode == MODE_RR && client) {
		c->rx_left = l->p->response;
		c->started_at = clock_now();
		prepare_message(l, c, l->p->size);
	} else if (l->p->mode == MODE_RR) {
		c->rx_left = l->p->size;
	}
	if (l->epoll < 0)
		return 0;
	e.events = c->interest = wanted(l, c);
	return epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &e) < 0 ? -errno : 0;
}

static void loop_init(struct event_loop *l, struct bench_worker *w)
{
	const struct bench_params *p = w->run->params;
	uint64_t now = clock_now();

	*l = (struct event_loop){.w = w, .p = p, .epoll = -1, .batch = sender_batch(p)};
	l->warm = p->limit ? 0 : now + p->warmup_ns;
	l->end = p->limit ? UINT64_MAX : l->warm + p->time_ns;
	l->warm_count = p->limit ? p->warmup_limit : 0;
	l->total_count = p->limit ? p->warmup_limit + p->limit : UINT64_MAX;
	l->open = l->warm <= now && l->warm_count == 0;
	w->t0 = now;
}

void work_events(struct bench_worker *w)
{
	struct event_loop l;

	loop_init(&l, w);
	if (l.p->wait[w->run->side] == WAIT_EPOLL) {
		l.epoll = epoll_create1(EPOLL_CLOEXEC);
		if (l.epoll < 0) {
			worker_fail(w, NULL, -errno, "epoll_create1");
			return;
		}
	}
	for (unsigned i = 0; i < w->conn_count; i++) {
		int r = begin(&l, w->conns[i]);

		if (r < 0) {
			worker_fail(w, w->conns[i], r, "non-blocking set-up");
			goto out;
		}
	}
	if (l.epoll >= 0)
		loop_epoll(&l);
	else
		loop_busy(&l);
out:
	if (l.epoll >= 0)
		close(l.epoll);
}

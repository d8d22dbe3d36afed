// SPDX-License-Identifier: BSD-2-Clause
// All connections of a worker in one thread, by poll, select or epoll.
//
// A time-out is used only while some connection waits on purpose, so in a calm worker a lost wake-up is a hang.
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#define FLOWS_MAX 64
#define CALLS_MAX 16 // of one direction before the others have their turn

#define WANT_IN	 1u
#define WANT_OUT 2u

struct loop {
	struct worker *worker;
	int listener; // -1: none
	int epoll;
	struct flow *flow[FLOWS_MAX];
	unsigned count;
	bool stopping;
	bool listener_ready;
};

static int loop_edge(const struct loop *loop)
{
	return loop->worker->style == EPOLL_EDGE;
}

static int loop_epolls(const struct loop *loop)
{
	return loop->worker->style == EPOLL_EDGE || loop->worker->style == EPOLL_LEVEL;
}

static void loop_fail(struct loop *loop, const char *call)
{
	worker_fail(loop->worker->board, "%s: %s", call, strerror(errno));
}

static void loop_add(struct loop *loop, uint32_t record, int fd)
{
	struct flow *flow;
	struct epoll_event event = {0};

	if (loop->count == FLOWS_MAX) {
		errno = ENOSPC;
		loop_fail(loop, "accept");
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	flow = flow_new(loop->worker, record, fd);
	loop->flow[loop->count++] = flow;
	if (!loop_epolls(loop))
		return;
	event.data.ptr = flow;
	if (loop_edge(loop))
		event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
	if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		loop_fail(loop, "epoll_ctl");
}

// What this flow waits for now, given the time.
static unsigned flow_wants(const struct flow *flow, uint64_t now)
{
	return (!flow->rx_done && now >= flow->rx_until ? WANT_IN : 0) |
	       (!flow->tx_done && now >= flow->tx_until ? WANT_OUT : 0);
}

// Milliseconds until a wait on purpose ends, -1 without one; 0 when an edge was seen and not used up.
static int loop_timeout(struct loop *loop, uint64_t now)
{
	uint64_t first = UINT64_MAX;

	for (unsigned i = 0; i < loop->count; i++) {
		const struct flow *flow = loop->flow[i];
		unsigned wants = flow_wants(flow, now);

		if (loop_edge(loop) &&
		    (((wants & WANT_IN) && flow->rx_ready) || ((wants & WANT_OUT) && flow->tx_ready)))
			return 0;
		if (!flow->rx_done && flow->rx_until > now && flow->rx_until < first)
			first = flow->rx_until;
		if (!flow->tx_done && flow->tx_until > now && flow->tx_until < first)
			first = flow->tx_until;
	}
	return first == UINT64_MAX ? -1 : (int)(first - now);
}

static void flow_ready(struct flow *flow, bool in, bool out)
{
	flow->rx_ready = flow->rx_ready || in;
	flow->tx_ready = flow->tx_ready || out;
}

static void wait_poll(struct loop *loop, uint64_t now)
{
	struct pollfd pfds[FLOWS_MAX + 2];
	nfds_t n = 0;

	for (unsigned i = 0; i < loop->count; i++) {
		unsigned wants = flow_wants(loop->flow[i], now);

		pfds[n++] = (struct pollfd){
		    .fd = wants ? loop->flow[i]->fd : -1,
		    .events = (short)((wants & WANT_IN ? POLLIN : 0) | (wants & WANT_OUT ? POLLOUT : 0))};
	}
	pfds[n++] = (struct pollfd){.fd = loop->stopping ? -1 : STOP_FD, .events = POLLIN};
	pfds[n++] = (struct pollfd){.fd = loop->stopping ? -1 : loop->listener, .events = POLLIN};
	if (poll(pfds, n, loop_timeout(loop, now)) < 0 && errno != EINTR)
		loop_fail(loop, "poll");
	for (unsigned i = 0; i < loop->count; i++) {
		bool hup = pfds[i].revents & (POLLHUP | POLLERR);

		flow_ready(loop->flow[i], (pfds[i].revents & POLLIN) || hup, (pfds[i].revents & POLLOUT) || hup);
	}
	loop->stopping = loop->stopping || pfds[n - 2].revents;
	loop->listener_ready = pfds[n - 1].revents;
}

static void set_add(fd_set *set, int fd, int *max)
{
	FD_SET(fd, set);
	if (fd > *max)
		*max = fd;
}

static void wait_select(struct loop *loop, uint64_t now)
{
	fd_set in, out;
	int max = -1, timeout = loop_timeout(loop, now);
	struct timeval tv = {.tv_sec = timeout / 1000, .tv_usec = timeout % 1000 * 1000};

	FD_ZERO(&in);
	FD_ZERO(&out);
	for (unsigned i = 0; i < loop->count; i++) {
		unsigned wants = flow_wants(loop->flow[i], now);

		if (wants & WANT_IN)
			set_add(&in, loop->flow[i]->fd, &max);
		if (wants & WANT_OUT)
			set_add(&out, loop->flow[i]->fd, &max);
	}
	if (!loop->stopping) {
		set_add(&in, STOP_FD, &max);
		if (loop->listener >= 0)
			set_add(&in, loop->listener, &max);
	}
	if (select(max + 1, &in, &out, NULL, timeout < 0 ? NULL : &tv) < 0) {
		if (errno != EINTR)
			loop_fail(loop, "select");
		return;
	}
	for (unsigned i = 0; i < loop->count; i++)
		flow_ready(loop->flow[i], FD_ISSET(loop->flow[i]->fd, &in), FD_ISSET(loop->flow[i]->fd, &out));
	if (!loop->stopping) {
		loop->listener_ready = loop->listener >= 0 && FD_ISSET(loop->listener, &in);
		loop->stopping = FD_ISSET(STOP_FD, &in);
	}
}

// Level-triggered: tells epoll what is wanted now, where it changed.
static void epoll_update(struct loop *loop, uint64_t now)
{
	for (unsigned i = 0; i < loop->count; i++) {
		struct flow *flow = loop->flow[i];
		unsigned wants = flow_wants(flow, now);
		struct epoll_event event = {.data.ptr = flow,
					    .events = (wants & WANT_IN ? (uint32_t)EPOLLIN : 0) |
						      (wants & WANT_OUT ? (uint32_t)EPOLLOUT : 0)};

		if (event.events == flow->interest)
			continue;
		flow->interest = event.events;
		if (epoll_ctl(loop->epoll, EPOLL_CTL_MOD, flow->fd, &event) < 0)
			loop_fail(loop, "epoll_ctl");
	}
}

static void wait_epoll(struct loop *loop, uint64_t now)
{
	struct epoll_event events[8];
	int n;

	if (!loop_edge(loop))
		epoll_update(loop, now);
	n = epoll_wait(loop->epoll, events, 8, loop_timeout(loop, now));
	if (n < 0 && errno != EINTR)
		loop_fail(loop, "epoll_wait");
	for (int i = 0; i < n; i++) {
		bool hup = events[i].events & (EPOLLHUP | EPOLLERR);

		if (events[i].data.ptr == &loop->stopping) {
			loop->stopping = true;
			epoll_ctl(loop->epoll, EPOLL_CTL_DEL, STOP_FD, NULL);
			if (loop->listener >= 0)
				epoll_ctl(loop->epoll, EPOLL_CTL_DEL, loop->listener, NULL);
		} else if (events[i].data.ptr == &loop->listener) {
			loop->listener_ready = true;
		} else {
			flow_ready(events[i].data.ptr, (events[i].events & (EPOLLIN | EPOLLRDHUP)) || hup,
				   (events[i].events & EPOLLOUT) || hup);
		}
	}
}

// Level-triggered styles: each readiness is good for one round of calls; edge-triggered: until a call is refused.
static void flow_turn(struct loop *loop, struct flow *flow, uint64_t now)
{
	unsigned wants = flow_wants(flow, now);
	enum flow_result result;

	for (unsigned i = 0; i < CALLS_MAX && (wants & WANT_IN) && flow->rx_ready && !flow->rx_done; i++) {
		unsigned pause = flow_pause(flow, &flow->rx_rng);

		if (pause) {
			flow->rx_until = now + pause;
			break;
		}
		result = flow_receive(flow, false);
		flow->rx_done = result == FLOW_END || result == FLOW_DEAD;
		if (flow->record->end[flow->side].abandoned || (result == FLOW_DEAD && flow->broke))
			flow->tx_done = true;
		if (result == FLOW_BLOCKED)
			flow->rx_ready = false;
	}
	for (unsigned i = 0; i < CALLS_MAX && (wants & WANT_OUT) && flow->tx_ready && !flow->tx_done; i++) {
		unsigned pause = flow_pause(flow, &flow->tx_rng);

		if (pause) {
			flow->tx_until = now + pause;
			break;
		}
		result = flow_send(flow, false);
		flow->tx_done = result == FLOW_END || result == FLOW_DEAD;
		if (result == FLOW_BLOCKED)
			flow->tx_ready = false;
	}
	if (!loop_edge(loop))
		flow->rx_ready = flow->tx_ready = false;
}

static void loop_accept(struct loop *loop)
{
	uint32_t record;
	int fd;

	if (!loop->listener_ready || loop->stopping)
		return;
	loop->listener_ready = false;
	fd = worker_accept(loop->worker, loop->listener, &record);
	if (fd >= 0)
		loop_add(loop, record, fd);
}

static void loop_connect(struct loop *loop)
{
	uint32_t record;

	if (loop->listener >= 0)
		return;
	loop->stopping = loop->stopping || loop->worker->board->stop;
	while (loop->count < loop->worker->connections && !loop->stopping) {
		int fd = worker_connect(loop->worker, &record);

		if (fd >= 0)
			loop_add(loop, record, fd);
		else if (loop->count > 0)
			break;
		loop->stopping = loop->worker->board->stop;
	}
}

static void loop_init(struct loop *loop)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &loop->stopping};

	loop->epoll = -1;
	if (!loop_epolls(loop))
		return;
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll < 0 || epoll_ctl(loop->epoll, EPOLL_CTL_ADD, STOP_FD, &event) < 0)
		loop_fail(loop, "epoll");
	event.data.ptr = &loop->listener;
	if (loop->listener >= 0 && epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->listener, &event) < 0)
		loop_fail(loop, "epoll_ctl");
}

void loop_run(struct worker *worker, int listener)
{
	struct loop loop = {.worker = worker, .listener = listener};

	loop_init(&loop);
	while (loop.count > 0 || !loop.stopping) {
		uint64_t now;

		loop_connect(&loop);
		if (loop.count == 0 && loop.stopping)
			break;
		now = now_ms();
		if (worker->style == POLL)
			wait_poll(&loop, now);
		else if (worker->style == SELECT)
			wait_select(&loop, now);
		else
			wait_epoll(&loop, now);
		now = now_ms();
		loop_accept(&loop);
		for (unsigned i = 0; i < loop.count;) {
			struct flow *flow = loop.flow[i];

			flow_turn(&loop, flow, now);
			if (!flow->tx_done || !flow->rx_done) {
				i++;
				continue;
			}
			flow_free(flow);
			loop.flow[i] = loop.flow[--loop.count];
		}
	}
	if (loop.epoll >= 0)
		close(loop.epoll);
}

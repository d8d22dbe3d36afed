// SPDX-License-Identifier: BSD-2-Clause
// Sleeping in poll, ppoll, select and pselect: what wakes them, and when they give up.
#include "pair.h"

#include <sys/resource.h>
#include <sys/select.h>

struct poller {
	int fd;
	short events;
	short revents;
	int kind;
};

static int wait_poll(void *arg)
{
	struct poller *w = arg;
	struct pollfd item = {.fd = w->fd, .events = w->events};
	struct timespec time = {DEADLINE_MS / 1000, 0};
	fd_set in, out;
	int count;

	switch (w->kind) {
	case 0:
		count = poll(&item, 1, DEADLINE_MS);
		break;
	case 1:
		count = ppoll(&item, 1, &time, NULL);
		break;
	case 2:
		count = syscall(SYS_poll, &item, 1, DEADLINE_MS);
		break;
	default:
		FD_ZERO(&in);
		FD_ZERO(&out);
		if (w->events & POLLIN)
			FD_SET(w->fd, &in);
		if (w->events & POLLOUT)
			FD_SET(w->fd, &out);
		count = w->kind == 3 ? select(w->fd + 1, &in, &out, NULL, &(struct timeval){DEADLINE_MS / 1000, 0})
				     : pselect(w->fd + 1, &in, &out, NULL, &time, NULL);
		w->revents = (FD_ISSET(w->fd, &in) ? POLLIN : 0) | (FD_ISSET(w->fd, &out) ? POLLOUT : 0);
		return count;
	}
	w->revents = item.revents;
	return count;
}
#define KINDS 5

static void woken_by_data(void **state)
{
	struct pair *p = *state;

	for (int kind = 0; kind < KINDS; kind++) {
		struct poller w = {.fd = p->b, .events = POLLIN, .kind = kind};
		struct sleeper sleeper;

		sleeper_start(&sleeper, wait_poll, &w);
		send_text(p->a, "x");
		assert_returns(sleeper_join(&sleeper), 1);
		assert_returns(w.revents, POLLIN);
		recv_text(p->b, "x");
	}
	pair_check_ring(p);
}

static void woken_by_room(void **state)
{
	struct pair *p = *state;

	for (int kind = 0; kind < KINDS; kind++) {
		struct poller w = {.fd = p->a, .events = POLLIN | POLLOUT, .kind = kind};
		size_t queued = fill_socket(p->a, kind);
		struct sleeper sleeper;

		sleeper_start(&sleeper, wait_poll, &w);
		while (sleeper_done(&sleeper, QUIET_MS)) {
			assert_returns(sleeper.result, 1);
			assert_returns(w.revents, POLLOUT);
			queued = fill_more(p->a, kind, queued);
			sleeper_start(&sleeper, wait_poll, &w);
		}
		drain_socket(p->b, kind, 0, queued);
		assert_returns(sleeper_join(&sleeper), 1);
		assert_returns(w.revents, POLLOUT);
	}
	pair_check_ring(p);
}

static void woken_by_end(void **state)
{
	struct pair *p = *state;
	struct poller w = {.fd = p->b, .events = POLLIN | POLLRDHUP};
	struct sleeper sleeper;

	sleeper_start(&sleeper, wait_poll, &w);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_returns(sleeper_join(&sleeper), 1);
	assert_returns(w.revents, POLLIN | POLLRDHUP);
}

static void woken_by_reset(void **state)
{
	struct pair *p = *state;
	struct poller w = {.fd = p->b, .events = 0};
	struct sleeper sleeper;

	sleeper_start(&sleeper, wait_poll, &w);
	set_linger(p->a, 0);
	close_end(&p->a);
	assert_returns(sleeper_join(&sleeper), 1);
	assert_returns(w.revents, POLLERR | POLLHUP);
}

static void woken_by_own_shutdown(void **state)
{
	struct pair *p = *state;
	struct poller w = {.fd = p->b, .events = POLLIN};
	struct sleeper sleeper;

	sleeper_start(&sleeper, wait_poll, &w);
	assert_returns(shutdown(p->b, SHUT_RD), 0);
	assert_returns(sleeper_join(&sleeper), 1);
	assert_returns(w.revents, POLLIN);
}

// Several threads in poll on one socket: all see the byte.
static void many_pollers(void **state)
{
	struct pair *p = *state;
	struct poller w[4];
	struct sleeper sleepers[4];

	for (int i = 0; i < 4; i++) {
		w[i] = (struct poller){.fd = p->b, .events = POLLIN, .kind = i};
		sleeper_start(&sleepers[i], wait_poll, &w[i]);
	}
	send_text(p->a, "x");
	for (int i = 0; i < 4; i++) {
		assert_returns(sleeper_join(&sleepers[i]), 1);
		assert_returns(w[i].revents, POLLIN);
	}
	recv_text(p->b, "x");
	pair_check_ring(p);
}

static void times_out(void **state)
{
	struct pair *p = *state;
	struct pollfd item = {.fd = p->b, .events = POLLIN};
	struct timespec time = {0, 80000000}, kept = time;
	struct timeval left = {0, 80000};
	fd_set set;
	int64_t start = now_ms();

	assert_returns(poll(&item, 1, 80), 0);
	assert_that(now_ms() - start >= 79 && now_ms() - start < 3000);
	assert_returns(item.revents, 0);
	start = now_ms();
	assert_returns(ppoll(&item, 1, &time, NULL), 0);
	assert_that(now_ms() - start >= 79 && now_ms() - start < 3000);
	// ppoll and pselect leave the time alone, select counts it down.
	assert_bytes(&time, &kept, sizeof(time));
	FD_ZERO(&set);
	FD_SET(p->b, &set);
	start = now_ms();
	assert_returns(select(p->b + 1, &set, NULL, NULL, &left), 0);
	assert_that(now_ms() - start >= 79 && now_ms() - start < 3000);
	assert_that(!FD_ISSET(p->b, &set));
	assert_returns(left.tv_sec, 0);
	assert_returns(left.tv_usec, 0);
	FD_SET(p->b, &set);
	assert_returns(pselect(p->b + 1, &set, NULL, NULL, &time, NULL), 0);
	assert_bytes(&time, &kept, sizeof(time));
	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	left = (struct timeval){5, 0};
	FD_SET(p->b, &set);
	assert_returns(select(p->b + 1, &set, NULL, NULL, &left), 1);
	assert_that(left.tv_sec == 4 || (left.tv_sec == 5 && left.tv_usec == 0));
	pair_check_ring(p);
}

struct poor {
	struct poller w;
	int64_t cpu_us;
	int result;
};

static void *wait_poor(void *arg)
{
	struct poor *poor = arg;
	struct rusage used;
	char byte;

	if (poor->w.kind < KINDS)
		poor->result = wait_poll(&poor->w);
	else
		poor->result = recv(poor->w.fd, &byte, 1, MSG_PEEK);
	assert_returns(getrusage(RUSAGE_THREAD, &used), 0);
	poor->cpu_us = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000ll + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
	return NULL;
}

// All descriptors are in use: a thread that has not slept before sleeps all the same, and is woken.
static void no_descriptor_left(void **state)
{
	struct pair *p = *state;
	struct rlimit limit, none;

	assert_returns(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (int kind = 0; kind <= KINDS; kind++) {
		struct poor poor = {.w = {.fd = p->b, .events = POLLIN, .kind = kind}};
		pthread_t thread;
		int next = dup(p->a);

		if (kind == KINDS)
			set_timeout(p->b, SO_RCVTIMEO, DEADLINE_MS);
		assert_that(next >= 0);
		close(next);
		none = (struct rlimit){.rlim_cur = next, .rlim_max = limit.rlim_max};
		assert_returns(setrlimit(RLIMIT_NOFILE, &none), 0);
		assert_fails(dup(p->a), EMFILE);
		assert_returns(pthread_create(&thread, NULL, wait_poor, &poor), 0);
		nap_ms(QUIET_MS);
		send_text(p->a, "x");
		assert_returns(pthread_join(thread, NULL), 0);
		assert_returns(setrlimit(RLIMIT_NOFILE, &limit), 0);
		assert_returns(poor.result, 1);
		assert_that(poor.cpu_us < QUIET_MS * 1000 / 2);
		recv_text(p->b, "x");
	}
	pair_check_ring(p);
}

struct mixed {
	int tcp, pipe;
	int result[2];
};

static int wait_mixed(void *arg)
{
	struct mixed *m = arg;
	struct pollfd items[] = {{.fd = m->tcp, .events = POLLIN}, {.fd = m->pipe, .events = POLLIN}};
	int count = poll(items, 2, DEADLINE_MS);

	m->result[0] = items[0].revents;
	m->result[1] = items[1].revents;
	return count;
}

// Whoever is first wakes a thread that sleeps on both.
static void mixed_set_wakes(void **state)
{
	struct pair *p = *state;
	int fds[2];

	assert_returns(pipe(fds), 0);
	for (int i = 0; i < 6; i++) {
		struct mixed m = {.tcp = p->b, .pipe = fds[0]};
		struct sleeper sleeper;
		char byte;

		sleeper_start(&sleeper, wait_mixed, &m);
		if (i % 2)
			assert_returns(write(fds[1], "x", 1), 1);
		else
			send_text(p->a, "x");
		assert_returns(sleeper_join(&sleeper), 1);
		assert_returns(m.result[0], i % 2 ? 0 : POLLIN);
		assert_returns(m.result[1], i % 2 ? POLLIN : 0);
		assert_returns(read(i % 2 ? fds[0] : p->b, &byte, 1), 1);
	}
	close(fds[0]);
	close(fds[1]);
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(woken_by_data),
    TEST_SETTLED(woken_by_room),
    TEST_SETTLED(woken_by_end),
    TEST_SETTLED(woken_by_reset),
    TEST_SETTLED(woken_by_own_shutdown),
    TEST_SETTLED(many_pollers),
    TEST_SETTLED(times_out),
    TEST_SETTLED(no_descriptor_left),
    TEST_SETTLED(mixed_set_wakes),
};
// clang-format on

SUITE_MAIN(tests)

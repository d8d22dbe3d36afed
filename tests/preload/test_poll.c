// SPDX-License-Identifier: BSD-2-Clause
// poll, ppoll, select and pselect: what they report, in sets of every kind, and how long they wait.
#include "pair.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#define ALL (POLLIN | POLLPRI | POLLOUT | POLLRDHUP | POLLRDNORM | POLLWRNORM)

static short look(int fd, short events)
{
	struct pollfd item = {.fd = fd, .events = events};
	int count = poll(&item, 1, 0);

	assert_returns(count, item.revents != 0);
	return item.revents;
}

static void wait_look(int fd, short events)
{
	int64_t deadline = now_ms() + DEADLINE_MS;

	while (look(fd, ALL) != events && now_ms() < deadline)
		nap_ms(1);
	assert_returns(look(fd, ALL), events);
}

static void states_of_a_connection(void **state)
{
	struct pair *p = *state;

	wait_look(p->b, POLLOUT | POLLWRNORM);
	send_text(p->a, "abc");
	wait_look(p->b, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM);
	assert_returns(look(p->b, POLLIN), POLLIN);
	assert_returns(look(p->b, POLLOUT), POLLOUT);
	assert_returns(look(p->b, POLLRDHUP), 0);
	assert_returns(look(p->b, 0), 0);
	recv_text(p->b, "abc");
	wait_look(p->b, POLLOUT | POLLWRNORM);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	wait_look(p->b, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP);
	recv_end(p->b);
	wait_look(p->b, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP);
	wait_look(p->a, POLLOUT | POLLWRNORM);
	assert_returns(shutdown(p->b, SHUT_WR), 0);
	wait_look(p->b, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP | POLLHUP);
	wait_look(p->a, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP | POLLHUP);
	assert_returns(look(p->b, 0), POLLHUP);
}

static void own_read_shutdown(void **state)
{
	struct pair *p = *state;

	assert_returns(shutdown(p->b, SHUT_RD), 0);
	wait_look(p->b, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP);
	wait_look(p->a, POLLOUT | POLLWRNORM);
}

static void own_write_shutdown(void **state)
{
	struct pair *p = *state;

	assert_returns(shutdown(p->b, SHUT_WR), 0);
	wait_look(p->b, POLLOUT | POLLWRNORM);
	wait_look(p->a, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLRDHUP);
}

static void room(void **state)
{
	struct pair *p = *state;
	size_t queued = fill_socket(p->a, 1);

	assert_returns(look(p->a, POLLOUT), 0);
	assert_returns(look(p->a, POLLWRNORM), 0);
	drain_socket(p->b, 1, 0, queued);
	assert_that(wait_for(p->a, POLLOUT, DEADLINE_MS));
}

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
	struct linger linger = {.l_onoff = 1};
	struct sleeper sleeper;

	sleeper_start(&sleeper, wait_poll, &w);
	assert_returns(setsockopt(p->a, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
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

static void bad_times(void **state)
{
	struct pair *p = *state;
	struct pollfd item = {.fd = p->b, .events = POLLIN};
	struct timespec negative = {-1, 0}, large = {0, 1000000000};
	struct timeval bad = {-1, 0};
	fd_set set;

	FD_ZERO(&set);
	FD_SET(p->b, &set);
	assert_fails(ppoll(&item, 1, &negative, NULL), EINVAL);
	assert_fails(ppoll(&item, 1, &large, NULL), EINVAL);
	assert_fails(select(p->b + 1, &set, NULL, NULL, &bad), EINVAL);
	assert_fails(pselect(p->b + 1, &set, NULL, NULL, &negative, NULL), EINVAL);
	assert_fails(select(-1, &set, NULL, NULL, NULL), EINVAL);
}

static void odd_entries(void **state)
{
	struct pair *p = *state;
	int closed = dup(0);
	struct pollfd items[] = {
	    {.fd = -1, .events = POLLIN, .revents = 77},
	    {.fd = p->b, .events = POLLIN},
	    {.fd = p->b, .events = POLLOUT},
	    {.fd = closed, .events = POLLIN},
	    {.fd = -p->a, .events = POLLOUT, .revents = 77},
	};
	fd_set set;

	close(closed);
	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(poll(items, 5, 0), 3);
	assert_returns(items[0].revents, 0);
	assert_returns(items[1].revents, POLLIN);
	assert_returns(items[2].revents, POLLOUT);
	assert_returns(items[3].revents, POLLNVAL);
	assert_returns(items[4].revents, 0);
	assert_returns(poll(NULL, 0, 10), 0);
	FD_ZERO(&set);
	FD_SET(p->b, &set);
	FD_SET(closed, &set);
	assert_fails(select(1000, &set, NULL, NULL, NULL), EBADF);
	recv_text(p->b, "x");
	pair_check_ring(p);
}

static void select_sets(void **state)
{
	struct pair *p = *state;
	fd_set in, out, except;

	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_ZERO(&except);
	FD_SET(p->a, &in);
	FD_SET(p->b, &in);
	FD_SET(p->a, &out);
	FD_SET(p->b, &out);
	FD_SET(p->b, &except);
	// Each bit counts.
	assert_returns(select(p->b + 1 > p->a + 1 ? p->b + 1 : p->a + 1, &in, &out, &except, NULL), 3);
	assert_that(!FD_ISSET(p->a, &in) && FD_ISSET(p->b, &in));
	assert_that(FD_ISSET(p->a, &out) && FD_ISSET(p->b, &out));
	assert_that(!FD_ISSET(p->b, &except));
	// Numbers from nfds on are not looked at.
	FD_ZERO(&in);
	FD_SET(p->b, &in);
	assert_returns(select(p->b, &in, NULL, NULL, &(struct timeval){0, 0}), 0);
	recv_text(p->b, "x");
	pair_check_ring(p);
}

static void select_hangup_is_readable(void **state)
{
	struct pair *p = *state;
	fd_set in, out;

	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(shutdown(p->b, SHUT_WR), 0);
	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_SET(p->b, &in);
	FD_SET(p->b, &out);
	assert_returns(select(p->b + 1, &in, &out, NULL, NULL), 2);
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

static void mixed_set(void **state)
{
	struct pair *p = *state, q;
	int fds[2], local[2], timer, event, signals, file;
	struct itimerspec soon = {.it_value = {0, 30000000}};
	sigset_t mask;
	uint64_t value;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
	pair_open(&q, p->family); // plain by its youth
	assert_returns(pipe(fds), 0);
	assert_returns(socketpair(AF_UNIX, SOCK_STREAM, 0, local), 0);
	timer = timerfd_create(CLOCK_MONOTONIC, 0);
	event = eventfd(0, 0);
	signals = signalfd(-1, &mask, 0);
	file = open("/proc/self/exe", O_RDONLY);
	struct pollfd items[] = {
	    {.fd = p->b, .events = POLLIN},  {.fd = fds[0], .events = POLLIN},	{.fd = q.b, .events = POLLIN},
	    {.fd = timer, .events = POLLIN}, {.fd = event, .events = POLLIN},	{.fd = local[0], .events = POLLIN},
	    {.fd = p->a, .events = POLLIN},  {.fd = signals, .events = POLLIN},
	};
	int count = sizeof(items) / sizeof(items[0]);

	assert_returns(poll(items, count, QUIET_MS), 0);
	assert_returns(write(fds[1], "x", 1), 1);
	assert_returns(poll(items, count, -1), 1);
	assert_returns(items[1].revents, POLLIN);
	assert_returns(read(fds[0], &value, 1), 1);
	timerfd_settime(timer, 0, &soon, NULL);
	assert_returns(poll(items, count, DEADLINE_MS), 1);
	assert_returns(items[3].revents, POLLIN);
	assert_returns(read(timer, &value, 8), 8);
	assert_returns(eventfd_write(event, 1), 0);
	assert_returns(poll(items, count, DEADLINE_MS), 1);
	assert_returns(items[4].revents, POLLIN);
	assert_returns(eventfd_read(event, &value), 0);
	assert_returns(send(local[1], "x", 1, 0), 1);
	assert_returns(poll(items, count, DEADLINE_MS), 1);
	assert_returns(items[5].revents, POLLIN);
	raise(SIGUSR2);
	assert_returns(poll(items, count, DEADLINE_MS), 2);
	assert_returns(items[7].revents, POLLIN);
	send_text(q.a, "x");
	assert_that(wait_for(q.b, POLLIN, DEADLINE_MS));
	assert_returns(poll(items, count, DEADLINE_MS), 3);
	assert_returns(items[2].revents, POLLIN);
	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(poll(items, count, DEADLINE_MS), 4);
	assert_returns(items[0].revents, POLLIN);
	items[6].fd = file;
	assert_returns(poll(items, count, 0), 5);

	recv_text(p->b, "x");
	struct signalfd_siginfo info;
	assert_returns(read(signals, &info, sizeof(info)), sizeof(info));
	pthread_sigmask(SIG_UNBLOCK, &mask, NULL);
	int all[] = {fds[0], fds[1], local[0], local[1], timer, event, signals, file};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		close(all[i]);
	pair_close(&q);
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

// Many sockets in one call, some of them on rings.
static void large_set(void **state)
{
	enum { COUNT = 60 };
	int family = *(int *)*state;
	struct pair pairs[COUNT];
	struct pollfd items[COUNT];

	for (int i = 0; i < COUNT; i++) {
		pair_open(&pairs[i], family);
		if (i % 4 == 0)
			pair_settle(&pairs[i]);
		items[i] = (struct pollfd){.fd = pairs[i].b, .events = POLLIN};
	}
	assert_returns(poll(items, COUNT, 0), 0);
	for (int i = 0; i < COUNT; i++) {
		send_text(pairs[i].a, "x");
		assert_returns(poll(items, COUNT, DEADLINE_MS), 1);
		assert_returns(items[i].revents, POLLIN);
		recv_text(pairs[i].b, "x");
	}
	for (int i = 0; i < COUNT; i++)
		pair_close(&pairs[i]);
}

static void nothing_lost_in_ping_pong(void **state)
{
	struct pair *p = *state;

	set_nonblocking(p->a, true);
	set_nonblocking(p->b, true);
	for (int i = 0; i < 3000; i++) {
		assert_that(wait_for(p->a, POLLOUT, DEADLINE_MS));
		send_text(p->a, "ping");
		assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
		recv_text(p->b, "ping");
		send_text(p->b, "pong");
		assert_that(wait_for(p->a, POLLIN, DEADLINE_MS));
		recv_text(p->a, "pong");
		assert_returns(look(p->a, POLLIN), 0);
		assert_returns(look(p->b, POLLIN), 0);
	}
	pair_check_ring(p);
}

static void poll_peer(int fd, void *arg)
{
	for (int i = 0; i < 2000; i++) {
		assert_that(wait_for(fd, POLLIN, DEADLINE_MS));
		recv_text(fd, "ping");
		send_text(fd, "pong");
	}
	recv_end(fd);
}

static void between_processes(void **state)
{
	struct peer peer;

	peer_start(&peer, *(int *)*state, poll_peer, NULL);
	for (int i = 0; i < 2000; i++) {
		send_text(peer.fd, "ping");
		assert_that(wait_for(peer.fd, POLLIN, DEADLINE_MS));
		recv_text(peer.fd, "pong");
	}
	peer_finish(&peer);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(states_of_a_connection),
    TEST_SETTLED(own_read_shutdown),
    TEST_SETTLED(own_write_shutdown),
    TEST_SETTLED(room),
    TEST_SETTLED(woken_by_data),
    TEST_SETTLED(woken_by_room),
    TEST_SETTLED(woken_by_end),
    TEST_SETTLED(woken_by_reset),
    TEST_SETTLED(woken_by_own_shutdown),
    TEST_SETTLED(many_pollers),
    TEST_SETTLED(times_out),
    TEST_SETTLED(bad_times),
    TEST_SETTLED(odd_entries),
    TEST_SETTLED(select_sets),
    TEST_SETTLED(select_hangup_is_readable),
    TEST_SETTLED(no_descriptor_left),
    TEST_SETTLED(mixed_set),
    TEST_SETTLED(mixed_set_wakes),
    TEST_FAMILY(large_set),
    TEST_SETTLED(nothing_lost_in_ping_pong),
    TEST_FAMILY(between_processes),
};
// clang-format on

SUITE_MAIN(tests)

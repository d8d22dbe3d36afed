// SPDX-License-Identifier: BSD-2-Clause
// poll, ppoll, select and pselect: what they report, in sets of every kind.
#include "pair.h"

#include <sys/eventfd.h>
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
    TEST_SETTLED(bad_times),
    TEST_SETTLED(odd_entries),
    TEST_SETTLED(select_sets),
    TEST_SETTLED(select_hangup_is_readable),
    TEST_SETTLED(mixed_set),
    TEST_FAMILY(large_set),
    TEST_SETTLED(nothing_lost_in_ping_pong),
    TEST_FAMILY(between_processes),
};
// clang-format on

SUITE_MAIN(tests)

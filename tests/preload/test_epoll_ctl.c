// SPDX-License-Identifier: BSD-2-Clause
// What is in an epoll instance: added, changed and removed at any time, closed, and under two numbers.
#include "epolls.h"

#include <sys/resource.h>

static void removed(void **state)
{
	struct pair *p = *state;
	struct epoll_event event = {.events = EPOLLIN};
	int ep = instance();

	add(ep, p->b, EPOLLIN);
	send_text(p->a, "x");
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	assert_returns(epoll_ctl(ep, EPOLL_CTL_DEL, p->b, NULL), 0);
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_DEL, p->b, NULL), ENOENT);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_MOD, p->b, &event), ENOENT);
	add(ep, p->b, EPOLLIN);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_ADD, p->b, &event), EEXIST);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	recv_text(p->b, "x");
	close(ep);
	pair_check_ring(p);
}

static volatile int minus_one = -1; // not for the compiler to see

static int sleep_and_take(void *arg)
{
	const int *fds = arg;

	return (int)take(fds[0], fds[1], DEADLINE_MS);
}

// Added again, in another mode or while somebody sleeps, after things happened that nobody asked for.
static void added_again(void **state)
{
	struct pair *p = *state;
	int ep = instance(), other = instance(), fds[2] = {ep, p->b}, again;
	struct sleeper sleeper;

	for (int i = 0; i < 50; i++) {
		add(ep, p->b, EPOLLIN | (i % 2 ? EPOLLET : 0));
		send_text(p->a, "x");
		assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
		recv_text(p->b, "x");
		del(ep, p->b);
		add(ep, p->b, EPOLLOUT);
		assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLOUT);
		del(ep, p->b);
	}
	send_text(p->a, "y");
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	add(other, p->b, EPOLLIN | EPOLLET);
	assert_returns(take(other, p->b, DEADLINE_MS), EPOLLIN);
	add(ep, p->b, EPOLLIN | EPOLLET);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	assert_returns(take(ep, p->b, 0), 0);
	recv_text(p->b, "y");
	del(ep, p->b);
	sleeper_start(&sleeper, sleep_and_take, fds);
	add(ep, p->b, EPOLLIN);
	send_text(p->a, "z");
	assert_returns(sleeper_join(&sleeper), EPOLLIN);
	recv_text(p->b, "z");
	del(ep, p->b);
	sleeper_start(&sleeper, sleep_and_take, fds);
	add(ep, p->b, EPOLLOUT);
	assert_returns(sleeper_join(&sleeper), EPOLLOUT);
	pair_check_ring(p);
	// A number that is removed, closed and something else.
	del(ep, p->b);
	again = dup(p->b);
	assert_returns(close(p->b), 0);
	assert_returns(dup2(ep, p->b), p->b);
	assert_returns(take(ep, p->b, 0), 0);
	assert_returns(dup2(again, p->b), p->b);
	assert_returns(close(again), 0);
	send_text(p->a, "z");
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	add(ep, p->b, EPOLLIN);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	recv_text(p->b, "z");
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	del(ep, p->b);
	add(ep, p->b, EPOLLIN | EPOLLRDHUP);
	wait_take(ep, p->b, EPOLLIN | EPOLLRDHUP);
	close(ep);
	close(other);
}

// At any moment of its life, also that of its promotion.
static void added_at_any_time(void **state)
{
	int family = *(int *)*state, ep = instance();

	for (int i = 0; i < 60; i++) {
		struct pair p;

		pair_open(&p, family);
		for (int n = 0; n < 40; n++) {
			send_text(p.a, "abc");
			add(ep, p.b, EPOLLIN);
			assert_returns(take(ep, p.b, DEADLINE_MS), EPOLLIN);
			recv_text(p.b, "abc");
			del(ep, p.b);
			send_text(p.b, "def");
			add(ep, p.a, EPOLLIN);
			assert_returns(take(ep, p.a, DEADLINE_MS), EPOLLIN);
			recv_text(p.a, "def");
			del(ep, p.a);
		}
		pair_close(&p);
	}
	close(ep);
}

static void bad_calls(void **state)
{
	struct pair *p = *state;
	struct epoll_event event = {.events = EPOLLIN};
	int ep = instance(), closed = dup(0), file = open("/proc/self/exe", O_RDONLY);

	close(closed);
	assert_fails(epoll_ctl(ep, 99, p->b, &event), EINVAL);
	assert_fails(epoll_ctl(p->b, EPOLL_CTL_ADD, p->a, &event), EINVAL);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &event), EINVAL);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_ADD, file, &event), EPERM);
	assert_fails(epoll_ctl(closed, EPOLL_CTL_ADD, p->b, &event), EBADF);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_ADD, closed, &event), EBADF);
	assert_fails(epoll_wait(ep, &event, 0, 0), EINVAL);
	assert_fails(epoll_wait(ep, &event, minus_one, 0), EINVAL);
	assert_fails(epoll_wait(p->b, &event, 1, 0), EINVAL);
	assert_fails(epoll_wait(closed, &event, 1, 0), EBADF);
	assert_fails(epoll_create(0), EINVAL);
	assert_fails(epoll_create1(7), EINVAL);
	event.events = EPOLLIN | EPOLLEXCLUSIVE;
	assert_returns(epoll_ctl(ep, EPOLL_CTL_ADD, p->b, &event), 0);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_MOD, p->b, &event), EINVAL);
	event.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT;
	assert_fails(epoll_ctl(ep, EPOLL_CTL_ADD, p->a, &event), EINVAL);
	close(ep);
	close(file);
	pair_check_ring(p);
}

// A closed descriptor leaves its epoll by itself when nothing else refers to the socket.
static void closed_leaves(void **state)
{
	struct pair *p = *state, q;
	int ep = instance();
	struct epoll_event event;

	add(ep, p->b, EPOLLIN | EPOLLHUP);
	close_end(&p->b);
	assert_returns(epoll_wait(ep, &event, 1, QUIET_MS), 0);
	// The number can be added again for another socket.
	pair_open(&q, p->family);
	pair_settle(&q);
	add(ep, q.a, EPOLLIN);
	add(ep, q.b, EPOLLIN);
	send_text(q.a, "x");
	assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
	assert_that(event.data.u64 == EPOLL_DATA(q.b));
	recv_text(q.b, "x");
	pair_close(&q);
	close(ep);
}

// With a duplicate open, events go on under the number that was added.
static void closed_but_duplicated(void **state)
{
	struct pair *p = *state;
	int ep = instance(), other = dup(p->b), number = p->b;
	struct epoll_event event = {.events = EPOLLIN};

	add(ep, p->b, EPOLLIN);
	assert_returns(close(p->b), 0);
	p->b = other;
	send_text(p->a, "x");
	assert_returns(take(ep, number, DEADLINE_MS), EPOLLIN);
	assert_returns(take(ep, number, 0), EPOLLIN);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_DEL, number, &event), EBADF);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_DEL, other, &event), ENOENT);
	recv_text(other, "x");
	assert_returns(take(ep, number, QUIET_MS), 0);
	close(ep);
	pair_check_ring(p);
}

// Two numbers of one socket are two entries.
static void both_duplicates(void **state)
{
	struct pair *p = *state;
	int ep = instance(), other = dup(p->b);
	struct epoll_event events[4];

	add(ep, p->b, EPOLLIN);
	add(ep, other, EPOLLIN | EPOLLET);
	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(epoll_wait(ep, events, 4, DEADLINE_MS), 2);
	assert_that(events[0].data.u64 != events[1].data.u64);
	assert_returns(epoll_wait(ep, events, 4, 0), 1);
	assert_that(events[0].data.u64 == EPOLL_DATA(p->b));
	recv_text(other, "x");
	close(other);
	close(ep);
	pair_check_ring(p);
}

// No descriptor is left for what librlm would need to watch the connection: it is watched all the same.
static void no_descriptor_left(void **state)
{
	struct pair *p = *state;
	struct rlimit limit, none;
	int ep = instance(), next = dup(p->a);

	close(next);
	assert_returns(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){.rlim_cur = next, .rlim_max = limit.rlim_max};
	assert_returns(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_fails(dup(p->a), EMFILE);
	add(ep, p->b, EPOLLIN);
	for (int i = 0; i < 3; i++) {
		assert_returns(take(ep, p->b, QUIET_MS / 4), 0);
		send_text(p->a, "x");
		assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
		recv_text(p->b, "x");
	}
	assert_returns(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_returns(epoll_ctl(ep, EPOLL_CTL_DEL, p->b, NULL), 0);
	close(ep);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(removed),
    TEST_SETTLED(added_again),
    TEST_FAMILY(added_at_any_time),
    TEST_SETTLED(bad_calls),
    TEST_SETTLED(closed_leaves),
    TEST_SETTLED(closed_but_duplicated),
    TEST_SETTLED(both_duplicates),
    TEST_SETTLED(no_descriptor_left),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// epoll instances that are waited for like any descriptor, by others of their kind and by poll().
#include "epolls.h"

static void nested_level(void **state)
{
	struct pair *p = *state;
	int inner = instance(), outer = instance();
	struct pollfd item = {.fd = inner, .events = POLLIN};

	add(inner, p->b, EPOLLIN);
	add(outer, inner, EPOLLIN);
	assert_returns(take_one(outer, 0), 0);
	assert_returns(poll(&item, 1, 0), 0);
	for (int i = 0; i < 5; i++) {
		send_text(p->a, "x");
		assert_returns(take_one(outer, DEADLINE_MS), EPOLLIN);
		assert_returns(take_one(outer, DEADLINE_MS), EPOLLIN);
		assert_returns(poll(&item, 1, DEADLINE_MS), 1);
		assert_returns(take_one(inner, DEADLINE_MS), EPOLLIN);
		recv_text(p->b, "x");
		assert_returns(take_one(outer, 0), 0);
		assert_returns(poll(&item, 1, 0), 0);
		assert_returns(take_one(inner, 0), 0);
	}
	close(inner);
	close(outer);
	pair_check_ring(p);
}

static void nested_edge(void **state)
{
	struct pair *p = *state;
	int inner = instance(), outer = instance();

	add(inner, p->b, EPOLLIN | EPOLLET);
	add(outer, inner, EPOLLIN | EPOLLET);
	for (int i = 0; i < 5; i++) {
		send_text(p->a, "x");
		assert_returns(take_one(outer, DEADLINE_MS), EPOLLIN);
		assert_returns(take_one(outer, QUIET_MS / 4), 0);
		assert_returns(take_one(inner, DEADLINE_MS), EPOLLIN);
		assert_returns(take_one(inner, 0), 0);
		recv_text(p->b, "x");
	}
	close(inner);
	close(outer);
	pair_check_ring(p);
}

static void nested_sleeper(void **state)
{
	struct pair *p = *state;
	int inner = instance(), middle = instance(), outer = instance();
	struct sleeper sleeper;

	add(inner, p->b, EPOLLIN);
	add(middle, inner, EPOLLIN);
	add(outer, middle, EPOLLIN);
	for (int i = 0; i < 3; i++) {
		sleeper_start(&sleeper, call_epoll, &outer);
		send_text(p->a, "x");
		assert_returns(sleeper_join(&sleeper), 1);
		recv_text(p->b, "x");
		assert_returns(take_one(outer, 0), 0);
	}
	close(inner);
	close(middle);
	close(outer);
	pair_check_ring(p);
}

// poll() sleeps on an epoll descriptor.
static void poll_on_epoll(void **state)
{
	struct pair *p = *state;
	int ep = instance();
	struct sleeper sleeper;

	add(ep, p->b, EPOLLIN);
	for (int i = 0; i < 3; i++) {
		sleeper_start(&sleeper, call_poll, &ep);
		send_text(p->a, "x");
		assert_returns(sleeper_join(&sleeper), 1);
		recv_text(p->b, "x");
	}
	close(ep);
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(nested_level),
    TEST_SETTLED(nested_edge),
    TEST_SETTLED(nested_sleeper),
    TEST_SETTLED(poll_on_epoll),
};
// clang-format on

SUITE_MAIN(tests)

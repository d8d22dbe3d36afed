// SPDX-License-Identifier: BSD-2-Clause
// epoll_wait and its kin: who is woken by what, in which order events are told, how many, and when time is up.
#include "epolls.h"

#include <sys/eventfd.h>
#include <sys/timerfd.h>

struct waiter {
	int ep, max, how;
	struct epoll_event events[64];
};

static int wait_events(void *arg)
{
	struct waiter *w = arg;
	struct timespec time = {DEADLINE_MS / 1000, 0};

	switch (w->how) {
	case 0:
		return epoll_wait(w->ep, w->events, w->max, DEADLINE_MS);
	case 1:
		return epoll_pwait(w->ep, w->events, w->max, -1, NULL);
	case 2:
		return epoll_pwait2(w->ep, w->events, w->max, &time, NULL);
	case 3:
		return epoll_pwait2(w->ep, w->events, w->max, NULL, NULL);
	case 4:
		return syscall(SYS_epoll_wait, w->ep, w->events, w->max, -1);
	default:
		return syscall(SYS_epoll_pwait, w->ep, w->events, w->max, -1, NULL, 8);
	}
}
#define HOWS 6

static void woken(void **state)
{
	struct pair *p = *state;
	uint32_t modes[] = {0, EPOLLET, EPOLLONESHOT, EPOLLEXCLUSIVE};

	for (int how = 0; how < HOWS; how++)
		for (int mode = 0; mode < 4; mode++) {
			struct waiter w = {.ep = instance(), .max = 4, .how = how};
			struct sleeper sleeper;

			add(w.ep, p->b, EPOLLIN | modes[mode]);
			sleeper_start(&sleeper, wait_events, &w);
			send_text(p->a, "x");
			assert_returns(sleeper_join(&sleeper), 1);
			assert_returns(w.events[0].events, EPOLLIN);
			recv_text(p->b, "x");
			close(w.ep);
		}
	pair_check_ring(p);
}

static void woken_by_room(void **state)
{
	struct pair *p = *state;
	uint32_t modes[] = {0, EPOLLET, EPOLLONESHOT};

	for (int mode = 0; mode < 3; mode++) {
		struct waiter w = {.ep = instance(), .max = 4};
		size_t queued = fill_socket(p->a, mode);
		struct sleeper sleeper;

		add(w.ep, p->a, EPOLLIN | EPOLLOUT | modes[mode]);
		sleeper_start(&sleeper, wait_events, &w);
		while (sleeper_done(&sleeper, QUIET_MS)) {
			assert_returns(sleeper.result, 1);
			assert_returns(w.events[0].events, EPOLLOUT);
			queued = fill_more(p->a, mode, queued);
			modify(w.ep, p->a, EPOLLIN | EPOLLOUT | modes[mode]);
			sleeper_start(&sleeper, wait_events, &w);
		}
		drain_socket(p->b, mode, 0, queued);
		assert_returns(sleeper_join(&sleeper), 1);
		assert_returns(w.events[0].events, EPOLLOUT);
		close(w.ep);
	}
	pair_check_ring(p);
}

static void woken_by_end(void **state)
{
	struct pair *p = *state;
	struct waiter w = {.ep = instance(), .max = 4};
	struct sleeper sleeper;

	add(w.ep, p->b, EPOLLIN | EPOLLRDHUP | EPOLLET);
	sleeper_start(&sleeper, wait_events, &w);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_returns(sleeper_join(&sleeper), 1);
	assert_returns(w.events[0].events, EPOLLIN | EPOLLRDHUP);
	close(w.ep);
}

// Another thread adds, changes and removes while one waits.
static void changed_while_waiting(void **state)
{
	struct pair *p = *state;
	struct waiter w = {.ep = instance(), .max = 4};
	struct sleeper sleeper;

	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	sleeper_start(&sleeper, wait_events, &w);
	add(w.ep, p->b, EPOLLIN);
	assert_returns(sleeper_join(&sleeper), 1);
	assert_returns(w.events[0].events, EPOLLIN);

	modify(w.ep, p->b, EPOLLPRI);
	sleeper_start(&sleeper, wait_events, &w);
	modify(w.ep, p->b, EPOLLIN);
	assert_returns(sleeper_join(&sleeper), 1);
	recv_text(p->b, "x");

	sleeper_start(&sleeper, wait_events, &w);
	assert_returns(epoll_ctl(w.ep, EPOLL_CTL_DEL, p->b, NULL), 0);
	send_text(p->a, "y");
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	add(w.ep, p->b, EPOLLIN);
	assert_returns(sleeper_join(&sleeper), 1);
	recv_text(p->b, "y");
	close(w.ep);
	pair_check_ring(p);
}

// Asked for fewer than are ready, it gives everyone a turn.
static void fairness(void **state)
{
	int family = *(int *)*state, ep = instance(), seen[8] = {0};
	struct pair pairs[8];
	struct epoll_event event;

	for (int i = 0; i < 8; i++) {
		pair_open(&pairs[i], family);
		if (i % 2)
			pair_settle(&pairs[i]);
		add(ep, pairs[i].b, EPOLLIN);
	}
	for (int i = 0; i < 8; i++)
		send_text(pairs[i].a, "x");
	for (int i = 0; i < 8; i++)
		assert_that(wait_for(pairs[i].b, POLLIN, DEADLINE_MS));
	for (int n = 0; n < 64; n++) {
		assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
		for (int i = 0; i < 8; i++)
			seen[i] += event.data.u64 == EPOLL_DATA(pairs[i].b);
	}
	for (int i = 0; i < 8; i++) {
		assert_that(seen[i] > 0);
		pair_close(&pairs[i]);
	}
	close(ep);
}

static void mixed(void **state)
{
	struct pair *p = *state, q;
	int ep = instance(), fds[2], timer = timerfd_create(CLOCK_MONOTONIC, 0), event = eventfd(0, 0);
	struct itimerspec soon = {.it_value = {0, 20000000}};
	struct epoll_event events[8];
	uint64_t value;

	pair_open(&q, p->family);
	assert_returns(pipe(fds), 0);
	add(ep, p->b, EPOLLIN);
	add(ep, q.b, EPOLLIN);
	add(ep, fds[0], EPOLLIN);
	add(ep, timer, EPOLLIN | EPOLLET);
	add(ep, event, EPOLLIN | EPOLLET);
	assert_returns(epoll_wait(ep, events, 8, 0), 0);
	timerfd_settime(timer, 0, &soon, NULL);
	assert_returns(take(ep, timer, DEADLINE_MS), EPOLLIN);
	assert_returns(read(timer, &value, 8), 8);
	for (int i = 0; i < 5; i++) {
		eventfd_write(event, 1);
		assert_returns(take(ep, event, DEADLINE_MS), EPOLLIN);
	}
	assert_returns(write(fds[1], "x", 1), 1);
	assert_returns(take(ep, fds[0], DEADLINE_MS), EPOLLIN);
	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(epoll_wait(ep, events, 8, DEADLINE_MS), 2);
	send_text(q.a, "x");
	assert_that(wait_for(q.b, POLLIN, DEADLINE_MS));
	assert_returns(epoll_wait(ep, events, 8, DEADLINE_MS), 3);
	recv_text(p->b, "x");
	recv_text(q.b, "x");
	assert_returns(take(ep, fds[0], DEADLINE_MS), EPOLLIN);
	assert_returns(read(fds[0], &value, 1), 1);
	assert_returns(epoll_wait(ep, events, 8, QUIET_MS), 0);
	pair_close(&q);
	close(fds[0]);
	close(fds[1]);
	close(timer);
	close(event);
	close(ep);
	pair_check_ring(p);
}

// Takes what is ready; the kernel then forgets that it had been.
static void warm(struct pair *p, int ep)
{
	send_text(p->a, "x");
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	recv_text(p->b, "x");
	assert_returns(take(ep, p->b, 0), 0);
}

static void takes_in_order(int ep, int first, int second)
{
	struct epoll_event events[4];

	assert_returns(epoll_wait(ep, events, 4, DEADLINE_MS), 2);
	assert_that(events[0].data.u64 == EPOLL_DATA(first));
	assert_that(events[1].data.u64 == EPOLL_DATA(second));
}

// What happened first is told first: an end before the bytes of another connection that were sent after it, and before the next connection.
static void in_order(void **state)
{
	struct pair *p = *state, q;
	int ep = instance(), listener = listener_open(p->family), next;

	pair_open(&q, p->family);
	pair_settle(&q);
	pair_touch(p); // bound from here on: when an item moves, it begins anew
	pair_touch(&q);
	pair_wait_bound(p);
	pair_wait_bound(&q);
	add(ep, p->b, EPOLLIN);
	add(ep, q.b, EPOLLIN);
	add(ep, listener, EPOLLIN);
	warm(p, ep);
	warm(&q, ep);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	send_text(q.a, "x");
	assert_that(wait_for(q.b, POLLIN, DEADLINE_MS));
	takes_in_order(ep, p->b, q.b);
	recv_text(q.b, "x");
	assert_returns(epoll_ctl(ep, EPOLL_CTL_DEL, p->b, NULL), 0);
	assert_returns(take(ep, q.b, 0), 0);
	close_end(&q.a);
	assert_that(wait_for(q.b, POLLIN, DEADLINE_MS));
	next = listener_connect(listener);
	assert_that(wait_for(listener, POLLIN, DEADLINE_MS));
	takes_in_order(ep, q.b, listener);
	assert_returns(close(next), 0);
	assert_returns(close(listener), 0);
	pair_close(&q);
	close(ep);
}

// Several that become writable by being asked for it one after the other, twice: what is told goes behind the others that are ready.
static void in_order_of_requests(void **state)
{
	static const int order[] = {3, 0, 2, 1};
	struct epoll_event events[8];
	struct pair *p = *state, others[3], *all[] = {p, &others[0], &others[1], &others[2]};
	int ep = instance();

	for (int i = 0; i < 4; i++) {
		if (i) {
			pair_open(all[i], p->family);
			pair_settle(all[i]);
		}
		pair_touch(all[i]);
		pair_wait_bound(all[i]);
		add(ep, all[i]->b, EPOLLIN);
	}
	for (int turn = 0; turn < 2; turn++) {
		assert_returns(epoll_wait(ep, events, 8, turn), 0);
		for (int i = 0; i < 4; i++)
			modify(ep, all[order[i]]->b, EPOLLIN | EPOLLOUT);
		for (int time = 0; time < 3; time++) {
			assert_returns(epoll_wait(ep, events, 8, DEADLINE_MS), 4);
			for (int i = 0; i < 4; i++)
				assert_returns(events[i].data.u64, EPOLL_DATA(all[order[i]]->b));
		}
		for (int i = 0; i < 4; i++)
			modify(ep, all[i]->b, EPOLLIN);
	}
	for (int i = 0; i < 3; i++)
		pair_close(&others[i]);
	close(ep);
	pair_check_ring(p);
}

// What is ready keeps its turn, however often it is asked for anew.
static void asked_for_again_and_again(void **state)
{
	struct epoll_event event;
	struct pair *p = *state, q;
	int ep = instance(), told[2] = {0, 0};

	pair_open(&q, p->family);
	pair_settle(&q);
	add(ep, p->b, EPOLLIN);
	add(ep, q.b, EPOLLIN);
	send_text(p->a, "p");
	send_text(q.a, "q");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS) && wait_for(q.b, POLLIN, DEADLINE_MS));
	for (int i = 0; i < 100; i++) {
		assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
		told[event.data.u64 == EPOLL_DATA(q.b)]++;
		if (event.data.u64 == EPOLL_DATA(q.b))
			modify(ep, p->b, EPOLLIN);
	}
	assert_that(told[0] > 5 && told[1] > 5);
	recv_text(p->b, "p");
	recv_text(q.b, "q");
	pair_close(&q);
	close(ep);
}

static void times_out(void **state)
{
	struct pair *p = *state;
	int ep = instance();
	struct epoll_event event;
	struct timespec time = {0, 80500000}, bad = {0, 1000000000};
	int64_t start = now_ms();

	add(ep, p->b, EPOLLIN);
	assert_returns(epoll_wait(ep, &event, 1, 80), 0);
	assert_that(now_ms() - start >= 79 && now_ms() - start < 3000);
	start = now_ms();
	assert_returns(epoll_pwait2(ep, &event, 1, &time, NULL), 0);
	assert_that(now_ms() - start >= 79 && now_ms() - start < 3000);
	assert_fails(epoll_pwait2(ep, &event, 1, &bad, NULL), EINVAL);
	close(ep);
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(woken),
    TEST_SETTLED(woken_by_room),
    TEST_SETTLED(woken_by_end),
    TEST_SETTLED(changed_while_waiting),
    TEST_FAMILY(fairness),
    TEST_SETTLED(mixed),
    TEST_SETTLED(in_order),
    TEST_SETTLED(in_order_of_requests),
    TEST_SETTLED(asked_for_again_and_again),
    TEST_SETTLED(times_out),
};
// clang-format on

SUITE_MAIN(tests)

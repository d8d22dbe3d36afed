// SPDX-License-Identifier: BSD-2-Clause
// Threads that went to sleep before the connection was promoted, or demoted, and must not notice.
#include "pair.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int sleep_recv(void *arg)
{
	char byte;
	return recv(*(int *)arg, &byte, 1, MSG_PEEK);
}

static int sleep_waitall(void *arg)
{
	char bytes[2];
	int got = recv(*(int *)arg, bytes, 2, MSG_WAITALL | MSG_PEEK);
	return got == 2 ? 1 : got;
}

static int sleep_epoll_mode(int fd, uint32_t mode)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), count;
	struct epoll_event event = {.events = EPOLLIN | mode};

	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
	count = epoll_wait(ep, &event, 1, -1);
	if (count == 1 && event.events != EPOLLIN)
		count = -2;
	close(ep);
	return count;
}

static int sleep_epoll(void *arg)
{
	return sleep_epoll_mode(*(int *)arg, 0);
}

static int sleep_epoll_edge(void *arg)
{
	return sleep_epoll_mode(*(int *)arg, EPOLLET);
}

static int sleep_epoll_oneshot(void *arg)
{
	return sleep_epoll_mode(*(int *)arg, EPOLLONESHOT);
}

static int sleep_epoll_nested(void *arg)
{
	int inner = epoll_create1(EPOLL_CLOEXEC), outer = epoll_create1(EPOLL_CLOEXEC), count;
	struct epoll_event event = {.events = EPOLLIN};

	epoll_ctl(inner, EPOLL_CTL_ADD, *(int *)arg, &event);
	epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event);
	count = epoll_wait(outer, &event, 1, -1);
	close(inner);
	close(outer);
	return count;
}

static int (*const sleeps[])(void *) = {
    sleep_recv,	 call_read,	   sleep_waitall,	call_poll,	    call_select,
    sleep_epoll, sleep_epoll_edge, sleep_epoll_oneshot, sleep_epoll_nested,
};
#define SLEEPS (int)(sizeof(sleeps) / sizeof(sleeps[0]))

// The connection was used, so it is being matched; the sleeper is inside its call when that ends.
static void through_promotion(void **state)
{
	int family = *(int *)*state;

	for (int i = 0; i < SLEEPS; i++) {
		struct pair p;
		struct sleeper sleeper;

		pair_open(&p, family);
		pair_touch(&p);
		sleeper_start(&sleeper, sleeps[i], &p.b);
		pair_wait_bound(&p);
		assert_that(!sleeper_done(&sleeper, 10));
		// The first byte after the cut; the other direction is switched too.
		send_text(p.a, "xy");
		assert_returns(sleeper_join(&sleeper), 1);
		recv_text(p.b, sleeps[i] == call_read ? "y" : "xy");
		send_text(p.b, "back");
		recv_text(p.a, "back");
		pair_close(&p);
	}
}

// Its own direction sends all the time and is switched under the sleeper.
static void through_promotion_of_the_other_direction(void **state)
{
	int family = *(int *)*state;

	for (int i = 0; i < SLEEPS; i++) {
		struct pair p;
		struct sleeper sleeper;

		pair_open(&p, family);
		sleeper_start(&sleeper, sleeps[i], &p.b);
		for (int n = 0; n < 20; n++) {
			send_text(p.b, "out");
			recv_text(p.a, "out");
			if (n == 10)
				pair_wait_bound(&p);
		}
		assert_that(!sleeper_done(&sleeper, 10));
		send_text(p.a, "xy");
		assert_returns(sleeper_join(&sleeper), 1);
		pair_close(&p);
	}
}

// Nothing but the end comes after the promotion.
static void end_after_promotion(void **state)
{
	int family = *(int *)*state;

	for (int i = 3; i < SLEEPS; i++) {
		struct pair p;
		struct sleeper sleeper;

		pair_open(&p, family);
		pair_touch(&p);
		sleeper_start(&sleeper, sleeps[i], &p.b);
		pair_wait_bound(&p);
		assert_returns(shutdown(p.a, SHUT_WR), 0);
		assert_returns(sleeper_join(&sleeper), 1);
		recv_end(p.b);
		pair_close(&p);
	}
}

// On the ring when they fall asleep; with demotion and flapping, not for long.
static void many_times(void **state)
{
	struct pair *p = *state;

	for (int round = 0; round < 6; round++)
		for (int i = 0; i < SLEEPS; i++) {
			struct sleeper sleeper;

			sleeper_start(&sleeper, sleeps[i], &p->b);
			send_text(p->b, "out");
			recv_text(p->a, "out");
			send_text(p->a, "xy");
			assert_returns(sleeper_join(&sleeper), 1);
			recv_text(p->b, sleeps[i] == call_read ? "y" : "xy");
		}
	pair_check_ring(p);
}

// One long-lived edge-triggered instance over the whole life of a connection.
static void one_instance_for_life(void **state)
{
	struct pair p;
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};

	pair_open(&p, *(int *)*state);
	assert_returns(epoll_ctl(ep, EPOLL_CTL_ADD, p.b, &event), 0);
	assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
	assert_returns(event.events, EPOLLOUT);
	for (int i = 0; i < 400; i++) {
		send_text(p.a, "ping");
		assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
		assert_returns(event.events, EPOLLIN | EPOLLOUT);
		recv_text(p.b, "ping");
		send_text(p.b, "pong");
		recv_text(p.a, "pong");
		if (i == 20)
			pair_wait_bound(&p);
	}
	assert_returns(epoll_wait(ep, &event, 1, QUIET_MS), 0);
	assert_returns(shutdown(p.a, SHUT_WR), 0);
	assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
	assert_returns(event.events, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
	pair_close(&p);
	close(ep);
}

// A sender that waits for room in the kernel's buffers when the promotion comes.
static void sender_through_promotion(void **state)
{
	struct pair p;
	struct pattern s = {.seed = 8, .size = 12u << 20};
	struct sleeper sleeper;

	pair_open(&p, *(int *)*state);
	pair_touch(&p);
	s.fd = p.a;
	sleeper_start(&sleeper, call_send_pattern, &s);
	pair_wait_bound(&p);
	recv_pattern(p.b, 8, 0, s.size);
	assert_returns(sleeper_join(&sleeper), 0);
	pair_close(&p);
}

// Bytes that wait unread, peeked or not, when the cut falls.
static void unread_at_the_cut(void **state)
{
	for (int i = 0; i < 10; i++) {
		struct pair p;
		char buffer[16];

		pair_open(&p, *(int *)*state);
		send_text(p.a, "0123456789");
		send_text(p.b, "x");
		recv_text(p.a, "x");
		assert_that(wait_for(p.b, POLLIN, DEADLINE_MS));
		if (i % 2)
			assert_returns(recv(p.b, buffer, 4, MSG_PEEK), 4);
		pair_wait_bound(&p);
		send_text(p.a, "abcdefghij");
		if (i % 3 == 0)
			assert_returns(recv(p.b, buffer, 4, MSG_PEEK), 4);
		recv_text(p.b, "0123456789abcdefghij");
		assert_that(!wait_for(p.b, POLLIN, 0));
		pair_close(&p);
	}
}

// Where it runs, a normal thread runs first: what wakes it can be gone again when it looks.
static int sleep_poll_in_the_background(void *arg)
{
	struct sched_param none = {0};

	assert_returns(sched_setscheduler(0, SCHED_IDLE, &none), 0);
	return call_poll(arg);
}

static int sleep_select_in_the_background(void *arg)
{
	struct sched_param none = {0};

	assert_returns(sched_setscheduler(0, SCHED_IDLE, &none), 0);
	return call_select(arg);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	assert_returns(sched_setaffinity(0, sizeof(set), &set), 0);
}

// One thread sleeps since before the promotion, another one takes the first bytes that come after it; the next ones are for both.
static void two_threads_through_promotion(void **state)
{
	int (*const waits[])(void *) = {sleep_poll_in_the_background, sleep_select_in_the_background};
	cpu_set_t before;

	assert_returns(sched_getaffinity(0, sizeof(before), &before), 0);
	pin(sched_getcpu());
	for (int i = 0; i < 20; i++) {
		struct pair p;
		struct sleeper sleeper;

		pair_open(&p, *(int *)*state);
		pair_touch(&p);
		sleeper_start(&sleeper, waits[i % 2], &p.b);
		pair_wait_bound(&p);
		set_nonblocking(p.b, i / 2 % 2);
		send_text(p.a, "x");
		recv_text(p.b, "x");
		send_text(p.a, "y");
		assert_returns(sleeper_join(&sleeper), 1);
		recv_text(p.b, "y");
		pair_close(&p);
	}
	assert_returns(sched_setaffinity(0, sizeof(before), &before), 0);
}

static __thread volatile int signals;

static void count_signal(int number)
{
	(void)number;
	signals++;
}

// By the time it runs there is more than what woke it.
static int read_in_the_background(void *arg)
{
	struct sched_param none = {0};
	int n;

	assert_returns(sched_setscheduler(0, SCHED_IDLE, &none), 0);
	n = call_read(arg);
	raise(SIGUSR1);
	return n == 1 ? signals : n;
}

// A read that sleeps in the kernel is woken by the cut and finds its byte on the ring: it leaves nothing behind, neither for a signal that
// comes then nor for the close.
static void read_through_promotion(void **state)
{
	struct sigaction action = {.sa_handler = count_signal};
	cpu_set_t before;

	assert_returns(sigaction(SIGUSR1, &action, NULL), 0);
	assert_returns(sched_getaffinity(0, sizeof(before), &before), 0);
	pin(sched_getcpu());
	for (int i = 0; i < 10; i++) {
		struct pair p;
		struct sleeper sleeper;

		pair_open(&p, *(int *)*state);
		pair_touch(&p);
		sleeper_start(&sleeper, read_in_the_background, &p.b);
		pair_wait_bound(&p);
		send_text(p.a, "xy");
		assert_returns(sleeper_join(&sleeper), 1);
		recv_text(p.b, "y");
		assert_returns(close(p.b), 0);
		recv_end(p.a);
		p.b = -1;
		pair_close(&p);
	}
	assert_returns(sched_setaffinity(0, sizeof(before), &before), 0);
}

struct answerer {
	int ep;
	int rounds; // so many times a byte comes on any of the connections
};

// Each byte is answered, and each shot is told once.
static int answer_all(void *arg)
{
	struct answerer *a = arg;
	struct epoll_event event;
	char byte;

	for (int i = 0; i < a->rounds; i++) {
		if (epoll_wait(a->ep, &event, 1, DEADLINE_MS) != 1 || recv(event.data.fd, &byte, 1, MSG_DONTWAIT) != 1 ||
		    send(event.data.fd, &byte, 1, 0) != 1)
			return -1;
		event.events = EPOLLIN | EPOLLONESHOT;
		if (epoll_ctl(a->ep, EPOLL_CTL_MOD, event.data.fd, &event) < 0)
			return -1;
	}
	return 1;
}

// A shot that the kernel has fired when its connection is promoted, and that the sleeper has not told yet, is not lost. The instance holds
// so much that there is time for it.
static void shot_through_promotion(void **state)
{
	struct pair pairs[24];
	struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
	int others[400], pairs_many = (int)(sizeof(pairs) / sizeof(pairs[0])), rounds = 40;
	struct answerer a = {.ep = epoll_create1(EPOLL_CLOEXEC), .rounds = pairs_many * rounds};
	struct sleeper sleeper;

	for (int i = 0; i < 400; i++) {
		others[i] = eventfd(0, EFD_CLOEXEC);
		event.data.fd = others[i];
		assert_returns(epoll_ctl(a.ep, EPOLL_CTL_ADD, others[i], &event), 0);
	}
	sleeper_start(&sleeper, answer_all, &a);
	for (int i = 0; i < pairs_many; i++) {
		pair_open(&pairs[i], *(int *)*state);
		event.data.fd = pairs[i].b;
		assert_returns(epoll_ctl(a.ep, EPOLL_CTL_ADD, pairs[i].b, &event), 0);
		for (int n = 0; n < rounds; n++) {
			send_text(pairs[i].a, "x");
			recv_text(pairs[i].a, "x");
		}
	}
	assert_returns(sleeper_join(&sleeper), 1);
	for (int i = 0; i < pairs_many; i++)
		pair_close(&pairs[i]);
	for (int i = 0; i < 400; i++)
		close(others[i]);
	close(a.ep);
}

#define SENT_BY_EDGES 3000000u

struct promoted_sender {
	int fd, ep;
	_Atomic bool go;
};

// Looks, and now and then sleeps, while the promotion comes; then waits for room, again and again, and for nothing else.
static void *send_by_edges(void *arg)
{
	struct promoted_sender *s = arg;
	struct epoll_event event;
	uint64_t done = 0;

	for (unsigned i = 0; !s->go; i++)
		epoll_wait(s->ep, &event, 1, i % 64 == 0);
	while (done < SENT_BY_EDGES) {
		char block[16384];
		ssize_t n;

		pattern_fill(block, 9, done, sizeof(block));
		n = write(s->fd, block, SENT_BY_EDGES - done < sizeof(block) ? SENT_BY_EDGES - done : sizeof(block));
		if (n > 0) {
			done += (uint64_t)n;
			continue;
		}
		assert_that(n < 0 && errno == EAGAIN);
		assert_returns(epoll_wait(s->ep, &event, 1, DEADLINE_MS), 1);
	}
	return NULL;
}

// A loop looks at its instance in the moment in which a connection there gets its slot, and from then on only sends.
static void edges_of_room_through_promotion(void **state)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};

	for (int i = 0; i < 40; i++) {
		struct promoted_sender s = {.ep = epoll_create1(EPOLL_CLOEXEC)};
		pthread_t thread;
		struct pair p;

		pair_open(&p, *(int *)*state);
		s.fd = p.b;
		assert_returns(epoll_ctl(s.ep, EPOLL_CTL_ADD, p.b, &event), 0);
		assert_returns(pthread_create(&thread, NULL, send_by_edges, &s), 0);
		pair_touch(&p);
		pair_wait_bound(&p);
		set_nonblocking(p.b, true);
		s.go = true;
		recv_pattern(p.a, 9, 0, SENT_BY_EDGES);
		assert_returns(pthread_join(thread, NULL), 0);
		pair_close(&p);
		close(s.ep);
	}
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(through_promotion),
    TEST_FAMILY(through_promotion_of_the_other_direction),
    TEST_FAMILY(end_after_promotion),
    TEST_SETTLED(many_times),
    TEST_FAMILY(one_instance_for_life),
    TEST_FAMILY(sender_through_promotion),
    TEST_FAMILY(unread_at_the_cut),
    TEST_FAMILY(two_threads_through_promotion),
    TEST_FAMILY(read_through_promotion),
    TEST_FAMILY(shot_through_promotion),
    TEST_FAMILY(edges_of_room_through_promotion),
};
// clang-format on

SUITE_MAIN(tests)

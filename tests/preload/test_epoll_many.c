// SPDX-License-Identifier: BSD-2-Clause
// Several epoll instances, several threads, forks, and thousands of sockets.
#include "epolls.h"

#include <sys/resource.h>
#include <time.h>

// One socket in three instances: each has its own view and its own edges.
static void several_instances(void **state)
{
	struct pair *p = *state;
	int level = instance(), edge = instance(), shot = instance();

	add(level, p->b, EPOLLIN);
	add(edge, p->b, EPOLLIN | EPOLLET);
	add(shot, p->b, EPOLLIN | EPOLLONESHOT);
	for (int i = 0; i < 5; i++) {
		struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};

		send_text(p->a, "x");
		assert_returns(take_one(edge, DEADLINE_MS), EPOLLIN);
		assert_returns(take_one(level, DEADLINE_MS), EPOLLIN);
		assert_returns(take_one(shot, DEADLINE_MS), EPOLLIN);
		assert_returns(take_one(edge, 0), 0);
		assert_returns(take_one(shot, 0), 0);
		assert_returns(take_one(level, 0), EPOLLIN);
		recv_text(p->b, "x");
		assert_returns(take_one(level, 0), 0);
		assert_returns(epoll_ctl(shot, EPOLL_CTL_MOD, p->b, &event), 0);
		assert_returns(take_one(shot, 0), 0);
	}
	close(level);
	close(edge);
	close(shot);
	pair_check_ring(p);
}

// Threads asleep in several instances are all woken.
static void several_sleepers(void **state)
{
	struct pair *p = *state;
	int eps[4];
	struct sleeper sleepers[4];

	for (int i = 0; i < 4; i++) {
		eps[i] = instance();
		add(eps[i], p->b, EPOLLIN | (i % 2 ? EPOLLET : 0));
		sleeper_start(&sleepers[i], call_epoll, &eps[i]);
	}
	send_text(p->a, "x");
	for (int i = 0; i < 4; i++) {
		assert_returns(sleeper_join(&sleepers[i]), 1);
		close(eps[i]);
	}
	recv_text(p->b, "x");
	pair_check_ring(p);
}

static int count_done(struct sleeper *sleepers, bool *done, int count)
{
	int total = 0;

	for (int i = 0; i < count; i++) {
		done[i] = done[i] || sleeper_done(&sleepers[i], 1);
		total += done[i];
	}
	return total;
}

// Threads in one instance with an edge: one event is one thread's.
static void edge_wakes_one(void **state)
{
	struct pair *p = *state;
	int ep = instance();
	bool done[3] = {false};
	struct sleeper sleepers[3];

	add(ep, p->b, EPOLLIN | EPOLLET);
	for (int i = 0; i < 3; i++)
		sleeper_start(&sleepers[i], call_epoll, &ep);
	for (int n = 1; n <= 3; n++) {
		int64_t deadline = now_ms() + DEADLINE_MS;

		send_text(p->a, "x");
		while (count_done(sleepers, done, 3) < n && now_ms() < deadline)
			;
		nap_ms(QUIET_MS);
		assert_returns(count_done(sleepers, done, 3), n);
	}
	recv_text(p->b, "xxx");
	close(ep);
	pair_check_ring(p);
}

struct worker {
	int ep;
	_Atomic int *taken;
	int wanted;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct epoll_event event;
	char byte;

	while (*w->taken < w->wanted) {
		if (epoll_wait(w->ep, &event, 1, 50) != 1)
			continue;
		while (recv(event.data.fd, &byte, 1, MSG_DONTWAIT) == 1)
			(*w->taken)++;
		event.events = EPOLLIN | EPOLLONESHOT;
		if (epoll_ctl(w->ep, EPOLL_CTL_MOD, event.data.fd, &event) < 0)
			abort();
	}
	return NULL;
}

// The usual pool: one instance, one-shot, several workers; no byte without a worker.
static void worker_pool(void **state)
{
	enum { COUNT = 6, ROUNDS = 300 };
	int family = *(int *)*state, ep = instance();
	_Atomic int taken = 0;
	struct worker w = {ep, &taken, COUNT * ROUNDS};
	struct pair pairs[COUNT];
	pthread_t threads[3];

	for (int i = 0; i < COUNT; i++) {
		pair_open(&pairs[i], family);
		pair_settle(&pairs[i]);
		add(ep, pairs[i].b, EPOLLIN | EPOLLONESHOT);
	}
	for (int i = 0; i < 3; i++)
		assert_returns(pthread_create(&threads[i], NULL, work, &w), 0);
	for (int n = 0; n < ROUNDS; n++)
		for (int i = 0; i < COUNT; i++)
			send_text(pairs[i].a, "x");
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_returns(taken, COUNT * ROUNDS);
	for (int i = 0; i < COUNT; i++)
		pair_close(&pairs[i]);
	close(ep);
}

// Several instances with one socket, exclusive: each byte wakes at least one of those that sleep.
static void exclusive(void **state)
{
	struct pair *p = *state;
	int eps[3];
	struct sleeper sleepers[3];
	bool done[3] = {false};

	for (int i = 0; i < 3; i++) {
		eps[i] = instance();
		add(eps[i], p->b, EPOLLIN | EPOLLEXCLUSIVE);
		sleeper_start(&sleepers[i], call_epoll, &eps[i]);
	}
	for (int n = 1; n <= 3; n++) {
		int64_t deadline = now_ms() + DEADLINE_MS;

		send_text(p->a, "x");
		while (count_done(sleepers, done, 3) < n && now_ms() < deadline)
			;
		assert_that(count_done(sleepers, done, 3) >= n);
		// It is readable for whoever looks.
		assert_returns(take_one(eps[0], 0), EPOLLIN);
		recv_text(p->b, "x");
	}
	for (int i = 0; i < 3; i++)
		close(eps[i]);
	pair_check_ring(p);
}

static void dup_of_instance(void **state)
{
	struct pair *p = *state;
	int ep = instance(), other = dup(ep);

	add(ep, p->b, EPOLLIN);
	close(ep);
	send_text(p->a, "x");
	assert_returns(take_one(other, DEADLINE_MS), EPOLLIN);
	recv_text(p->b, "x");
	assert_returns(take_one(other, 0), 0);
	add(other, p->a, EPOLLIN);
	send_text(p->b, "y");
	assert_returns(take_one(other, DEADLINE_MS), EPOLLIN);
	recv_text(p->a, "y");
	close(other);
	pair_check_ring(p);
}

// The number of an instance is used again for another one, and for a socket.
static void instance_number_again(void **state)
{
	struct pair *p = *state;
	int ep = instance(), again;
	struct epoll_event event = {.events = EPOLLIN};

	add(ep, p->b, EPOLLIN);
	close(ep);
	again = instance();
	assert_returns(again, ep);
	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(take_one(again, 0), 0);
	add(again, p->b, EPOLLIN | EPOLLET);
	assert_returns(take_one(again, DEADLINE_MS), EPOLLIN);
	recv_text(p->b, "x");
	close(again);
	again = dup(p->b);
	assert_returns(again, ep);
	assert_fails(epoll_ctl(ep, EPOLL_CTL_ADD, p->a, &event), EINVAL);
	close(again);
	pair_check_ring(p);
}

// Child and parent share an instance that was made before the fork.
static void shared_over_fork(void **state)
{
	struct pair *p = *state;
	int ep = epoll_create1(0);
	pid_t child;

	add(ep, p->b, EPOLLIN);
	child = fork();
	if (child == 0) {
		assert_returns(take_one(ep, DEADLINE_MS), EPOLLIN);
		recv_text(p->b, "to child");
		send_text(p->b, "from child");
		_exit(0);
	}
	send_text(p->a, "to child");
	recv_text(p->a, "from child");
	child_finish(child);
	send_text(p->a, "to parent");
	assert_returns(take_one(ep, DEADLINE_MS), EPOLLIN);
	recv_text(p->b, "to parent");
	assert_returns(take_one(ep, QUIET_MS), 0);
	close(ep);
}

// The child makes its own and waits for an inherited socket.
static void own_instance_in_child(void **state)
{
	struct pair *p = *state;
	pid_t child = fork();

	if (child == 0) {
		int ep = instance();

		close(p->a);
		add(ep, p->b, EPOLLIN | EPOLLET);
		for (int i = 0; i < 20; i++) {
			assert_returns(take_one(ep, DEADLINE_MS), EPOLLIN);
			recv_text(p->b, "ping");
			send_text(p->b, "pong");
		}
		_exit(0);
	}
	close(p->b);
	p->b = -1;
	for (int i = 0; i < 20; i++) {
		send_text(p->a, "ping");
		recv_text(p->a, "pong");
	}
	child_finish(child);
	recv_end(p->a);
}

static void epoll_peer(int fd, void *arg)
{
	int ep = instance();

	set_nonblocking(fd, true);
	add(ep, fd, EPOLLIN | EPOLLRDHUP | EPOLLET);
	for (;;) {
		uint32_t events = take_one(ep, DEADLINE_MS);
		char buffer[512];
		ssize_t got;

		assert_that(events);
		while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0)
			assert_returns(send(fd, buffer, got, 0), got);
		if (got == 0)
			_exit(0);
		assert_that(errno == EAGAIN);
	}
}

static void echo_between_processes(void **state)
{
	struct peer peer;
	int ep = instance();

	peer_start(&peer, *(int *)*state, epoll_peer, NULL);
	add(ep, peer.fd, EPOLLIN);
	for (int i = 0; i < 3000; i++) {
		send_text(peer.fd, "ping");
		assert_returns(take_one(ep, DEADLINE_MS), EPOLLIN);
		recv_text(peer.fd, "ping");
	}
	close(ep);
	peer_finish(&peer);
}

// Thousands of idle sockets in one instance; a wait must not cost a look at each of them.
static void thousands(void **state)
{
	int family = *(int *)*state, ep = instance(), listener = listener_open(family), count = 4000;
	struct rlimit limit;
	int64_t start;
	int *fds;

	assert_returns(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if ((rlim_t)count * 2 + 200 > limit.rlim_cur)
		count = limit.rlim_cur / 2 - 200;
	fds = calloc(2 * count, sizeof(*fds));
	assert_that(fds && count > 50);
	for (int i = 0; i < count; i++) {
		fds[2 * i] = listener_connect(listener);
		fds[2 * i + 1] = accept(listener, NULL, NULL);
		assert_that(fds[2 * i + 1] >= 0);
		add(ep, fds[2 * i + 1], EPOLLIN);
	}
	start = now_ms();
	for (int i = 0; i < 2000; i++) {
		int n = i * 37 % count;
		struct epoll_event event;

		send_text(fds[2 * n], "x");
		assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
		assert_returns(event.data.fd, fds[2 * n + 1]);
		recv_text(fds[2 * n + 1], "x");
	}
	assert_that(now_ms() - start < 10000);
	for (int i = 0; i < 2 * count; i++)
		close(fds[i]);
	free(fds);
	close(listener);
	close(ep);
}

static int64_t cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

// What so many waits cost with `idle` connections beside the one in use; the idle ones have been used before, once.
static int64_t cost_beside(int family, int idle, int waits)
{
	int ep = instance(), listener = listener_open(family), *fds = calloc(2 * idle, sizeof(*fds));
	struct pair p;
	int64_t start;

	assert_that(fds && listener >= 0);
	pair_open(&p, family); // first: the others may use up what memory rings may have
	pair_settle(&p);
	for (int i = 0; i < idle; i++) {
		fds[2 * i] = listener_connect(listener);
		fds[2 * i + 1] = accept(listener, NULL, NULL);
		assert_that(fds[2 * i + 1] >= 0);
		add(ep, fds[2 * i + 1], EPOLLIN);
		send_text(fds[2 * i], "x");
		recv_text(fds[2 * i + 1], "x");
	}
	add(ep, p.b, EPOLLIN);
	for (int i = 0; i < 100; i++) // let things settle
		take_one(ep, 1);
	start = cpu_us();
	for (int i = 0; i < waits; i++) {
		send_text(p.a, "x");
		assert_returns(take_one(ep, DEADLINE_MS), EPOLLIN);
		recv_text(p.b, "x");
	}
	start = cpu_us() - start;
	pair_close(&p);
	for (int i = 0; i < 2 * idle; i++)
		close(fds[i]);
	free(fds);
	close(listener);
	close(ep);
	return start;
}

// Twenty times as many idle sockets; looking at each of them would cost about as many times as much.
static void idle_ones_cost_nothing(void **state)
{
	int family = *(int *)*state;
	int64_t few = cost_beside(family, 50, 2000), many = cost_beside(family, 1000, 2000);

	if (many >= 4 * few)
		check_failed(__FILE__, __LINE__, "%lld us with few, %lld us with many", (long long)few, (long long)many);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(several_instances),
    TEST_SETTLED(several_sleepers),
    TEST_SETTLED(edge_wakes_one),
    TEST_FAMILY(worker_pool),
    TEST_SETTLED(exclusive),
    TEST_SETTLED(dup_of_instance),
    TEST_SETTLED(instance_number_again),
    TEST_SETTLED(shared_over_fork),
    TEST_SETTLED(own_instance_in_child),
    TEST_FAMILY(echo_between_processes),
    TEST_FAMILY(thousands),
    TEST_FAMILY(idle_ones_cost_nothing),
};
// clang-format on

SUITE_MAIN(tests)

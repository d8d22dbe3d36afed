// SPDX-License-Identifier: BSD-2-Clause
// One epoll instance: what each mode reports, and when it does not.
#include "pair.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/timerfd.h>

static int instance(void)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);

	assert_that(ep >= 0);
	return ep;
}

static void add(int ep, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = 0x1234567800000000ull + fd};

	assert_returns(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event), 0);
}

static void modify(int ep, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = 0x1234567800000000ull + fd};

	assert_returns(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event), 0);
}

// The events of the one descriptor that is ready, 0 for none.
static uint32_t take(int ep, int fd, int timeout_ms)
{
	struct epoll_event events[4];
	int count = epoll_wait(ep, events, 4, timeout_ms);

	if (count == 0)
		return 0;
	assert_returns(count, 1);
	assert_that(events[0].data.u64 == 0x1234567800000000ull + fd);
	return events[0].events;
}

static void wait_take(int ep, int fd, uint32_t want)
{
	int64_t deadline = now_ms() + DEADLINE_MS;
	uint32_t got;

	while ((got = take(ep, fd, 100)) != want && now_ms() < deadline)
		nap_ms(1);
	assert_returns(got, want);
}

static void level(void **state)
{
	struct pair *p = *state;
	int ep = instance();

	add(ep, p->b, EPOLLIN);
	assert_returns(take(ep, p->b, 0), 0);
	send_text(p->a, "abc");
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	recv_text(p->b, "ab");
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	recv_text(p->b, "c");
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	modify(ep, p->b, EPOLLIN | EPOLLOUT);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLOUT);
	send_text(p->a, "abc");
	wait_take(ep, p->b, EPOLLIN | EPOLLOUT);
	recv_text(p->b, "abc");
	close(ep);
	pair_check_ring(p);
}

static void level_states(void **state)
{
	struct pair *p = *state;
	int ep = instance();

	add(ep, p->b, EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLOUT);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	wait_take(ep, p->b, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
	recv_end(p->b);
	wait_take(ep, p->b, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
	assert_returns(shutdown(p->b, SHUT_WR), 0);
	wait_take(ep, p->b, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP);
	modify(ep, p->b, 0);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLHUP);
	close(ep);
}

static void level_reset(void **state)
{
	struct pair *p = *state;
	struct linger linger = {.l_onoff = 1};
	int ep = instance();

	add(ep, p->b, 0);
	assert_returns(setsockopt(p->a, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	assert_returns(close(p->a), 0);
	p->a = -1;
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLERR | EPOLLHUP);
	close(ep);
}

static void level_room(void **state)
{
	struct pair *p = *state;
	int ep = instance();
	size_t queued;

	add(ep, p->a, EPOLLOUT);
	assert_returns(take(ep, p->a, 0), EPOLLOUT);
	queued = fill_socket(p->a, 1);
	while (take(ep, p->a, QUIET_MS))
		queued = fill_more(p->a, 1, queued);
	drain_socket(p->b, 1, 0, queued);
	assert_returns(take(ep, p->a, DEADLINE_MS), EPOLLOUT);
	close(ep);
	pair_check_ring(p);
}

// An edge for what is there when it is added, then one for every arrival, read or not.
static void edge(void **state)
{
	struct pair *p = *state;
	int ep = instance();

	send_text(p->a, "1");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	add(ep, p->b, EPOLLIN | EPOLLET);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	send_text(p->a, "2");
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	recv_text(p->b, "1");
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	recv_text(p->b, "2");
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	for (int i = 0; i < 20; i++) {
		send_text(p->a, "x");
		assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
		recv_text(p->b, "x");
		assert_returns(take(ep, p->b, 0), 0);
	}
	close(ep);
	pair_check_ring(p);
}

static void edge_both(void **state)
{
	struct pair *p = *state;
	int ep = instance();

	add(ep, p->b, EPOLLIN | EPOLLOUT | EPOLLET);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLOUT);
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	send_text(p->a, "x");
	// An edge shows all that is so.
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN | EPOLLOUT);
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	recv_text(p->b, "x");
	// Own sends are none.
	send_text(p->b, "y");
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	recv_text(p->a, "y");
	modify(ep, p->b, EPOLLIN | EPOLLOUT | EPOLLET);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLOUT);
	close(ep);
	pair_check_ring(p);
}

static void edge_room(void **state)
{
	struct pair *p = *state;
	int ep = instance();
	uint32_t events;
	size_t queued;

	add(ep, p->a, EPOLLOUT | EPOLLET);
	assert_returns(take(ep, p->a, DEADLINE_MS), EPOLLOUT);
	for (int i = 0; i < 3; i++) {
		queued = fill_socket(p->a, i);
		// Room that came and went while it was being filled may have left an edge behind.
		take(ep, p->a, 0);
		while ((events = take(ep, p->a, QUIET_MS))) {
			assert_returns(events, EPOLLOUT);
			queued = fill_more(p->a, i, queued);
			take(ep, p->a, 0);
		}
		drain_socket(p->b, i, 0, queued);
		assert_returns(take(ep, p->a, DEADLINE_MS), EPOLLOUT);
	}
	close(ep);
	pair_check_ring(p);
}

static void sends_and_stops(int fd, void *arg)
{
	int second = listener_connect(*(int *)arg);

	send_pattern(fd, 1, 0, 3000);
	recv_end(fd);
	close(fd);
	send_text(second, "1");
	nap_ms(20); // for the broker to hear of it
	raise(SIGSTOP);
	recv_text(second, "x");
	send_text(second, "2");
	recv_end(second);
}

// Our end of a connection is on its way to the ring before the other one is, in a place where an earlier connection left its counts.
static void edge_while_the_peer_is_stopped(void **state)
{
	int listener = listener_open(*(int *)*state), ep, fd, status;
	struct peer peer;

	for (int i = 0; i < 3; i++) {
		ep = instance();
		peer_start(&peer, *(int *)*state, sends_and_stops, &listener);
		recv_pattern(peer.fd, 1, 0, 3000);
		assert_returns(close(peer.fd), 0);
		peer.fd = -1;
		fd = accept(listener, NULL, NULL);
		assert_that(fd >= 0);
		assert_returns(waitpid(peer.pid, &status, WUNTRACED), peer.pid);
		assert_that(WIFSTOPPED(status));
		add(ep, fd, EPOLLIN | EPOLLET);
		assert_returns(take(ep, fd, DEADLINE_MS), EPOLLIN);
		send_text(fd, "x");
		assert_returns(take(ep, fd, QUIET_MS), 0);
		kill(peer.pid, SIGCONT);
		assert_returns(take(ep, fd, DEADLINE_MS), EPOLLIN);
		recv_text(fd, "12");
		close(fd);
		close(ep);
		peer_finish(&peer);
	}
	close(listener);
}

static void edge_end(void **state)
{
	struct pair *p = *state;
	int ep = instance();

	add(ep, p->b, EPOLLIN | EPOLLRDHUP | EPOLLET);
	assert_returns(take(ep, p->b, 0), 0);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN | EPOLLRDHUP);
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	recv_end(p->b);
	close(ep);
}

static void edge_data_then_end(void **state)
{
	struct pair *p = *state;
	int ep = instance();
	uint32_t seen = 0;
	int64_t deadline = now_ms() + DEADLINE_MS;

	add(ep, p->b, EPOLLIN | EPOLLRDHUP | EPOLLET);
	send_text(p->a, "last");
	assert_returns(close(p->a), 0);
	p->a = -1;
	while (!(seen & EPOLLRDHUP) && now_ms() < deadline)
		seen |= take(ep, p->b, DEADLINE_MS);
	assert_returns(seen, EPOLLIN | EPOLLRDHUP);
	recv_text(p->b, "last");
	recv_end(p->b);
	close(ep);
}

static void oneshot(void **state)
{
	struct pair *p = *state;
	int ep = instance();

	add(ep, p->b, EPOLLIN | EPOLLONESHOT);
	for (int i = 0; i < 5; i++) {
		assert_returns(take(ep, p->b, 0), 0);
		send_text(p->a, "abc");
		assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
		assert_returns(take(ep, p->b, 0), 0);
		send_text(p->a, "def");
		assert_returns(take(ep, p->b, QUIET_MS / 4), 0);
		modify(ep, p->b, EPOLLIN | EPOLLONESHOT);
		assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
		recv_text(p->b, "abcdef");
		modify(ep, p->b, EPOLLIN | EPOLLONESHOT);
	}
	close(ep);
	pair_check_ring(p);
}

// Disarmed means no hang-up either.
static void oneshot_hides_hangup(void **state)
{
	struct pair *p = *state;
	int ep = instance();

	add(ep, p->b, EPOLLIN | EPOLLONESHOT);
	send_text(p->a, "x");
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	assert_returns(shutdown(p->b, SHUT_WR), 0);
	recv_text(p->b, "x");
	assert_returns(close(p->a), 0);
	p->a = -1;
	assert_that(wait_for(p->b, POLLHUP, DEADLINE_MS));
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	modify(ep, p->b, EPOLLOUT | EPOLLONESHOT);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLOUT | EPOLLHUP);
	close(ep);
}

static void modes_change(void **state)
{
	struct pair *p = *state;
	int ep = instance();

	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	add(ep, p->b, EPOLLOUT | EPOLLET);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLOUT);
	// MOD looks at once.
	modify(ep, p->b, EPOLLIN | EPOLLET);
	assert_returns(take(ep, p->b, DEADLINE_MS), EPOLLIN);
	assert_returns(take(ep, p->b, 0), 0);
	modify(ep, p->b, EPOLLIN);
	assert_returns(take(ep, p->b, 0), EPOLLIN);
	assert_returns(take(ep, p->b, 0), EPOLLIN);
	modify(ep, p->b, 0);
	assert_returns(take(ep, p->b, QUIET_MS), 0);
	modify(ep, p->b, EPOLLIN | EPOLLET | EPOLLONESHOT);
	assert_returns(take(ep, p->b, 0), EPOLLIN);
	assert_returns(take(ep, p->b, 0), 0);
	recv_text(p->b, "x");
	close(ep);
	pair_check_ring(p);
}

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

static void del(int ep, int fd)
{
	assert_returns(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL), 0);
}

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

// A closed descriptor leaves its epoll by itself when nothing else refers to the socket.
static void closed_leaves(void **state)
{
	struct pair *p = *state, q;
	int ep = instance();
	struct epoll_event event;

	add(ep, p->b, EPOLLIN | EPOLLHUP);
	assert_returns(close(p->b), 0);
	p->b = -1;
	assert_returns(epoll_wait(ep, &event, 1, QUIET_MS), 0);
	// The number can be added again for another socket.
	pair_open(&q, p->family);
	pair_settle(&q);
	add(ep, q.a, EPOLLIN);
	add(ep, q.b, EPOLLIN);
	send_text(q.a, "x");
	assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
	assert_that(event.data.u64 == 0x1234567800000000ull + q.b);
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
	assert_that(events[0].data.u64 == 0x1234567800000000ull + p->b);
	recv_text(other, "x");
	close(other);
	close(ep);
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
			seen[i] += event.data.u64 == 0x1234567800000000ull + pairs[i].b;
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
	assert_that(events[0].data.u64 == 0x1234567800000000ull + first);
	assert_that(events[1].data.u64 == 0x1234567800000000ull + second);
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
	assert_returns(close(q.a), 0);
	q.a = -1;
	assert_that(wait_for(q.b, POLLIN, DEADLINE_MS));
	next = listener_connect(listener);
	assert_that(wait_for(listener, POLLIN, DEADLINE_MS));
	takes_in_order(ep, q.b, listener);
	assert_returns(close(next), 0);
	assert_returns(close(listener), 0);
	pair_close(&q);
	close(ep);
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
    TEST_SETTLED(level),
    TEST_SETTLED(level_states),
    TEST_SETTLED(level_reset),
    TEST_SETTLED(level_room),
    TEST_SETTLED(edge),
    TEST_SETTLED(edge_both),
    TEST_SETTLED(edge_room),
    TEST_FAMILY(edge_while_the_peer_is_stopped),
    TEST_SETTLED(edge_end),
    TEST_SETTLED(edge_data_then_end),
    TEST_SETTLED(oneshot),
    TEST_SETTLED(oneshot_hides_hangup),
    TEST_SETTLED(modes_change),
    TEST_SETTLED(removed),
    TEST_SETTLED(added_again),
    TEST_FAMILY(added_at_any_time),
    TEST_SETTLED(bad_calls),
    TEST_SETTLED(woken),
    TEST_SETTLED(woken_by_room),
    TEST_SETTLED(woken_by_end),
    TEST_SETTLED(changed_while_waiting),
    TEST_SETTLED(closed_leaves),
    TEST_SETTLED(closed_but_duplicated),
    TEST_SETTLED(both_duplicates),
    TEST_FAMILY(fairness),
    TEST_SETTLED(mixed),
    TEST_SETTLED(in_order),
    TEST_SETTLED(no_descriptor_left),
    TEST_SETTLED(times_out),
};
// clang-format on

SUITE_MAIN(tests)

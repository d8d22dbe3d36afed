// SPDX-License-Identifier: BSD-2-Clause
// One epoll instance: what each mode reports, and when it does not.
#include "epolls.h"

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
	int ep = instance();

	add(ep, p->b, 0);
	set_linger(p->a, 0);
	close_end(&p->a);
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
		close_end(&peer.fd);
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
	close_end(&p->a);
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
	close_end(&p->a);
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
};
// clang-format on

SUITE_MAIN(tests)

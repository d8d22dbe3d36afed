// SPDX-License-Identifier: BSD-2-Clause
// close: resets, linger, while others are inside a call.
#include "pair.h"

#include <sys/eventfd.h>

// b closes with bytes unread, and a has heard of it.
static void close_unread(struct pair *p)
{
	send_text(p->a, "never read");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	close_end(&p->b);
	assert_that(wait_for(p->a, POLLHUP, DEADLINE_MS));
}

// Closing with bytes unread resets the connection.
static void unread_data_resets(void **state)
{
	struct pair *p = *state;
	char byte;

	close_unread(p);
	assert_fails(recv(p->a, &byte, 1, 0), ECONNRESET);
	assert_returns(recv(p->a, &byte, 1, 0), 0);
	assert_fails(send(p->a, "x", 1, MSG_NOSIGNAL), EPIPE);
}

static void unread_data_resets_send_first(void **state)
{
	struct pair *p = *state;
	char byte;

	close_unread(p);
	assert_fails(send(p->a, "x", 1, MSG_NOSIGNAL), ECONNRESET);
	assert_fails(send(p->a, "x", 1, MSG_NOSIGNAL), EPIPE);
	assert_returns(recv(p->a, &byte, 1, 0), 0);
}

static void unread_data_resets_poll(void **state)
{
	struct pair *p = *state;
	struct pollfd item = {.fd = p->a, .events = POLLIN | POLLOUT | POLLRDHUP};

	close_unread(p);
	assert_returns(poll(&item, 1, 0), 1);
	assert_returns(item.revents, POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP);
	assert_returns(socket_error(p->a), ECONNRESET);
	assert_returns(socket_error(p->a), 0);
	assert_returns(poll(&item, 1, 0), 1);
	assert_returns(item.revents, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
}

// A byte that was only peeked at is unread.
static void peeked_data_resets(void **state)
{
	struct pair *p = *state;
	char byte;

	send_text(p->a, "x");
	assert_returns(recv(p->b, &byte, 1, MSG_PEEK), 1);
	close_end(&p->b);
	assert_that(wait_for(p->a, POLLHUP, DEADLINE_MS));
	assert_fails(recv(p->a, &byte, 1, 0), ECONNRESET);
}

// All read: an orderly end.
static void read_data_does_not_reset(void **state)
{
	struct pair *p = *state;

	send_text(p->a, "all read");
	recv_text(p->b, "all read");
	close_end(&p->b);
	recv_end(p->a);
	assert_returns(socket_error(p->a), 0);
}

static void linger_zero_resets(void **state)
{
	struct pair *p = *state;
	char byte;

	set_linger(p->b, 0);
	close_end(&p->b);
	assert_that(wait_for(p->a, POLLHUP, DEADLINE_MS));
	assert_fails(recv(p->a, &byte, 1, 0), ECONNRESET);
}

// A reset throws away what the receiver has not read; at most what came before it is seen.
static void linger_zero_with_data(void **state)
{
	struct pair *p = *state;
	char buffer[8];
	ssize_t got;

	send_text(p->b, "abc");
	assert_that(wait_for(p->a, POLLIN, DEADLINE_MS));
	set_linger(p->b, 0);
	close_end(&p->b);
	assert_that(wait_for(p->a, POLLHUP, DEADLINE_MS));
	got = recv(p->a, buffer, 8, 0);
	assert_that((got == -1 && errno == ECONNRESET) || got == 3);
	if (got == 3)
		assert_fails(recv(p->a, buffer, 8, 0), ECONNRESET);
}

static void linger_positive(void **state)
{
	struct pair *p = *state;
	int64_t start = now_ms();

	set_linger(p->b, 5);
	send_text(p->b, "abc");
	close_end(&p->b);
	// The peer's kernel has the bytes and the end: no reason to wait for its application.
	assert_that(now_ms() - start < 4000);
	recv_text(p->a, "abc");
	recv_end(p->a);
}

static void reset_wakes_receiver(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &p->a);
	set_linger(p->b, 0);
	close_end(&p->b);
	assert_fails(sleeper_join(&sleeper), ECONNRESET);
}

// The peer goes with our bytes unread while we wait for room.
static void reset_wakes_sender(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_send_much, &p->a);
	close_end(&p->b);
	assert_fails(sleeper_join(&sleeper), ECONNRESET);
	assert_fails(send(p->a, "x", 1, MSG_NOSIGNAL), EPIPE);
}

// A thread inside recv() keeps the socket: it gets its byte though the number is closed.
static void close_while_receiving(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &p->b);
	close_end(&p->b);
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 1);
}

static void close_while_receiving_then_end(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &p->b);
	close_end(&p->b);
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_returns(sleeper_join(&sleeper), 0);
	// Now the last user is gone and the peer sees the end.
	recv_end(p->a);
}

static int poll_in(void *arg)
{
	struct pollfd item = {.fd = *(int *)arg, .events = POLLIN};
	int count = poll(&item, 1, -1);

	return count == 1 ? item.revents : -1;
}

// Beside something else that stays quiet.
static int poll_in_company(void *arg)
{
	struct pollfd items[2] = {{.fd = *(int *)arg, .events = POLLIN}, {.fd = eventfd(0, 0), .events = POLLIN}};
	int count = poll(items, 2, -1);

	close(items[1].fd);
	return count == 1 ? items[0].revents : -1;
}

// A poll that is woken looks its numbers up again.
static void close_while_in(struct pair *p, int (*call)(void *))
{
	struct sleeper sleeper;
	int fd = p->b;

	sleeper_start(&sleeper, call, &fd);
	close_end(&p->b);
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), POLLNVAL);
	// It was the last user, and the byte was not read.
	assert_that(wait_for(p->a, POLLHUP, DEADLINE_MS));
	assert_returns(socket_error(p->a), ECONNRESET);
}

static void close_while_polling(void **state)
{
	close_while_in(*state, poll_in);
}

static void close_while_polling_in_company(void **state)
{
	close_while_in(*state, poll_in_company);
}

// Beside something that stays quiet.
static int poll_for_a_while(void *arg)
{
	struct pollfd items[2] = {{.fd = *(int *)arg, .events = POLLIN}, {.fd = eventfd(0, 0), .events = POLLIN}};
	int count = poll(items, 2, 10 * QUIET_MS);

	close(items[1].fd);
	return count == 1 ? items[0].revents : 0;
}

static void reuse_while_polling(struct pair *p, int other, void (*ring)(struct pair *q))
{
	struct sleeper sleeper;
	struct pair q;
	int fd, seen;

	pair_open(&q, p->family);
	pair_settle(&q);
	fd = q.b;
	sleeper_start(&sleeper, poll_for_a_while, &fd);
	assert_returns(dup2(other, fd), fd);
	ring(&q);
	seen = sleeper_join(&sleeper);
	assert_that(seen == POLLIN || (seen == 0 && carrier() == CARRIER_PROMOTE_MID));
	recv_text(fd, "first");
	close(fd);
	close_end(&q.a);
	q.b = -1;
}

static void send_to_nobody(struct pair *q)
{
	send_text(q->a, "lost");
}

static struct pair neighbours;

// In the same segment.
static void ring_neighbours(struct pair *q)
{
	(void)q;
	send_text(neighbours.a, "x");
	recv_text(neighbours.b, "x");
}

// The number is something else's by the time the poll is woken: what there is comes from that, and nothing of it gets lost. Only the
// kernel's poll, in which a thread sleeps whose connection was not bound, does not see what there is on another one's ring.
static void number_reused_while_polling(void **state)
{
	struct pair *p = *state;
	int local[2];

	neighbours = *p;
	assert_returns(socketpair(AF_UNIX, SOCK_STREAM, 0, local), 0);
	for (int i = 0; i < 10; i++) {
		send_text(local[0], "first");
		reuse_while_polling(p, local[1], ring_neighbours);
		send_text(p->a, "first");
		reuse_while_polling(p, p->b, send_to_nobody);
	}
	close(local[0]);
	close(local[1]);
}

static void close_while_sending(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;
	char buffer[65536];
	ssize_t got;

	// Its call goes on; the one after it meets a closed number.
	sleeper_start(&sleeper, call_send_much, &p->a);
	close(p->a);
	p->a = -1;
	do
		got = recv(p->b, buffer, sizeof(buffer), 0);
	while (got > 0);
	assert_returns(got, 0);
	assert_fails(sleeper_join(&sleeper), EBADF);
}

// As soon as close() has returned the other end knows, also of a connection that is so young that it is just being offered.
static void reset_comes_at_once(void **state)
{

	for (int i = 0; i < 100; i++) {
		struct sockaddr_storage name;
		socklen_t len = sizeof(name);
		struct pair p;
		char c;

		pair_open(&p, *(int *)*state);
		send_text(p.a, "a");
		recv_text(p.b, "a");
		if (i % 2) {
			set_linger(p.a, 0);
		} else {
			send_text(p.b, "unread");
			assert_that(wait_for(p.a, POLLIN, DEADLINE_MS));
		}
		close_end(&p.a);
		assert_fails(getpeername(p.b, (struct sockaddr *)&name, &len), ENOTCONN);
		assert_fails(recv(p.b, &c, 1, MSG_DONTWAIT), ECONNRESET);
		pair_close(&p);
	}
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(reset_comes_at_once),
    TEST_SETTLED(unread_data_resets),
    TEST_SETTLED(unread_data_resets_send_first),
    TEST_SETTLED(unread_data_resets_poll),
    TEST_SETTLED(peeked_data_resets),
    TEST_SETTLED(read_data_does_not_reset),
    TEST_SETTLED(linger_zero_resets),
    TEST_SETTLED(linger_zero_with_data),
    TEST_SETTLED(linger_positive),
    TEST_SETTLED(reset_wakes_receiver),
    TEST_SETTLED(reset_wakes_sender),
    TEST_SETTLED(close_while_receiving),
    TEST_SETTLED(close_while_receiving_then_end),
    TEST_SETTLED(close_while_polling),
    TEST_SETTLED(close_while_polling_in_company),
    TEST_SETTLED(number_reused_while_polling),
    TEST_SETTLED(close_while_sending),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// Half-closed connections, ends of streams, EPIPE and SIGPIPE.
#include "pair.h"

static void half_close(struct pair *p, int from, int to)
{
	char buffer[8];

	send_text(from, "last");
	assert_returns(shutdown(from, SHUT_WR), 0);
	recv_text(to, "last");
	recv_end(to);
	recv_end(to);
	assert_returns(read(to, buffer, 8), 0);
	assert_returns(recv(to, buffer, 8, MSG_PEEK), 0);
	assert_returns(recv(to, buffer, 8, MSG_DONTWAIT), 0);
	assert_returns(recv(to, buffer, 8, MSG_WAITALL), 0);
	// The other direction lives on.
	for (int i = 0; i < 10; i++) {
		send_text(to, "still here");
		recv_text(from, "still here");
	}
	assert_fails(send(from, "x", 1, MSG_NOSIGNAL), EPIPE);
	assert_returns(shutdown(to, SHUT_WR), 0);
	recv_end(from);
}

static void half_close_a(void **state)
{
	struct pair *p = *state;
	half_close(p, p->a, p->b);
}

static void half_close_b(void **state)
{
	struct pair *p = *state;
	half_close(p, p->b, p->a);
}

// Much under way in both directions when one is closed.
static void half_close_with_data(void **state)
{
	struct pair *p = *state;
	size_t ab = 3000, ba = 2500;

	send_pattern(p->b, 2, 0, ba);
	send_pattern(p->a, 1, 0, ab);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_pattern(p->b, 1, 0, ab);
	recv_end(p->b);
	send_pattern(p->b, 2, ba, ba);
	recv_pattern(p->a, 2, 0, 2 * ba);
	assert_returns(shutdown(p->b, SHUT_WR), 0);
	recv_end(p->a);
}

struct stream {
	int fd;
	size_t size;
};

static int send_stream(void *arg)
{
	struct stream *s = arg;

	send_pattern(s->fd, 2, 0, s->size);
	return shutdown(s->fd, SHUT_WR);
}

// The other direction goes on for long after the half-close.
static void long_after_half_close(void **state)
{
	struct pair *p = *state;
	struct stream s = {p->b, 3u << 20};
	struct sleeper sleeper;

	send_text(p->a, "request");
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_text(p->b, "request");
	recv_end(p->b);
	sleeper_start(&sleeper, send_stream, &s);
	recv_pattern(p->a, 2, 0, s.size);
	recv_end(p->a);
	assert_returns(sleeper_join(&sleeper), 0);
}

static void shutdown_twice(void **state)
{
	struct pair *p = *state;

	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_end(p->b);
	assert_returns(shutdown(p->a, SHUT_RDWR), 0);
	assert_returns(shutdown(p->b, SHUT_WR), 0);
	recv_end(p->a);
	// Both directions are closed now: the connection is gone, and that depends on timing in no carrier.
	assert_that(shutdown(p->a, SHUT_WR) == 0 || errno == ENOTCONN);
}

// On Linux SHUT_RD only makes an empty queue read as the end; what comes later is still received.
static void shutdown_read(void **state)
{
	struct pair *p = *state;
	char buffer[8];

	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(shutdown(p->b, SHUT_RD), 0);
	recv_text(p->b, "abc");
	assert_returns(recv(p->b, buffer, 8, 0), 0);
	assert_returns(recv(p->b, buffer, 8, 0), 0);
	send_text(p->a, "def");
	nap_ms(QUIET_MS);
	recv_text(p->b, "def");
	assert_returns(recv(p->b, buffer, 8, 0), 0);
	send_text(p->b, "back");
	recv_text(p->a, "back");
}

// What comes after it is still received, without what carriers say to each other meanwhile.
static void shutdown_read_when_empty(void **state)
{
	struct pair *p = *state;
	char buffer[8];

	for (int i = 0; i < 30; i++) {
		send_text(p->a, "abc");
		recv_text(p->b, "abc");
	}
	assert_returns(shutdown(p->b, SHUT_RD), 0);
	assert_returns(recv(p->b, buffer, 8, 0), 0);
	for (int i = 0; i < 30; i++) {
		send_text(p->a, "def");
		wait_readable_bytes(p->b, 3);
		recv_text(p->b, "def");
		assert_returns(recv(p->b, buffer, 8, 0), 0);
	}
	send_text(p->b, "back");
	recv_text(p->a, "back");
}

static void shutdown_read_wakes(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &p->b);
	assert_returns(shutdown(p->b, SHUT_RD), 0);
	assert_returns(sleeper_join(&sleeper), 0);
}

static void shutdown_both_wakes(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &p->b);
	assert_returns(shutdown(p->b, SHUT_RDWR), 0);
	assert_returns(sleeper_join(&sleeper), 0);
	recv_end(p->a);
	assert_fails(send(p->b, "x", 1, MSG_NOSIGNAL), EPIPE);
}

static void peer_shutdown_wakes(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &p->b);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_returns(sleeper_join(&sleeper), 0);
}

// A sender that waits for room is woken by a shutdown of its own direction.
static void shutdown_write_wakes_sender(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_send_much, &p->a);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_fails(sleeper_join(&sleeper), EPIPE);
}

static void sigpipe(void **state)
{
	struct pair *p = *state;
	struct iovec part = {"x", 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	struct mmsghdr many = {.msg_hdr = message};

	assert_returns(shutdown(p->a, SHUT_WR), 0);
	catch_signal(SIGPIPE, 0);
	assert_fails(send(p->a, "x", 1, 0), EPIPE);
	assert_returns(signal_count, 1);
	assert_fails(write(p->a, "x", 1), EPIPE);
	assert_returns(signal_count, 2);
	assert_fails(writev(p->a, &part, 1), EPIPE);
	assert_returns(signal_count, 3);
	assert_fails(sendmsg(p->a, &message, 0), EPIPE);
	assert_returns(signal_count, 4);
	assert_fails(sendmmsg(p->a, &many, 1, 0), EPIPE);
	assert_returns(signal_count, 5);
	assert_fails(syscall(SYS_write, p->a, "x", 1), EPIPE);
	assert_returns(signal_count, 6);
	assert_fails(send(p->a, "x", 1, MSG_NOSIGNAL), EPIPE);
	assert_fails(sendmsg(p->a, &message, MSG_NOSIGNAL), EPIPE);
	assert_fails(sendmmsg(p->a, &many, 1, MSG_NOSIGNAL), EPIPE);
	assert_returns(signal_count, 6);
	// Nothing to send, but the end is told all the same.
	assert_returns(send(p->a, "", 0, MSG_NOSIGNAL), send(p->a, "", 0, MSG_NOSIGNAL));
	signal(SIGPIPE, SIG_DFL);
}

// The first send after the peer has closed is taken, its answer is a reset, the next one fails.
static void peer_closed(void **state)
{
	struct pair *p = *state;
	char byte;

	close_end(&p->b);
	recv_end(p->a);
	assert_returns(send(p->a, "x", 1, MSG_NOSIGNAL), 1);
	assert_that(wait_for(p->a, POLLHUP, DEADLINE_MS));
	catch_signal(SIGPIPE, 0);
	assert_fails(send(p->a, "x", 1, 0), EPIPE);
	assert_returns(signal_count, 1);
	assert_fails(send(p->a, "x", 1, MSG_NOSIGNAL), EPIPE);
	assert_returns(signal_count, 1);
	signal(SIGPIPE, SIG_DFL);
	assert_returns(recv(p->a, &byte, 1, 0), 0);
}

// The same, with the reset seen by a receive first.
static void peer_closed_then_receive(void **state)
{
	struct pair *p = *state;
	char byte;
	int error = -1;
	socklen_t size = sizeof(error);

	close_end(&p->b);
	assert_that(wait_for(p->a, POLLRDHUP, DEADLINE_MS));
	assert_returns(send(p->a, "x", 1, MSG_NOSIGNAL), 1);
	assert_that(wait_for(p->a, POLLHUP, DEADLINE_MS));
	assert_returns(getsockopt(p->a, SOL_SOCKET, SO_ERROR, &error, &size), 0);
	assert_returns(error, EPIPE);
	assert_returns(getsockopt(p->a, SOL_SOCKET, SO_ERROR, &error, &size), 0);
	assert_returns(error, 0);
	assert_returns(recv(p->a, &byte, 1, 0), 0);
}

// What was sent before the close arrives in full, then the end.
static void data_then_close(void **state)
{
	struct pair *p = *state;
	size_t size = carrier() == CARRIER_RING_SMALL ? 3000 : 60000;

	send_pattern(p->a, 1, 0, size);
	close_end(&p->a);
	nap_ms(QUIET_MS);
	recv_pattern(p->b, 1, 0, size);
	recv_end(p->b);
	recv_end(p->b);
}

static void send_to_closed_keeps_data(void **state)
{
	struct pair *p = *state;

	send_text(p->b, "goodbye");
	assert_returns(shutdown(p->b, SHUT_WR), 0);
	send_text(p->a, "answer");
	recv_text(p->b, "answer");
	recv_text(p->a, "goodbye");
	recv_end(p->a);
	send_text(p->a, "more");
	recv_text(p->b, "more");
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(half_close_a),
    TEST_SETTLED(half_close_b),
    TEST_SETTLED(half_close_with_data),
    TEST_SETTLED(long_after_half_close),
    TEST_SETTLED(shutdown_twice),
    TEST_SETTLED(shutdown_read),
    TEST_SETTLED(shutdown_read_when_empty),
    TEST_SETTLED(shutdown_read_wakes),
    TEST_SETTLED(shutdown_both_wakes),
    TEST_SETTLED(peer_shutdown_wakes),
    TEST_SETTLED(shutdown_write_wakes_sender),
    TEST_SETTLED(sigpipe),
    TEST_SETTLED(peer_closed),
    TEST_SETTLED(peer_closed_then_receive),
    TEST_SETTLED(data_then_close),
    TEST_SETTLED(send_to_closed_keeps_data),
};
// clang-format on

SUITE_MAIN(tests)

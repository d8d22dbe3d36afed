// SPDX-License-Identifier: BSD-2-Clause
// Full buffers: what was taken arrives, whoever waits is woken, no two writers lock each other out.
#include "pair.h"

static void fill_and_drain(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 4; i++) {
		size_t queued = fill_socket(p->a, i);

		assert_that(queued >= 2048);
		assert_that(!wait_for(p->a, POLLOUT, 0));
		drain_socket(p->b, i, 0, queued);
		assert_that(wait_for(p->a, POLLOUT, DEADLINE_MS));
	}
	pair_check_ring(p);
}

static void both_full(void **state)
{
	struct pair *p = *state;
	size_t ab = fill_socket(p->a, 1), ba = fill_socket(p->b, 2);

	drain_socket(p->b, 1, 0, ab);
	drain_socket(p->a, 2, 0, ba);
	pair_talk(p, 1);
	pair_check_ring(p);
}

// Full, then the end: all that was taken is delivered.
static void full_then_shutdown(void **state)
{
	struct pair *p = *state;
	size_t queued = fill_socket(p->a, 1);

	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_pattern(p->b, 1, 0, queued);
	recv_end(p->b);
	send_text(p->b, "thanks");
	recv_text(p->a, "thanks");
}

static void full_then_close(void **state)
{
	struct pair *p = *state;
	size_t queued = fill_socket(p->a, 1);

	close_end(&p->a);
	nap_ms(QUIET_MS);
	recv_pattern(p->b, 1, 0, queued);
	recv_end(p->b);
}

static void exiting_sender(int fd, void *arg)
{
	size_t queued = fill_socket(fd, 1);
	// Its size goes out of band of the stream: the parent reads until the end.
	assert_returns(write(*(int *)arg, &queued, sizeof(queued)), sizeof(queued));
}

// The sender's process ends with everything still on its way.
static void full_then_exit(void **state)
{
	struct peer peer;
	size_t queued;
	int fds[2];

	assert_returns(pipe(fds), 0);
	peer_start(&peer, *(int *)*state, exiting_sender, &fds[1]);
	assert_returns(read(fds[0], &queued, sizeof(queued)), sizeof(queued));
	child_finish(peer.pid);
	recv_pattern(peer.fd, 1, 0, queued);
	recv_end(peer.fd);
	close(peer.fd);
	close(fds[0]);
	close(fds[1]);
}

// A writer that waits for room goes on byte by byte as the reader makes some.
static void slow_reader(void **state)
{
	struct pair *p = *state;
	struct pattern s = {p->a, 5, 6u << 20};
	struct sleeper sleeper;
	unsigned char buffer[30011];

	sleeper_start(&sleeper, call_send_pattern, &s);
	for (uint64_t at = 0; at < s.size;) {
		ssize_t got = recv(p->b, buffer, sizeof(buffer), 0);

		assert_that(got > 0);
		pattern_check(buffer, 5, at, got);
		at += got;
		if (at % 7 == 0)
			nap_ms(1);
	}
	assert_returns(sleeper_join(&sleeper), 0);
	pair_check_ring(p);
}

// A non-blocking writer takes whatever fits, at every size.
static void partial_writes(void **state)
{
	struct pair *p = *state;
	size_t size = 9u << 20, sent = 0, got = 0;
	unsigned char *data = malloc(size), buffer[65536];

	assert_that(data);
	pattern_fill(data, 1, 0, size);
	while (got < size) {
		ssize_t n = sent < size ? send(p->a, data + sent, size - sent, MSG_DONTWAIT) : 0;

		if (n > 0)
			sent += n;
		else
			assert_that(n == 0 || errno == EAGAIN);
		n = recv(p->b, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (n > 0) {
			pattern_check(buffer, 1, got, n);
			got += n;
		} else
			assert_that(n == -1 && errno == EAGAIN);
	}
	free(data);
	pair_check_ring(p);
}

static void small_send_buffer(void **state)
{
	struct pair *p = *state;
	struct pattern s = {p->a, 5, 200000};
	struct sleeper sleeper;

	set_int(p->a, SOL_SOCKET, SO_SNDBUF, 2048);
	sleeper_start(&sleeper, call_send_pattern, &s);
	recv_pattern(p->b, 5, 0, s.size);
	assert_returns(sleeper_join(&sleeper), 0);
}

#define BOUND 100000 // of what TCP takes with these buffers, and much less than a ring
#define SMALL 8192

static void small_open(struct pair *p, int family)
{
	int listener = listener_open(family);

	assert_that(listener >= 0);
	set_int(listener, SOL_SOCKET, SO_RCVBUF, SMALL);
	p->family = family;
	p->a = listener_connect(listener);
	p->b = accept(listener, NULL, NULL);
	assert_that(p->b >= 0);
	close(listener);
}

// Room is told of before all has been read.
static void check_bound(struct pair *p)
{
	struct pattern s = {p->a, 2, BOUND};
	struct sleeper sleeper;
	size_t queued = fill_socket(p->a, 1);

	assert_that(queued >= 2048);
	assert_that(queued < BOUND);
	recv_pattern(p->b, 1, 0, queued - 500);
	assert_that(wait_for(p->a, POLLOUT, DEADLINE_MS));
	recv_pattern(p->b, 1, queued - 500, 500);

	sleeper_start(&sleeper, call_send_pattern, &s);
	recv_pattern(p->b, 2, 0, BOUND / 2);
	nap_ms(QUIET_MS);
	recv_pattern(p->b, 2, BOUND / 2, BOUND / 2);
	assert_returns(sleeper_join(&sleeper), 0);
}

// A program that has set SO_SNDBUF, and a peer who has a small buffer and does not read.
static void send_buffer_bounds(void **state)
{
	struct pair p;

	small_open(&p, *(int *)*state);
	set_int(p.a, SOL_SOCKET, SO_SNDBUF, SMALL);
	pair_settle(&p);
	check_bound(&p);
	check_bound(&p);
	pair_talk(&p, 20);
	pair_check_used(&p, 1);
	pair_close(&p);
}

static void send_buffer_bounds_later(void **state)
{
	struct pair p;

	small_open(&p, *(int *)*state);
	pair_settle(&p);
	set_int(p.a, SOL_SOCKET, SO_SNDBUF, SMALL);
	check_bound(&p);
	pair_talk(&p, 20);
	check_bound(&p);
	pair_close(&p);
}

// One byte of room at a time.
static void byte_by_byte_reader(void **state)
{
	struct pair *p = *state;
	size_t queued = fill_socket(p->a, 1);
	unsigned char byte;

	for (uint64_t at = 0; at < 3000; at++) {
		assert_returns(recv(p->b, &byte, 1, 0), 1);
		pattern_check(&byte, 1, at, 1);
	}
	recv_pattern(p->b, 1, 3000, queued - 3000);
	assert_that(!wait_for(p->b, POLLIN, QUIET_MS));
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(fill_and_drain),
    TEST_SETTLED(both_full),
    TEST_SETTLED(full_then_shutdown),
    TEST_SETTLED(full_then_close),
    TEST_FAMILY(full_then_exit),
    TEST_SETTLED(slow_reader),
    TEST_SETTLED(partial_writes),
    TEST_SETTLED(small_send_buffer),
    TEST_FAMILY(send_buffer_bounds),
    TEST_FAMILY(send_buffer_bounds_later),
    TEST_SETTLED(byte_by_byte_reader),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// What fits between two blocking programs that both write before they read.
#include "pair.h"

#include <sys/epoll.h>

#define SIZE 100000
#define LARGE 1000000 // more than a ring holds

static void write_before_reading(struct pair *p, size_t size, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		send_pattern(p->a, 1, i * size, size);
		send_pattern(p->b, 2, i * size, size);
		recv_pattern(p->b, 1, i * size, size);
		recv_pattern(p->a, 2, i * size, size);
	}
}

// Loopback TCP takes this much on both sides without anyone reading.
static void both_write_first(void **state)
{
	struct pair *p = *state;

	write_before_reading(p, SIZE, 5);
	if (carrier() != CARRIER_RING_SMALL)
		pair_check_ring(p);
}

static void both_write_first_at_once(void **state)
{
	struct pair *p = *state;
	static unsigned char out[SIZE];

	pattern_fill(out, 1, 0, SIZE);
	assert_returns(send(p->a, out, SIZE, 0), SIZE);
	assert_returns(send(p->b, out, SIZE, 0), SIZE);
	recv_pattern(p->b, 1, 0, SIZE);
	recv_pattern(p->a, 1, 0, SIZE);
}

// From the first byte of the connection on.
static void on_a_fresh_connection(void **state)
{
	for (int i = 0; i < 5; i++) {
		struct pair p;

		pair_open(&p, *(int *)*state);
		for (int n = 0; n < 5; n++) {
			send_pattern(p.a, 1, n * SIZE, SIZE);
			send_pattern(p.b, 2, n * SIZE, SIZE);
			recv_pattern(p.b, 1, n * SIZE, SIZE);
			recv_pattern(p.a, 2, n * SIZE, SIZE);
		}
		pair_close(&p);
	}
}

static void writes_first(int fd, void *arg)
{
	for (int i = 0; i < 10; i++) {
		send_pattern(fd, 1, i * SIZE, SIZE);
		recv_pattern(fd, 2, i * SIZE, SIZE);
	}
	recv_end(fd);
}

static void two_processes(void **state)
{
	struct peer peer;

	peer_start(&peer, *(int *)*state, writes_first, NULL);
	for (int i = 0; i < 10; i++) {
		send_pattern(peer.fd, 2, i * SIZE, SIZE);
		recv_pattern(peer.fd, 1, i * SIZE, SIZE);
	}
	peer_finish(&peer);
}

// A non-blocking writer gets as much in when the other side does not read.
static void nonblocking_takes_as_much(void **state)
{
	struct pair *p = *state;
	size_t queued;

	if (carrier() == CARRIER_RING_SMALL)
		skip(); // it takes no more at once
	queued = fill_socket(p->a, 1);
	assert_that(queued >= SIZE);
	drain_socket(p->b, 1, 0, queued);
}

// A ring holds less: who waits for room gets it from TCP.
static void both_write_much_first(void **state)
{
	struct pair *p = *state;

	write_before_reading(p, LARGE, 3);
}

// Room is waited for before each send, so that none finds too little of it.
static void pieces_when_writable(void **state)
{
	struct pair *p = *state;
	unsigned char out[1000];

	for (unsigned done = 0; done < LARGE; done += sizeof(out)) {
		pattern_fill(out, 1, done, sizeof(out));
		assert_that(wait_for(p->a, POLLOUT, DEADLINE_MS));
		assert_returns(send(p->a, out, sizeof(out), MSG_DONTWAIT), sizeof(out));
	}
	recv_pattern(p->b, 1, 0, LARGE);
}

static int send_much(void *arg)
{
	static const char out[LARGE];
	ssize_t n;

	while ((n = send(*(int *)arg, out, sizeof(out), MSG_NOSIGNAL)) > 0)
		;
	return (int)n;
}

static void sends_much(int fd, void *arg)
{
	send_much(&fd);
}

static void wait_until_still(int fd)
{
	int now = 0, before;

	do {
		before = now;
		nap_ms(300); // longer than a full ring remains the carrier
		assert_returns(ioctl(fd, FIONREAD, &now), 0);
	} while (now != before || !now);
}

// Neither side reads, and one is killed: its end of the stream comes behind all that it sent, and finds no room. What it has not read makes
// its kernel say more.
static void killed_while_both_are_full(void **state)
{
	struct sleeper sleeper;
	struct peer peer;

	peer_start(&peer, *(int *)*state, sends_much, NULL);
	wait_until_still(peer.fd);
	sleeper_start(&sleeper, send_much, &peer.fd);
	kill(peer.pid, SIGKILL);
	assert_returns(waitpid(peer.pid, NULL, 0), peer.pid);
	assert_fails(sleeper_join(&sleeper), ECONNRESET);
	close(peer.fd);
}

static void send_when_writable(int fd, uint64_t offset, bool (*writable)(int fd))
{
	static unsigned char out[LARGE];

	pattern_fill(out, 1, offset, LARGE);
	for (size_t done = 0; done < LARGE;) {
		ssize_t n = send(fd, out + done, LARGE - done, MSG_DONTWAIT);

		if (n < 0) {
			assert_that(errno == EAGAIN);
			assert_that(writable(fd));
		} else {
			done += (size_t)n;
		}
	}
}

static bool poll_says(int fd)
{
	return wait_for(fd, POLLOUT, DEADLINE_MS);
}

static int epoll;

static bool epoll_says(int fd)
{
	struct epoll_event e;

	return epoll_wait(epoll, &e, 1, DEADLINE_MS) == 1 && e.events == EPOLLOUT && e.data.fd == fd;
}

static void much_when_poll_says(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 3; i++) {
		send_when_writable(p->a, i * LARGE, poll_says);
		recv_pattern(p->b, 1, i * LARGE, LARGE);
	}
}

static void much_when_epoll_says(void **state)
{
	struct pair *p = *state;
	struct epoll_event e = {.data.fd = p->a};

	for (int edge = 0; edge < 2; edge++) {
		epoll = epoll_create1(0);
		e.events = EPOLLOUT | (edge ? EPOLLET : 0);
		assert_returns(epoll_ctl(epoll, EPOLL_CTL_ADD, p->a, &e), 0);
		for (int i = 0; i < 3; i++) {
			uint64_t offset = (uint64_t)(edge * 3 + i) * LARGE;

			send_when_writable(p->a, offset, epoll_says);
			recv_pattern(p->b, 1, offset, LARGE);
		}
		close(epoll);
	}
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(both_write_first),
    TEST_SETTLED(both_write_first_at_once),
    TEST_FAMILY(on_a_fresh_connection),
    TEST_FAMILY(two_processes),
    TEST_SETTLED(nonblocking_takes_as_much),
    TEST_SETTLED(both_write_much_first),
    TEST_SETTLED(much_when_poll_says),
    TEST_SETTLED(much_when_epoll_says),
    TEST_SETTLED(pieces_when_writable),
    TEST_FAMILY(killed_while_both_are_full),
};
// clang-format on

SUITE_MAIN(tests)

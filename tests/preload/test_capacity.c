// SPDX-License-Identifier: BSD-2-Clause
// What fits between two blocking programs that both write before they read. Not asked of rings of 4096 bytes.
#include "pair.h"

#define SIZE 100000

// Loopback TCP takes this much on both sides without anyone reading.
static void both_write_first(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 5; i++) {
		send_pattern(p->a, 1, i * SIZE, SIZE);
		send_pattern(p->b, 2, i * SIZE, SIZE);
		recv_pattern(p->b, 1, i * SIZE, SIZE);
		recv_pattern(p->a, 2, i * SIZE, SIZE);
	}
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
	size_t queued = fill_socket(p->a, 1);

	assert_that(queued >= SIZE);
	drain_socket(p->b, 1, 0, queued);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(both_write_first),
    TEST_SETTLED(both_write_first_at_once),
    TEST_FAMILY(on_a_fresh_connection),
    TEST_FAMILY(two_processes),
    TEST_SETTLED(nonblocking_takes_as_much),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// A full ring that is not read yet, for TCP has bytes before it.
#include "pair.h"

#include "rlm/rlm.h"

#define PIECE 16384
#define LARGE (64 * PIECE) // more than a ring holds

static uint64_t plain_bytes(int fd)
{
	struct rlm_info info;

	assert_returns(rlm_socket_info(fd, &info), 0);
	return info.tx_bytes_plain;
}

// What TCP takes when nobody reads, behind a ring that is given up then.
static uint64_t fill_tcp(int fd)
{
	unsigned char out[PIECE];
	uint64_t filled = 0;
	ssize_t n;

	set_timeout(fd, SO_SNDTIMEO, 3000); // longer than a full ring remains the carrier
	do {
		pattern_fill(out, 1, filled, sizeof(out));
		n = send(fd, out, sizeof(out), 0);
		filled += n > 0 ? (uint64_t)n : 0;
	} while (n > 0);
	assert_that(errno == EAGAIN);
	set_timeout(fd, SO_SNDTIMEO, 0);
	return filled;
}

struct rest {
	int fd;
	uint64_t at;
};

static int send_rest(void *arg)
{
	const struct rest *rest = arg;
	unsigned char out[PIECE];

	for (uint64_t at = rest->at; at < rest->at + LARGE; at += sizeof(out)) {
		pattern_fill(out, 1, at, sizeof(out));
		assert_returns(send(rest->fd, out, sizeof(out), 0), sizeof(out));
	}
	return 0;
}

// The receiver takes its time over what TCP has before the cut, longer than a full ring that nobody reads remains the carrier. It does read.
static void behind_much_on_tcp(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;
	struct rest rest = {.fd = p->a};
	uint64_t filled, plain, at;

	if (carrier() != CARRIER_RING)
		skip();
	filled = fill_tcp(p->a);
	assert_that(filled > 2 * LARGE);
	plain = plain_bytes(p->a);
	rest.at = filled;
	sleeper_start(&sleeper, send_rest, &rest);
	for (at = 0; at + PIECE <= filled; at += PIECE) {
		recv_pattern(p->b, 1, at, PIECE);
		nap_ms(10);
	}
	recv_pattern(p->b, 1, at, filled + LARGE - at);
	sleeper_join(&sleeper);
	assert_that(plain_bytes(p->a) - plain < LARGE / 4);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(behind_much_on_tcp),
};
// clang-format on

SUITE_MAIN(tests)

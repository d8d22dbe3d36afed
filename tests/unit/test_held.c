// SPDX-License-Identifier: BSD-2-Clause
// Bytes that TCP_CORK holds back behind `head`: whatever happens to their sender or their round, they come, once and in order.
#include "by_hand.h"

#include <poll.h>

#include "sys.h"

// S's next bytes are in the ring, and held back.
static void hold(uint64_t n)
{
	uint64_t before = ring_head(&S->b.tx);

	send_exactly(n);
	SLOT->held = SLOT->head;
	SLOT->head = before;
	assert_true(ring_holds(&S->b.tx));
}

static void kill_sender(void)
{
	struct pollfd p = {.fd = R->fd, .events = POLLRDHUP};

	assert_int_equal(sys_call1(SYS_close, S->fd), 0);
	S->fd = -1;
	assert_int_equal(poll(&p, 1, 10000), 1);
}

static void test_not_seen(void **state)
{
	(void)state;
	promote();
	hold(50);
	receive_nothing();
	cutover_tx_release(&S->b);
	receive_exactly(50);
	assert_false(ring_holds(&S->b.tx));
}

static void test_killed(void **state)
{
	(void)state;
	promote();
	send_exactly(10);
	hold(50);
	kill_sender();
	receive_exactly(60);
	receive_end();
}

// The receiver takes what is left into memory of its own.
static void test_killed_and_left(void **state)
{
	(void)state;
	for (int seen = 0; seen < 2; seen++) {
		uint64_t available;

		promote();
		send_exactly(10);
		hold(50);
		kill_sender();
		if (seen)
			receive_exactly(40);
		while (!R->b.rx_eof && cutover_rx_look_at_tcp(&R->b, R->fd))
			;
		assert_int_equal(cutover_rx(&R->conn, &R->b, R->fd, &available), RX_WAY_RING);
		assert_true(cutover_leave_begin(&R->conn, &R->b, R->fd));
		assert_int_equal(cutover_leave(&R->b), 0);
		receive_exactly(seen ? 20 : 60);
		receive_end();
		cutover_leave_free(&R->b);
		restart();
	}
}

static void test_asked_back(void **state)
{
	(void)state;
	promote();
	send_exactly(10);
	hold(50);
	cutover_rx_ask(&R->b);
	assert_int_equal(cutover_tx(&S->conn, &S->b, S->fd, false), TX_WAY_PLAIN);
	receive_exactly(60);
}

static void test_round_ends(void **state)
{
	(void)state;
	promote();
	send_exactly(10);
	hold(50);
	end_by_sender();
	receive_exactly(110);
}

// Payload of before the cut is not taken for frames.
static void test_drain_is_not_frames(void **state)
{
	uint64_t available;

	(void)state;
	offer();
	S->b.tx_stop = 1;
	send_exactly(20);
	S->b.tx_stop = 0;
	send_exactly(9);
	cutover_rx(&R->conn, &R->b, R->fd, &available);
	assert_int_equal(R->b.rx_state, RX_DRAIN);
	cutover_rx_ask(&R->b);
	cutover_tx(&S->conn, &S->b, S->fd, false);
	cutover_tx_pay(&S->b, S->fd);
	cutover_rx(&R->conn, &R->b, R->fd, &available);
	assert_true(cutover_rx_has_ended(&R->b));
	assert_true(cutover_rx_has_frames(&R->b, R->fd));
	receive_exactly(29);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_not_seen),
	    TEST(test_killed),
	    TEST(test_killed_and_left),
	    TEST(test_asked_back),
	    TEST(test_round_ends),
	    TEST(test_drain_is_not_frames),
	};

	watchdog(55);
	return cmocka_run_group_tests_name("held", tests, NULL, NULL);
}

// SPDX-License-Identifier: BSD-2-Clause
// The stream comes to its end, in every state of a round.
#include "by_hand.h"

#include <sys/socket.h>

static void test_end_while_plain(void **state)
{
	send_exactly(10);
	finish_sender();
	receive_exactly(10);
	receive_end();
}

static void test_end_while_on_ring(void **state)
{
	promote();
	send_exactly(1000);
	finish_sender();
	receive_exactly(1000);
	receive_end();
	receive_end();
}

static void test_end_before_first_look(void **state)
{
	offer();
	send_exactly(1000);
	finish_sender();
	receive_exactly(1000);
	receive_end();
}

static void test_end_while_asked(void **state)
{
	promote();
	send_exactly(1000);
	receive_exactly(300);
	cutover_rx_ask(&R->b);
	receive_nothing();
	finish_sender(); // without having seen that it was asked
	receive_exactly(700);
	receive_end();
}

static void test_end_after_frames(void **state)
{
	promote();
	send_exactly(1000);
	end_by_sender();
	finish_sender();
	receive_exactly(1050);
	receive_end();
}

// The connection was reset before TCP had sent everything up to the cut: what is in the ring would follow a hole.
static void test_ended_before_the_cut(void **state)
{
	int error = 0;
	socklen_t len = sizeof(error);

	offer();
	puppet_tcp_payload(20);
	receive_exactly(20);
	puppet_begin(1, 50);
	reset_sender();
	must(getsockopt(R->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == ECONNRESET);
	assert_false(cutover_rx_ended(&R->b, R->fd));
	assert_int_equal(R->b.rx_state, RX_READY);
}

// The sender filled the ring and was gone before TCP took its CUT. Somebody sat in the kernel's receive.
static void test_end_without_any_frame(void **state)
{
	offer();
	puppet_begin(1, 0);
	puppet_ring(100);
	R->conn.rx_inflight = 1;
	finish_sender();
	assert_true(cutover_rx_ended(&R->b, R->fd));
	R->conn.rx_inflight = 0;
	receive_exactly(100);
	receive_end();
	restart();
	offer();
	assert_false(cutover_rx_ended(&R->b, R->fd));
	puppet_begin(1, 0);
	puppet_end(1, RLM_END_VOID);
	assert_false(cutover_rx_ended(&R->b, R->fd));
}

static void test_end_in_the_middle_of_frames(void **state)
{
	for (uint64_t n = 0; n < 10; n++) {
		const uint8_t frames[10] = {'C', 'E', 100};

		puppet_promote();
		puppet_end(1, 100);
		if (n)
			puppet_tcp(frames, n);
		finish_sender();
		receive_exactly(40);
		receive_end();
		restart();
	}
}

static void test_end_before_the_cut(void **state)
{
	offer();
	puppet_tcp_payload(30);
	puppet_begin(1, 50);
	receive_exactly(30);
	assert_int_equal(R->b.rx_state, RX_DRAIN);
	finish_sender();
	receive_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_end_while_plain),
	    TEST(test_end_while_on_ring),
	    TEST(test_end_before_first_look),
	    TEST(test_end_while_asked),
	    TEST(test_end_after_frames),
	    TEST(test_ended_before_the_cut),
	    TEST(test_end_without_any_frame),
	    TEST(test_end_in_the_middle_of_frames),
	    TEST(test_end_before_the_cut),
	};

	watchdog(55);
	return cmocka_run_group_tests_name("cutover-end", tests, NULL, NULL);
}

// SPDX-License-Identifier: BSD-2-Clause
// The receiver on the border between TCP and ring: somebody is inside its kernel receive, frames come in pieces, a round is void.
#include "by_hand.h"

#include <sys/socket.h>

#include "inside.h"
#include "sys.h"

// Another thread is in the kernel: as long as it can take bytes that come before the cut, nobody else can go on.
static void test_busy(void **state)
{
	uint64_t available;
	uint8_t data[20];

	offer();
	R->conn.rx_inflight = 1;
	assert_int_equal(cutover_rx(&R->conn, &R->b, R->fd, &available), RX_WAY_BUSY);
	S->b.tx_stop = 1;
	send_exactly(5);
	S->b.tx_stop = 0;
	send_exactly(9);
	assert_int_equal(cutover_rx(&R->conn, &R->b, R->fd, &available), RX_WAY_BUSY);
	assert_int_equal(sys_recv(R->fd, data, 5, 0), 5);
	assert_int_equal(cutover_rx_returned(&R->b, R->fd, 5, false), 5);
	R->received += 5;
	// Still inside, it can take frames only. The ring is open, the frame stays to wake it.
	receive_exactly(9);
	assert_false(R->b.rx_past);
	assert_false(cutover_rx_look_at_tcp(&R->b, R->fd));
	assert_int_equal(sys_recv(R->fd, data, 5, 0), 1);
	assert_int_equal(cutover_rx_returned(&R->b, R->fd, 1, false), 0);
	assert_int_equal(cutover_rx(&R->conn, &R->b, R->fd, &available), RX_WAY_WAIT);
	assert_false(R->b.rx_past);
	R->conn.rx_inflight = 0;
	assert_int_equal(cutover_rx(&R->conn, &R->b, R->fd, &available), RX_WAY_WAIT);
	assert_true(R->b.rx_past);
	end_by_sender();
	receive_exactly(50);
}

// The thread in the kernel is our own, interrupted by a signal handler that receives: it takes nothing as long as that runs. Then its call
// returns what it had, or is restarted.
static void test_handler_receives(void **state)
{
	static const struct rlm_arena nobody;
	struct rlm_inside outer;
	uint64_t available;
	uint8_t data[20];

	for (int restarted = 0; restarted < 2; restarted++) {
		offer();
		S->b.tx_stop = 1;
		send_exactly(8);
		inside_enter(&outer, &nobody, &R->conn);
		receive_exactly(2);
		S->b.tx_stop = 0;
		send_exactly(9);
		if (!restarted)
			assert_int_equal(sys_recv(R->fd, data, 20, 0), 7);
		else
			receive_exactly(6);
		R->received += restarted ? 0 : 6;
		receive_exactly(9);
		assert_false(R->b.rx_past);
		if (restarted)
			assert_int_equal(sys_recv(R->fd, data, 20, 0), 1);
		assert_int_equal(cutover_rx_returned(&R->b, R->fd, restarted ? 1 : 7, false), restarted ? 0 : 6);
		inside_leave(&outer, &nobody, &R->conn);
		assert_null(rlm_inside);
		assert_int_equal(cutover_rx(&R->conn, &R->b, R->fd, &available), RX_WAY_WAIT);
		assert_true(R->b.rx_past);
		end_by_sender();
		receive_exactly(50);
		restart();
	}
}

// A thread is inside the kernel's receive while the round begins, and the sender already sees that we have closed our side: it comes back
// with payload, CUT and the first byte of END in one.
static void overshoot(uint64_t before, uint64_t ring, bool probed)
{
	uint8_t data[4096];
	int64_t n;

	S->b.tx_stop = 1;
	if (before)
		send_exactly(before);
	R->b.rx_stop = 0;
	(void)cutover_rx(&R->conn, &R->b, R->fd, &(uint64_t){0});
	assert_int_equal(R->b.rx_state, RX_READY);
	R->conn.rx_inflight = 1;
	S->b.tx_stop = 0;
	send_exactly(ring);
	if (probed) {
		S->b.tx_stop = 1;
		shutdown(R->fd, SHUT_WR);
		send_exactly(1);
	}
	n = sys_recv(R->fd, data, sizeof(data), MSG_DONTWAIT | MSG_PEEK);
	assert_int_equal(n, before + 1 + probed);
	assert_int_equal(cutover_rx_returned(&R->b, R->fd, n, true), before);
	assert_int_equal(R->b.rx_state, RX_READY);
	n = sys_recv(R->fd, data, sizeof(data), MSG_DONTWAIT);
	assert_int_equal(n, before + 1 + probed);
	assert_int_equal(cutover_rx_returned(&R->b, R->fd, n, false), before);
	R->conn.rx_inflight = 0;
	expect_pattern(data, before, R->received);
	R->received += before;
	receive_exactly(ring + probed);
	receive_nothing();
	S->b.tx_stop = 1;
	send_exactly(30);
	R->b.rx_stop = 1;
	receive_exactly(30);
	assert_true(cutover_rx_is_plain(&R->b));
}

static void test_overshoot(void **state)
{
	for (uint64_t before = 0; before < 40; before += 13) {
		overshoot(before, 1, false);
		overshoot(before, 30, false);
		overshoot(before, 30, true);
		restart();
	}
}

static void test_frames_in_pieces(void **state)
{
	uint8_t frames[10] = {'C', 'E', 100};

	puppet_promote();
	for (int i = 0; i < 10; i++) {
		receive_exactly(4);
		puppet_tcp(frames + i, 1);
		if (i == 3)
			puppet_end(1, 100);
		if (i < 9)
			assert_int_equal(R->b.rx_state, RX_RING);
		cutover_rx_look_at_tcp(&R->b, R->fd);
		assert_int_equal(R->b.frame_got, i + 1);
	}
	receive_nothing();
	puppet_tcp_payload(30);
	receive_exactly(30);
	restart();
	puppet_promote();
	puppet_end(1, 100);
	receive_exactly(40);
	for (int i = 0; i < 10; i++) {
		receive_nothing();
		assert_int_equal(R->b.rx_state, RX_FRAMES);
		puppet_tcp(frames + i, 1);
	}
	receive_nothing();
	puppet_tcp_payload(30);
	receive_exactly(30);
}

// The receiver asked just when the round began: it waits for the sender's decision, and the round may be void.
static void test_void_round(void **state)
{
	uint64_t available;

	for (uint32_t round = 1; round < 20; round++) {
		offer();
		puppet_begin(round, (uint64_t)tcp_taken(R->fd));
		cutover_rx_ask(&R->b);
		assert_int_equal(R->b.rx_state, RX_READY);
		assert_int_equal(cutover_rx(&R->conn, &R->b, R->fd, &available), RX_WAY_WAIT);
		puppet_end(round, RLM_END_VOID);
		if (round % 2)
			puppet_tcp_payload(30);
		else
			receive_nothing();
		if (round % 2)
			receive_exactly(30);
		assert_true(cutover_rx_is_plain(&R->b));
	}
}

static void test_void_round_under_a_receive(void **state)
{
	uint8_t data[100];

	offer();
	R->conn.rx_inflight = 1;
	puppet_begin(1, 0);
	cutover_rx_ask(&R->b);
	puppet_end(1, RLM_END_VOID);
	puppet_tcp_payload(30);
	assert_int_equal(sys_recv(R->fd, data, 100, 0), 30);
	assert_int_equal(cutover_rx_returned(&R->b, R->fd, 30, false), 30);
	R->conn.rx_inflight = 0;
	R->received += 30;
	expect_pattern(data, 30, 0);
	puppet_tcp_payload(30);
	receive_exactly(30);
	assert_true(cutover_rx_is_plain(&R->b));
}

// A receiver that asks for the round back before it is past the cut cannot have it yet: a sender who finds the ring full sleeps.
static void test_asked_too_early(void **state)
{
	struct rlm_slot_shared *slot = pair.region[1].slot;

	offer();
	send_exactly(10);
	slot->rx_past = 0;
	slot->rx_ask = S->b.tx_round;
	assert_false(cutover_tx_is_asked(&S->b));
	assert_int_equal(cutover_tx(&S->conn, &S->b, S->fd, true), TX_WAY_RING);
	slot->rx_past = S->b.tx_round;
	assert_true(cutover_tx_is_asked(&S->b));
	assert_int_equal(cutover_tx(&S->conn, &S->b, S->fd, true), TX_WAY_PLAIN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_busy),
	    TEST(test_handler_receives),
	    TEST(test_overshoot),
	    TEST(test_frames_in_pieces),
	    TEST(test_void_round),
	    TEST(test_void_round_under_a_receive),
	    TEST(test_asked_too_early),
	};

	watchdog(55);
	return cmocka_run_group_tests_name("cutover-receiver", tests, NULL, NULL);
}

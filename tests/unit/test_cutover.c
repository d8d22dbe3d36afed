// SPDX-License-Identifier: BSD-2-Clause
// Rounds begin and end, between two honest ends.
#include "by_hand.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void test_promote(void **state)
{
	assert_true(cutover_tx_is_plain(&S->b) && cutover_rx_is_plain(&R->b));
	send_exactly(10);
	assert_int_equal(S->b.tx_state, TX_PLAIN);
	receive_exactly(10);
	assert_int_equal(R->b.rx_state, RX_READY);
	send_exactly(100);
	assert_int_equal(S->b.tx_state, TX_RING);
	assert_int_equal(SLOT->tx_round, 1);
	assert_int_equal(SLOT->cut, 10);
	assert_int_equal(SLOT->head, 100);
	assert_int_equal(tcp_written(S->fd), 11);
	assert_true(S->b.tx_fast);
	assert_int_equal(end_recv_pattern(R, 0, 1000, true), 100);
	receive_exactly(100);
	assert_true(R->b.rx_fast);
	receive_nothing();
	assert_false(cutover_tx_is_plain(&S->b) || cutover_rx_is_plain(&R->b));
}

// The cut lies behind bytes that the receiver has not read: it reads exactly these, however little it asks for.
static void test_promote_with_bytes_on_tcp(void **state)
{
	for (uint64_t step = 1; step < 40; step += 3) {
		offer();
		S->b.tx_stop = 1;
		send_exactly(500);
		S->b.tx_stop = 0;
		send_exactly(300);
		assert_int_equal(S->b.tx_state, TX_RING);
		while (R->received < S->sent) {
			assert_true(end_recv_pattern(R, 0, 1 + step / 2, true) > 0);
			receive_exactly(step < S->sent - R->received ? step : S->sent - R->received);
		}
		receive_nothing();
		restart();
	}
}

// A sender that has corked its socket does not know that it must uncork it for the bytes before the cut.
static void test_promote_corked(void **state)
{
	int on = 1, off = 0, value = -1;
	socklen_t len = sizeof(value);

	offer();
	assert_int_equal(setsockopt(S->fd, IPPROTO_TCP, TCP_NODELAY, &off, sizeof(off)), 0);
	assert_int_equal(setsockopt(S->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)), 0);
	S->b.tx_stop = 1;
	send_exactly(500);
	assert_int_equal(ioctl(S->fd, SIOCOUTQNSD, &value), 0);
	assert_int_equal(value, 500);
	S->b.tx_stop = 0;
	send_exactly(100);
	assert_int_equal(S->b.tx_state, TX_RING);
	assert_int_equal(ioctl(S->fd, SIOCOUTQNSD, &value), 0);
	assert_int_equal(value, 0);
	receive_exactly(600);
	assert_int_equal(getsockopt(S->fd, IPPROTO_TCP, TCP_NODELAY, &value, &len), 0);
	assert_int_equal(value, 0);
	assert_int_equal(getsockopt(S->fd, IPPROTO_TCP, TCP_CORK, &value, &len), 0);
	assert_int_equal(value, 1);
}

static void test_full_ring(void **state)
{
	promote();
	assert_int_equal(end_send_pattern(S, 0, RING + 500), RING);
	assert_int_equal(end_send_pattern(S, 0, 1), -EAGAIN);
	receive_exactly(100);
	assert_int_equal(end_send_pattern(S, 0, 1000), 100);
	receive_exactly(RING);
	for (int i = 0; i < 100; i++) {
		send_exactly(333);
		receive_exactly(333);
	}
}

static void test_sender_ends(void **state)
{
	for (uint32_t round = 1; round <= 20; round++) {
		promote();
		assert_int_equal(SLOT->tx_round, 2 * round - 1);
		send_exactly(700);
		receive_exactly(200);
		end_by_sender();
		assert_int_equal(SLOT->tx_round, 2 * round);
		assert_int_equal(SLOT->end, SLOT->head);
		receive_exactly(500);
		R->b.rx_stop = 1;
		receive_exactly(50);
		assert_true(cutover_rx_is_plain(&R->b));
		assert_int_equal(tcp_written(S->fd), 60 * round); // CUT, END, 50 bytes
	}
}

// R has read so much of what S has put into the ring.
static void ask_back_more_than_tcp_takes(uint64_t read)
{
	pair_close(&pair);
	pair_open(&pair, 64 * RING);
	promote();
	tcp_set_buffers(S->fd, 4000); // the round does not hear of it
	tcp_set_buffers(R->fd, 4000);
	send_exactly(60 * RING);
	receive_exactly(read);
	cutover_rx_ask(&R->b);
}

// What another process of the family did that was killed between the kernel's part of it and the counting.
static void taken_by_one_who_died(void *data, uint64_t n)
{
	R->b.rx_taking = 1;
	assert_int_equal(recv(R->fd, data, n, MSG_WAITALL), n);
}

static uint64_t paid_by_one_who_died(const uint8_t *data, uint64_t n)
{
	int64_t r;

	S->b.paid_from = tcp_accepted(S->fd);
	S->b.tx_paying = 1;
	r = send(S->fd, data, n, MSG_DONTWAIT);
	return r > 0 ? (uint64_t)r : 0;
}

static void test_frames_taken_by_one_who_died(void **state)
{
	for (unsigned taken = 1; taken <= RLM_FRAME_END_SIZE; taken++) {
		promote();
		send_exactly(700);
		receive_exactly(700);
		end_by_sender();
		assert_int_equal(R->b.frame_got, 1);
		taken_by_one_who_died(R->b.frame + 1, taken);
		receive_exactly(50);
	}
}

// Bytes that were taken are gone, as they would be on TCP, and no others.
static void test_payload_taken_by_one_who_died(void **state)
{
	uint8_t lost[100];

	offer();
	S->b.tx_stop = 1;
	send_exactly(500);
	S->b.tx_stop = 0;
	send_exactly(300);
	assert_int_equal(S->b.tx_state, TX_RING);
	for (int i = 0; i < 4; i++) {
		receive_exactly(1);
		assert_int_equal(R->b.rx_state, RX_DRAIN);
		taken_by_one_who_died(lost, sizeof(lost));
		R->received += sizeof(lost);
	}
	receive_exactly(396);
	receive_nothing();
}

static void test_frames_paid_by_one_who_died(void **state)
{
	for (unsigned paid = 1; paid <= RLM_FRAME_END_SIZE; paid++) {
		promote();
		send_exactly(700);
		receive_exactly(700);
		S->b.tx_stop = 1;
		cutover_tx(&S->conn, &S->b, S->fd, false);
		receive_nothing();
		cutover_tx(&S->conn, &S->b, S->fd, false);
		assert_int_equal(S->b.owed_len, RLM_FRAME_END_SIZE);
		assert_int_equal(paid_by_one_who_died(S->b.owed, paid), paid);
		send_exactly(50);
		receive_exactly(50);
		S->b.tx_stop = 0;
	}
}

static void test_bytes_resent_by_one_who_died(void **state)
{
	uint64_t at, n = 0;

	ask_back_more_than_tcp_takes(RING);
	end_send_pattern(S, 0, 10);
	while (R->received < S->sent) {
		assert_true(end_recv_pattern(R, 0, 5000, false) != 0);
		at = S->b.resend_at;
		if (cutover_tx_owes(&S->b))
			n += paid_by_one_who_died(S->b.tx.bytes + (at & (S->b.tx.size - 1)), 100);
		cutover_tx(&S->conn, &S->b, S->fd, false);
	}
	assert_true(n > 0);
}

// The sender dies while it owes bytes that were asked back: at any of their positions the ring has the rest.
static void test_sender_dies_while_resending(void **state)
{
	for (int frames = 0; frames < 6; frames++) {
		ask_back_more_than_tcp_takes(RING + (uint64_t)frames);
		end_send_pattern(S, 0, 10);
		assert_true(cutover_tx_owes(&S->b));
		if (frames & 1) { // some of them are on their way
			receive_exactly(RING);
			end_send_pattern(S, 0, 10);
			assert_true(cutover_tx_owes(&S->b));
		}
		close(S->fd);
		S->fd = -1;
		while (!R->eof) {
			int64_t r = end_recv_pattern(R, 0, 5000, false);

			assert_true(r >= 0 || r == -EAGAIN);
		}
		assert_int_equal(R->received, S->sent);
	}
}

// The sender goes on until the receiver has emptied the ring, so that nothing stays in there behind the end. END waits for what follows it.
static void test_sender_wishes(void **state)
{
	for (uint32_t round = 1; round <= 30; round++) {
		promote();
		assert_int_equal(SLOT->tx_round, 2 * round - 1);
		send_exactly(700);
		receive_exactly(200);
		if (round % 3 == 0)
			cutover_tx_wish(&S->b);
		else if (round % 3 == 1)
			S->b.tx_stop = 1;
		else
			cutover_rx_leave(&R->b);
		send_exactly(50);
		assert_int_equal(S->b.tx_state, TX_RING);
		assert_int_equal(SLOT->tx_wish, 2 * round - 1);
		receive_exactly(550);
		assert_false(R->b.rx_told);
		receive_nothing();
		assert_true(R->b.rx_told);
		assert_int_equal(cutover_tx(&S->conn, &S->b, S->fd, false), TX_WAY_PLAIN);
		assert_true(cutover_tx_owes(&S->b));
		assert_int_equal(SLOT->end, SLOT->head);
		R->b.rx_stop = 1;
		send_exactly(10);
		receive_exactly(10);
		S->b.tx_stop = 0;
		assert_true(cutover_rx_is_settled(&R->b, R->fd));
		assert_int_equal(tcp_written(S->fd), 20 * round); // CUT, END, 10 bytes
	}
}

// Who wants to have the END gets it.
static void test_lazy_end(void **state)
{
	promote();
	S->b.tx_stop = 1;
	cutover_tx(&S->conn, &S->b, S->fd, false);
	receive_nothing();
	cutover_tx(&S->conn, &S->b, S->fd, false);
	assert_int_equal(R->b.rx_state, RX_FRAMES);
	cutover_rx_ask(&R->b);
	receive_nothing();
	cutover_tx(&S->conn, &S->b, S->fd, false);
	receive_nothing();
	assert_true(cutover_tx_is_plain(&S->b) && cutover_rx_is_plain(&R->b));
	S->b.tx_stop = 0;
	promote();
	S->b.tx_stop = 1;
	cutover_tx(&S->conn, &S->b, S->fd, false);
	assert_true(cutover_tx_owes(&S->b));
	cutover_tx_pay(&S->b, S->fd);
	assert_true(cutover_tx_is_plain(&S->b));
}

// The receiver does not read, and the sender must leave: it has the rest asked back.
static void test_sender_needs(void **state)
{
	for (uint32_t round = 1; round <= 20; round++) {
		promote();
		send_exactly(700);
		receive_exactly(200);
		cutover_tx_need(&S->b);
		send_exactly(50);
		assert_int_equal(S->b.tx_state, TX_RING);
		assert_int_equal(SLOT->tx_wish, 2 * round);
		receive_nothing(); // answers
		assert_true(R->b.rx_asked && cutover_rx_is_on_its_way(&R->b, R->fd));
		R->b.rx_stop = 1;
		assert_int_equal(cutover_rx_unread(&R->conn, &R->b, R->fd), 550);
		assert_int_equal(cutover_tx(&S->conn, &S->b, S->fd, false), TX_WAY_PLAIN);
		assert_int_equal(SLOT->end, R->b.rx.mine->tail);
		assert_int_equal(cutover_rx_unread(&R->conn, &R->b, R->fd), 550);
		receive_exactly(550);
		assert_true(cutover_rx_is_settled(&R->b, R->fd));
		assert_int_equal(tcp_written(S->fd), 560 * round); // CUT, END, 550 bytes
	}
}

// Nothing is in the ring: there is nothing to ask for.
static void test_sender_wishes_with_nothing_left(void **state)
{
	promote();
	S->b.tx_stop = 1;
	send_exactly(50);
	assert_int_equal(S->b.tx_state, TX_PLAIN);
	assert_int_equal(SLOT->tx_wish, 0);
	R->b.rx_stop = 1;
	receive_exactly(50);
	assert_true(cutover_rx_is_plain(&R->b));
}

// Somebody may be in the receiver's kernel since before the cut, and would take what follows END for payload.
static void test_not_past(void **state)
{
	for (uint32_t round = 1; round <= 20; round++) {
		offer();
		send_exactly(700);
		assert_int_equal(S->b.tx_state, TX_RING);
		assert_false(cutover_tx_end(&S->b));
		S->b.tx_stop = 1;
		send_exactly(50);
		assert_int_equal(S->b.tx_state, TX_RING);
		receive_exactly(750);
		assert_int_equal(pair.region[1].slot->rx_past, round);
		send_exactly(5);
		assert_true(cutover_tx_is_plain(&S->b));
		S->b.tx_stop = 0;
		receive_exactly(5);
	}
}

// The receiver has closed its sending side. Whether it is still there is found out with the first byte of END.
static void test_probe(void **state)
{
	promote();
	send_exactly(100);
	shutdown(R->fd, SHUT_WR);
	S->b.tx_stop = 1;
	send_exactly(50);
	assert_int_equal(S->b.tx_state, TX_RING);
	assert_int_equal(tcp_written(S->fd), 2); // CUT and a byte
	send_exactly(50);
	assert_int_equal(tcp_written(S->fd), 2);
	receive_exactly(200);
	R->b.rx_stop = 1;
	send_exactly(5);
	assert_true(cutover_tx_is_plain(&S->b));
	receive_exactly(5);
	assert_true(cutover_rx_is_plain(&R->b));
	restart();
	promote();
	send_exactly(100);
	close(R->fd); // with bytes unread, as when it is killed
	R->fd = -1;
	S->b.tx_stop = 1;
	send_exactly(50);
	assert_int_equal(end_send_pattern(S, 0, 50), -EPIPE);
}

static void test_receiver_asks(void **state)
{
	for (uint64_t i = 0; i < 30; i++) {
		promote();
		send_exactly(3000);
		receive_exactly(1000 - i);
		cutover_rx_ask(&R->b);
		receive_nothing(); // tail stands still
		assert_int_equal(R->b.rx.mine->tail, SLOT->head - 2000 - i);
		send_exactly(40);
		assert_int_equal(S->b.tx_state, TX_PLAIN);
		assert_int_equal(SLOT->end, R->b.rx.mine->tail);
		receive_exactly(2040 + i);
		assert_true(cutover_rx_is_plain(&R->b));
		receive_nothing();
		send_exactly(5);
		assert_int_equal(S->b.tx_state, TX_PLAIN);
		receive_exactly(5);
	}
}

static void test_receiver_asks_with_nothing_left(void **state)
{
	promote();
	cutover_rx_ask(&R->b);
	cutover_rx_ask(&R->b);
	receive_nothing();
	send_exactly(40);
	receive_exactly(40);
	assert_true(cutover_rx_is_plain(&R->b));
}

// More is sent again than TCP takes at once: it stays in front of what is newer.
static void test_receiver_asks_through_full_tcp(void **state)
{
	ask_back_more_than_tcp_takes(RING);
	assert_int_equal(end_send_pattern(S, 0, 10), -EAGAIN);
	assert_true(cutover_tx_owes(&S->b));
	assert_false(cutover_tx_is_plain(&S->b));
	while (R->received < S->sent) {
		int64_t r = end_recv_pattern(R, 0, 5000, false);

		assert_true(r > 0 || r == -EAGAIN);
		if (cutover_tx_owes(&S->b))
			end_send_pattern(S, 0, 10);
	}
	send_exactly(10);
	receive_exactly(10);
	assert_true(cutover_rx_is_plain(&R->b) && cutover_tx_is_plain(&S->b));
}

static void test_withdrawn_offer(void **state)
{
	offer();
	cutover_rx_ask(&R->b);
	assert_true(cutover_rx_is_plain(&R->b));
	send_exactly(10);
	assert_int_equal(S->b.tx_state, TX_PLAIN);
	assert_int_equal(SLOT->tx_round, 0);
	receive_exactly(10);
	promote();
	assert_int_equal(SLOT->tx_round, 3); // the first one never was
	send_exactly(10);
	receive_exactly(10);
}

static void test_no_promotion(void **state)
{
	send_exactly(5);
	receive_exactly(5);
	pair.region[1].slot->epoch = EPOCH + 1;
	send_exactly(5);
	assert_int_equal(S->b.tx_state, TX_PLAIN);
	pair.region[1].slot->epoch = EPOCH;
	S->conn.tx_inflight = 1; // somebody is inside a kernel send
	send_exactly(5);
	assert_int_equal(S->b.tx_state, TX_PLAIN);
	S->conn.tx_inflight = 0;
	send_exactly(5);
	assert_int_equal(S->b.tx_state, TX_RING);
	receive_exactly(15);
	restart();
	R->conn.rx_inflight = 2; // several may be inside a receive
	send_exactly(5);
	receive_exactly(5);
	assert_int_equal(R->b.rx_state, RX_PLAIN);
	R->conn.rx_inflight = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_promote),
	    TEST(test_promote_with_bytes_on_tcp),
	    TEST(test_promote_corked),
	    TEST(test_full_ring),
	    TEST(test_sender_ends),
	    TEST(test_frames_taken_by_one_who_died),
	    TEST(test_payload_taken_by_one_who_died),
	    TEST(test_frames_paid_by_one_who_died),
	    TEST(test_bytes_resent_by_one_who_died),
	    TEST(test_sender_dies_while_resending),
	    TEST(test_sender_wishes),
	    TEST(test_lazy_end),
	    TEST(test_sender_needs),
	    TEST(test_sender_wishes_with_nothing_left),
	    TEST(test_not_past),
	    TEST(test_probe),
	    TEST(test_receiver_asks),
	    TEST(test_receiver_asks_with_nothing_left),
	    TEST(test_receiver_asks_through_full_tcp),
	    TEST(test_withdrawn_offer),
	    TEST(test_no_promotion),
	};

	watchdog(55);
	return cmocka_run_group_tests_name("cutover", tests, NULL, NULL);
}

// SPDX-License-Identifier: BSD-2-Clause
// The cut-over between TCP and ring, driven by hand. end[0] sends and end[1] receives. In the first tests both are
// honest; later end[0] is a puppet: the test writes its shared memory and its TCP itself.
#include "unit.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "ends.h"
#include "inside.h"
#include "sys.h"

enum { RING = 4096, ROUNDS = UNIT_SANITIZED ? 100 : 400 };

static struct pair p;
#define S    (&p.end[0])
#define R    (&p.end[1])
#define SLOT (p.region[0].slot)

static int setup(void **state)
{
	pair_open(&p, RING);
	return 0;
}

static int teardown(void **state)
{
	pair_close(&p);
	return 0;
}

static void restart(void)
{
	pair_close(&p);
	pair_open(&p, RING);
}

// --- honest ends ---

static void send_exactly(uint64_t n)
{
	assert_int_equal(end_send_pattern(S, 0, n), n);
}

static void receive_exactly(uint64_t n)
{
	for (uint64_t start = now_ms(), got = 0; got < n;) {
		int64_t r = end_recv_pattern(R, 0, n - got, false);

		assert_true(r > 0 || r == -EAGAIN);
		assert_true(now_ms() - start < 5000);
		got += r > 0 ? (uint64_t)r : 0;
	}
}

static void receive_nothing(void)
{
	assert_int_equal(end_recv_pattern(R, 0, 100, false), -EAGAIN);
}

static void receive_end(void)
{
	assert_int_equal(end_recv_pattern(R, 0, 100, false), 0);
	assert_int_equal(R->received, S->sent);
}

static void offer(void)
{
	R->b.rx_stop = 0;
	receive_nothing();
	assert_int_equal(R->b.rx_state, RX_READY);
}

static void promote(void)
{
	offer();
	send_exactly(1);
	assert_int_equal(S->b.tx_state, TX_RING);
	receive_exactly(1);
	assert_int_equal(R->b.rx_state, RX_RING);
}

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

// Without asking first.
static void end_by_sender(void)
{
	S->b.tx_stop = 1;
	assert_true(cutover_tx_end(&S->b));
	send_exactly(50);
	S->b.tx_stop = 0;
	assert_true(cutover_tx_is_plain(&S->b));
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

// The sender dies while it owes bytes that were asked back: at any of their positions the ring has the rest.
static void test_sender_dies_while_resending(void **state)
{
	for (int frames = 0; frames < 6; frames++) {
		pair_close(&p);
		pair_open(&p, 64 * RING);
		tcp_set_buffers(S->fd, 4000);
		tcp_set_buffers(R->fd, 4000);
		promote();
		send_exactly(60 * RING);
		receive_exactly(RING + (uint64_t)frames);
		cutover_rx_ask(&R->b);
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
		assert_int_equal(p.region[1].slot->rx_past, round);
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
	pair_close(&p);
	pair_open(&p, 64 * RING);
	tcp_set_buffers(S->fd, 4000);
	tcp_set_buffers(R->fd, 4000);
	promote();
	send_exactly(60 * RING);
	receive_exactly(RING);
	cutover_rx_ask(&R->b);
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
	p.region[1].slot->epoch = EPOCH + 1;
	send_exactly(5);
	assert_int_equal(S->b.tx_state, TX_PLAIN);
	p.region[1].slot->epoch = EPOCH;
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

static void expect_pattern(const uint8_t *data, uint64_t n, uint64_t at)
{
	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(data[i], pattern(0, at + i));
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

// --- the end of the stream ---

static void finish_sender(void)
{
	shutdown(S->fd, SHUT_WR);
	S->b.tx_dead = 1;
}

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

// --- the sender is a puppet ---

static void puppet_tcp(const void *data, uint64_t n)
{
	must(sys_send(S->fd, data, n, MSG_NOSIGNAL) == (long)n);
}

static void puppet_tcp_payload(uint64_t n)
{
	uint8_t data[4096];

	for (uint64_t i = 0; i < n; i++)
		data[i] = pattern(0, S->sent + i);
	S->sent += n;
	puppet_tcp(data, n);
}

static void puppet_ring(uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		p.region[0].ring[(SLOT->head + i) % RING] = pattern(0, S->sent + i);
	S->sent += n;
	SLOT->head += n;
}

static void puppet_begin(uint32_t round, uint64_t cut)
{
	SLOT->cut = cut;
	SLOT->tx_round = 2 * round - 1;
}

static void puppet_end(uint32_t round, uint64_t end)
{
	SLOT->end = end;
	SLOT->tx_round = 2 * round;
}

static void puppet_frames(char cut, char end, uint64_t position)
{
	uint8_t frames[10] = {(uint8_t)cut, (uint8_t)end};

	for (int i = 0; i < 8; i++)
		frames[2 + i] = (uint8_t)(position >> 8 * i);
	puppet_tcp(frames, sizeof(frames));
}

static void expect_broken(void)
{
	uint8_t data[RING];
	int64_t r = 1;

	for (int i = 0; i < 10 && (r > 0 || r == -EAGAIN); i++)
		r = end_recv(R, data, sizeof(data), false);
	assert_int_equal(r, -ECONNRESET);
}

// R is on the ring, in round 1, which began at TCP byte 20 with 100 bytes in the ring.
static void puppet_promote(void)
{
	puppet_tcp_payload(20);
	receive_exactly(20);
	puppet_begin(1, 20);
	puppet_ring(100);
	receive_exactly(60);
	assert_int_equal(R->b.rx_state, RX_RING);
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

// The connection was reset before TCP had sent everything up to the cut: what is in the ring would follow a hole.
static void test_ended_before_the_cut(void **state)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	int error = 0;
	socklen_t len = sizeof(error);

	offer();
	puppet_tcp_payload(20);
	receive_exactly(20);
	puppet_begin(1, 50);
	must(setsockopt(S->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
	close(S->fd);
	S->fd = -1;
	must(getsockopt(R->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == ECONNRESET);
	assert_false(cutover_rx_ended(&R->b, R->fd));
	assert_int_equal(R->b.rx_state, RX_READY);
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

// --- nonsense ---

static void test_impossible_cut(void **state)
{
	const uint64_t cuts[] = {0, 17, 20 + (1ull << 41), 1ull << 63, (1ull << 63) - 1, UINT64_MAX, UINT64_MAX - 19};

	for (unsigned i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
		puppet_tcp_payload(20);
		receive_exactly(20);
		puppet_ring(50);
		puppet_begin(1, cuts[i]);
		puppet_tcp("C", 1);
		expect_broken();
		restart();
	}
}

static void test_impossible_cut_under_a_receive(void **state)
{
	uint8_t data[100];

	for (uint64_t cut = 10; cut < 23; cut++) { // three bytes and more beyond it cannot be frames
		puppet_tcp_payload(20);
		receive_exactly(20);
		puppet_begin(1, cut);
		puppet_tcp("CCCCC", 5);
		assert_int_equal(sys_recv(R->fd, data, 100, 0), 5);
		assert_int_equal(cutover_rx_returned(&R->b, R->fd, 5, false), -ECONNRESET);
		restart();
	}
}

// What a peer writes into the slot after its round was seen to begin is nothing to us, not even when TCP cannot be counted any more.
static void test_cut_that_changes(void **state)
{
	const uint64_t cuts[] = {0, 3, 25, 40, 1ull << 50, 1ull << 63, UINT64_MAX};
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	uint64_t available;

	for (unsigned i = 0; i < 2 * sizeof(cuts) / sizeof(*cuts); i++) {
		puppet_tcp_payload(20);
		receive_exactly(20);
		puppet_begin(1, 30);
		R->conn.rx_inflight = 1;
		assert_int_equal(cutover_rx(&R->conn, &R->b, R->fd, &available), RX_WAY_BUSY);
		R->conn.rx_inflight = 0;
		puppet_tcp_payload(10);
		puppet_ring(50);
		puppet_begin(i % 3, cuts[i / 2]);
		if (i % 2) {
			must(setsockopt(S->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
			close(S->fd);
			S->fd = -1;
			assert_true(cutover_rx(&R->conn, &R->b, R->fd, &available) == RX_WAY_LIMIT);
			assert_true(R->b.drain <= 10 && !R->b.frame_got);
		} else if (i % 3 == 1) {
			receive_exactly(60);
		} else {
			receive_exactly(10);
			expect_broken();
		}
		restart();
	}
}

// A receiver that asks for the round back before it is past the cut cannot have it yet: a sender who finds the ring full sleeps.
static void test_asked_too_early(void **state)
{
	struct rlm_slot_shared *slot = p.region[1].slot;

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

static void test_impossible_ring(void **state)
{
	const uint64_t heads[] = {0, 59, 99, 60 + RING + 1, 1ull << 63, UINT64_MAX};
	const uint64_t ends[] = {0, 59, 101, UINT64_MAX - 1, RLM_END_VOID, 1ull << 63};
	const uint32_t rounds[] = {0, 3, 4, 5, UINT32_MAX};

	for (unsigned i = 0; i < sizeof(heads) / sizeof(*heads); i++) {
		puppet_promote();
		SLOT->head = heads[i];
		expect_broken();
		restart();
	}
	for (unsigned i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		puppet_promote();
		puppet_end(1, ends[i]);
		expect_broken();
		restart();
	}
	for (unsigned i = 0; i < sizeof(rounds) / sizeof(*rounds); i++) {
		puppet_promote();
		SLOT->tx_round = rounds[i];
		expect_broken();
		restart();
	}
	puppet_promote();
	SLOT->epoch++;
	expect_broken();
}

static void wrong_frames(char cut, char end, uint64_t position)
{
	for (int late = 0; late < 2; late++) {
		puppet_promote();
		if (!late)
			puppet_end(1, 100);
		puppet_frames(cut, end, position);
		if (late) {
			receive_exactly(40);
			cutover_rx_look_at_tcp(&R->b, R->fd);
			puppet_end(1, 100);
		}
		expect_broken();
		restart();
	}
}

static void test_wrong_frames(void **state)
{
	wrong_frames('X', 'E', 100);
	wrong_frames('E', 'E', 100);
	wrong_frames('C', 'C', 100);
	wrong_frames('C', 0, 100);
	wrong_frames('C', 'E', 99);
	wrong_frames('C', 'E', 100 + (1ull << 56));
	wrong_frames('C', 'E', RLM_END_VOID);
}

// All of END, and more, on TCP, but the round goes on.
static void test_frames_without_an_end(void **state)
{
	puppet_promote();
	puppet_frames('C', 'E', 100);
	puppet_tcp("more", 4);
	receive_exactly(40);
	expect_broken();
}

static void test_impossible_receiver(void **state)
{
	const uint64_t tails[] = {UINT64_MAX, 4000, 1ull << 63};
	const uint32_t ready[] = {UINT32_MAX, UINT32_MAX / 2 + 1};
	struct rlm_slot_shared *peer = p.region[1].slot;

	for (int i = 0; i < 2; i++) {
		peer->rx_ready = ready[i];
		send_exactly(10);
		assert_int_equal(S->b.tx_state, TX_PLAIN);
	}
	for (int i = 0; i < 3; i++) {
		restart();
		peer = p.region[1].slot;
		promote();
		send_exactly(3000);
		peer->tail = tails[i];
		assert_int_equal(end_send_pattern(S, 0, RING), -ECONNRESET);
		// Asked for what it cannot have: nothing is sent again.
		peer->rx_ask = 1;
		assert_int_equal(end_send_pattern(S, 0, 10), 10);
		assert_int_equal(S->b.tx_state, TX_PLAIN);
		assert_int_equal(SLOT->end, SLOT->head);
		assert_int_equal(tcp_written(S->fd), 20);
		// Nor is anything overwritten that lies behind.
		peer->tail = 0;
		peer->rx_ready = 2;
		assert_int_equal(end_send_pattern(S, 0, 10), 10);
		assert_int_equal(S->b.tx_state, TX_RING);
	}
}

static uint64_t some_value(uint64_t *random, uint64_t near)
{
	switch (random_below(random, 6)) {
	case 0:
		return random_next(random);
	case 1:
		return 1ull << random_below(random, 64);
	case 2:
		return 0 - random_below(random, 3);
	default:
		return near + random_below(random, 9) - 4;
	}
}

static void scribble(struct rlm_slot_shared *slot, uint64_t *random)
{
	struct rlm_slot_shared *mine = p.region[1].slot;
	uint64_t what = random_below(random, 24);

	if (what < 6)
		slot->tx_round = (uint32_t)some_value(random, 2 * R->b.rx_round);
	else if (what < 9)
		slot->cut = some_value(random, (uint64_t)tcp_taken(R->fd)) & INT64_MAX; // beyond: test_impossible_cut()
	else if (what < 12)
		slot->end = some_value(random, mine->tail);
	else if (what < 16)
		slot->head = mine->tail + random_below(random, RING + 3);
	else if (what == 16)
		slot->head = some_value(random, mine->tail);
	else if (what == 17)
		slot->tail = some_value(random, R->b.tx.mine->head);
	else if (what < 20)
		slot->rx_ready = (uint32_t)some_value(random, R->b.tx_round + 1);
	else if (what < 22)
		*(what == 20 ? &slot->rx_ask : random_below(random, 2) ? &slot->rx_past : &slot->rx_leave) = (uint32_t)some_value(random, R->b.tx_round);
	else if (what == 23 && random_below(random, 2))
		slot->tx_wish = (uint32_t)some_value(random, 2 * R->b.rx_round);
	else if (what == 22)
		slot->waiting = (uint32_t)random_next(random);
	else if (random_below(random, 4) == 0)
		slot->epoch = EPOCH + (uint32_t)random_below(random, 2);
}

static void puppet_tcp_nonsense(uint64_t *random)
{
	uint8_t frames[12] = {'C', 'E'};
	uint64_t at = p.region[1].slot->tail, from = random_below(random, 3);

	memcpy(frames + 2, &at, 8);
	sys_send(S->fd, frames + from, 1 + random_below(random, 11 - from), MSG_DONTWAIT | MSG_NOSIGNAL);
}

// Whatever the peer writes and sends: no access outside, no call that does not come back. Guard pages and sanitizers
// see to it.
static void test_scribbling_peer(void **state)
{
	uint64_t deadline = now_ms() + 2500;
	uint8_t data[RING + 100];

	for (uint64_t seed = 1; now_ms() < deadline; seed++) {
		uint64_t random = seed;

		for (int step = 0; step < 60; step++) {
			scribble(SLOT, &random);
			if (random_below(&random, 3) == 0)
				puppet_tcp_nonsense(&random);
			switch (random_below(&random, 12)) {
			case 0:
				cutover_rx_ask(&R->b);
				break;
			case 1:
				R->b.rx_stop = 0;
				break;
			case 2:
				cutover_tx_end(&R->b);
				break;
			case 3:
				R->b.tx_stop ^= 1;
				break;
			case 4:
				if (random_below(&random, 20) == 0)
					shutdown(S->fd, SHUT_WR);
				break;
			case 5:
			case 6:
				end_send(R, data, random_below(&random, sizeof(data)));
				break;
			default:
				end_recv(R, data, 1 + random_below(&random, sizeof(data)),
					 random_below(&random, 4) == 0);
			}
		}
		restart();
	}
}

// --- at random ---

struct mind {
	uint64_t random;
	unsigned ends, asks; // one in so many steps, 0: never
	bool ending;	     // ask only for rounds that are on the ring
};

static void sender_step(struct end *e, unsigned seed, struct mind *m)
{
	if (m->ends && random_below(&m->random, m->ends) == 0)
		e->b.tx_stop ^= 1;
	if (m->ends && random_below(&m->random, 2 * m->ends) == 0)
		cutover_tx_wish(&e->b);
	if (m->ends && random_below(&m->random, 2 * m->ends) == 0)
		cutover_tx_need(&e->b);
	if (m->ends && random_below(&m->random, 2 * m->ends) == 0)
		cutover_tx_end(&e->b);
	end_send_pattern(e, seed, 1 + random_below(&m->random, random_below(&m->random, 4) ? 60 : 3 * RING));
}

static int64_t receiver_step(struct end *e, unsigned seed, struct mind *m)
{
	uint64_t n = 1 + random_below(&m->random, random_below(&m->random, 4) ? 100 : 3 * RING);
	int64_t r;

	if (m->asks && random_below(&m->random, m->asks) == 0 && !(m->ending && e->b.rx_state == RX_READY))
		cutover_rx_ask(&e->b);
	if (cutover_rx_is_plain(&e->b) && random_below(&m->random, 4) == 0)
		e->b.rx_stop = 0;
	r = end_recv_pattern(e, seed, n, random_below(&m->random, 8) == 0);
	must(r >= 0 || r == -EAGAIN);
	return r;
}

static bool pay_debts(struct end *e)
{
	e->b.tx_stop = 0;
	return cutover_tx(&e->conn, &e->b, e->fd, false) != TX_WAY_BLOCKED;
}

// Both ends and both directions, interleaved at random, until both streams end.
static void random_stream(uint64_t seed)
{
	struct mind m = {.random = seed, .ends = 20, .asks = 30};
	bool paid[2] = {false, false}, dies = seed % 3 == 0; // S, whatever it owes

	if (seed % (dies ? 20 : 100) == 0) // slow: the window opens by probes
		for (int i = 0; i < 2; i++)
			tcp_set_buffers(p.end[i].fd, 5000);
	for (int step = 0; step < 300; step++) {
		struct end *e = &p.end[random_below(&m.random, 2)];

		if (random_below(&m.random, 2))
			sender_step(e, e == R, &m);
		else
			receiver_step(e, e == S, &m);
	}
	m.asks = seed % 2 ? 0 : 30;
	m.ending = true;
	for (uint64_t start = now_ms(); !S->eof || !R->eof;) {
		for (unsigned i = 0; i < 2; i++) {
			if (!paid[i] && ((dies && i == 0) || pay_debts(&p.end[i]))) {
				paid[i] = true;
				shutdown(p.end[i].fd, SHUT_WR);
				p.end[i].b.tx_dead = 1;
			}
			if (!p.end[!i].eof)
				receiver_step(&p.end[!i], i, &m);
		}
		must(now_ms() - start < 10000);
	}
	assert_int_equal(S->received, R->sent);
	assert_int_equal(R->received, S->sent);
}

static void test_random_streams(void **state)
{
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		random_stream(seed);
		restart();
	}
}

static _Atomic int stop_sending;

static void *send_until_stopped(void *arg)
{
	struct mind m = {.random = 5, .ends = *(unsigned *)arg};

	while (!atomic_load(&stop_sending))
		sender_step(S, 0, &m);
	while (!pay_debts(S))
		sched_yield();
	finish_sender();
	return NULL;
}

// Sender and receiver at the same time. TSan sees no race here in any case: each end has its own mapping of the memory
// they share.
static void concurrently(unsigned ends)
{
	struct mind m = {.random = 6};
	uint64_t deadline = now_ms() + 800;
	pthread_t thread;

	atomic_store(&stop_sending, 0);
	assert_int_equal(pthread_create(&thread, NULL, send_until_stopped, &ends), 0);
	while (!R->eof) {
		if (receiver_step(R, 0, &m) == -EAGAIN)
			sched_yield();
		if (now_ms() > deadline)
			atomic_store(&stop_sending, 1);
	}
	pthread_join(thread, NULL);
	assert_int_equal(R->received, S->sent);
	restart();
}

static void test_concurrently(void **state)
{
	concurrently(0);
	concurrently(10);
	concurrently(1000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_promote),
	    TEST(test_promote_with_bytes_on_tcp),
	    TEST(test_promote_corked),
	    TEST(test_full_ring),
	    TEST(test_sender_ends),
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
	    TEST(test_busy),
	    TEST(test_handler_receives),
	    TEST(test_overshoot),
	    TEST(test_end_while_plain),
	    TEST(test_end_while_on_ring),
	    TEST(test_end_before_first_look),
	    TEST(test_end_while_asked),
	    TEST(test_end_after_frames),
	    TEST(test_frames_in_pieces),
	    TEST(test_ended_before_the_cut),
	    TEST(test_void_round),
	    TEST(test_void_round_under_a_receive),
	    TEST(test_end_without_any_frame),
	    TEST(test_end_in_the_middle_of_frames),
	    TEST(test_end_before_the_cut),
	    TEST(test_impossible_cut),
	    TEST(test_cut_that_changes),
	    TEST(test_asked_too_early),
	    TEST(test_impossible_cut_under_a_receive),
	    TEST(test_impossible_ring),
	    TEST(test_wrong_frames),
	    TEST(test_frames_without_an_end),
	    TEST(test_impossible_receiver),
	    TEST(test_scribbling_peer),
	    TEST(test_random_streams),
	    TEST(test_concurrently),
	};

	watchdog(55);
	return cmocka_run_group_tests_name("cutover", tests, NULL, NULL);
}

// SPDX-License-Identifier: BSD-2-Clause
// A peer that writes nonsense into its shared memory and its TCP.
#include "by_hand.h"

#include <sys/socket.h>

#include "sys.h"

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
			reset_sender();
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
	struct rlm_slot_shared *peer = pair.region[1].slot;

	for (int i = 0; i < 2; i++) {
		peer->rx_ready = ready[i];
		send_exactly(10);
		assert_int_equal(S->b.tx_state, TX_PLAIN);
	}
	for (int i = 0; i < 3; i++) {
		restart();
		peer = pair.region[1].slot;
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
	struct rlm_slot_shared *mine = pair.region[1].slot;
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
	else if (what == 22 && random_below(random, 2))
		slot->waiting = (uint32_t)random_next(random);
	else if (what == 22)
		slot->held = slot->head + some_value(random, RING);
	else if (random_below(random, 4) == 0)
		slot->epoch = EPOCH + (uint32_t)random_below(random, 2);
}

static void puppet_tcp_nonsense(uint64_t *random)
{
	uint8_t frames[12] = {'C', 'E'};
	uint64_t at = pair.region[1].slot->tail, from = random_below(random, 3);

	memcpy(frames + 2, &at, 8);
	sys_send(S->fd, frames + from, 1 + random_below(random, 11 - from), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void cutover_rx_while_inside(uint64_t *random)
{
	uint64_t available;

	R->conn.rx_inflight = 1 + (uint32_t)random_below(random, 2);
	cutover_rx(&R->conn, &R->b, R->fd, &available);
	R->conn.rx_inflight = 0;
}

// Whatever the peer writes and sends: no access outside, no call that does not come back, and nobody who waits for it once it is dead.
// Guard pages and sanitizers see to the first.
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
				else // the helper thread looks, while another one is in the kernel
					cutover_rx_while_inside(&random);
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
		close(S->fd);
		S->fd = -1;
		if (!end_recv_comes_back(R, seed % 2))
			fail_msg("seed %lu: a receiver waits for one who is dead; state %u round %u asked %u past %u frames %u", (unsigned long)seed,
				 R->b.rx_state, R->b.rx_round, R->b.rx_asked, R->b.rx_past, R->b.frame_got);
		if (!end_send_comes_back(R))
			fail_msg("seed %lu: a sender waits for one who is dead; state %u round %u stop %u need %u probed %u dead %u", (unsigned long)seed,
				 R->b.tx_state, R->b.tx_round, R->b.tx_stop, R->b.tx_need, R->b.tx_probed, R->b.tx_dead);
		restart();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_impossible_cut),
	    TEST(test_impossible_cut_under_a_receive),
	    TEST(test_cut_that_changes),
	    TEST(test_impossible_ring),
	    TEST(test_wrong_frames),
	    TEST(test_frames_without_an_end),
	    TEST(test_impossible_receiver),
	    TEST(test_scribbling_peer),
	};

	watchdog(55);
	return cmocka_run_group_tests_name("cutover-hostile", tests, NULL, NULL);
}

// SPDX-License-Identifier: BSD-2-Clause
#include "by_hand.h"

#include <sys/socket.h>

#include "sys.h"

struct pair pair;

int pair_setup(void **state)
{
	pair_open(&pair, RING);
	return 0;
}

int pair_teardown(void **state)
{
	pair_close(&pair);
	return 0;
}

void restart(void)
{
	pair_close(&pair);
	pair_open(&pair, RING);
}

void send_exactly(uint64_t n)
{
	assert_int_equal(end_send_pattern(S, 0, n), n);
}

void receive_exactly(uint64_t n)
{
	for (uint64_t start = now_ms(), got = 0; got < n;) {
		int64_t r = end_recv_pattern(R, 0, n - got, false);

		assert_true(r > 0 || r == -EAGAIN);
		assert_true(now_ms() - start < 5000);
		got += r > 0 ? (uint64_t)r : 0;
	}
}

void receive_nothing(void)
{
	assert_int_equal(end_recv_pattern(R, 0, 100, false), -EAGAIN);
}

void receive_end(void)
{
	assert_int_equal(end_recv_pattern(R, 0, 100, false), 0);
	assert_int_equal(R->received, S->sent);
}

void offer(void)
{
	R->b.rx_stop = 0;
	receive_nothing();
	assert_int_equal(R->b.rx_state, RX_READY);
}

void promote(void)
{
	offer();
	send_exactly(1);
	assert_int_equal(S->b.tx_state, TX_RING);
	receive_exactly(1);
	assert_int_equal(R->b.rx_state, RX_RING);
}

void end_by_sender(void)
{
	S->b.tx_stop = 1;
	assert_true(cutover_tx_end(&S->b));
	send_exactly(50);
	S->b.tx_stop = 0;
	assert_true(cutover_tx_is_plain(&S->b));
}

void finish_sender(void)
{
	shutdown(S->fd, SHUT_WR);
	S->b.tx_dead = 1;
}

void reset_sender(void)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};

	must(setsockopt(S->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
	close(S->fd);
	S->fd = -1;
}

void expect_pattern(const uint8_t *data, uint64_t n, uint64_t at)
{
	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(data[i], pattern(0, at + i));
}

void puppet_tcp(const void *data, uint64_t n)
{
	must(sys_send(S->fd, data, n, MSG_NOSIGNAL) == (long)n);
}

void puppet_tcp_payload(uint64_t n)
{
	uint8_t data[4096];

	for (uint64_t i = 0; i < n; i++)
		data[i] = pattern(0, S->sent + i);
	S->sent += n;
	puppet_tcp(data, n);
}

void puppet_ring(uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		pair.region[0].ring[(SLOT->head + i) % RING] = pattern(0, S->sent + i);
	S->sent += n;
	SLOT->head += n;
}

void puppet_begin(uint32_t round, uint64_t cut)
{
	SLOT->cut = cut;
	SLOT->tx_round = 2 * round - 1;
}

void puppet_end(uint32_t round, uint64_t end)
{
	SLOT->end = end;
	SLOT->tx_round = 2 * round;
}

void puppet_frames(char cut, char end, uint64_t position)
{
	uint8_t frames[10] = {(uint8_t)cut, (uint8_t)end};

	for (int i = 0; i < 8; i++)
		frames[2 + i] = (uint8_t)(position >> 8 * i);
	puppet_tcp(frames, sizeof(frames));
}

void puppet_promote(void)
{
	puppet_tcp_payload(20);
	receive_exactly(20);
	puppet_begin(1, 20);
	puppet_ring(100);
	receive_exactly(60);
	assert_int_equal(R->b.rx_state, RX_RING);
}

void expect_broken(void)
{
	uint8_t data[RING];
	int64_t r = 1;

	for (int i = 0; i < 10 && (r > 0 || r == -EAGAIN); i++)
		r = end_recv(R, data, sizeof(data), false);
	assert_int_equal(r, -ECONNRESET);
}

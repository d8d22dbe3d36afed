// SPDX-License-Identifier: BSD-2-Clause
// Both ends do anything at any time, interleaved or at once, until both streams end.
#include "by_hand.h"

#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>

enum { ROUNDS = UNIT_SANITIZED ? 100 : 400 };

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
			tcp_set_buffers(pair.end[i].fd, 5000);
	for (int step = 0; step < 300; step++) {
		struct end *e = &pair.end[random_below(&m.random, 2)];

		if (random_below(&m.random, 2))
			sender_step(e, e == R, &m);
		else
			receiver_step(e, e == S, &m);
	}
	m.asks = seed % 2 ? 0 : 30;
	m.ending = true;
	for (uint64_t start = now_ms(); !S->eof || !R->eof;) {
		for (unsigned i = 0; i < 2; i++) {
			if (!paid[i] && ((dies && i == 0) || pay_debts(&pair.end[i]))) {
				paid[i] = true;
				shutdown(pair.end[i].fd, SHUT_WR);
				pair.end[i].b.tx_dead = 1;
			}
			if (!pair.end[!i].eof)
				receiver_step(&pair.end[!i], i, &m);
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
	const struct CMUnitTest tests[] = {
	    TEST(test_random_streams),
	    TEST(test_concurrently),
	};

	watchdog(55);
	return cmocka_run_group_tests_name("cutover-random", tests, NULL, NULL);
}

// SPDX-License-Identifier: BSD-2-Clause
// Leaving a slot at any moment of two streams: afterwards nobody touches the shared memory, and no byte is lost or comes twice.
#include "unit.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "ends.h"
#include "sys.h"

enum { RING = 4096, ROUNDS = UNIT_SANITIZED ? 60 : 300 };

static struct pair p;

static int setup(void **state)
{
	pair_open(&p, RING);
	for (int i = 0; i < 2; i++)
		p.end[i].b.here = &p.end[i].b.location;
	return 0;
}

static int teardown(void **state)
{
	for (int i = 0; i < 2; i++)
		if (p.end[i].b.own)
			cutover_leave_free(&p.end[i].b);
	pair_close(&p);
	return 0;
}

// What region_close() would unmap: from here on a look at it is a crash.
static void regions_go(void)
{
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 4; j++)
			assert_int_equal(mprotect(p.region[i].maps[j], (j & 1 ? RING : 4096) + 2 * 4096, PROT_NONE), 0);
}

static void step(uint64_t *random)
{
	unsigned i = random_below(random, 2);
	struct end *e = &p.end[i];
	int64_t r;

	if (random_below(random, 2)) {
		end_send_pattern(e, i, 1 + random_below(random, random_below(random, 4) ? 60 : 3 * RING));
		return;
	}
	r = end_recv_pattern(e, !i, 1 + random_below(random, 2 * RING), random_below(random, 8) == 0);
	assert_true(r >= 0 || r == -EAGAIN);
}

// As the two helper threads do it, neither of them waiting for the other. No application reads meanwhile.
static void both_leave(void)
{
	bool left[2] = {false, false};
	uint64_t start = now_ms();

	while (!left[0] || !left[1]) {
		for (int i = 0; i < 2; i++) {
			struct end *e = &p.end[i];

			if (left[i] || !cutover_leave_begin(&e->conn, &e->b, e->fd))
				continue;
			assert_int_equal(cutover_leave(&e->b), 0);
			left[i] = true;
		}
		assert_true(now_ms() - start < 5000);
	}
}

// Some more, and then the end.
static void finish(struct end *e, unsigned seed)
{
	if (e->b.tx_dead)
		return;
	if (e->sent < 50000)
		end_send_pattern(e, seed, 1000);
	else if (cutover_tx(&e->conn, &e->b, e->fd, false) != TX_WAY_BLOCKED) {
		shutdown(e->fd, SHUT_WR);
		e->b.tx_dead = 1;
	}
}

static void leave_at(uint64_t seed)
{
	uint64_t random = seed, start;

	if (seed % 10 == 0)
		for (int i = 0; i < 2; i++)
			tcp_set_buffers(p.end[i].fd, 4000);
	for (uint64_t i = random_below(&random, 300); i; i--)
		step(&random);
	both_leave();
	regions_go();
	start = now_ms();
	for (uint64_t i = random_below(&random, 100); i; i--)
		step(&random);
	while (!p.end[0].eof || !p.end[1].eof) {
		for (unsigned i = 0; i < 2; i++) {
			int64_t r = p.end[i].eof ? 0 : end_recv_pattern(&p.end[i], !i, 3000, false);

			assert_true(r >= 0 || r == -EAGAIN);
			finish(&p.end[i], i);
		}
		assert_true(now_ms() - start < 10000);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(p.end[i].received, p.end[!i].sent);
		assert_true(cutover_rx_is_plain(&p.end[i].b));
		assert_int_equal(p.end[i].b.tx_state, TX_PLAIN);
	}
}

static void test_any_moment(void **state)
{
	for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
		leave_at(seed);
		teardown(state);
		setup(state);
	}
}

// What was wholly on TCP can go on when the memory is lost, the rest cannot.
static void test_lost(void **state)
{
	struct end *s = &p.end[0], *r = &p.end[1];
	_Atomic uint64_t here = 1;
	uint8_t byte;

	s->b.here = r->b.here = &here;
	s->b.location = r->b.location = 1;
	assert_false(cutover_is_lost(&s->b));
	here = 2;
	assert_true(cutover_is_lost(&s->b));
	assert_true(cutover_lost_is_plain(&s->b));
	here = 1;
	assert_int_equal(end_recv(r, &byte, 1, false), -EAGAIN); // offers a round
	assert_false(cutover_lost_is_plain(&r->b));
	assert_true(cutover_lost_is_plain(&s->b));
	assert_int_equal(end_send_pattern(s, 0, 10), 10);
	assert_int_equal(s->b.tx_state, TX_RING);
	assert_false(cutover_lost_is_plain(&s->b));
	assert_true(cutover_slot_stands(&r->b));
	assert_int_equal(end_recv_pattern(r, 0, 10, false), 10);
	p.region[0].slot->epoch = UINT32_MAX; // as everything else there
	assert_false(cutover_slot_stands(&r->b));
}

static bool is_bounded(uint64_t n)
{
	return n == RLM_RING_BROKEN || n <= RING;
}

// Counters of our own that are not ours any more lead nowhere outside the ring.
static void test_lost_counters(void **state)
{
	struct end *s = &p.end[0], *r = &p.end[1];
	uint8_t byte;

	assert_int_equal(end_recv(r, &byte, 1, false), -EAGAIN);
	assert_int_equal(end_send_pattern(s, 0, 2000), 2000);
	assert_int_equal(end_recv_pattern(r, 0, 10, false), 10);
	for (int shift = 0; shift < 64; shift++) {
		p.region[1].slot->tail = UINT64_MAX >> shift;
		assert_true(is_bounded(ring_available(&r->b.rx, 100)));
		p.region[0].slot->head = UINT64_MAX >> shift;
		assert_true(is_bounded(ring_room(&s->b.tx, ring_head(&s->b.tx), 100)));
	}
}

static void set_epoch(unsigned end, uint32_t epoch)
{
	atomic_store_explicit(&p.region[end].slot->epoch, epoch, memory_order_release);
}

static void receive_exactly(struct end *r, uint64_t n)
{
	uint64_t start = now_ms();

	while (r->received < n) {
		int64_t got = end_recv_pattern(r, 0, n - r->received, false);

		assert_true(got > 0 || got == -EAGAIN);
		assert_true(now_ms() - start < 10000);
	}
	assert_int_equal(end_recv_pattern(r, 0, 1, false), -EAGAIN);
}

// The sender has not bound its half when the receiver gives up, and does so after that.
static void test_lonely(void **state)
{
	struct end *s = &p.end[0], *r = &p.end[1];
	uint8_t byte;

	(void)state;
	set_epoch(0, 0);
	assert_int_equal(end_recv(r, &byte, 1, false), -EAGAIN);
	assert_int_equal(r->b.rx_state, RX_READY);
	assert_true(cutover_is_lonely(&r->b));
	assert_true(cutover_leave_lonely(&r->b));
	set_epoch(0, EPOCH);
	assert_int_equal(end_send_pattern(s, 0, 50), 50);
	assert_true(cutover_tx_is_plain(&s->b));
	assert_true(cutover_is_lonely(&s->b));
	receive_exactly(r, 50);
	assert_true(cutover_rx_is_settled(&r->b, r->fd));
}

static void *bind_and_send(void *unused)
{
	(void)unused;
	set_epoch(0, EPOCH);
	for (int i = 0; i < 10; i++)
		if (end_send_pattern(&p.end[0], 0, 10) != 10)
			return "the send failed";
	return NULL;
}

// It binds and begins a round just then: either that never was, or the receiver stays.
static void test_lonely_no_more(void **state)
{
	unsigned left = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct end *s = &p.end[0], *r = &p.end[1];
		pthread_t sender;
		uint8_t byte;
		void *failure;

		set_epoch(0, 0);
		assert_int_equal(end_recv(r, &byte, 1, false), -EAGAIN);
		assert_int_equal(pthread_create(&sender, NULL, bind_and_send, NULL), 0);
		for (unsigned k = 0; k < i % 64 * 64; k++)
			sys_pause();
		if (cutover_is_lonely(&r->b) && cutover_leave_lonely(&r->b)) {
			left++;
			assert_int_equal(pthread_join(sender, &failure), 0);
			assert_true(cutover_tx_is_plain(&s->b));
		} else {
			assert_int_equal(pthread_join(sender, &failure), 0);
		}
		assert_null(failure);
		receive_exactly(r, 100);
		teardown(state);
		setup(state);
	}
	print_message("the receiver gave up in %u of %u rounds\n", left, (unsigned)ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_any_moment, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_lost, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_lost_counters, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_lonely, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_lonely_no_more, setup, teardown),
	};

	watchdog(100);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

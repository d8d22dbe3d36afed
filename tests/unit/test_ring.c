// SPDX-License-Identifier: BSD-2-Clause
// The ring by itself: wrapping bytes, wrapping counters, and counters that no honest peer has.
#include "unit.h"

#include "ends.h"
#include "ring.h"

enum { SMALL = 64 };

// Producer's and consumer's view of one ring, every byte of it next to something that must not change.
struct fixture {
	struct rlm_slot_shared producer, consumer;
	uint8_t memory[3 * SMALL];
	struct rlm_ring tx, rx;
};

static void fixture_start(struct fixture *f, uint64_t at)
{
	memset(f, 0, sizeof(*f));
	memset(f->memory, 0xee, sizeof(f->memory));
	f->producer.head = f->consumer.tail = at;
	f->tx = (struct rlm_ring){&f->producer, &f->consumer, f->memory + SMALL, SMALL, at, 0, SMALL, SMALL / 4};
	f->rx = (struct rlm_ring){&f->consumer, &f->producer, f->memory + SMALL, SMALL, at, 0, SMALL, SMALL / 4};
}

static void assert_surroundings(const struct fixture *f)
{
	for (int i = 0; i < SMALL; i++) {
		assert_int_equal(f->memory[i], 0xee);
		assert_int_equal(f->memory[2 * SMALL + i], 0xee);
	}
}

// Puts and takes n bytes at `at`, from and into buffers of exactly that size.
static void move(uint64_t at, uint64_t n)
{
	struct fixture f;
	uint8_t *in = malloc(n ? n : 1), *out = malloc(n ? n : 1);

	fixture_start(&f, at);
	for (uint64_t i = 0; i < n; i++)
		in[i] = pattern(1, at + i);
	assert_int_equal(ring_room(&f.tx, at, n), SMALL);
	ring_put(&f.tx, at, in, n);
	assert_int_equal(ring_available(&f.rx, 1), 0);
	ring_publish(&f.tx, at + n);
	assert_int_equal(ring_head(&f.tx), at + n);
	assert_int_equal(ring_available(&f.rx, 1), n);
	ring_copy(&f.rx, at, out, n);
	assert_memory_equal(in, out, n);
	assert_int_equal(ring_room(&f.tx, at + n, SMALL), SMALL - n);
	ring_free(&f.rx, at + n);
	assert_int_equal(ring_room(&f.tx, at + n, SMALL), SMALL);
	assert_int_equal(ring_available_now(&f.rx), 0);
	assert_surroundings(&f);
	free(in);
	free(out);
}

static void test_all_offsets_and_lengths(void **state)
{
	for (uint64_t at = 0; at < SMALL; at++)
		for (uint64_t n = 0; n <= SMALL; n++)
			move(at, n);
}

static void test_counters_across_2_64(void **state)
{
	for (uint64_t before = 0; before <= 2 * SMALL; before++)
		for (uint64_t n = 0; n <= SMALL; n++)
			move(UINT64_MAX - before, n);
}

static void run_stream(uint64_t start, uint64_t total, uint64_t seed)
{
	struct fixture f;
	uint64_t sent = 0, received = 0, random = seed;
	uint8_t data[SMALL];

	fixture_start(&f, start);
	while (received < total) {
		uint64_t n = random_below(&random, SMALL + 1), room, available;

		room = ring_room(&f.tx, start + sent, n);
		assert_true(room <= SMALL && room <= SMALL - (sent - received));
		if (room >= n)
			assert_true(n <= SMALL - (sent - received));
		else
			n = room;
		for (uint64_t i = 0; i < n; i++)
			data[i] = pattern(0, sent + i);
		ring_put(&f.tx, start + sent, data, n);
		sent += n;
		ring_publish(&f.tx, start + sent);
		available = random & 64 ? ring_available(&f.rx, 1) : ring_available_now(&f.rx);
		assert_true(available <= sent - received);
		n = random_below(&random, available + 1);
		ring_copy(&f.rx, start + received, data, n);
		for (uint64_t i = 0; i < n; i++)
			assert_int_equal(data[i], pattern(0, received + i));
		received += n;
		ring_free(&f.rx, start + received);
	}
	assert_surroundings(&f);
}

static void test_streams(void **state)
{
	for (uint64_t seed = 1; seed <= 50; seed++) {
		run_stream(0, 10000, seed);
		run_stream(UINT64_MAX - 5000 - seed, 10000, seed);
		run_stream((1ull << 63) - 5000 - seed, 10000, seed);
	}
}

// The producer looks at the peer's counter only when the last one it saw is not enough.
static void test_room_is_cached(void **state)
{
	struct fixture f;

	fixture_start(&f, 1000);
	f.producer.head = 1040;
	f.consumer.tail = 1030;
	assert_int_equal(ring_room(&f.tx, 1040, 24), 24); // 64 - 40, the tail of 1000
	assert_int_equal(f.tx.cached, 1000);
	assert_int_equal(ring_room(&f.tx, 1040, 25), 54);
	assert_int_equal(f.tx.cached, 1030);
	f.consumer.tail = 2000; // nonsense, not looked at
	assert_int_equal(ring_room(&f.tx, 1040, 54), 54);
	assert_int_equal(ring_room(&f.tx, 1040, 55), RLM_RING_BROKEN);
	assert_int_equal(f.tx.cached, 1030);
}

static void test_available_is_cached(void **state)
{
	struct fixture f;

	fixture_start(&f, 1000);
	f.producer.head = 1010;
	assert_int_equal(ring_available(&f.rx, 1), 10);
	f.producer.head = 1020;
	assert_int_equal(ring_available(&f.rx, 1), 10);
	assert_int_equal(ring_available(&f.rx, 10), 10);
	assert_int_equal(ring_available(&f.rx, 11), 20);
	f.producer.head = 1022;
	assert_int_equal(ring_available_now(&f.rx), 22);
	ring_free(&f.rx, 1022);
	f.producer.head = 1030;
	assert_int_equal(ring_available(&f.rx, 1), 8);
}

// Every tail that is not between the last one and head is refused, and does not become the last one.
static void test_impossible_tails(void **state)
{
	const uint64_t starts[] = {0, 1000, UINT64_MAX - 20};

	for (unsigned s = 0; s < 3; s++) {
		const uint64_t start = starts[s];
		const struct {
			uint64_t tail;
			bool good;
		} tails[] = {
		    {start, true},
		    {start + 1, true},
		    {start + 40, true},
		    {start + 41, false},
		    {start - 1, false},
		    {start + SMALL, false},
		    {start + (1ull << 63), false},
		    {start - SMALL, false},
		    {start + UINT32_MAX, false},
		};

		for (unsigned i = 0; i < sizeof(tails) / sizeof(*tails); i++) {
			struct fixture f;

			fixture_start(&f, start);
			f.producer.head = start + 40;
			f.consumer.tail = tails[i].tail;
			assert_int_equal(ring_room(&f.tx, start + 40, SMALL + 1),
					 tails[i].good ? SMALL - 40 + (tails[i].tail - start) : RLM_RING_BROKEN);
			assert_int_equal(f.tx.cached, tails[i].good ? tails[i].tail : start);
		}
	}
}

static void test_impossible_heads(void **state)
{
	const uint64_t starts[] = {0, 1000, UINT64_MAX - 20};

	for (unsigned s = 0; s < 3; s++) {
		const uint64_t start = starts[s];
		const uint64_t bad[] = {start - 1, start + SMALL + 1, start + (1ull << 63), start - SMALL,
					start + UINT32_MAX};
		struct fixture f;

		for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
			fixture_start(&f, start);
			f.producer.head = bad[i];
			assert_int_equal(ring_available(&f.rx, 1), RLM_RING_BROKEN);
			assert_int_equal(ring_available_now(&f.rx), RLM_RING_BROKEN);
			assert_int_equal(f.rx.cached, start);
		}
		fixture_start(&f, start);
		f.producer.head = start + SMALL;
		assert_int_equal(ring_available(&f.rx, 1), SMALL);
		f.producer.head = start + SMALL - 1; // what was there cannot go away
		assert_int_equal(ring_available_now(&f.rx), RLM_RING_BROKEN);
		assert_int_equal(f.rx.cached, start + SMALL);
	}
}

static void test_limits(void **state)
{
	struct fixture f;

	for (uint64_t limit = 4; limit <= 2 * SMALL; limit++) {
		uint64_t most = limit < SMALL ? limit : SMALL;

		fixture_start(&f, 0);
		ring_set_limit(&f.tx, limit);
		assert_int_equal(f.tx.limit, most);
		assert_true(f.tx.grain <= most / 4 && f.tx.grain > most / 8 && !(f.tx.grain & (f.tx.grain - 1)));
		assert_int_equal(ring_room(&f.tx, 0, SMALL), most);
		assert_int_equal(ring_room(&f.tx, most, 1), 0);
		f.consumer.tail = 1;
		assert_int_equal(ring_room(&f.tx, most, 1), 1);
		f.consumer.tail = most + 1;
		assert_int_equal(ring_room(&f.tx, most, SMALL), RLM_RING_BROKEN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_all_offsets_and_lengths),
	    cmocka_unit_test(test_counters_across_2_64),
	    cmocka_unit_test(test_streams),
	    cmocka_unit_test(test_room_is_cached),
	    cmocka_unit_test(test_available_is_cached),
	    cmocka_unit_test(test_impossible_tails),
	    cmocka_unit_test(test_impossible_heads),
	    cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}

// SPDX-License-Identifier: BSD-2-Clause
// Unit tests of what can be wrong without anybody noticing: histogram, verify pattern, numbers, test descriptions.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hist.h"
#include "meter.h"
#include "params.h"
#include "pattern.h"
#include "units.h"

static uint64_t random_state = 42;

static uint64_t next_random(void)
{
	random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
	return random_state >> 16;
}

static struct bench_hist hist, other;

static void hist_index_is_monotonic_and_in_bounds(void **state)
{
	unsigned last = 0;

	for (uint64_t v = 0; v < 100000; v++) {
		unsigned i = hist_index(v);

		assert_true(i == last || i == last + 1);
		last = i;
	}
	assert_int_equal(hist_index(1ull << HIST_BITS), HIST_BUCKETS - 1);
	assert_int_equal(hist_index((1ull << HIST_BITS) - 1), HIST_BUCKETS - 1);
	assert_int_equal(hist_index(UINT64_MAX), HIST_BUCKETS - 1);
}

static void hist_error_is_below_one_percent(void **state)
{
	static const double fractions[] = {0, 0.5, 0.99, 0.999, 1};

	for (uint64_t v = 1; v < 1ull << 39; v = v + v / 7 + 1) {
		hist_init(&hist);
		hist_add(&hist, v / 2 + 1);
		for (int i = 0; i < 999; i++)
			hist_add(&hist, v);
		hist_add(&hist, 4 * v);
		assert_true(fabs(hist_quantile(&hist, 0.5) - (double)v) <= 0.005 * (double)v);
		assert_true(fabs(hist_quantile(&hist, 0.99) - (double)v) <= 0.005 * (double)v);
	}
	hist_init(&hist);
	for (uint64_t v = 1; v <= 100000; v++)
		hist_add(&hist, v * 10);
	for (int i = 1; i < 4; i++)
		assert_true(fabs(hist_quantile(&hist, fractions[i]) / (1e6 * fractions[i]) - 1) < 0.01);
	assert_true(hist_quantile(&hist, 0) < 10.5);
	assert_true(hist_quantile(&hist, 1) > 0.99e6 && hist_quantile(&hist, 1) <= 1e6);
	assert_true(fabs(hist_mean(&hist) - 500005) < 1);
}

static void hist_merge_adds(void **state)
{
	hist_init(&hist);
	hist_init(&other);
	assert_true(hist_quantile(&hist, 0.5) == 0);
	for (uint64_t v = 1; v <= 1000; v++)
		hist_add(v % 2 ? &hist : &other, v);
	hist_merge(&hist, &other);
	assert_int_equal(hist.count, 1000);
	assert_int_equal(hist.min, 1);
	assert_int_equal(hist.max, 1000);
	assert_true(fabs(hist_quantile(&hist, 0.5) - 500) < 5);
}

static uint8_t buffer[4096], expected[4096];

static void pattern_is_the_same_in_any_pieces(void **state)
{
	pattern_fill(7, 0, expected, sizeof(expected));
	for (int round = 0; round < 2000; round++) {
		size_t at = next_random() % sizeof(buffer), n = next_random() % (sizeof(buffer) - at + 1);

		memset(buffer, 0, sizeof(buffer));
		pattern_fill(7, at, buffer, n);
		assert_memory_equal(buffer, expected + at, n);
		assert_int_equal(pattern_check(7, at, buffer, n), -1);
	}
}

static void pattern_finds_every_wrong_bit(void **state)
{
	for (int round = 0; round < 20000; round++) {
		uint64_t position = next_random();
		size_t n = 1 + next_random() % 200, wrong = next_random() % n;

		pattern_fill(9, position, buffer, n);
		buffer[wrong] ^= (uint8_t)(1u << (next_random() % 8));
		assert_int_equal(pattern_check(9, position, buffer, n), wrong);
	}
}

static void pattern_finds_shifts_and_tells_where_from(void **state)
{
	for (int round = 0; round < 5000; round++) {
		uint64_t position = 100000 + next_random() % 1000000, from;
		uint64_t shift = 1 + next_random() % 90000;
		uint64_t real = round % 2 ? position + shift : position - shift;

		pattern_fill(11, real, buffer, 64);
		assert_in_range(pattern_check(11, position, buffer, 64), 0, 8);
		assert_true(pattern_locate(11, buffer, 64, &from));
		assert_int_equal(from, real);
	}
}

static void pattern_explains(void **state)
{
	char text[512];
	uint64_t seed = pattern_seed(5, 3, true);

	assert_true(pattern_seed(5, 3, false) != seed);
	pattern_fill(seed, 1000, buffer, 64);
	pattern_fill(seed, 1132, buffer + 32, 32); // 100 bytes are missing after 32
	assert_int_equal(pattern_check(seed, 1000, buffer, 64), 32);
	pattern_explain(seed, 1000, buffer, 64, 32, text, sizeof(text));
	assert_non_null(strstr(text, "byte 1032"));
	assert_non_null(strstr(text, "100 bytes are missing"));
	pattern_fill(seed, 990, buffer, 64);
	pattern_explain(seed, 1000, buffer, 64, 0, text, sizeof(text));
	assert_non_null(strstr(text, "10 bytes came twice"));
	memset(buffer, 0, 64);
	pattern_explain(seed, 1000, buffer, 3, 0, text, sizeof(text));
	assert_non_null(strstr(text, "got 000000"));
	assert_null(strstr(text, "belongs"));
}

static void numbers_are_read(void **state)
{
	static const char *const bad[] = {"", "K", "-1", "64Q", "1KX", "1e400", "nan", "99999999999G", "64 ", "1.5.5"};
	uint64_t v, to;

	assert_int_equal(units_parse_size("64", &v), 0);
	assert_int_equal(v, 64);
	assert_int_equal(units_parse_size("128K", &v), 0);
	assert_int_equal(v, 128 << 10);
	assert_int_equal(units_parse_size("1MiB", &v), 0);
	assert_int_equal(v, 1 << 20);
	assert_int_equal(units_parse_size("300MB", &v), 0);
	assert_int_equal(v, 300000000);
	assert_int_equal(units_parse_range("64:1k", &v, &to), 0);
	assert_int_equal(v, 64);
	assert_int_equal(to, 1024);
	assert_true(units_parse_range("1K:64", &v, &to) < 0);
	assert_true(units_parse_range("64:", &v, &to) < 0);
	assert_int_equal(units_parse_time("200ms", &v), 0);
	assert_int_equal(v, 200000000);
	assert_true(units_parse_time("1h", &v) < 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_true(units_parse_size(bad[i], &v) < 0);
}

static void numbers_are_written(void **state)
{
	char text[UNITS_TEXT];

	assert_string_equal(units_size(text, 65536), "64 KiB");
	assert_string_equal(units_size(text, 100), "100 B");
	assert_string_equal(units_rate(text, 1234567), "1.23 M");
	assert_string_equal(units_rate(text, 999.9), "1.00 k");
	assert_string_equal(units_duration(text, 532), "532 ns");
	assert_string_equal(units_duration(text, 12345), "12.3 us");
}

static struct bench_params sample_params(void)
{
	return (struct bench_params){.mode = MODE_RR,
				     .size = 64,
				     .response = 64,
				     .recv_size = 65536,
				     .time_ns = NS_PER_S,
				     .seed = 12345,
				     .corrupt = PARAMS_NONE,
				     .parallel = 2,
				     .threads = 2,
				     .nodelay = true};
}

static void descriptions_survive_the_wire(void **state)
{
	struct bench_params p = sample_params(), q;
	json_t *json = params_to_json(&p);

	assert_non_null(json);
	assert_null(params_from_json(&q, json));
	assert_int_equal(q.mode, MODE_RR);
	assert_int_equal(q.seed, 12345);
	assert_true(q.corrupt == PARAMS_NONE);
	assert_int_equal(q.parallel, 2);
	assert_true(q.nodelay && !q.verify);
	json_decref(json);
}

static void impossible_descriptions_are_refused(void **state)
{
	static const struct {
		const char *name;
		json_int_t value;
	} wrong[] = {{"size", 0},    {"size", -1},     {"size", 1ll << 40}, {"parallel", 0}, {"parallel", 100000},
		     {"threads", 0}, {"recv_size", 0}, {"time_ns", 0},	    {"time_ns", -5}, {"ring_size", 5000}};
	struct bench_params p = sample_params(), q;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		json_t *json = params_to_json(&p);

		json_object_set_new(json, wrong[i].name, json_integer(wrong[i].value));
		assert_non_null(params_from_json(&q, json));
		json_decref(json);
	}
	assert_non_null(params_from_json(&q, NULL));
}

static void meter_leaves_out_the_warm_up(void **state)
{
	struct bench_params p = sample_params();
	struct bench_meter m;

	p.limit = 1000;
	p.warmup_limit = 100;
	meter_init(&m, &p);
	for (uint64_t n = 10; n <= 1100; n += 10)
		meter_count(&m, n);
	meter_finish(&m, 1100);
	assert_int_equal(m.v0, 100);
	assert_int_equal(m.v1, 1100);
	assert_true(m.t1 >= m.t0 && m.t0 > 0);
	meter_init(&m, &p);
	meter_finish(&m, 0);
	assert_true(meter_rate(&m) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(hist_index_is_monotonic_and_in_bounds),
	    cmocka_unit_test(hist_error_is_below_one_percent),
	    cmocka_unit_test(hist_merge_adds),
	    cmocka_unit_test(pattern_is_the_same_in_any_pieces),
	    cmocka_unit_test(pattern_finds_every_wrong_bit),
	    cmocka_unit_test(pattern_finds_shifts_and_tells_where_from),
	    cmocka_unit_test(pattern_explains),
	    cmocka_unit_test(numbers_are_read),
	    cmocka_unit_test(numbers_are_written),
	    cmocka_unit_test(descriptions_survive_the_wire),
	    cmocka_unit_test(impossible_descriptions_are_refused),
	    cmocka_unit_test(meter_leaves_out_the_warm_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

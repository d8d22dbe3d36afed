// SPDX-License-Identifier: BSD-2-Clause
// How long a thread spins before it sleeps: longer when that pays, not at all when it does not, and when to try again.
#include "unit.h"

#include "wake.h"

static _Atomic uint64_t word = 1;
static struct rlm_spin spin;

static void lose_budget(void)
{
	while (wake_may_spin(&spin))
		assert_false(wake_spin(&word, 1, &spin));
}

// On one processor only for a peer that has others, and never when the user does not want it.
static void test_where(void **state)
{
	wake_spin_init(&spin, true);
	wake_init(1, 0);
	assert_false(wake_may_spin(&spin));
	wake_init(1, RLM_SPIN_MAX);
	assert_true(wake_may_spin(&spin));
	wake_spin_init(&spin, false);
	assert_false(wake_may_spin(&spin));
	wake_init(8, 0);
	assert_false(wake_may_spin(&spin));
	wake_init(2, RLM_SPIN_MAX);
	assert_true(wake_may_spin(&spin));
}

static void test_follows_success(void **state)
{
	uint32_t last;

	wake_spin_init(&spin, false);
	wake_init(2, RLM_SPIN_MAX);
	for (int i = 0; i < 100; i++)
		assert_true(wake_spin(&word, 0, &spin));
	assert_in_range(spin.budget, RLM_SPIN_MAX, RLM_SPIN_MAX + RLM_SPIN_MAX / 4);
	for (int i = 0; i < 100 && wake_may_spin(&spin); i++) {
		last = spin.budget;
		assert_false(wake_spin(&word, 1, &spin));
		assert_true(spin.budget <= last / 2);
	}
	assert_false(wake_may_spin(&spin));
	last = spin.budget;
	assert_false(wake_spin(&word, 0, &spin)); // too low even for what is there already
	for (unsigned i = 0; i < 2 * RLM_SPIN_STREAK_MAX; i++)
		wake_slept(&spin, 2 * RLM_SPIN_MAX);
	assert_int_equal(spin.budget, last);
}

// A number of short sleeps brings the budget back to what they took, not fewer.
static void test_short_sleeps(void **state)
{
	wake_spin_init(&spin, false);
	wake_init(2, RLM_SPIN_MAX);
	lose_budget();
	for (unsigned i = 1; i < spin.wanted; i++) {
		wake_slept(&spin, 10000);
		assert_false(wake_may_spin(&spin));
	}
	wake_slept(&spin, 10000);
	while (spin.streak)
		wake_slept(&spin, 10000);
	assert_true(wake_may_spin(&spin));
	assert_in_range(spin.budget, 10000, 20000);
	// Sleeps that ended at once do so too, however little they took: a peer that spins answers that fast.
	lose_budget();
	for (unsigned i = 0; i < RLM_SPIN_STREAK_MAX; i++)
		wake_slept(&spin, 100);
	assert_true(wake_may_spin(&spin));
	assert_in_range(spin.budget, RLM_SPIN_MIN, 20000);
	// One long sleep in ten does not prevent it: two ends that sleep because the other does would never get out of it.
	lose_budget();
	for (unsigned i = 1; i < 4 * RLM_SPIN_STREAK_MAX && !wake_may_spin(&spin); i++)
		wake_slept(&spin, i % 10 ? 2 * RLM_SPIN_MAX - 1 : 2 * RLM_SPIN_MAX);
	assert_int_equal(spin.budget, RLM_SPIN_MAX);
}

// The user's own limit counts for the budget and for what is a short sleep.
static void test_own_limit(void **state)
{
	wake_spin_init(&spin, false);
	wake_init(2, 10 * RLM_SPIN_MAX);
	lose_budget();
	for (unsigned i = 0; i < 2 * RLM_SPIN_STREAK_MAX && !wake_may_spin(&spin); i++)
		wake_slept(&spin, 19 * RLM_SPIN_MAX);
	assert_int_equal(spin.budget, 10 * RLM_SPIN_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_where),
	    cmocka_unit_test(test_follows_success),
	    cmocka_unit_test(test_short_sleeps),
	    cmocka_unit_test(test_own_limit),
	};

	return cmocka_run_group_tests_name("spin", tests, NULL, NULL);
}

// SPDX-License-Identifier: BSD-2-Clause
// Which ends belong together: the broker's registry.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "registry.h"

static struct rlmd_end end_tuple(uint64_t netns, uint8_t local, uint8_t remote)
{
	struct rlmd_end end;

	memset(&end, 0, sizeof(end));
	end.has[RLMD_NAME_TUPLE] = true;
	end.tuple.netns = netns;
	end.tuple.local.family = end.tuple.remote.family = AF_INET;
	end.tuple.local.port = local;
	end.tuple.remote.port = remote;
	return end;
}

static struct rlmd_end end_isn(uint32_t own, uint32_t peer)
{
	struct rlmd_end end;

	memset(&end, 0, sizeof(end));
	end.has[RLMD_NAME_ISN] = true;
	end.isn.own = own;
	end.isn.peer = peer;
	return end;
}

static void test_match(void **state)
{
	struct rlmd_registry registry;
	struct rlmd_end a = end_tuple(1, 5, 6), b = end_tuple(1, 6, 5), elsewhere = end_tuple(2, 6, 5), *peer = NULL;

	rlmd_registry_init(&registry);
	assert_true(rlmd_registry_add(&registry, &a));
	assert_true(rlmd_registry_add(&registry, &elsewhere));
	assert_int_equal(rlmd_registry_match(&registry, &a, &peer), RLMD_MATCH_NONE);
	assert_true(rlmd_registry_add(&registry, &b));
	assert_int_equal(rlmd_registry_match(&registry, &a, &peer), RLMD_MATCH_FOUND);
	assert_ptr_equal(peer, &b);
	assert_int_equal(rlmd_registry_match(&registry, &b, &peer), RLMD_MATCH_FOUND);
	assert_ptr_equal(peer, &a);
	rlmd_registry_remove(&registry, &b);
	rlmd_registry_remove(&registry, &b);
	assert_int_equal(rlmd_registry_match(&registry, &a, &peer), RLMD_MATCH_NONE);
	rlmd_registry_remove(&registry, &a);
	rlmd_registry_remove(&registry, &elsewhere);
	assert_int_equal(registry.ends, 0);
	rlmd_registry_deinit(&registry);
}

static void test_match_ambiguous(void **state)
{
	struct rlmd_registry registry;
	struct rlmd_end a = end_isn(1, 2), twin = end_isn(1, 2), b = end_isn(2, 1), self = end_isn(7, 7), *peer = NULL;

	rlmd_registry_init(&registry);
	rlmd_registry_add(&registry, &a);
	rlmd_registry_add(&registry, &twin);
	rlmd_registry_add(&registry, &b);
	assert_int_equal(rlmd_registry_match(&registry, &a, &peer), RLMD_MATCH_AMBIGUOUS);
	assert_int_equal(rlmd_registry_match(&registry, &b, &peer), RLMD_MATCH_AMBIGUOUS);
	assert_ptr_equal(rlmd_registry_rival(&a), &twin);
	assert_ptr_equal(rlmd_registry_rival(&twin), &a);
	assert_null(rlmd_registry_rival(&b));
	assert_null(rlmd_registry_retry(&registry));
	rlmd_registry_remove(&registry, &a);
	assert_non_null(rlmd_registry_retry(&registry));
	assert_null(rlmd_registry_retry(&registry));
	assert_int_equal(rlmd_registry_match(&registry, &b, &peer), RLMD_MATCH_FOUND);
	assert_ptr_equal(peer, &twin);
	rlmd_registry_add(&registry, &self);
	assert_false(rlmd_registry_registered(&self));
	rlmd_registry_deinit(&registry);
}

// Both names: sequence numbers decide when both ends have them.
static void test_match_both_names(void **state)
{
	struct rlmd_registry registry;
	struct rlmd_end a = end_tuple(1, 5, 6), b = end_tuple(1, 6, 5), wrong = end_tuple(1, 6, 5), *peer = NULL;

	a.has[RLMD_NAME_ISN] = b.has[RLMD_NAME_ISN] = wrong.has[RLMD_NAME_ISN] = true;
	a.isn = (struct rlmd_isn){10, 20};
	b.isn = (struct rlmd_isn){20, 10};
	wrong.isn = (struct rlmd_isn){30, 40};
	rlmd_registry_init(&registry);
	rlmd_registry_add(&registry, &a);
	rlmd_registry_add(&registry, &wrong);
	assert_int_equal(rlmd_registry_match(&registry, &a, &peer), RLMD_MATCH_NONE);
	rlmd_registry_add(&registry, &b);
	assert_int_equal(rlmd_registry_match(&registry, &a, &peer), RLMD_MATCH_AMBIGUOUS);
	rlmd_registry_remove(&registry, &wrong);
	assert_int_equal(rlmd_registry_match(&registry, &a, &peer), RLMD_MATCH_FOUND);
	rlmd_registry_remove(&registry, &b);
	b.has[RLMD_NAME_ISN] = false;
	rlmd_registry_add(&registry, &b);
	assert_int_equal(rlmd_registry_match(&registry, &a, &peer), RLMD_MATCH_FOUND);
	assert_ptr_equal(peer, &b);
	rlmd_registry_deinit(&registry);
}

// Random names, against the obvious way of finding out.
static void test_match_random(void **state)
{
	enum { COUNT = 40 };
	struct rlmd_registry registry;
	static struct rlmd_end ends[COUNT];
	bool in[COUNT] = {false};
	unsigned seed = 4711;

	rlmd_registry_init(&registry);
	for (int step = 0; step < 20000; step++) {
		int i = rand_r(&seed) % COUNT;
		struct rlmd_end *peer;

		if (in[i])
			rlmd_registry_remove(&registry, &ends[i]);
		else
			ends[i] = end_isn((uint32_t)(rand_r(&seed) % 5), (uint32_t)(rand_r(&seed) % 5));
		if (!in[i])
			rlmd_registry_add(&registry, &ends[i]);
		in[i] = !in[i];
		while (rlmd_registry_retry(&registry))
			;
		for (int j = 0; j < COUNT; j++) {
			int same = 0, reversed = 0;

			if (!in[j] || ends[j].isn.own == ends[j].isn.peer)
				continue;
			for (int k = 0; k < COUNT; k++) {
				same +=
				    in[k] && ends[k].isn.own == ends[j].isn.own && ends[k].isn.peer == ends[j].isn.peer;
				reversed +=
				    in[k] && ends[k].isn.own == ends[j].isn.peer && ends[k].isn.peer == ends[j].isn.own;
			}
			assert_int_equal(rlmd_registry_match(&registry, &ends[j], &peer),
					 same > 1 || reversed > 1 ? RLMD_MATCH_AMBIGUOUS
					 : reversed == 1	  ? RLMD_MATCH_FOUND
								  : RLMD_MATCH_NONE);
		}
	}
	rlmd_registry_deinit(&registry);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_match),
	    cmocka_unit_test(test_match_ambiguous),
	    cmocka_unit_test(test_match_both_names),
	    cmocka_unit_test(test_match_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

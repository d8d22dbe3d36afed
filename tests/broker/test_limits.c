// SPDX-License-Identifier: BSD-2-Clause
// Limits of memory: what does not fit waits on TCP, and gets its turn when something is given back.
#include "harness.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// One segment of two slots is 2 x (4096 + 4096 + 2 x 4096) = 32768 bytes.
#define SMALL "ring_size = 4K\nslots = 2\nidle_time = 0.3\n"

static void pair_offer(struct peer *a, struct peer *b, uint32_t index, int tcp[2])
{
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	both_offer(a, b, index, tcp);
}

static void limit(const char *config)
{
	struct broker broker;
	struct peer a, b;
	struct bound at_a[3], at_b[3];
	int tcp[3][2];

	broker_start(&broker, config);
	peer_open(&a, &broker, "a");
	peer_open(&b, &broker, "b");
	for (uint32_t i = 0; i < 2; i++) {
		pair_offer(&a, &b, i, tcp[i]);
		both_bound(&a, &b, &at_a[i], &at_b[i]);
	}
	pair_offer(&a, &b, 2, tcp[2]);
	note_expect(&a, 2, RLM_WHY_LIMIT, false);
	note_expect(&b, 2, RLM_WHY_LIMIT, false);
	release(&a, &at_a[0]);
	silence_expect(&a);
	release(&b, &at_b[0]);
	both_bound(&a, &b, &at_a[2], &at_b[2]);
	assert_int_equal(at_a[2].bind.slot, at_a[0].bind.slot);
	for (int i = 0; i < 3; i++) {
		bound_close(&at_a[i]);
		bound_close(&at_b[i]);
		close_pair(tcp[i]);
	}
	peer_close(&a);
	peer_close(&b);
	broker_stop(&broker);
}

static void test_link(void **state)
{
	limit(SMALL "memory_per_link = 32768\n");
}

static void test_process(void **state)
{
	limit(SMALL "memory_per_process = 65535\n");
}

static void test_total(void **state)
{
	limit(SMALL "memory_total = 65535\n");
}

// Nothing fits: plain TCP for all.
static void test_nothing(void **state)
{
	struct broker broker;
	struct peer a, b;
	int tcp[2];

	broker_start(&broker, SMALL "memory_total = 0\n");
	peer_open(&a, &broker, "a");
	peer_open(&b, &broker, "b");
	pair_offer(&a, &b, 0, tcp);
	note_expect(&a, 0, RLM_WHY_LIMIT, false);
	note_expect(&b, 0, RLM_WHY_LIMIT, false);
	close_pair(tcp);
	peer_close(&a);
	peer_close(&b);
	broker_stop(&broker);
}

// The memory of others who do not use it any more is taken before anyone is refused.
static void test_reclaim(void **state)
{
	struct broker broker;
	struct peer a, b, c;
	struct bound at_a, at_b, at_c;
	union rlm_msg msg;
	int first[2], second[2], fds[RLM_MSG_FDS_MAX];

	broker_start(&broker, "ring_size = 4K\nslots = 2\nidle_time = 1000\nmemory_total = 40000\n");
	peer_open(&a, &broker, "a");
	peer_open(&b, &broker, "b");
	peer_open(&c, &broker, "c");
	pair_offer(&a, &b, 0, first);
	both_bound(&a, &b, &at_a, &at_b);
	pair_offer(&a, &c, 1, second);
	note_expect(&a, 1, RLM_WHY_LIMIT, false);
	note_expect(&c, 1, RLM_WHY_LIMIT, false);
	release(&a, &at_a);
	release(&b, &at_b);
	message_expect(&b, RLM_MSG_DROP, &msg, fds);
	assert_int_equal(msg.drop.segment, RLM_ALL_SEGMENTS);
	message_expect(&a, RLM_MSG_DROP, &msg, fds);
	bound_close(&at_a);
	bound_close(&at_b);
	both_bound(&a, &c, &at_a, &at_c);
	bound_close(&at_a);
	bound_close(&at_c);
	close_pair(first);
	close_pair(second);
	peer_close(&a);
	peer_close(&b);
	peer_close(&c);
	broker_stop(&broker);
}

// Idle segments go one by one, the link with the last of them.
static void test_idle(void **state)
{
	struct broker broker;
	struct peer a, b;
	struct bound at_a[3], at_b[3];
	union rlm_msg msg;
	int tcp[3][2], fds[RLM_MSG_FDS_MAX];

	broker_start(&broker, SMALL);
	peer_open(&a, &broker, "a");
	peer_open(&b, &broker, "b");
	for (uint32_t i = 0; i < 3; i++) {
		pair_offer(&a, &b, i, tcp[i]);
		both_bound(&a, &b, &at_a[i], &at_b[i]);
	}
	assert_int_equal(at_a[2].bind.segment, 1);
	release(&a, &at_a[2]);
	release(&b, &at_b[2]);
	message_expect(&a, RLM_MSG_DROP, &msg, fds);
	assert_int_equal(msg.drop.segment, 1);
	message_expect(&b, RLM_MSG_DROP, &msg, fds);
	silence_expect(&a);
	for (int i = 0; i < 2; i++) {
		release(&a, &at_a[i]);
		release(&b, &at_b[i]);
	}
	message_expect(&a, RLM_MSG_DROP, &msg, fds);
	assert_int_equal(msg.drop.segment, RLM_ALL_SEGMENTS);
	message_expect(&b, RLM_MSG_DROP, &msg, fds);
	for (int i = 0; i < 3; i++) {
		bound_close(&at_a[i]);
		bound_close(&at_b[i]);
		close_pair(tcp[i]);
	}
	// A new link is another one.
	pair_offer(&a, &b, 0, tcp[0]);
	both_bound(&a, &b, &at_a[1], &at_b[1]);
	assert_true(at_a[1].bind.link != at_a[0].bind.link);
	bound_close(&at_a[1]);
	bound_close(&at_b[1]);
	close_pair(tcp[0]);
	peer_close(&a);
	peer_close(&b);
	broker_stop(&broker);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_link),    cmocka_unit_test(test_process), cmocka_unit_test(test_total),
	    cmocka_unit_test(test_nothing), cmocka_unit_test(test_reclaim), cmocka_unit_test(test_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

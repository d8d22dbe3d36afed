// SPDX-License-Identifier: BSD-2-Clause
// Places of processes, and what is taken back from dead ones.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first.
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "family.h"

static struct rlm_arena arena;
static unsigned freed, shared;

static void count_lost(struct rlm_conn *c, bool last)
{
	if (last)
		conn_free(&arena, c);
	freed += last;
	shared += !last;
}

static int open_arena(void **state)
{
	(void)state;
	assert_int_equal(arena_init(&arena, 64, 8), 0);
	family_init(&arena);
	assert_int_equal(family_take_place(&arena, &arena.place), 0);
	freed = shared = 0;
	return 0;
}

static int close_arena(void **state)
{
	(void)state;
	close(arena.place.fd);
	close(arena.table_fd);
	return 0;
}

// A child with a place of its own, as fork makes one; it waits to be killed.
static pid_t start_child(void (*fn)(struct rlm_conn *c), struct rlm_conn *c, uint32_t *id)
{
	struct rlm_place place;
	int ready[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(family_take_place(&arena, &place), 0);
	assert_true(family_hold(&arena, &place, c));
	pid = fork();
	if (pid == 0) {
		close(arena.place.fd);
		arena.place = place;
		rlm_self_tid = 0;
		if (fn)
			fn(c);
		close(ready[1]);
		for (;;)
			pause();
	}
	close(place.fd);
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 0);
	close(ready[0]);
	*id = place.id;
	return pid;
}

static void kill_child(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static struct rlm_conn *new_conn(bool mine)
{
	struct rlm_conn *c = conn_new(&arena);

	assert_non_null(c);
	if (mine)
		assert_true(family_hold(&arena, &arena.place, c));
	return c;
}

static void the_living_keep(void **state)
{
	struct rlm_conn *c = new_conn(false);
	uint32_t id;
	pid_t pid = start_child(NULL, c, &id);

	(void)state;
	assert_true(family_is_alive(&arena, id));
	assert_true(family_is_alive(&arena, arena.place.id));
	assert_false(family_is_alive(&arena, 0));
	family_sweep(&arena, count_lost);
	assert_int_equal(freed + shared, 0);
	assert_int_equal(c->refs, 1);
	kill_child(pid);
	assert_false(family_is_alive(&arena, id));
	family_sweep(&arena, count_lost);
	assert_int_equal(freed, 1);
	family_sweep(&arena, count_lost);
	assert_int_equal(freed + shared, 1);
}

static void what_others_hold_stays(void **state)
{
	struct rlm_conn *c = new_conn(true);
	uint32_t id;

	(void)state;
	kill_child(start_child(NULL, c, &id));
	assert_int_equal(c->refs, 2);
	family_sweep(&arena, count_lost);
	assert_int_equal(shared, 1);
	assert_int_equal(freed, 0);
	assert_int_equal(c->refs, 1);
	assert_true(family_release(&arena, c));
}

static void inside(struct rlm_conn *c)
{
	FAMILY_ENTER(&arena, c, tx_inflight);
	FAMILY_ENTER(&arena, c, rx_inflight);
	FAMILY_ENTER(&arena, c, users);
	FAMILY_LEAVE(&arena, c, tx_inflight);
}

// Who dies inside a call counts no more, whoever else is inside.
static void calls_are_undone(void **state)
{
	struct rlm_conn *c = new_conn(true);
	uint32_t id;
	pid_t pid = start_child(inside, c, &id);

	(void)state;
	assert_true(conn_in_use(c) && !family_is_inside(&arena, c));
	kill_child(pid);
	family_sweep(&arena, count_lost);
	assert_false(conn_in_use(c));
	pid = start_child(inside, c, &id);
	inside(c);
	assert_int_equal(c->rx_inflight, 2);
	kill_child(pid);
	family_sweep(&arena, count_lost);
	assert_int_equal(c->tx_inflight, 0);
	assert_int_equal(c->rx_inflight, 1);
	assert_int_equal(c->users, 1);
	assert_true(family_is_inside(&arena, c));
}

// Places come back, under other ids.
static void places_are_reused(void **state)
{
	uint32_t first = 0;

	(void)state;
	for (unsigned i = 0; i < 2 * FAMILY_PLACES; i++) {
		struct rlm_place place;

		if (family_take_place(&arena, &place) < 0) {
			family_sweep(&arena, count_lost);
			assert_int_equal(family_take_place(&arena, &place), 0);
		}
		if (!first)
			first = place.id;
		else
			assert_int_not_equal(place.id, first);
		close(place.fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_living_keep, open_arena, close_arena),
		cmocka_unit_test_setup_teardown(what_others_hold_stays, open_arena, close_arena),
		cmocka_unit_test_setup_teardown(calls_are_undone, open_arena, close_arena),
		cmocka_unit_test_setup_teardown(places_are_reused, open_arena, close_arena),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

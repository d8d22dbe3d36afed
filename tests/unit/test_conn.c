// SPDX-License-Identifier: BSD-2-Clause
// The table of connections: entries, generations, a full table, totals, and two processes that share it.
#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ends.h"

enum { CAPACITY = 50, BOUNDS = 10, PROCESSES = 4, ROUNDS = UNIT_SANITIZED ? 5000 : 30000 };

static void arena_open(struct rlm_arena *a)
{
	assert_int_equal(arena_init(a, CAPACITY, BOUNDS), 0);
}

static void arena_close(struct rlm_arena *a)
{
	close(a->table_fd);
	close(a->tickets_fd);
}

static void test_header(void **state)
{
	struct rlm_arena a;
	struct stat st;

	arena_open(&a);
	assert_int_equal(a.table->magic, RLM_TABLE_MAGIC);
	assert_int_equal(a.table->version, RLM_TABLE_VERSION);
	assert_int_equal(a.table->capacity, CAPACITY);
	assert_int_equal(a.table->entry_size, sizeof(struct rlm_conn_stat));
	assert_int_equal(a.table->used, 0);
	assert_int_equal(fstat(a.table_fd, &st), 0);
	assert_true((uint64_t)st.st_size >= RLM_TABLE_OFFSET + CAPACITY * sizeof(struct rlm_conn_stat));
	assert_int_equal(ftruncate(a.table_fd, 0), -1);
	assert_int_equal(ftruncate(a.tickets_fd, 0), -1);
	arena_close(&a);
}

static void test_generation(void **state)
{
	struct rlm_arena a;
	struct rlm_conn *c;
	uint32_t generation;

	arena_open(&a);
	for (int i = 0; i < 5; i++) {
		c = conn_new(&a);
		assert_non_null(c);
		assert_int_equal(conn_index(&a, c), 0); // given back, taken again
		generation = conn_generation(&a, c);
		assert_int_equal(generation, 2 * i + 1);
		assert_int_equal(c->refs, 0);
		assert_int_equal(c->flags | c->bound | c->users | c->calls | c->tx_inflight | c->rx_inflight, 0);
		assert_int_equal(c->ghost, 0);
		assert_null(conn_bound(&a, c));
		assert_int_equal(conn_stat(&a, c)->why, RLM_WHY_THRESHOLD);
		assert_int_equal(conn_stat(&a, c)->tx_bytes_plain, 0);
		c->flags = c->calls = c->bound = 77;
		conn_stat(&a, c)->tx_bytes_plain = 5;
		conn_free(&a, c);
		assert_int_equal(conn_generation(&a, c), generation + 1);
	}
	assert_int_equal(a.table->used, 1);
	assert_int_equal(a.table->opened, 5);
	assert_int_equal(a.table->tx_bytes_plain, 25);
	arena_close(&a);
}

static void test_totals(void **state)
{
	struct rlm_arena a;

	arena_open(&a);
	for (unsigned i = 1; i <= 3; i++) {
		struct rlm_conn *c = conn_new(&a);
		struct rlm_conn_stat *s = conn_stat(&a, c);

		stat_add(&s->tx_bytes_plain, i);
		stat_add(&s->rx_bytes_plain, 10 * i);
		stat_add(&s->tx_bytes_ring, 100 * i);
		stat_add(&s->rx_bytes_ring, 1000 * i);
		s->switches = 10000 * i;
		conn_free(&a, c);
	}
	assert_int_equal(a.table->tx_bytes_plain, 6);
	assert_int_equal(a.table->rx_bytes_plain, 60);
	assert_int_equal(a.table->tx_bytes_ring, 600);
	assert_int_equal(a.table->rx_bytes_ring, 6000);
	assert_int_equal(a.table->switches, 60000);
	arena_close(&a);
}

static void test_full_table(void **state)
{
	struct rlm_arena a;
	struct rlm_conn *c[CAPACITY];

	arena_open(&a);
	for (int turn = 0; turn < 3; turn++) {
		bool seen[CAPACITY] = {false};

		for (int i = 0; i < CAPACITY; i++) {
			c[i] = conn_new(&a);
			assert_non_null(c[i]);
			assert_in_range(conn_index(&a, c[i]), 0, CAPACITY - 1);
			assert_false(seen[conn_index(&a, c[i])]);
			seen[conn_index(&a, c[i])] = true;
		}
		assert_null(conn_new(&a));
		assert_null(conn_new(&a));
		assert_int_equal(a.table->used, CAPACITY);
		assert_int_equal(a.table->opened, (turn + 1) * CAPACITY);
		conn_free(&a, c[17]);
		assert_ptr_equal(conn_new(&a), c[17]);
		a.table->opened--;
		for (int i = 0; i < CAPACITY; i++)
			conn_free(&a, c[i]);
	}
	arena_close(&a);
}

static void test_bounds(void **state)
{
	struct rlm_arena a;
	struct rlm_conn *c;
	struct rlm_bound *b[BOUNDS];

	arena_open(&a);
	c = conn_new(&a);
	for (int i = 0; i < BOUNDS; i++) {
		b[i] = bound_new(&a);
		assert_non_null(b[i]);
		assert_int_equal((uintptr_t)b[i] % RLM_CACHELINE, 0);
		for (int j = 0; j < i; j++)
			assert_ptr_not_equal(b[i], b[j]);
		b[i]->epoch = 99;
	}
	assert_null(bound_new(&a));
	c->bound = (uint32_t)(b[4] - a.bounds) + 1;
	assert_ptr_equal(conn_bound(&a, c), b[4]);
	bound_free(&a, b[4]);
	assert_ptr_equal(bound_new(&a), b[4]);
	assert_int_equal(b[4]->epoch, 0);
	arena_close(&a);
}

// Who has which entry, as its users know it.
struct owners {
	_Atomic uint32_t conn[CAPACITY];
	_Atomic uint32_t bound[BOUNDS];
	_Atomic uint64_t opened;
};

static void own(_Atomic uint32_t *owner, uint32_t me)
{
	must(atomic_exchange(owner, me) == 0);
}

static void disown(_Atomic uint32_t *owner, uint32_t me)
{
	must(atomic_exchange(owner, 0) == me);
}

static void come_and_go(struct rlm_arena *a, struct owners *o, uint32_t me)
{
	uint64_t random = me;
	struct rlm_conn *c[20];
	struct rlm_bound *b[4];
	int conns = 0, bounds = 0;

	for (int i = 0; i < ROUNDS || conns || bounds; i++) {
		bool more = i < ROUNDS && random_next(&random) % 2;

		if (more && conns < 20 && (c[conns] = conn_new(a)) != NULL) {
			own(&o->conn[conn_index(a, c[conns])], me);
			must(conn_generation(a, c[conns]) % 2 == 1);
			stat_add(&conn_stat(a, c[conns])->tx_bytes_plain, 1);
			c[conns++]->calls = me;
			o->opened++;
		} else if (!more && conns) {
			must(c[--conns]->calls == me);
			disown(&o->conn[conn_index(a, c[conns])], me);
			conn_free(a, c[conns]);
		}
		if (more && bounds < 4 && (b[bounds] = bound_new(a)) != NULL) {
			own(&o->bound[b[bounds] - a->bounds], me);
			must(b[bounds]->epoch == 0);
			b[bounds++]->epoch = me;
		} else if (!more && bounds) {
			must(b[--bounds]->epoch == me);
			disown(&o->bound[b[bounds] - a->bounds], me);
			bound_free(a, b[bounds]);
		}
	}
}

static struct owners *share_owners(void)
{
	struct owners *o = mmap(NULL, sizeof(*o), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(o != MAP_FAILED);
	return o;
}

static void test_processes(void **state)
{
	struct owners *o = share_owners();
	pid_t pids[PROCESSES];
	struct rlm_arena a;
	int status;

	arena_open(&a);
	for (uint32_t i = 0; i < PROCESSES; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			rlm_self_tid = 0;
			signal(SIGABRT, SIG_DFL);
			come_and_go(&a, o, i + 2);
			_exit(0);
		}
	}
	come_and_go(&a, o, 1);
	for (int i = 0; i < PROCESSES; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(a.table->opened, o->opened);
	assert_int_equal(a.table->tx_bytes_plain, o->opened);
	arena_close(&a);
	munmap(o, sizeof(*o));
}

struct thread {
	pthread_t thread;
	struct rlm_arena *arena;
	struct owners *owners;
	uint32_t me;
};

static void *come_and_go_in_thread(void *arg)
{
	struct thread *t = arg;

	come_and_go(t->arena, t->owners, t->me);
	return NULL;
}

static void test_threads(void **state)
{
	struct owners *o = share_owners();
	struct thread threads[PROCESSES];
	struct rlm_arena a;

	arena_open(&a);
	for (uint32_t i = 0; i < PROCESSES; i++) {
		threads[i] = (struct thread){.arena = &a, .owners = o, .me = i + 1};
		assert_int_equal(pthread_create(&threads[i].thread, NULL, come_and_go_in_thread, &threads[i]), 0);
	}
	for (int i = 0; i < PROCESSES; i++)
		pthread_join(threads[i].thread, NULL);
	assert_int_equal(a.table->opened, o->opened);
	arena_close(&a);
	munmap(o, sizeof(*o));
}

// A child that is killed wherever it is may take entries with it, but leaves no lock and no entry to two owners.
static void test_child_is_killed(void **state)
{
	struct owners *o = share_owners();
	struct rlm_conn *c[CAPACITY];
	struct rlm_arena a;
	bool seen[CAPACITY];
	int n;

	for (uint64_t turn = 0; turn < 20; turn++) {
		uint64_t random = turn;
		pid_t pid;

		arena_open(&a);
		memset(o, 0, sizeof(*o));
		pid = fork();
		if (pid == 0) {
			rlm_self_tid = 0;
			for (;;)
				come_and_go(&a, o, 2);
		}
		usleep((useconds_t)random_below(&random, 5000));
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		memset(seen, 0, sizeof(seen));
		for (n = 0; n < CAPACITY && (c[n] = conn_new(&a)) != NULL; n++) {
			assert_false(seen[conn_index(&a, c[n])]);
			seen[conn_index(&a, c[n])] = true;
			assert_int_equal(conn_generation(&a, c[n]) % 2, 1);
		}
		assert_true(n >= CAPACITY - 21);
		arena_close(&a);
	}
	munmap(o, sizeof(*o));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_header),     cmocka_unit_test(test_generation),      cmocka_unit_test(test_totals),
	    cmocka_unit_test(test_full_table), cmocka_unit_test(test_bounds),	       cmocka_unit_test(test_processes),
	    cmocka_unit_test(test_threads),    cmocka_unit_test(test_child_is_killed),
	};

	watchdog(55);
	return cmocka_run_group_tests_name("conn", tests, NULL, NULL);
}

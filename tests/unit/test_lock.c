// SPDX-License-Identifier: BSD-2-Clause
// The family lock under contention of threads and of processes, after its owner was killed, and kept.
#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "ends.h"
#include "lock.h"

enum { THREADS = 8, PROCESSES = 6, ROUNDS = UNIT_SANITIZED ? 20000 : 100000 };

struct shared {
	struct rlm_lock lock;
	uint64_t count; // protected by it
	uint32_t inside;
	_Atomic uint32_t ready;
	_Atomic uint32_t stop;
	_Atomic uint64_t entered;
};

static struct shared *share(void)
{
	struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(s != MAP_FAILED);
	return s;
}

static void enter_once(struct shared *s)
{
	rlm_lock_take(&s->lock);
	must(rlm_lock_is_mine(&s->lock));
	s->inside = rlm_tid();
	s->count++;
	if (s->count % 64 == 0)
		sched_yield(); // others shall find it taken
	must(s->inside == rlm_tid());
	rlm_lock_drop(&s->lock);
}

static void *hammer(void *arg)
{
	for (int i = 0; i < ROUNDS / THREADS; i++)
		enter_once(arg);
	return NULL;
}

static pid_t spawn(struct shared *s, void (*body)(struct shared *))
{
	pid_t pid = fork();

	must(pid >= 0);
	if (pid)
		return pid;
	rlm_self_tid = 0;
	signal(SIGABRT, SIG_DFL);
	alarm(50);
	body(s);
	_exit(0);
}

static void reap(pid_t pid, int expected)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, expected);
}

static void test_try_and_drop(void **state)
{
	struct rlm_lock lock = {0};

	assert_false(rlm_lock_is_mine(&lock));
	assert_true(rlm_lock_try(&lock));
	assert_true(rlm_lock_is_mine(&lock));
	assert_false(rlm_lock_try(&lock));
	assert_int_equal(lock.word, rlm_tid());
	rlm_lock_drop(&lock);
	assert_int_equal(lock.word, 0);
	rlm_lock_take(&lock);
	rlm_lock_drop(&lock);
}

static void test_threads(void **state)
{
	struct shared *s = share();
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, s), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(s->count, ROUNDS / THREADS * THREADS);
	assert_int_equal(s->lock.word, 0);
	munmap(s, sizeof(*s));
}

static void hammer_in_process(struct shared *s)
{
	for (int i = 0; i < ROUNDS / PROCESSES; i++)
		enter_once(s);
}

static void test_processes(void **state)
{
	struct shared *s = share();
	pid_t pids[PROCESSES];

	for (int i = 0; i < PROCESSES; i++)
		pids[i] = spawn(s, hammer_in_process);
	for (int i = 0; i < PROCESSES; i++)
		reap(pids[i], 0);
	assert_int_equal(s->count, ROUNDS / PROCESSES * PROCESSES);
	assert_int_equal(s->lock.word, 0);
	munmap(s, sizeof(*s));
}

static void take_and_keep(struct shared *s)
{
	rlm_lock_take(&s->lock);
	s->ready = 1;
	for (;;)
		pause();
}

static void start_owner(struct shared *s, pid_t *pid)
{
	s->ready = 0;
	*pid = spawn(s, take_and_keep);
	while (!s->ready)
		sched_yield();
}

static void test_owner_was_killed(void **state)
{
	struct shared *s = share();
	uint64_t start;
	pid_t owner;

	for (int i = 0; i < 3; i++) {
		start_owner(s, &owner);
		assert_false(rlm_lock_try(&s->lock));
		kill(owner, SIGKILL);
		reap(owner, SIGKILL);
		start = now_ms();
		rlm_lock_take(&s->lock);
		assert_true(now_ms() - start < 2000);
		assert_true(rlm_lock_is_mine(&s->lock));
		rlm_lock_drop(&s->lock);
		assert_int_equal(s->lock.word, 0);
	}
	munmap(s, sizeof(*s));
}

static void enter_a_few_times(struct shared *s)
{
	s->ready++;
	for (int i = 0; i < 1000; i++)
		enter_once(s);
}

static void test_owner_was_killed_while_others_wait(void **state)
{
	struct shared *s = share();
	pid_t owner, pids[PROCESSES];

	start_owner(s, &owner);
	s->ready = 0;
	for (int i = 0; i < PROCESSES; i++)
		pids[i] = spawn(s, enter_a_few_times);
	while (s->ready < PROCESSES)
		sched_yield();
	usleep(120000); // longer than a waiter's patience: a live owner keeps it
	assert_int_equal(s->count, 0);
	kill(owner, SIGKILL);
	reap(owner, SIGKILL);
	for (int i = 0; i < PROCESSES; i++)
		reap(pids[i], 0);
	assert_int_equal(s->count, PROCESSES * 1000);
	munmap(s, sizeof(*s));
}

static void enter_until_stopped(struct shared *s)
{
	while (!s->stop) {
		enter_once(s);
		s->entered++;
	}
}

// Processes are killed wherever they are, inside the lock or not; the others go on.
static void test_killed_anywhere(void **state)
{
	struct shared *s = share();
	uint64_t random = 1, before, start, killed = 40;
	pid_t pids[PROCESSES];

	for (int i = 0; i < PROCESSES; i++)
		pids[i] = spawn(s, enter_until_stopped);
	for (uint64_t i = 0; i < killed; i++) {
		int victim = (int)random_below(&random, PROCESSES);

		usleep((useconds_t)random_below(&random, 8000));
		kill(pids[victim], SIGKILL);
		reap(pids[victim], SIGKILL);
		pids[victim] = spawn(s, enter_until_stopped);
		before = s->entered;
		for (start = now_ms(); s->entered == before;) {
			assert_true(now_ms() - start < 5000);
			usleep(100);
		}
	}
	s->stop = 1;
	for (int i = 0; i < PROCESSES; i++)
		reap(pids[i], 0);
	assert_in_range(s->count, s->entered, s->entered + killed); // a victim may have counted without telling
	rlm_lock_take(&s->lock);
	rlm_lock_drop(&s->lock);
	munmap(s, sizeof(*s));
}

// --- keeping ---

// Keeps it as soon as it may.
static void leave(struct shared *s, struct rlm_habit *habit)
{
	if (!rlm_lock_is_kept(&s->lock) && rlm_habit_pays(habit))
		rlm_lock_keep(&s->lock, habit);
	else
		rlm_lock_drop(&s->lock);
}

static void make_it_kept(struct shared *s, struct rlm_habit *habit)
{
	for (int i = 0; i < 5000 && !(s->lock.word & RLM_LOCK_KEPT); i++) {
		rlm_lock_take(&s->lock);
		leave(s, habit);
	}
	assert_int_equal(s->lock.word, rlm_tid() | RLM_LOCK_KEPT);
}

static void *take_once(void *arg)
{
	struct shared *s = arg;

	rlm_lock_take(&s->lock);
	must(rlm_lock_is_mine(&s->lock) && !rlm_lock_is_kept(&s->lock));
	s->count++;
	rlm_lock_drop(&s->lock);
	return NULL;
}

static void in_thread(void *(*body)(void *), void *arg)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, body, arg), 0);
	pthread_join(thread, NULL);
}

static void test_keep(void **state)
{
	struct shared *s = share();
	struct rlm_habit habit = {0};

	make_it_kept(s, &habit);
	assert_false(rlm_lock_is_mine(&s->lock));
	assert_true(rlm_lock_try(&s->lock));
	assert_true(rlm_lock_is_mine(&s->lock));
	assert_true(rlm_lock_is_kept(&s->lock));
	assert_false(rlm_lock_try(&s->lock)); // not twice
	rlm_lock_drop(&s->lock);
	assert_false(rlm_lock_is_mine(&s->lock));
	assert_int_equal(rlm_guard.depth, 0);
	in_thread(take_once, s);
	assert_int_equal(s->lock.word, 0);
	make_it_kept(s, &habit); // later than the first time, but again
	rlm_lock_end_keeping(&s->lock);
	assert_int_equal(s->lock.word, 0);
	assert_int_equal(rlm_guard.depth, 0);
	munmap(s, sizeof(*s));
}

static void *try_once(void *arg)
{
	struct shared *s = arg;

	s->ready = rlm_lock_try(&s->lock) ? 2 : 1;
	if (s->ready == 2)
		rlm_lock_drop(&s->lock);
	return NULL;
}

static void test_try_a_kept_one(void **state)
{
	struct shared *s = share();
	struct rlm_habit habit = {0};

	make_it_kept(s, &habit);
	rlm_lock_take(&s->lock);
	in_thread(try_once, s);
	assert_int_equal(s->ready, 1);
	assert_int_equal(s->lock.word, rlm_tid() | RLM_LOCK_KEPT); // nothing has happened to it
	rlm_lock_drop(&s->lock);
	in_thread(try_once, s);
	assert_int_equal(s->ready, 2);
	munmap(s, sizeof(*s));
}

// More than a keeper has cells for.
static void test_keep_many(void **state)
{
	enum { LOCKS = RLM_KEEPER_LOCKS + 3 };
	struct shared *s[LOCKS];
	struct rlm_habit habit[LOCKS] = {0};

	for (int i = 0; i < LOCKS; i++) {
		s[i] = share();
		make_it_kept(s[i], &habit[i]);
	}
	for (int i = 0; i < LOCKS; i++)
		rlm_lock_take(&s[i]->lock);
	for (int i = 0; i < LOCKS; i++)
		assert_true(rlm_lock_is_mine(&s[i]->lock));
	for (int i = 0; i < LOCKS; i++) // not the last one first
		rlm_lock_drop(&s[i]->lock);
	assert_int_equal(rlm_guard.depth, 0);
	for (int i = 0; i < LOCKS; i++) {
		in_thread(take_once, s[i]);
		assert_int_equal(s[i]->count, 1);
		munmap(s[i], sizeof(*s[i]));
	}
}

struct kept {
	struct shared *s;
	struct rlm_habit habit; // under the lock
	_Atomic uint64_t takes;
	_Atomic uint64_t times_kept;
};

static void *keep_and_lose(void *arg)
{
	struct kept *k = arg;
	struct shared *s = k->s;
	uint64_t random = rlm_tid();

	while (!s->stop) {
		rlm_lock_take(&s->lock);
		must(rlm_lock_is_mine(&s->lock));
		s->inside = rlm_tid();
		s->count++;
		k->takes++;
		if (rlm_lock_is_kept(&s->lock))
			k->times_kept++;
		must(s->inside == rlm_tid());
		k->habit.wanted = 32; // as if it had never been lost
		leave(s, &k->habit);
		if (random_below(&random, 2000) == 0)
			usleep((useconds_t)random_below(&random, 300)); // let another one have it for a while
	}
	return NULL;
}

// Threads that take a lock away from one another all the time, each as soon as it may keep it.
static void test_keep_and_lose(void **state)
{
	struct kept k = {.s = share()};
	pthread_t threads[THREADS / 2];

	for (int i = 0; i < THREADS / 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, keep_and_lose, &k), 0);
	usleep(1500000);
	k.s->stop = 1;
	for (int i = 0; i < THREADS / 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(k.s->count, k.takes);
	assert_true(k.times_kept > 0);
	assert_int_equal(rlm_guard.depth, 0);
	munmap(k.s, sizeof(*k.s));
}

// What fork's child inherits must not be kept; its own cells are new.
static void test_fork(void **state)
{
	struct shared *s = share(), *own = share();
	struct rlm_habit habit = {0};
	int status;
	pid_t pid;

	make_it_kept(s, &habit);
	rlm_lock_barrier();
	rlm_lock_end_keeping(&s->lock);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		rlm_lock_fork_child();
		signal(SIGABRT, SIG_DFL);
		for (int i = 0; i < 1000; i++)
			enter_once(s);
		make_it_kept(own, &habit);
		in_thread(take_once, own);
		_exit(own->count == 1 ? 0 : 1);
	}
	for (int i = 0; i < 1000; i++)
		enter_once(s);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(s->count, 2000);
	munmap(s, sizeof(*s));
	munmap(own, sizeof(*own));
}

// Last: from here on nothing is kept.
static void test_stop_keeping(void **state)
{
	struct shared *s = share();
	struct rlm_habit habit = {0};

	rlm_lock_stop_keeping();
	for (int i = 0; i < 5000; i++) {
		rlm_lock_take(&s->lock);
		leave(s, &habit);
		assert_int_equal(s->lock.word, 0);
	}
	munmap(s, sizeof(*s));
}

static void *hold_a_moment(void *arg)
{
	struct shared *s = arg;

	rlm_lock_take(&s->lock);
	s->ready = 1;
	usleep(200000);
	s->count = 1;
	rlm_lock_drop(&s->lock);
	return NULL;
}

// A thread that is not the first of its process is alive as well.
static void test_owner_is_a_thread(void **state)
{
	struct shared *s = share();
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, hold_a_moment, s), 0);
	while (!s->ready)
		sched_yield();
	rlm_lock_take(&s->lock);
	assert_int_equal(s->count, 1);
	rlm_lock_drop(&s->lock);
	pthread_join(thread, NULL);
	munmap(s, sizeof(*s));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_try_and_drop),
	    cmocka_unit_test(test_threads),
	    cmocka_unit_test(test_processes),
	    cmocka_unit_test(test_owner_was_killed),
	    cmocka_unit_test(test_owner_was_killed_while_others_wait),
	    cmocka_unit_test(test_killed_anywhere),
	    cmocka_unit_test(test_owner_is_a_thread),
	    cmocka_unit_test(test_keep),
	    cmocka_unit_test(test_try_a_kept_one),
	    cmocka_unit_test(test_keep_many),
	    cmocka_unit_test(test_keep_and_lose),
	    cmocka_unit_test(test_fork),
	    cmocka_unit_test(test_stop_keeping),
	};

	watchdog(55);
	rlm_lock_init();
	return cmocka_run_group_tests_name("lock", tests, NULL, NULL);
}

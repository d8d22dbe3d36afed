// SPDX-License-Identifier: BSD-2-Clause
// The family lock under contention of threads and of processes, and after its owner was killed.
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
	};

	watchdog(55);
	return cmocka_run_group_tests_name("lock", tests, NULL, NULL);
}

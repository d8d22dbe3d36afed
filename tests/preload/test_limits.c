// SPDX-License-Identifier: BSD-2-Clause
// Resource limits: what we need beside a program must not cost it anything, least of all its life.
#include "pair.h"

#include <sys/mman.h>
#include <sys/resource.h>

static void set_limit(int resource, rlim_t value)
{
	struct rlimit limit = {value, value};

	assert_returns(setrlimit(resource, &limit), 0);
}

static void talk(int family)
{
	struct pair p;

	pair_open(&p, family);
	pair_talk(&p, 200);
	pair_close(&p);
}

// A program that is started when no file may be larger than this.
static void file_size_at_start(void **state)
{
	static const rlim_t sizes[] = {0, 1, 4096, 1 << 20};

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		pid_t child = fork();

		if (child == 0) {
			set_limit(RLIMIT_FSIZE, sizes[i]);
			execl("/bin/true", "true", NULL);
			_exit(98);
		}
		child_finish(child);
	}
}

// The limit comes when the program runs: before its first connection, or after.
static void file_size_later(void **state)
{
	for (int i = 0; i < 2; i++) {
		pid_t child = fork();

		if (child == 0) {
			if (i)
				talk(*(int *)*state);
			set_limit(RLIMIT_FSIZE, 0);
			talk(*(int *)*state);
			talk(*(int *)*state);
			_exit(0);
		}
		child_finish(child);
	}
}

// Neither threads nor descriptors are to be had.
static void nothing_more(void **state)
{
	pid_t child = fork();

	if (child == 0) {
		if (geteuid() == 0)
			assert_returns(setuid(65534), 0);
		set_limit(RLIMIT_NPROC, 0);
		set_limit(RLIMIT_MEMLOCK, 0);
		talk(*(int *)*state);
		_exit(0);
	}
	child_finish(child);
}

// The program's address space is limited, not ours beside it.
static void address_space(void **state)
{
	const size_t some = 100u << 20, much = 1500u << 20;
	struct rlimit limit;
	struct pair p;
	pid_t child;

	pair_open(&p, *(int *)*state);
	child = fork();
	if (child == 0) {
		set_limit(RLIMIT_AS, 400u << 20);
		assert_returns(getrlimit(RLIMIT_AS, &limit), 0);
		assert_returns(limit.rlim_cur, 400u << 20);
		assert_returns(limit.rlim_max, 400u << 20);
		assert_that(mmap(NULL, some, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
		assert_that(mmap(NULL, much, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
		set_limit(RLIMIT_AS, 300u << 20);
		assert_returns(prlimit(0, RLIMIT_AS, NULL, &limit), 0);
		assert_returns(limit.rlim_max, 300u << 20);
		talk(*(int *)*state);
		_exit(0);
	}
	child_finish(child);
	pair_close(&p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    {"file_size_at_start", file_size_at_start, NULL, NULL, NULL},
    TEST_FAMILY(file_size_later),
    TEST_FAMILY(nothing_more),
    TEST_FAMILY(address_space),
};
// clang-format on

SUITE_MAIN(tests)

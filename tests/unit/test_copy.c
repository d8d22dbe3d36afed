// SPDX-License-Identifier: BSD-2-Clause
// The copy: every length, nothing beyond it, and an edge at each of its bytes.
#include "unit.h"

#include <signal.h>
#include <sys/mman.h>

#include "copy.h"

enum { PAGE = 4096, MOST = 400 };

static volatile sig_atomic_t repaired;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	if (!copy_repair(context))
		_exit(1);
	repaired++;
}

// A page with nothing behind it; returns its end.
static uint8_t *edge(void)
{
	uint8_t *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(mprotect(p + PAGE, PAGE, PROT_NONE), 0);
	return p + PAGE;
}

static void check(size_t n, size_t to_offset, size_t from_offset)
{
	static uint8_t to[70000], from[70000];

	for (size_t i = 0; i < n + 32; i++) {
		to[i] = 0xee;
		from[from_offset + i] = (uint8_t)(i * 7 + n);
	}
	assert_int_equal(rlm_copy(to + to_offset, from + from_offset, n), 0);
	assert_memory_equal(to + to_offset, from + from_offset, n);
	for (size_t i = 0; i < to_offset; i++)
		assert_int_equal(to[i], 0xee);
	for (size_t i = to_offset + n; i < n + 32; i++)
		assert_int_equal(to[i], 0xee);
}

static void test_lengths(void **state)
{
	static const size_t large[] = {511, 512, 513, 4096, 5000, 65536, 65537};

	for (size_t n = 0; n <= MOST; n++)
		for (size_t offset = 0; offset < 17; offset++)
			check(n, offset, 16 - offset);
	for (size_t i = 0; i < sizeof(large) / sizeof(*large); i++)
		check(large[i], i, 3);
}

// Buffers that end exactly where the memory does are whole; one byte further and the copy fails, whichever side it is.
static void test_edges(void **state)
{
	uint8_t *end = edge(), other[MOST + 1];
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, was;

	assert_int_equal(sigaction(SIGSEGV, &action, &was), 0);
	memset(other, 1, sizeof(other));
	for (int n = 1; n <= MOST; n++) {
		assert_int_equal(rlm_copy(end - n, other, (size_t)n), 0);
		assert_int_equal(rlm_copy(other, end - n, (size_t)n), 0);
		repaired = 0;
		for (int over = 1; over <= n; over++) {
			assert_int_equal(rlm_copy(end - n + over, other, (size_t)n), -EFAULT);
			assert_int_equal(rlm_copy(other, end - n + over, (size_t)n), -EFAULT);
			assert_int_equal(repaired, 2 * over);
		}
	}
	assert_int_equal(rlm_copy((void *)16, other, 8), -EFAULT);
	assert_int_equal(rlm_copy(other, (void *)0x8000000000000010, 8), -EFAULT); // not an address at all
	assert_int_equal(sigaction(SIGSEGV, &was, NULL), 0);
	munmap(end - PAGE, 2 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_edges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

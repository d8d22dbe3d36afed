// SPDX-License-Identifier: BSD-2-Clause
// A test program: its carrier state, its checks, and the tests it runs.
#include "pair.h"

int pair_family_4 = AF_INET, pair_family_6 = AF_INET6;

static pthread_t main_thread;
static pid_t main_pid;

enum carrier carrier(void)
{
	static const char *const names[] = {
	    [CARRIER_BARE] = "bare",
	    [CARRIER_PLAIN] = "plain",
	    [CARRIER_RING] = "ring",
	    [CARRIER_RING_SMALL] = "ring-small",
	    [CARRIER_PROMOTE_MID] = "promote-mid",
	    [CARRIER_DEMOTE_MID] = "demote-mid",
	    [CARRIER_FLAP] = "flap",
	};
	const char *name = getenv("RLM_TEST_CARRIER");

	if (!name)
		return CARRIER_BARE;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(name, names[i]))
			return i;
	fprintf(stderr, "RLM_TEST_CARRIER=%s is not a carrier state\n", name);
	exit(2);
}

bool carrier_accelerates(void)
{
	return carrier() >= CARRIER_RING;
}

bool carrier_is_ring(void)
{
	return carrier() == CARRIER_RING || carrier() == CARRIER_RING_SMALL;
}

// -- checks --

void check_failed(const char *file, int line, const char *format, ...)
{
	int error = errno;
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fprintf(stderr, "%s:%d: %s (errno %s)\n", file, line, text,
		strerrorname_np(error) ? strerrorname_np(error) : "?");
	if (getpid() != main_pid)
		_exit(99);
	if (!pthread_equal(pthread_self(), main_thread))
		abort();
	_fail(file, line);
}

void check_returns(long got, long want, const char *call, const char *file, int line)
{
	if (got != want)
		check_failed(file, line, "%s = %ld, not %ld", call, got, want);
}

void check_fails(long got, int error, const char *call, const char *file, int line)
{
	if (got != -1 || errno != error)
		check_failed(file, line, "%s = %ld, not -1 with %s", call, got, strerrorname_np(error));
}

void check_bytes(const void *actual, const void *expected, size_t size, const char *file, int line)
{
	const unsigned char *a = actual, *e = expected;

	for (size_t i = 0; i < size; i++)
		if (a[i] != e[i])
			check_failed(file, line, "byte %zu of %zu is %#x, not %#x", i, size, a[i], e[i]);
}

// -- tests --

int setup_fresh(void **state)
{
	int family = *(int *)*state;
	struct pair *pair = malloc(sizeof(*pair));

	assert_that(pair);
	pair_open(pair, family);
	*state = pair;
	return 0;
}

int setup_settled(void **state)
{
	setup_fresh(state);
	pair_settle(*state);
	return 0;
}

int teardown_pair(void **state)
{
	pair_close(*state);
	free(*state);
	return 0;
}

static bool has_ipv6(void)
{
	int listener = listener_open(AF_INET6);

	if (listener < 0)
		return false;
	close(listener);
	return true;
}

int suite_main(int argc, char **argv, const struct CMUnitTest *tests, size_t count)
{
	main_thread = pthread_self();
	main_pid = getpid();
	carrier();
	if (!has_ipv6())
		cmocka_set_skip_filter("*/6");
	if (argc > 1 && !strcmp(argv[1], "--list")) {
		for (size_t i = 0; i < count; i++)
			puts(tests[i].name);
		return 0;
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return _cmocka_run_group_tests(argv[0], tests, count, NULL, NULL) ? 1 : 0;
}

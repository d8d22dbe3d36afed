// SPDX-License-Identifier: BSD-2-Clause
// A process's first socket, wherever it is made; and a process that has none. Each test is a program of its own.
#include "pair.h"

#define THREADS 8

static void use(int family)
{
	struct pair p;

	pair_open(&p, family);
	pair_settle(&p);
	pair_talk(&p, 50);
	pair_check_ring(&p);
	pair_close(&p);
}

// The program's descriptors are its own.
static void none(int family)
{
	int last = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)family;
	assert_that(last >= 0);
	for (int fd = last + 1; fd < 20000; fd++)
		assert_fails(fcntl(fd, F_GETFD), EBADF);
}

static pthread_barrier_t barrier;

static void *begin(void *family)
{
	pthread_barrier_wait(&barrier);
	use(*(int *)family);
	return NULL;
}

static void begin_threads(pthread_t *threads, int *family)
{
	assert_returns(pthread_barrier_init(&barrier, NULL, THREADS + 1), 0);
	for (int i = 0; i < THREADS; i++)
		assert_returns(pthread_create(&threads[i], NULL, begin, family), 0);
	pthread_barrier_wait(&barrier);
}

static void join_threads(pthread_t *threads)
{
	for (int i = 0; i < THREADS; i++)
		assert_returns(pthread_join(threads[i], NULL), 0);
}

static void in_threads(int family)
{
	pthread_t threads[THREADS];

	begin_threads(threads, &family);
	join_threads(threads);
}

// The children were made before, while and after the first socket was.
static void beside_forks(int family)
{
	pthread_t threads[THREADS];
	pid_t children[10];

	begin_threads(threads, &family);
	for (int i = 0; i < 10; i++) {
		children[i] = fork();
		if (children[i] == 0) {
			use(family);
			_exit(0);
		}
	}
	for (int i = 0; i < 10; i++)
		child_finish(children[i]);
	join_threads(threads);
}

// Its memory is ours, its descriptors are not.
static void in_vfork(int family)
{
	pid_t child = vfork();
	int status;

	if (child == 0) {
		int fd = socket(family, SOCK_STREAM, 0);

		_exit(fd < 0 || close(fd));
	}
	assert_returns(waitpid(child, &status, 0), child);
	assert_returns(status, 0);
	use(family);
}

static int handler_family;

static void on_signal(int number)
{
	(void)number;
	use(handler_family);
}

static void in_handler(int family)
{
	struct sigaction action = {.sa_handler = on_signal};

	handler_family = family;
	assert_returns(sigaction(SIGUSR1, &action, NULL), 0);
	assert_returns(raise(SIGUSR1), 0);
	use(family);
}

static void after_fork(int family)
{
	pid_t child = fork();

	if (child == 0) {
		use(family);
		_exit(0);
	}
	use(family);
	child_finish(child);
}

static const struct part {
	const char *name;
	void (*fn)(int family);
} parts[] = {
    {"none", none},	    {"in_threads", in_threads}, {"beside_forks", beside_forks},
    {"in_vfork", in_vfork}, {"in_handler", in_handler}, {"after_fork", after_fork},
};

static void run_part(void **state)
{
	const char **what = *state;
	pid_t child = fork();

	if (child == 0) {
		execl("/proc/self/exe", "test_first", "--part", what[0], what[1], NULL);
		_exit(127);
	}
	child_finish(child);
}

#define PART(name)                                                                                                     \
	{#name "/4", run_part, NULL, NULL, (const char *[]){#name, "4"}},                                              \
	{                                                                                                              \
#name "/6", run_part, NULL, NULL, (const char *[])                                                     \
		{                                                                                                      \
#name, "6"                                                                                     \
		}                                                                                                      \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    PART(none), PART(in_threads), PART(beside_forks), PART(in_vfork), PART(in_handler), PART(after_fork),
	};

	if (argc != 4 || strcmp(argv[1], "--part"))
		return suite_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (!strcmp(parts[i].name, argv[2])) {
			parts[i].fn(*argv[3] == '4' ? AF_INET : AF_INET6);
			return 0;
		}
	return 127;
}

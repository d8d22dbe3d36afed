// SPDX-License-Identifier: BSD-2-Clause
// Descriptor numbers: used again at once, for something else, closed in ranges and by programs that close all there are.
#include "pair.h"

// Closes it so that the next descriptor opened gets its number; `hole` is to be closed later.
static int close_as_lowest(int *fd, int *hole)
{
	int number = *fd;

	// pair_open() left one number free below.
	*hole = dup(0);
	assert_that(*hole < number);
	close_end(fd);
	return number;
}

// The number belongs to something else at once.
static void number_becomes_file(void **state)
{
	struct pair *p = *state;
	int number, file, hole;
	char buffer[8] = "";

	send_text(p->b, "sent");
	number = close_as_lowest(&p->b, &hole);
	file = open("/dev/zero", O_RDONLY);
	assert_returns(file, number);
	assert_returns(read(file, buffer, 8), 8);
	assert_bytes(buffer, "\0\0\0\0\0\0\0", 8);
	assert_fails(recv(file, buffer, 1, 0), ENOTSOCK);
	close(file);
	close(hole);
	recv_text(p->a, "sent");
	recv_end(p->a);
}

static void number_becomes_pipe(void **state)
{
	struct pair *p = *state;
	int hole, number = close_as_lowest(&p->b, &hole), fds[2];
	char buffer[8];

	assert_returns(pipe(fds), 0);
	assert_returns(fds[0], number);
	assert_returns(write(fds[1], "pipe", 4), 4);
	assert_returns(read(fds[0], buffer, 8), 4);
	assert_bytes(buffer, "pipe", 4);
	close(fds[0]);
	close(fds[1]);
	close(hole);
	recv_end(p->a);
}

static void number_becomes_socket(void **state)
{
	struct pair *p = *state, other;
	int listener = listener_open(p->family), number = p->b;

	send_text(p->a, "old bytes");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	close_end(&p->b);
	other.a = listener_connect(listener);
	assert_returns(other.a, number);
	other.b = accept(listener, NULL, NULL);
	other.family = p->family;
	close(listener);
	pair_settle(&other);
	send_text(other.b, "new bytes");
	recv_text(other.a, "new bytes");
	pair_close(&other);
}

static void numbers_over_and_over(void **state)
{
	int family = *(int *)*state, listener = listener_open(family), first = -1;

	for (int i = 0; i < 200; i++) {
		struct pair p = {.family = family};
		char text[32];

		p.a = listener_connect(listener);
		p.b = accept(listener, NULL, NULL);
		if (first < 0)
			first = p.a;
		assert_returns(p.a, first);
		if (i % 20 == 0)
			pair_settle(&p);
		snprintf(text, sizeof(text), "round %d", i);
		send_text(p.a, text);
		send_text(p.b, text);
		recv_text(p.b, text);
		if (i % 3)
			recv_text(p.a, text);
		pair_close(&p);
	}
	close(listener);
}

// The library's own descriptors must not be where the program expects its own.
static void lowest_numbers(void **state)
{
	struct pair *p = *state;
	int probe = dup(0), next;

	assert_returns(close(probe), 0);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	next = dup(0);
	assert_returns(next, probe);
	close(next);
}

static void close_range_closes(void **state)
{
	struct pair *p = *state;
	int high = fcntl(p->b, F_DUPFD, 700);

	assert_returns(high, 700);
	send_text(p->b, "abc");
	close_end(&p->b);
	recv_text(p->a, "abc");
	assert_that(!wait_for(p->a, POLLIN, QUIET_MS));
	assert_returns(close_range(690, 710, 0), 0);
	recv_end(p->a);
	assert_fails(send(700, "x", 1, 0), EBADF);
	assert_fails(close_range(5, 4, 0), EINVAL);
}

static void close_range_by_syscall(void **state)
{
	struct pair *p = *state;

	assert_returns(dup2(p->b, 700), 700);
	close_end(&p->b);
	assert_returns(syscall(SYS_close_range, 700, 700, 0), 0);
	recv_end(p->a);
	assert_fails(fcntl(700, F_GETFD), EBADF);
}

static void close_range_cloexec(void **state)
{
	struct pair *p = *state;

	assert_returns(close_range(p->b, p->b, CLOSE_RANGE_CLOEXEC), 0);
	assert_that(fcntl(p->b, F_GETFD) & FD_CLOEXEC);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	send_text(p->b, "abc");
	recv_text(p->a, "abc");
	pair_check_ring(p);
}

static void close_by_syscall(void **state)
{
	struct pair *p = *state;
	int number = p->b, hole = dup(0), file;
	char buffer[4];

	assert_returns(syscall(SYS_close, p->b), 0);
	p->b = -1;
	recv_end(p->a);
	file = open("/dev/null", O_RDWR);
	assert_returns(file, number);
	assert_returns(read(file, buffer, 4), 0);
	assert_returns(write(file, "x", 1), 1);
	close(file);
	close(hole);
}

// In a child, so that the suite keeps its descriptors.
static void closefrom_closes(void **state)
{
	struct pair *p = *state;
	pid_t child;

	send_text(p->b, "abc");
	child = fork();
	if (child == 0) {
		close(p->a);
		closefrom(3);
		assert_fails(send(p->b, "x", 1, 0), EBADF);
		assert_fails(fcntl(p->a, F_GETFD), EBADF);
		_exit(0);
	}
	child_finish(child);
	// The parent's are not touched.
	recv_text(p->a, "abc");
	send_text(p->a, "def");
	recv_text(p->b, "def");
}

// A daemon closes all it may have inherited and goes on with new sockets.
static void closefrom_then_new_sockets(void **state)
{
	int family = *(int *)*state;
	pid_t child = fork();

	if (child == 0) {
		for (int round = 0; round < 3; round++) {
			struct pair q;

			closefrom(3);
			pair_open(&q, family);
			assert_returns(q.a, 4);
			assert_returns(q.b, 5);
			pair_settle(&q);
			send_pattern(q.a, 1, 0, 2000);
			recv_pattern(q.b, 1, 0, 2000);
		}
		_exit(0);
	}
	child_finish(child);
}

// Every number up to the limit, as old daemons do; the program expects EBADF for all that it did not open.
static void close_all_by_hand(void **state)
{
	int family = *(int *)*state;
	pid_t child = fork();

	if (child == 0) {
		struct pair q;

		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		pair_open(&q, family);
		pair_settle(&q);
		send_pattern(q.a, 1, 0, 2000);
		recv_pattern(q.b, 1, 0, 2000);
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		pair_open(&q, family);
		send_pattern(q.a, 1, 0, 2000);
		recv_pattern(q.b, 1, 0, 2000);
		_exit(0);
	}
	child_finish(child);
}

static void *open_and_close(void *arg)
{
	const _Atomic bool *stop = arg;

	while (!*stop) {
		int fd = open("/dev/null", O_RDWR);
		if (fd >= 0)
			close(fd);
	}
	return NULL;
}

// Numbers change hands between threads all the time while connections are made, used and closed.
static void numbers_race(void **state)
{
	int family = *(int *)*state;
	_Atomic bool stop = false;
	pthread_t thread;

	assert_returns(pthread_create(&thread, NULL, open_and_close, &stop), 0);
	for (int i = 0; i < 100; i++) {
		struct pair p;

		pair_open(&p, family);
		if (i % 10 == 0)
			pair_settle(&p);
		pair_talk(&p, 1);
		assert_returns(close(p.a), 0);
		recv_end(p.b);
		assert_returns(close(p.b), 0);
	}
	stop = true;
	pthread_join(thread, NULL);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(number_becomes_file),
    TEST_SETTLED(number_becomes_pipe),
    TEST_SETTLED(number_becomes_socket),
    TEST_FAMILY(numbers_over_and_over),
    TEST_SETTLED(lowest_numbers),
    TEST_SETTLED(close_range_closes),
    TEST_SETTLED(close_range_by_syscall),
    TEST_SETTLED(close_range_cloexec),
    TEST_SETTLED(close_by_syscall),
    TEST_SETTLED(closefrom_closes),
    TEST_FAMILY(closefrom_then_new_sockets),
    TEST_FAMILY(close_all_by_hand),
    TEST_FAMILY(numbers_race),
};
// clang-format on

SUITE_MAIN(tests)

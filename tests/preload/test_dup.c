// SPDX-License-Identifier: BSD-2-Clause
// Several descriptors for one socket.
#include "pair.h"

static int dup_plain(int fd)
{
	return dup(fd);
}

static int dup_2(int fd)
{
	return dup2(fd, 600);
}

static int dup_3(int fd)
{
	return dup3(fd, 600, O_CLOEXEC);
}

static int dup_fcntl(int fd)
{
	return fcntl(fd, F_DUPFD, 600);
}

static int dup_fcntl_cloexec(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 600);
}

static int dup_syscall(int fd)
{
	return syscall(SYS_dup, fd);
}

static int dup_syscall_2(int fd)
{
	return syscall(SYS_dup3, fd, 600, 0);
}

static int (*const ways[])(int fd) = {
    dup_plain, dup_2, dup_3, dup_fcntl, dup_fcntl_cloexec, dup_syscall, dup_syscall_2,
};

static void both_work(void **state)
{
	struct pair *p = *state;

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		int other = ways[i](p->b);

		assert_that(other >= 0 && other != p->b);
		send_text(p->a, "abcdef");
		recv_text(other, "abc");
		recv_text(p->b, "def");
		send_text(other, "1");
		send_text(p->b, "2");
		send_text(other, "3");
		recv_text(p->a, "123");
		assert_returns(close(other), 0);
		send_text(p->a, "xyz");
		recv_text(p->b, "xyz");
		assert_fails(send(other, "x", 1, 0), EBADF);
	}
	pair_check_ring(p);
}

static void original_closed(void **state)
{
	struct pair *p = *state;

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		int other = ways[i](p->b);

		send_text(p->a, "abc");
		assert_returns(close(p->b), 0);
		assert_that(!wait_for(p->a, POLLIN, 0));
		recv_text(other, "abc");
		send_text(other, "def");
		recv_text(p->a, "def");
		p->b = dup(other);
		assert_returns(close(other), 0);
	}
	pair_check_ring(p);
	close_end(&p->b);
	recv_end(p->a);
}

static void cloexec_flags(void **state)
{
	struct pair *p = *state;
	int fd = dup3(p->b, 600, O_CLOEXEC);

	assert_that(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_returns(fcntl(fd, F_SETFD, 0), 0);
	assert_returns(fcntl(fd, F_GETFD), 0);
	assert_returns(dup2(p->b, 600), 600);
	assert_returns(fcntl(600, F_GETFD), 0);
	assert_returns(close(600), 0);
	assert_returns(fcntl(p->b, F_DUPFD_CLOEXEC, 600), 600);
	assert_that(fcntl(600, F_GETFD) & FD_CLOEXEC);
	assert_returns(close(600), 0);
}

// O_NONBLOCK belongs to the open file, which both numbers name.
static void flags_are_shared(void **state)
{
	struct pair *p = *state;
	int other = dup(p->b);
	char byte;

	set_nonblocking(other, true);
	assert_fails(recv(p->b, &byte, 1, 0), EAGAIN);
	set_nonblocking(p->b, false);
	assert_that(!(fcntl(other, F_GETFL) & O_NONBLOCK));
	send_text(p->a, "x");
	assert_returns(recv(other, &byte, 1, 0), 1);
	close(other);
}

static void onto_itself(void **state)
{
	struct pair *p = *state;

	assert_returns(dup2(p->b, p->b), p->b);
	assert_fails(dup3(p->b, p->b, 0), EINVAL);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	pair_check_ring(p);
}

// dup2 over an open socket closes that one.
static void over_other_socket(void **state)
{
	struct pair *p = *state, q;

	pair_open(&q, p->family);
	pair_settle(&q);
	send_text(q.b, "last");
	assert_returns(dup2(p->b, q.b), q.b);
	recv_text(q.a, "last");
	recv_end(q.a);
	send_text(p->a, "abc");
	recv_text(q.b, "abc");
	send_text(q.b, "def");
	recv_text(p->a, "def");
	pair_close(&q);
	send_text(p->a, "ghi");
	recv_text(p->b, "ghi");
}

// A pipe takes the socket's place and the other way round.
static void over_pipe_and_back(void **state)
{
	struct pair *p = *state;
	int fds[2], saved = dup(p->b);
	char buffer[8];

	assert_returns(pipe(fds), 0);
	assert_returns(dup2(fds[0], p->b), p->b);
	assert_returns(write(fds[1], "pipe", 4), 4);
	assert_returns(read(p->b, buffer, 8), 4);
	assert_fails(recv(p->b, buffer, 8, 0), ENOTSOCK);
	assert_returns(dup2(saved, p->b), p->b);
	send_text(p->a, "socket");
	recv_text(p->b, "socket");
	send_text(p->b, "back");
	recv_text(p->a, "back");
	assert_returns(dup2(saved, fds[0]), fds[0]);
	send_text(p->a, "again");
	recv_text(fds[0], "again");
	close(fds[0]);
	close(fds[1]);
	close(saved);
	pair_check_ring(p);
}

// As a shell does it: the socket becomes standard input and output for a while.
static void as_standard_streams(void **state)
{
	struct pair *p = *state;
	int saved = dup(0);
	char buffer[8];

	assert_returns(dup2(p->b, 0), 0);
	send_text(p->a, "abc");
	assert_returns(read(0, buffer, 8), 3);
	assert_returns(write(0, "def", 3), 3);
	recv_text(p->a, "def");
	assert_returns(dup2(saved, 0), 0);
	close(saved);
	send_text(p->a, "ghi");
	recv_text(p->b, "ghi");
}

static void shutdown_reaches_all(void **state)
{
	struct pair *p = *state;
	int other = dup(p->b);

	assert_returns(shutdown(other, SHUT_WR), 0);
	assert_fails(send(p->b, "x", 1, MSG_NOSIGNAL), EPIPE);
	recv_end(p->a);
	close(other);
}

// A receiver sleeps on one number; the other one is used and closed meanwhile.
static void sleeper_on_the_other(void **state)
{
	struct pair *p = *state;
	int other = dup(p->b);
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &other);
	send_text(p->b, "out");
	recv_text(p->a, "out");
	assert_returns(close(p->b), 0);
	p->b = other;
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 1);
	pair_check_ring(p);
}

static void bad_numbers(void **state)
{
	struct pair *p = *state;

	assert_fails(dup2(p->b, -1), EBADF);
	assert_fails(dup2(p->b, 1 << 30), EBADF);
	assert_fails(dup3(p->b, 600, 7), EINVAL);
	assert_fails(fcntl(p->b, F_DUPFD, -1), EINVAL);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	pair_check_ring(p);
}

static void many(void **state)
{
	struct pair *p = *state;
	int fds[100];

	for (int i = 0; i < 100; i++) {
		fds[i] = dup(i ? fds[i - 1] : p->b);
		assert_that(fds[i] >= 0);
	}
	for (int i = 0; i < 100; i++) {
		send_text(p->a, "x");
		recv_text(fds[99 - i], "x");
		send_text(fds[i], "y");
		recv_text(p->a, "y");
	}
	close(p->b);
	p->b = fds[50];
	for (int i = 0; i < 100; i++)
		if (i != 50)
			assert_returns(close(fds[i]), 0);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(both_work),
    TEST_SETTLED(original_closed),
    TEST_SETTLED(cloexec_flags),
    TEST_SETTLED(flags_are_shared),
    TEST_SETTLED(onto_itself),
    TEST_SETTLED(over_other_socket),
    TEST_SETTLED(over_pipe_and_back),
    TEST_SETTLED(as_standard_streams),
    TEST_SETTLED(shutdown_reaches_all),
    TEST_SETTLED(sleeper_on_the_other),
    TEST_SETTLED(bad_numbers),
    TEST_SETTLED(many),
};
// clang-format on

SUITE_MAIN(tests)

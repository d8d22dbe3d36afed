// SPDX-License-Identifier: BSD-2-Clause
// Connections that other processes take: SCM_RIGHTS, pidfd_getfd.
#include "owners.h"

#include <rlm/rlm.h>

static void pass_fd(int channel, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte = 'f';
	struct iovec part = {&byte, 1};
	struct msghdr message = {
	    .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	assert_returns(sendmsg(channel, &message, 0), 1);
}

static int take_fd(int channel)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec part = {&byte, 1};
	struct msghdr message = {
	    .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	int fd;

	assert_returns(recvmsg(channel, &message, 0), 1);
	assert_that(CMSG_FIRSTHDR(&message));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

// To another process, which was forked before the connection was there.
static void passed_to_process(void **state)
{
	int channel[2];
	struct pair p;
	pid_t child;

	assert_returns(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
	child = fork();
	if (child == 0) {
		int fd;

		close(channel[0]);
		fd = take_fd(channel[1]);
		for (int i = 0; i < 100; i++) {
			recv_text(fd, "to receiver");
			send_text(fd, "from receiver");
		}
		recv_end(fd);
		_exit(0);
	}
	close(channel[1]);
	pair_open(&p, *(int *)*state);
	pair_settle(&p);
	send_text(p.a, "to receiver");
	pass_fd(channel[0], p.b);
	close_end(&p.b);
	recv_text(p.a, "from receiver");
	for (int i = 0; i < 99; i++) {
		send_text(p.a, "to receiver");
		recv_text(p.a, "from receiver");
	}
	pair_close(&p);
	child_finish(child);
	close(channel[0]);
}

static void echo_until_end(int fd)
{
	char buffer[5000];
	ssize_t n;

	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		assert_returns(write(fd, buffer, (size_t)n), n);
	_exit(n < 0);
}

// A process that is there before the connection is, takes it from a channel when `start` says so and echoes what comes.
static pid_t echo_by_passing(int channel, int start)
{
	pid_t child = fork();
	char byte;

	if (child == 0) {
		if (start >= 0 && read(start, &byte, 1) != 1)
			_exit(98);
		echo_until_end(take_fd(channel));
	}
	return child;
}

static bool echo_until_ring(struct pair *p, uint64_t *at, int ms)
{
	int64_t deadline = now_ms() + ms;
	struct rlm_info info;

	do {
		echo_some(p, at);
		assert_returns(rlm_socket_info(p->a, &info), 0);
		if (info.tx_carrier && info.rx_carrier)
			return true;
	} while (now_ms() < deadline);
	return false;
}

// The new owner accelerates the connection again, once it is the only one.
static void passed_and_promoted(void **state)
{
	struct pair p;
	uint64_t at = 0;
	int channel[2];
	pid_t child;
	bool ring;

	queues_lock(LOCK_EX);
	assert_returns(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
	child = echo_by_passing(channel[1], -1);
	pair_open(&p, *(int *)*state);
	pass_fd(channel[0], p.b);
	close_end(&p.b);
	ring = echo_until_ring(&p, &at, carrier_is_ring() && ownership_can_be_seen() ? DEADLINE_MS : 0);
	assert_that(ring || !carrier_is_ring() || !ownership_can_be_seen());
	for (int i = 0; i < 100; i++)
		echo_some(&p, &at);
	assert_returns(shutdown(p.a, SHUT_WR), 0);
	recv_end(p.a);
	pair_close(&p);
	child_finish(child);
	close(channel[0]);
	close(channel[1]);
	queues_lock(LOCK_UN);
}

// One copy more is on its way: whoever gets it finds TCP.
static void passed_twice(void **state)
{
	struct pair p;
	uint64_t at = 0;
	int first[2], second[2], start[2];
	pid_t children[2];

	queues_lock(LOCK_SH);
	assert_returns(socketpair(AF_UNIX, SOCK_STREAM, 0, first), 0);
	assert_returns(socketpair(AF_UNIX, SOCK_STREAM, 0, second), 0);
	assert_returns(pipe(start), 0);
	children[0] = echo_by_passing(first[1], -1);
	children[1] = echo_by_passing(second[1], start[0]);
	pair_open(&p, *(int *)*state);
	pass_fd(first[0], p.b);
	pass_fd(second[0], p.b);
	close_end(&p.b);
	assert_that(!echo_until_ring(&p, &at, 10 * QUIET_MS));
	assert_returns(kill(children[0], SIGKILL), 0);
	assert_returns(waitpid(children[0], NULL, 0), children[0]);
	assert_returns(write(start[1], "", 1), 1);
	for (int i = 0; i < 100; i++)
		echo_some(&p, &at);
	assert_returns(shutdown(p.a, SHUT_WR), 0);
	recv_end(p.a);
	pair_close(&p);
	child_finish(children[1]);
	for (int i = 0; i < 2; i++) {
		close(first[i]);
		close(second[i]);
		close(start[i]);
	}
	queues_lock(LOCK_UN);
}

// To oneself, with bytes on their way.
static void passed_to_oneself(void **state)
{
	struct pair *p = *state;
	int channel[2], fd;

	assert_returns(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
	for (int i = 0; i < 3; i++) {
		send_text(p->a, "before");
		pass_fd(channel[0], p->b);
		if (i == 1) {
			close_end(&p->b);
		}
		send_text(p->a, "between");
		fd = take_fd(channel[1]);
		recv_text(fd, "beforebetween");
		send_text(fd, "back");
		recv_text(p->a, "back");
		if (p->b >= 0)
			close(p->b);
		p->b = fd;
		send_text(p->a, "after");
		recv_text(p->b, "after");
	}
	close(channel[0]);
	close(channel[1]);
}

// A descriptor thrown away with its message ends the connection.
static void passed_and_lost(void **state)
{
	struct pair *p = *state;
	int channel[2];

	queues_lock(LOCK_SH);
	assert_returns(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
	send_text(p->b, "last words");
	pass_fd(channel[0], p->b);
	close_end(&p->b);
	recv_text(p->a, "last words");
	assert_that(!wait_for(p->a, POLLIN, QUIET_MS));
	close(channel[0]);
	close(channel[1]);
	recv_end(p->a);
	queues_lock(LOCK_UN);
}

static void taken_by_pidfd(void **state)
{
	struct pair *p = *state;
	int pidfd = syscall(SYS_pidfd_open, getpid(), 0), fd;

	assert_that(pidfd >= 0);
	fd = syscall(SYS_pidfd_getfd, pidfd, p->b, 0);
	assert_that(fd >= 0);
	send_text(p->a, "abcdef");
	recv_text(fd, "abc");
	recv_text(p->b, "def");
	send_text(fd, "123");
	send_text(p->b, "456");
	recv_text(p->a, "123456");
	close(fd);
	close(pidfd);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(passed_to_process),
    TEST_FAMILY(passed_and_promoted),
    TEST_FAMILY(passed_twice),
    TEST_SETTLED(passed_to_oneself),
    TEST_SETTLED(passed_and_lost),
    TEST_SETTLED(taken_by_pidfd),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// ioctl, fcntl and socket options that say something about the stream or change how it blocks.
#include "pair.h"

#include <linux/sockios.h>

static int unsent_bytes(int fd)
{
	int value = -1;

	assert_returns(ioctl(fd, SIOCOUTQ, &value), 0);
	return value;
}

static void fionread(void **state)
{
	struct pair *p = *state;
	char buffer[8];

	assert_returns(readable_bytes(p->b), 0);
	assert_returns(readable_bytes(p->a), 0);
	send_text(p->a, "abcdef");
	wait_readable_bytes(p->b, 6);
	assert_returns(recv(p->b, buffer, 2, MSG_PEEK), 2);
	assert_returns(readable_bytes(p->b), 6);
	assert_returns(recv(p->b, buffer, 2, 0), 2);
	assert_returns(readable_bytes(p->b), 4);
	send_text(p->a, "ghijklmnopqrstuvwxyz");
	wait_readable_bytes(p->b, 24);
	recv_text(p->b, "cdefghijklmnopqrstuvwxyz");
	assert_returns(readable_bytes(p->b), 0);
	assert_returns(readable_bytes(p->a), 0);
	pair_check_ring(p);
}

static void fionread_counts_up(void **state)
{
	struct pair *p = *state;

	for (int i = 1; i <= 40; i++) {
		send_text(p->a, "abc");
		wait_readable_bytes(p->b, 3 * i);
	}
	for (int i = 40; i > 0; i--) {
		recv_text(p->b, "abc");
		assert_returns(readable_bytes(p->b), 3 * i - 3);
	}
}

static void fionread_at_end(void **state)
{
	struct pair *p = *state;

	send_text(p->a, "abc");
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	wait_readable_bytes(p->b, 3);
	recv_text(p->b, "abc");
	recv_end(p->b);
	assert_returns(readable_bytes(p->b), 0);
}

static void fionread_raw(void **state)
{
	struct pair *p = *state;
	int value = -1;

	send_text(p->a, "abcd");
	wait_readable_bytes(p->b, 4);
	assert_returns(syscall(SYS_ioctl, p->b, FIONREAD, &value), 0);
	assert_returns(value, 4);
	recv_text(p->b, "abcd");
}

static void wait_unsent_none(int fd)
{
	int64_t deadline = now_ms() + DEADLINE_MS;

	while (unsent_bytes(fd) && now_ms() < deadline)
		nap_ms(1);
	assert_returns(unsent_bytes(fd), 0);
}

// What the peer's kernel has is acknowledged at some time, read or not.
static void siocoutq(void **state)
{
	struct pair *p = *state;

	wait_unsent_none(p->b);
	send_text(p->a, "abcdef");
	wait_unsent_none(p->a);
	recv_text(p->b, "abcdef");
	assert_returns(unsent_bytes(p->a), 0);
	pair_check_ring(p);
}

static void siocoutq_full(void **state)
{
	struct pair *p = *state;
	size_t queued = fill_socket(p->a, 1);
	int unsent = unsent_bytes(p->a), value = -1;

	assert_that(unsent > 0 && (size_t)unsent <= queued);
	assert_returns(ioctl(p->a, SIOCOUTQNSD, &value), 0);
	assert_that(value >= 0 && value <= unsent);
	drain_socket(p->b, 1, 0, queued);
	wait_unsent_none(p->a);
}

static void nonblocking_by_fcntl(void **state)
{
	struct pair *p = *state;
	char byte;

	for (int i = 0; i < 3; i++) {
		set_nonblocking(p->b, true);
		assert_that(fcntl(p->b, F_GETFL) & O_NONBLOCK);
		assert_fails(recv(p->b, &byte, 1, 0), EAGAIN);
		send_text(p->a, "x");
		recv_text(p->b, "x");
		set_nonblocking(p->b, false);
		assert_that(!(fcntl(p->b, F_GETFL) & O_NONBLOCK));
		send_text(p->a, "y");
		assert_returns(recv(p->b, &byte, 1, 0), 1);
	}
	pair_check_ring(p);
}

static void nonblocking_by_ioctl(void **state)
{
	struct pair *p = *state;
	int on = 1, off = 0;
	char byte;

	assert_returns(ioctl(p->b, FIONBIO, &on), 0);
	assert_that(fcntl(p->b, F_GETFL) & O_NONBLOCK);
	assert_fails(recv(p->b, &byte, 1, 0), EAGAIN);
	assert_returns(ioctl(p->b, FIONBIO, &off), 0);
	assert_that(!(fcntl(p->b, F_GETFL) & O_NONBLOCK));
	send_text(p->a, "y");
	assert_returns(recv(p->b, &byte, 1, 0), 1);
	pair_check_ring(p);
}

static void nonblocking_by_syscall(void **state)
{
	struct pair *p = *state;
	int flags = syscall(SYS_fcntl, p->b, F_GETFL), on = 1;
	char byte;

	assert_returns(syscall(SYS_fcntl, p->b, F_SETFL, flags | O_NONBLOCK), 0);
	assert_fails(recv(p->b, &byte, 1, 0), EAGAIN);
	assert_returns(syscall(SYS_fcntl, p->b, F_SETFL, flags), 0);
	assert_returns(syscall(SYS_ioctl, p->b, FIONBIO, &on), 0);
	assert_fails(read(p->b, &byte, 1), EAGAIN);
}

// Who sleeps already goes on sleeping; the flag counts from the next call on.
static void nonblocking_while_blocked(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &p->b);
	set_nonblocking(p->b, true);
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 1);
	assert_fails(call_recv(&p->b), EAGAIN);
}

static void signal_driven(void **state)
{
	struct pair *p = *state;
	int flags = fcntl(p->b, F_GETFL);
	int64_t deadline = now_ms() + DEADLINE_MS;

	catch_signal(SIGIO, SA_RESTART);
	assert_returns(fcntl(p->b, F_SETOWN, getpid()), 0);
	assert_returns(fcntl(p->b, F_SETFL, flags | O_ASYNC | O_NONBLOCK), 0);
	send_text(p->a, "x");
	while (!signal_count && now_ms() < deadline)
		nap_ms(1);
	assert_that(signal_count > 0);
	recv_text(p->b, "x");
	signal_count = 0;
	send_text(p->a, "y");
	deadline = now_ms() + DEADLINE_MS;
	while (!signal_count && now_ms() < deadline)
		nap_ms(1);
	assert_that(signal_count > 0);
	recv_text(p->b, "y");
	assert_returns(fcntl(p->b, F_SETFL, flags), 0);
	signal(SIGIO, SIG_DFL);
}

static int get_int(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	assert_returns(getsockopt(fd, level, name, &value, &size), 0);
	return value;
}

static void plain_options(void **state)
{
	struct pair *p = *state;

	assert_returns(get_int(p->a, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
	assert_returns(get_int(p->a, SOL_SOCKET, SO_DOMAIN), p->family);
	assert_returns(get_int(p->a, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
	assert_returns(get_int(p->a, SOL_SOCKET, SO_ACCEPTCONN), 0);
	assert_returns(get_int(p->a, SOL_SOCKET, SO_ERROR), 0);
	set_int(p->a, IPPROTO_TCP, TCP_NODELAY, 1);
	assert_returns(get_int(p->a, IPPROTO_TCP, TCP_NODELAY), 1);
	set_int(p->a, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(p->a, IPPROTO_TCP, TCP_KEEPIDLE, 1);
	set_int(p->a, IPPROTO_TCP, TCP_KEEPINTVL, 1);
	set_int(p->a, IPPROTO_TCP, TCP_KEEPCNT, 3);
	set_int(p->a, IPPROTO_TCP, TCP_USER_TIMEOUT, 2000);
	set_int(p->a, IPPROTO_TCP, TCP_QUICKACK, 1);
	set_int(p->a, SOL_SOCKET, SO_PRIORITY, 3);
	pair_talk(p, 1);
	pair_check_ring(p);
}

static void cork(void **state)
{
	struct pair *p = *state;

	set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
	send_text(p->a, "abc");
	send_text(p->a, "def");
	set_int(p->a, IPPROTO_TCP, TCP_CORK, 0);
	recv_text(p->b, "abcdef");
}

// A user time-out counts unacknowledged bytes, not those that the application has not read yet.
static void user_timeout_with_slow_reader(void **state)
{
	struct pair *p = *state;

	set_int(p->a, IPPROTO_TCP, TCP_USER_TIMEOUT, 100);
	send_text(p->a, "abc");
	nap_ms(300);
	recv_text(p->b, "abc");
	send_text(p->b, "def");
	recv_text(p->a, "def");
}

static void buffer_sizes(void **state)
{
	struct pair *p = *state;

	set_int(p->a, SOL_SOCKET, SO_SNDBUF, 20000);
	assert_returns(get_int(p->a, SOL_SOCKET, SO_SNDBUF), 40000);
	set_int(p->b, SOL_SOCKET, SO_RCVBUF, 20000);
	assert_returns(get_int(p->b, SOL_SOCKET, SO_RCVBUF), 40000);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
}

// Who makes the buffers small does not want much to be under way.
static void small_buffers(void **state)
{
	struct pair *p = *state;
	size_t filled;

	set_int(p->a, SOL_SOCKET, SO_SNDBUF, 256);
	set_int(p->b, SOL_SOCKET, SO_RCVBUF, 256);
	set_nonblocking(p->a, true);
	filled = fill_socket(p->a, 1);
	assert_that(filled > 0 && filled < 65536);
	drain_socket(p->b, 1, 0, filled);
}

static void info_is_established(void **state)
{
	struct pair *p = *state;
	struct tcp_info info;
	socklen_t size = sizeof(info);

	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	assert_returns(getsockopt(p->a, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
	assert_returns(info.tcpi_state, TCP_ESTABLISHED);
	pair_check_ring(p);
}

static void names(void **state)
{
	struct pair *p = *state;
	struct sockaddr_storage local, remote;
	socklen_t local_size = sizeof(local), remote_size = sizeof(remote);

	assert_returns(getsockname(p->a, (struct sockaddr *)&local, &local_size), 0);
	assert_returns(getpeername(p->b, (struct sockaddr *)&remote, &remote_size), 0);
	assert_returns(local_size, remote_size);
	assert_bytes(&local, &remote, local_size);
}

static void options_between_sends(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 30; i++) {
		set_int(p->a, IPPROTO_TCP, TCP_NODELAY, i & 1);
		send_text(p->a, "abc");
		set_int(p->b, IPPROTO_TCP, TCP_NODELAY, i & 1);
		recv_text(p->b, "abc");
	}
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(fionread),
    TEST_SETTLED(fionread_counts_up),
    TEST_SETTLED(fionread_at_end),
    TEST_SETTLED(fionread_raw),
    TEST_SETTLED(siocoutq),
    TEST_SETTLED(siocoutq_full),
    TEST_SETTLED(nonblocking_by_fcntl),
    TEST_SETTLED(nonblocking_by_ioctl),
    TEST_SETTLED(nonblocking_by_syscall),
    TEST_SETTLED(nonblocking_while_blocked),
    TEST_SETTLED(signal_driven),
    TEST_SETTLED(plain_options),
    TEST_SETTLED(cork),
    TEST_SETTLED(user_timeout_with_slow_reader),
    TEST_SETTLED(buffer_sizes),
    TEST_SETTLED(small_buffers),
    TEST_SETTLED(info_is_established),
    TEST_SETTLED(names),
    TEST_SETTLED(options_between_sends),
};
// clang-format on

SUITE_MAIN(tests)

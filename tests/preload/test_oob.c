// SPDX-License-Identifier: BSD-2-Clause
// Urgent data: MSG_OOB, SO_OOBINLINE, the mark, POLLPRI and SIGURG.
#include "pair.h"

#include <linux/sockios.h>

static int at_mark(int fd)
{
	int mark = -1;
	return ioctl(fd, SIOCATMARK, &mark) < 0 ? -1 : mark;
}

static void wait_urgent(int fd)
{
	assert_that(wait_for(fd, POLLPRI, DEADLINE_MS));
}

static void out_of_line(void **state)
{
	struct pair *p = *state;
	char byte, buffer[8];

	send_text(p->a, "abc");
	assert_returns(send(p->a, "!", 1, MSG_OOB), 1);
	send_text(p->a, "def");
	wait_urgent(p->b);
	assert_returns(recv(p->b, &byte, 1, MSG_OOB | MSG_PEEK), 1);
	assert_returns(recv(p->b, &byte, 1, MSG_OOB), 1);
	assert_returns(byte, '!');
	assert_fails(recv(p->b, &byte, 1, MSG_OOB), EINVAL);
	// A read does not go past the mark.
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recv(p->b, buffer, 8, 0), 3);
	assert_bytes(buffer, "abc", 3);
	assert_returns(at_mark(p->b), 1);
	recv_text(p->b, "def");
	assert_returns(at_mark(p->b), 0);
}

// A receive that takes just what lies before the mark, and one that waits for more than that.
static void stops_at_the_mark(void **state)
{
	struct pair *p = *state;
	char byte, buffer[8];

	send_text(p->a, "abc");
	assert_returns(send(p->a, "!", 1, MSG_OOB), 1);
	send_text(p->a, "def");
	wait_urgent(p->b);
	assert_returns(at_mark(p->b), 0);
	assert_returns(recv(p->b, buffer, 3, 0), 3);
	assert_bytes(buffer, "abc", 3);
	assert_returns(at_mark(p->b), 1);
	assert_returns(recv(p->b, &byte, 1, MSG_OOB), 1);
	assert_returns(at_mark(p->b), 1);
	recv_text(p->b, "def");
	send_text(p->a, "ghi");
	assert_returns(send(p->a, "!", 1, MSG_OOB), 1);
	send_text(p->a, "jkl");
	wait_urgent(p->b);
	assert_returns(recv(p->b, buffer, 8, MSG_WAITALL), 3);
	assert_bytes(buffer, "ghi", 3);
	assert_returns(at_mark(p->b), 1);
	assert_returns(recv(p->b, buffer, 3, MSG_WAITALL), 3);
	assert_bytes(buffer, "jkl", 3);
}

static void in_line(void **state)
{
	struct pair *p = *state;
	char byte, buffer[8];

	set_int(p->b, SOL_SOCKET, SO_OOBINLINE, 1);
	send_text(p->a, "abc");
	assert_returns(send(p->a, "de!", 3, MSG_OOB), 3);
	send_text(p->a, "fg");
	wait_urgent(p->b);
	assert_fails(recv(p->b, &byte, 1, MSG_OOB), EINVAL);
	assert_returns(recv(p->b, buffer, 5, MSG_WAITALL), 5);
	assert_bytes(buffer, "abcde", 5);
	assert_returns(at_mark(p->b), 1);
	recv_text(p->b, "!fg");
}

static void mark_moves(void **state)
{
	struct pair *p = *state;
	char byte;

	for (int i = 0; i < 5; i++) {
		send_text(p->a, "ab");
		assert_returns(send(p->a, "!", 1, MSG_OOB), 1);
		wait_urgent(p->b);
		assert_returns(recv(p->b, &byte, 1, MSG_OOB), 1);
		recv_text(p->b, "ab");
		send_text(p->a, "cd");
		recv_text(p->b, "cd");
		send_text(p->b, "back");
		recv_text(p->a, "back");
	}
}

static void both_directions(void **state)
{
	struct pair *p = *state;
	char byte;

	send_text(p->b, "xyz");
	assert_returns(send(p->a, "1", 1, MSG_OOB), 1);
	assert_returns(send(p->b, "2", 1, MSG_OOB), 1);
	wait_urgent(p->a);
	wait_urgent(p->b);
	assert_returns(recv(p->b, &byte, 1, MSG_OOB), 1);
	assert_returns(byte, '1');
	assert_returns(recv(p->a, &byte, 1, MSG_OOB), 1);
	assert_returns(byte, '2');
	recv_text(p->a, "xyz");
}

static void sigurg(void **state)
{
	struct pair *p = *state;
	int64_t deadline = now_ms() + DEADLINE_MS;
	char byte;

	catch_signal(SIGURG, SA_RESTART);
	assert_returns(fcntl(p->b, F_SETOWN, getpid()), 0);
	assert_returns(send(p->a, "!", 1, MSG_OOB), 1);
	while (!signal_count && now_ms() < deadline)
		nap_ms(1);
	assert_that(signal_count > 0);
	wait_urgent(p->b);
	assert_returns(recv(p->b, &byte, 1, MSG_OOB), 1);
	signal(SIGURG, SIG_DFL);
}

// The option is set while bytes are under way in both directions.
static void inline_option_in_stream(void **state)
{
	struct pair *p = *state;
	int got = 0;
	socklen_t size = sizeof(got);

	send_text(p->a, "before");
	set_int(p->b, SOL_SOCKET, SO_OOBINLINE, 1);
	assert_returns(getsockopt(p->b, SOL_SOCKET, SO_OOBINLINE, &got, &size), 0);
	assert_returns(got, 1);
	send_text(p->a, "after");
	send_text(p->b, "back");
	recv_text(p->b, "beforeafter");
	recv_text(p->a, "back");
}

static void large_stream_with_urgent_bytes(void **state)
{
	struct pair *p = *state;

	set_int(p->b, SOL_SOCKET, SO_OOBINLINE, 1);
	for (uint64_t at = 0; at < 200000; at += 1000) {
		unsigned char buffer[1000];

		pattern_fill(buffer, 1, at, sizeof(buffer));
		assert_returns(send(p->a, buffer, sizeof(buffer), at % 50000 == 0 ? MSG_OOB : 0), sizeof(buffer));
		recv_pattern(p->b, 1, at, sizeof(buffer));
	}
}

// Sends urgent data, then has another program go on with the connection, which may be promoted again.
static pid_t send_urgent_and_exec(struct pair *p)
{
	pid_t child = fork();
	char number[16];

	if (child == 0) {
		close(p->a);
		send_text(p->b, "abc");
		assert_returns(send(p->b, "!", 1, MSG_OOB), 1);
		send_text(p->b, "def");
		snprintf(number, sizeof(number), "%d", p->b);
		execl("/usr/bin/python3", "python3", "-c", "import os, sys\nfd = int(sys.argv[1])\nwhile b := os.read(fd, 9999): os.write(fd, b)",
		      number, NULL);
		_exit(98);
	}
	return child;
}

static void mark_from_before_exec(void **state)
{
	struct pair *p = *state;
	pid_t child = send_urgent_and_exec(p);
	uint64_t at = 0;
	char byte, text[32];
	int queued = 0;

	close_end(&p->b);
	wait_urgent(p->a);
	for (int i = 0; i < 30; i++, at += 10) {
		send_pattern(p->a, 1, at, 10);
		nap_ms(10);
	}
	assert_returns(recv(p->a, text, sizeof(text), 0), 3);
	assert_bytes(text, "abc", 3);
	assert_returns(at_mark(p->a), 1);
	assert_returns(recv(p->a, &byte, 1, MSG_OOB), 1);
	assert_returns(byte, '!');
	recv_text(p->a, "def");
	recv_pattern(p->a, 1, 0, at);
	assert_returns(ioctl(p->a, FIONREAD, &queued), 0);
	assert_returns(queued, 0);
	for (int i = 0; i < 50; i++, at += 3000) {
		send_pattern(p->a, 1, at, 3000);
		recv_pattern(p->a, 1, at, 3000);
	}
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_end(p->a);
	child_finish(child);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(out_of_line),
    TEST_SETTLED(stops_at_the_mark),
    TEST_SETTLED(in_line),
    TEST_SETTLED(mark_moves),
    TEST_SETTLED(both_directions),
    TEST_SETTLED(sigurg),
    TEST_SETTLED(inline_option_in_stream),
    TEST_FRESH(mark_from_before_exec),
    TEST_SETTLED(large_stream_with_urgent_bytes),
};
// clang-format on

SUITE_MAIN(tests)

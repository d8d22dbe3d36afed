// SPDX-License-Identifier: BSD-2-Clause
// What processes that end leave to their family: connections that only they had, or that others go on using.
#include "pair.h"

#include <sys/prctl.h>

// Enough that entries of the dead would fill any table: 75 * 900 is more than librlm's 65536.
#define ROUNDS 75
#define PAIRS 450

enum ending { BY_KILL, BY_EXIT, BY_EXEC, ENDINGS };

static void end_somehow(enum ending how)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	switch (how) {
	case BY_KILL:
		for (;;)
			pause();
	case BY_EXIT:
		_exit(0);
	default:
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
}

static void end_child(pid_t child, enum ending how)
{
	int status;

	if (how == BY_KILL)
		kill(child, SIGKILL);
	assert_returns(waitpid(child, &status, 0), child);
	assert_that(how == BY_KILL ? WIFSIGNALED(status) : status == 0);
}

static void open_many(int listener, int *fds)
{
	for (int i = 0; i < PAIRS; i++) {
		fds[2 * i] = listener_connect(listener);
		fds[2 * i + 1] = accept(listener, NULL, NULL);
		assert_that(fds[2 * i + 1] >= 0);
		fcntl(fds[2 * i], F_SETFD, FD_CLOEXEC);
		fcntl(fds[2 * i + 1], F_SETFD, FD_CLOEXEC);
		set_linger(fds[2 * i], 0); // no TIME_WAIT: there are not so many ports
		set_linger(fds[2 * i + 1], 0);
	}
}

// Children that inherit connections and end without closing them, again and again: new ones are accelerated as ever.
static void many_are_left_behind(void **state)
{
	int listener = listener_open(*(int *)*state), fds[2 * PAIRS];
	struct pair pair = {.family = *(int *)*state};

	for (int round = 0; round < ROUNDS; round++) {
		pid_t child;

		open_many(listener, fds);
		child = fork();
		if (child == 0)
			end_somehow(round % ENDINGS);
		for (int i = 0; i < 2 * PAIRS; i++)
			close(fds[i]);
		end_child(child, round % ENDINGS);
	}
	pair_open(&pair, pair.family);
	pair_settle(&pair);
	pair_check_ring(&pair);
	pair_close(&pair);
	close(listener);
}

// The same with connections that are promoted: their places in shared memory must come back, too.
static void promoted_are_left_behind(void **state)
{
	for (int i = 0; i < 150; i++) {
		struct pair pair;
		pid_t child;

		pair_open(&pair, *(int *)*state);
		fcntl(pair.a, F_SETFD, FD_CLOEXEC);
		fcntl(pair.b, F_SETFD, FD_CLOEXEC);
		pair_settle(&pair);
		pair_check_ring(&pair);
		child = fork();
		if (child == 0)
			end_somehow(i % ENDINGS);
		pair_close(&pair);
		end_child(child, i % ENDINGS);
	}
}

// A promoted connection is inherited, closed by its first owner, used and closed by the child.
static void promoted_are_closed_by_child(void **state)
{
	for (int i = 0; i < 150; i++) {
		struct pair pair;
		pid_t child;

		pair_open(&pair, *(int *)*state);
		pair_settle(&pair);
		child = fork();
		if (child == 0) {
			send_text(pair.a, "abc");
			recv_text(pair.b, "abc");
			pair_close(&pair);
			_exit(0);
		}
		pair_close(&pair);
		child_finish(child);
	}
}

static int recv_byte(void *fd)
{
	char byte;

	return (int)recv(*(int *)fd, &byte, 1, 0);
}

// A child is killed while it waits in a call; the connection works on in the parent, and its close is the end.
static void killed_inside_a_call(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 3; i++) {
		pid_t child = fork();

		if (child == 0)
			_exit(recv_byte(&p->b));
		wait_asleep(child, child);
		kill(child, SIGKILL);
		assert_returns(waitpid(child, NULL, 0), child);
		send_text(p->a, "abc");
		recv_text(p->b, "abc");
		send_text(p->b, "def");
		recv_text(p->a, "def");
	}
	close_end(&p->b);
	recv_end(p->a);
}

// A connection that a child had is promoted when the child has gone.
static void promoted_after_child(void **state)
{
	struct pair *p = *state;
	pid_t child = fork();

	if (child == 0)
		end_somehow(BY_KILL);
	for (int i = 0; i < 20; i++) {
		send_text(p->a, "abc");
		recv_text(p->b, "abc");
	}
	end_child(child, BY_KILL);
	pair_settle(p);
	pair_check_ring(p);
}

// Closed by one thread while another one waits in a call: that goes on as if nothing had happened, and then is the end.
static void closed_under_a_call(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;
	int fd = p->b;

	sleeper_start(&sleeper, recv_byte, &fd);
	close_end(&p->b);
	assert_that(!wait_for(p->a, POLLIN, 10));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 1);
	recv_end(p->a);
}

// A thread waits in the kernel from before the promotion on.
static void closed_under_an_early_call(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;
	int fd = p->b;

	sleeper_start(&sleeper, recv_byte, &fd);
	for (int i = 0; i < 20; i++) {
		send_text(p->b, "abc");
		recv_text(p->a, "abc");
	}
	close_end(&p->b);
	assert_that(!wait_for(p->a, POLLIN, 10));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 1);
	recv_end(p->a);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(many_are_left_behind),
    TEST_FAMILY(promoted_are_left_behind),
    TEST_FAMILY(promoted_are_closed_by_child),
    TEST_SETTLED(killed_inside_a_call),
    TEST_FRESH(promoted_after_child),
    TEST_SETTLED(closed_under_a_call),
    TEST_FRESH(closed_under_an_early_call),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// Ends that execute another program while bytes are unread, and the other end does not answer. What cannot follow must not be missing
// unnoticed: bare, the stream goes on; with librlm it may also end with a reset, at any byte, and in no other way.
#include "pair.h"

#include <sys/prctl.h>
#include <sys/stat.h>

#define TAIL "and this is the tail\n"
#define HEAD_SIZE 3000u

struct plan {
	int family;
	int go[2];   // the sender waits for its end
	int started; // closed on exec, in the sender
	int count;   // how many bytes the sender sent
};

static void become(int fd, const char *script)
{
	dup2(fd, 0);
	execl("/bin/sh", "sh", "-c", script, NULL);
	_exit(98);
}

static void wait_end(int fd)
{
	char byte;

	assert_returns(read(fd, &byte, 1), 0);
}

// Sends the head and has another program send the tail.
static void send_and_leave(int fd, void *arg)
{
	struct plan *plan = arg;

	close(plan->go[1]);
	wait_end(plan->go[0]);
	send_pattern(fd, 1, 0, HEAD_SIZE);
	become(fd, "printf '" TAIL "' >&0");
}

// Stops, and when it goes on has another program receive.
static void stop_and_leave(struct plan *plan, int out)
{
	struct peer peer;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	peer_start(&peer, plan->family, send_and_leave, plan);
	close(plan->started);
	close(plan->go[1]);
	raise(SIGSTOP);
	dup2(out, 1);
	become(peer.fd, "exec cat");
}

// Reads to the end, or to an error: what read() said last. *at: how much there was, of `size` bytes and the tail.
static ssize_t read_all(int fd, uint64_t size, uint64_t *at)
{
	unsigned char data[4096];
	uint64_t n;
	ssize_t got;

	*at = 0;
	while ((got = read(fd, data, sizeof(data))) > 0) {
		n = *at >= size ? 0 : size - *at < (uint64_t)got ? size - *at : (uint64_t)got;
		pattern_check(data, 1, *at, n);
		*at += (uint64_t)got;
		assert_that(*at <= size + strlen(TAIL));
		if ((uint64_t)got > n)
			assert_bytes(data + n, &TAIL[*at - ((uint64_t)got - n) - size], (uint64_t)got - n);
	}
	return got;
}

static void stopped_receiver_execs(void **state)
{
	int started[2], out[2], status;
	struct plan plan = {.family = *(int *)*state};
	uint64_t came;
	pid_t child;

	assert_returns(pipe2(plan.go, O_CLOEXEC) | pipe2(started, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
	plan.started = started[1];
	fflush(NULL);
	child = fork();
	if (child == 0) {
		close(started[0]);
		close(out[0]);
		stop_and_leave(&plan, out[1]);
	}
	close(started[1]);
	close(out[1]);
	assert_returns(waitpid(child, &status, WUNTRACED), child);
	assert_that(WIFSTOPPED(status));
	close(plan.go[1]);
	wait_end(started[0]);
	assert_returns(kill(child, SIGCONT), 0);
	assert_returns(read_all(out[0], HEAD_SIZE, &came), 0);
	assert_returns(waitpid(child, &status, 0), child);
	assert_that(WIFEXITED(status));
	// cat says by its status that it met an error.
	if (WEXITSTATUS(status) == 0)
		assert_returns(came, HEAD_SIZE + strlen(TAIL));
	else
		assert_that(carrier_accelerates() && WEXITSTATUS(status) == 1);
	close(plan.go[0]);
	close(started[0]);
	close(out[0]);
}

// Sends as much as can be sent to somebody who does not read.
static void fill_and_leave(int fd, void *arg)
{
	struct plan *plan = arg;
	uint64_t sent;

	set_int(fd, SOL_SOCKET, SO_SNDBUF, 4096);
	close(plan->go[1]);
	wait_end(plan->go[0]);
	sent = fill_socket(fd, 1);
	assert_returns(write(plan->count, &sent, sizeof(sent)), sizeof(sent));
	become(fd, "printf '" TAIL "' >&0");
}

// The receiver reads nothing before the sender has become another program.
static void full_sender_execs(void **state)
{
	int started[2], count[2];
	struct plan plan = {.family = *(int *)*state};
	uint64_t sent, came;
	struct peer peer;
	ssize_t got;

	assert_returns(pipe2(plan.go, O_CLOEXEC) | pipe2(started, O_CLOEXEC) | pipe2(count, O_CLOEXEC), 0);
	plan.started = started[1];
	plan.count = count[1];
	peer_start(&peer, plan.family, fill_and_leave, &plan);
	close(started[1]);
	set_int(peer.fd, SOL_SOCKET, SO_RCVBUF, 4096);
	close(plan.go[1]);
	assert_returns(read(count[0], &sent, sizeof(sent)), sizeof(sent));
	wait_end(started[0]);
	got = read_all(peer.fd, sent, &came);
	if (got == 0)
		assert_returns(came, sent + strlen(TAIL));
	else
		assert_that(carrier_accelerates() && errno == ECONNRESET);
	close(peer.fd);
	waitpid(peer.pid, NULL, 0);
	close(plan.go[0]);
	close(started[0]);
	close(count[0]);
	close(count[1]);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(stopped_receiver_execs),
    TEST_FAMILY(full_sender_execs),
};
// clang-format on

SUITE_MAIN(tests)

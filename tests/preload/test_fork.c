// SPDX-License-Identifier: BSD-2-Clause
// Processes that share a connection by fork.
#include "pair.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static void child_uses(void **state)
{
	struct pair *p = *state;
	pid_t child = fork();

	if (child == 0) {
		for (int i = 0; i < 50; i++) {
			recv_text(p->b, "to child");
			send_text(p->b, "from child");
		}
		_exit(0);
	}
	for (int i = 0; i < 50; i++) {
		send_text(p->a, "to child");
		recv_text(p->a, "from child");
	}
	child_finish(child);
	// The parent's end is where the child left it.
	send_text(p->a, "to parent");
	recv_text(p->b, "to parent");
	send_text(p->b, "from parent");
	recv_text(p->a, "from parent");
}

static int cloned(void *arg)
{
	struct pair *p = arg;

	for (int i = 0; i < 50; i++) {
		recv_text(p->b, "to child");
		send_text(p->b, "from child");
	}
	return 7;
}

// By clone(), which runs no handlers of pthread_atfork().
static void child_by_clone(void **state)
{
	struct pair *p = *state;
	size_t size = 256 << 10;
	char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	pid_t child;
	int status;

	assert_that(stack != MAP_FAILED);
	child = clone(cloned, stack + size, SIGCHLD, p);
	assert_that(child > 0);
	for (int i = 0; i < 50; i++) {
		send_text(p->a, "to child");
		recv_text(p->a, "from child");
	}
	assert_returns(waitpid(child, &status, 0), child);
	assert_returns(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 7);
	send_text(p->a, "to parent");
	recv_text(p->b, "to parent");
	munmap(stack, size);
}

// Bytes sent before the fork are received after it, by either.
static void unread_over_fork(void **state)
{
	struct pair *p = *state;
	pid_t child;

	send_text(p->a, "first");
	send_text(p->a, "second");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	child = fork();
	if (child == 0) {
		recv_text(p->b, "first");
		_exit(0);
	}
	child_finish(child);
	recv_text(p->b, "second");
	send_text(p->b, "third");
	child = fork();
	if (child == 0) {
		recv_text(p->a, "third");
		send_text(p->a, "fourth");
		_exit(0);
	}
	child_finish(child);
	recv_text(p->b, "fourth");
}

// The fork server: the child takes the connection over, the parent closes it.
static void child_takes_over(void **state)
{
	int listener = listener_open(*(int *)*state);

	for (int i = 0; i < 10; i++) {
		int client = listener_connect(listener), server = accept(listener, NULL, NULL);
		pid_t child;

		if (i % 2) {
			struct pair p = {client, server, *(int *)*state};
			pair_settle(&p);
		}
		child = fork();
		if (child == 0) {
			char buffer[3000];
			ssize_t got;

			close(client);
			close(listener);
			while ((got = read(server, buffer, sizeof(buffer))) > 0)
				assert_returns(write(server, buffer, got), got);
			assert_returns(got, 0);
			_exit(0);
		}
		close(server);
		for (uint64_t at = 0; at < 50000; at += 1000) {
			send_pattern(client, i, at, 1000);
			recv_pattern(client, i, at, 1000);
		}
		assert_returns(shutdown(client, SHUT_WR), 0);
		recv_end(client);
		close(client);
		child_finish(child);
	}
	close(listener);
}

// The other way round: the parent keeps it, the child only closes its copy.
static void child_closes(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 5; i++) {
		pid_t child = fork();

		if (child == 0) {
			close(p->a);
			close(p->b);
			_exit(0);
		}
		send_text(p->a, "abc");
		recv_text(p->b, "abc");
		child_finish(child);
		// The child's close is not the end.
		assert_that(!wait_for(p->b, POLLIN, 5));
		assert_that(!wait_for(p->a, POLLIN, 5));
		send_text(p->b, "def");
		recv_text(p->a, "def");
	}
}

// As long as a child has the socket open, the peer sees no end.
static void child_holds_open(void **state)
{
	struct pair *p = *state;
	int gate[2];
	pid_t child;
	char byte;

	assert_returns(pipe(gate), 0);
	child = fork();
	if (child == 0) {
		close(gate[1]);
		close(p->a);
		assert_returns(read(gate[0], &byte, 1), 0);
		_exit(0);
	}
	close(gate[0]);
	send_text(p->b, "abc");
	close_end(&p->b);
	recv_text(p->a, "abc");
	assert_that(!wait_for(p->a, POLLIN, QUIET_MS));
	close(gate[1]);
	recv_end(p->a);
	child_finish(child);
}

// A child that dies by a signal with the socket open: the end, or a reset if something was unread.
static void killed_child(void **state)
{
	struct pair *p = *state;
	pid_t child = fork();
	int status;

	if (child == 0) {
		close(p->a);
		send_text(p->b, "alive");
		for (;;)
			pause();
	}
	close_end(&p->b);
	recv_text(p->a, "alive");
	kill(child, SIGKILL);
	assert_returns(waitpid(child, &status, 0), child);
	recv_end(p->a);
	recv_end(p->a);
}

static void dying_peer(int fd, void *arg)
{
	send_text(fd, "alive");
	if (*(int *)arg)
		recv_text(fd, "12345");
	kill(getpid(), SIGKILL);
}

static void killed_peer(void **state)
{
	for (int reads = 0; reads < 2; reads++) {
		struct peer peer;
		char buffer[8];
		int status;

		peer_start(&peer, *(int *)*state, dying_peer, &reads);
		recv_text(peer.fd, "alive");
		if (reads)
			send_text(peer.fd, "12345");
		assert_returns(waitpid(peer.pid, &status, 0), peer.pid);
		recv_end(peer.fd);
		assert_returns(send(peer.fd, "x", 1, MSG_NOSIGNAL), 1);
		assert_that(wait_for(peer.fd, POLLHUP, DEADLINE_MS));
		assert_fails(send(peer.fd, "x", 1, MSG_NOSIGNAL), EPIPE);
		assert_returns(recv(peer.fd, buffer, 8, 0), 0);
		close(peer.fd);
	}
}

// Parent and child both send; single sends are not mixed up.
static void both_send(void **state)
{
	struct pair *p = *state;
	int count[2] = {0};
	pid_t child = fork();

	if (child == 0) {
		for (int i = 0; i < 500; i++)
			assert_returns(send(p->a, "cccccccc", 8, 0), 8);
		_exit(0);
	}
	for (int i = 0; i < 500; i++)
		assert_returns(send(p->a, "pppppppp", 8, 0), 8);
	for (int i = 0; i < 1000; i++) {
		char buffer[8];

		assert_returns(recv(p->b, buffer, 8, MSG_WAITALL), 8);
		for (int n = 1; n < 8; n++)
			assert_that(buffer[n] == buffer[0]);
		count[buffer[0] == 'c']++;
	}
	child_finish(child);
	assert_returns(count[0], 500);
	assert_returns(count[1], 500);
	assert_that(!wait_for(p->b, POLLIN, 0));
}

// Parent and child both receive: every byte is seen once.
static void both_receive(void **state)
{
	struct pair *p = *state;
	int report[2], mine = 0, theirs = 0;
	pid_t child;
	char byte;

	assert_returns(pipe(report), 0);
	child = fork();
	if (child == 0) {
		int count = 0;

		close(p->a);
		while (recv(p->b, &byte, 1, 0) == 1)
			count++;
		assert_returns(write(report[1], &count, sizeof(count)), sizeof(count));
		_exit(0);
	}
	for (int i = 0; i < 1000; i++)
		send_text(p->a, "x");
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	while (recv(p->b, &byte, 1, 0) == 1)
		mine++;
	assert_returns(read(report[0], &theirs, sizeof(theirs)), sizeof(theirs));
	assert_returns(mine + theirs, 1000);
	child_finish(child);
	close(report[0]);
	close(report[1]);
}

static void serve_forever(int listener)
{
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		char buffer[2000];
		ssize_t got;

		if (fd < 0)
			_exit(1);
		while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0)
			if (send(fd, buffer, got, MSG_NOSIGNAL) != got)
				_exit(2);
		close(fd);
	}
}

// Children that all accept from one listener.
static void prefork_server(void **state)
{
	int listener = listener_open(*(int *)*state), status;
	pid_t children[3];

	for (int i = 0; i < 3; i++) {
		children[i] = fork();
		if (children[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			serve_forever(listener);
		}
	}
	for (int i = 0; i < 30; i++) {
		int fd = listener_connect(listener);

		for (uint64_t at = 0; at < 20000; at += 1000) {
			send_pattern(fd, i, at, 1000);
			recv_pattern(fd, i, at, 1000);
		}
		close(fd);
	}
	for (int i = 0; i < 3; i++) {
		assert_returns(waitpid(children[i], &status, WNOHANG), 0);
		kill(children[i], SIGKILL);
		assert_returns(waitpid(children[i], &status, 0), children[i]);
	}
	close(listener);
}

// Children of children.
static void grandchild(void **state)
{
	struct pair *p = *state;
	pid_t child = fork();

	if (child == 0) {
		pid_t next = fork();

		if (next == 0) {
			recv_text(p->b, "to grandchild");
			send_text(p->b, "from grandchild");
			_exit(0);
		}
		child_finish(next);
		recv_text(p->b, "to child");
		send_text(p->b, "from child");
		_exit(0);
	}
	send_text(p->a, "to grandchild");
	recv_text(p->a, "from grandchild");
	send_text(p->a, "to child");
	recv_text(p->a, "from child");
	child_finish(child);
	send_text(p->a, "to parent");
	recv_text(p->b, "to parent");
}

// Forks while another thread is inside our calls; the children use other connections.
static void fork_under_traffic(void **state)
{
	struct pair *p = *state;
	struct flow flow;

	flow_start(&flow, p->a, p->b);
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();

		if (child == 0) {
			struct pair q;

			pair_open(&q, p->family);
			for (int n = 0; n < 10; n++) {
				send_text(q.a, "abc");
				recv_text(q.b, "abc");
			}
			pair_close(&q);
			_exit(0);
		}
		child_finish(child);
	}
	flow_stop(&flow);
}

// A child's new connections are its own affair, and are accelerated like any.
static void new_connections_in_child(void **state)
{
	struct pair *p = *state;
	pid_t child = fork();

	if (child == 0) {
		struct pair q;

		pair_open(&q, p->family);
		pair_settle(&q);
		send_pattern(q.a, 1, 0, 3000);
		recv_pattern(q.b, 1, 0, 3000);
		pair_check_ring(&q);
		_exit(0);
	}
	child_finish(child);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
}

// Ends with different addresses: the broker must read their sequence numbers while the process holds them still.
static void open_and_settle(void)
{
	struct sockaddr_in other = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1)}, to;
	struct pair q = {.a = tcp_socket(AF_INET), .family = AF_INET};
	socklen_t size = sizeof(to);
	int listener = listener_open(AF_INET);

	assert_that(listener >= 0);
	assert_returns(getsockname(listener, (struct sockaddr *)&to, &size), 0);
	assert_returns(bind(q.a, (struct sockaddr *)&other, sizeof(other)), 0);
	assert_returns(connect(q.a, (struct sockaddr *)&to, size), 0);
	q.b = accept(listener, NULL, NULL);
	assert_that(q.b >= 0);
	close(listener);
	pair_settle(&q);
	pair_close(&q);
}

// Children of one process whose connections are named at the same moments.
static void named_in_children(void **state)
{
	pid_t children[8];
	int gate[2];
	char byte;

	(void)state;
	assert_returns(pipe(gate), 0);
	for (int i = 0; i < 8; i++) {
		children[i] = fork();
		if (children[i] == 0) {
			close(gate[1]);
			assert_returns(read(gate[0], &byte, 1), 0);
			for (int k = 0; k < 20; k++)
				open_and_settle();
			_exit(0);
		}
	}
	close(gate[0]);
	close(gate[1]);
	for (int i = 0; i < 8; i++)
		child_finish(children[i]);
}

// One end may be about to be joined with the other when a child has it as well: too early, and not for good.
static void fork_while_joined(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct pair p;

		pair_open(&p, *(int *)*state);
		for (int k = 0; k < 5; k++) {
			pid_t child = fork();

			if (child == 0)
				_exit(0);
			pair_touch(&p);
			child_finish(child);
		}
		pair_settle(&p);
		pair_talk(&p, 10);
		pair_check_ring(&p);
		pair_close(&p);
	}
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(child_uses),
    TEST_SETTLED(child_by_clone),
    TEST_SETTLED(unread_over_fork),
    TEST_FAMILY(child_takes_over),
    TEST_SETTLED(child_closes),
    TEST_SETTLED(child_holds_open),
    TEST_SETTLED(killed_child),
    TEST_FAMILY(killed_peer),
    TEST_SETTLED(both_send),
    TEST_SETTLED(both_receive),
    TEST_FAMILY(prefork_server),
    TEST_SETTLED(grandchild),
    TEST_SETTLED(fork_under_traffic),
    TEST_SETTLED(new_connections_in_child),
    TEST_FAMILY(fork_while_joined),
    cmocka_unit_test(named_in_children),
};
// clang-format on

SUITE_MAIN(tests)

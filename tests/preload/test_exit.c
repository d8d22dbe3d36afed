// SPDX-License-Identifier: BSD-2-Clause
// How processes with connections begin and end: constructors, exit handlers, every kind of exit, with threads inside
// calls.
#include "pair.h"

#include <dlfcn.h>
#include <limits.h>
#include <sys/resource.h>
#include <time.h>

static char early_text[8];
static int early_error;

// A constructor that uses sockets before main(), perhaps before librlm's own.
__attribute__((constructor(101))) static void early(void)
{
	int listener = listener_open(AF_INET), a, b;
	struct sockaddr_in address;
	socklen_t size = sizeof(address);

	if (listener < 0)
		return;
	a = socket(AF_INET, SOCK_STREAM, 0);
	if (getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
	    connect(a, (struct sockaddr *)&address, size) < 0 || (b = accept(listener, NULL, NULL)) < 0) {
		early_error = errno;
		return;
	}
	for (int i = 0; i < 20; i++)
		if (write(a, "early", 5) != 5 || recv(b, early_text, 5, MSG_WAITALL) != 5)
			early_error = errno;
	close(a);
	close(b);
	close(listener);
}

static void constructor_used_sockets(void **state)
{
	assert_returns(early_error, 0);
	assert_bytes(early_text, "early", 5);
}

static int leaving_fd;

static void exit_handler(void)
{
	if (send(leaving_fd, "from exit handler", 17, MSG_NOSIGNAL) != 17)
		_exit(97);
}

__attribute__((destructor)) static void late(void)
{
	if (leaving_fd > 0 && send(leaving_fd, ", from destructor", 17, MSG_NOSIGNAL) != 17)
		_exit(96);
}

static void leave_by_exit(int fd, void *arg)
{
	leaving_fd = fd;
	atexit(exit_handler);
	exit(0);
}

static void exit_handlers_use_sockets(void **state)
{
	struct peer peer;

	peer_start(&peer, *(int *)*state, leave_by_exit, NULL);
	recv_text(peer.fd, "from exit handler, from destructor");
	recv_end(peer.fd);
	peer_finish(&peer);
}

static void *block_in_recv(void *arg)
{
	char byte;
	recv(*(int *)arg, &byte, 1, 0);
	return NULL;
}

static void *send_forever(void *arg)
{
	char buffer[1000] = "";
	while (send(*(int *)arg, buffer, sizeof(buffer), MSG_NOSIGNAL) > 0)
		;
	return NULL;
}

struct leaving {
	int how;
	bool busy;
};

static void leave_somehow(int fd, void *arg)
{
	static int number;
	struct leaving *l = arg;
	pthread_t thread;

	number = fd;
	pthread_create(&thread, NULL, l->busy ? send_forever : block_in_recv, &number);
	send_text(fd, "bye");
	nap_ms(10);
	switch (l->how) {
	case 0:
		exit(0);
	case 1:
		_exit(0);
	case 2:
		quick_exit(0);
	case 3:
		syscall(SYS_exit_group, 0);
		break;
	default:
		pthread_cancel(thread);
		pthread_join(thread, NULL);
		exit(0);
	}
}

// A process that ends with a thread asleep in recv, or busy in send: it ends, and the peer sees the end.
static void exit_with_threads(void **state)
{
	for (int i = 0; i < 10; i++) {
		struct leaving l = {i / 2, i % 2};
		struct peer peer;
		char buffer[4096];
		ssize_t got;

		peer_start(&peer, *(int *)*state, leave_somehow, &l);
		do
			got = recv(peer.fd, buffer, sizeof(buffer), 0);
		while (got > 0);
		assert_returns(got, 0);
		peer_finish(&peer);
	}
}

static void *main_thread_body(void *arg)
{
	nap_ms(20);
	send_text(*(int *)arg, "thread lives on");
	exit(0);
}

static void leave_main_thread(int fd, void *arg)
{
	static int number;
	pthread_t thread;

	number = fd;
	pthread_create(&thread, NULL, main_thread_body, &number);
	pthread_exit(NULL);
}

// The main thread may end before the others.
static void main_thread_ends(void **state)
{
	struct peer peer;

	peer_start(&peer, *(int *)*state, leave_main_thread, NULL);
	recv_text(peer.fd, "thread lives on");
	recv_end(peer.fd);
	peer_finish(&peer);
}

static void *returns(void *arg)
{
	send_text(*(int *)arg, "last words");
	return NULL;
}

static void leave_all_threads(int fd, void *arg)
{
	pthread_t thread;

	leaving_fd = fd;
	atexit(exit_handler);
	pthread_create(&thread, NULL, returns, &leaving_fd);
	pthread_exit(NULL);
}

// The process ends with its last thread, as if by exit().
static void last_thread_ends(void **state)
{
	struct peer peer;

	peer_start(&peer, *(int *)*state, leave_all_threads, NULL);
	recv_text(peer.fd, "last wordsfrom exit handler, from destructor");
	recv_end(peer.fd);
	peer_finish(&peer);
}

// A daemon forks twice and closes its standard streams.
static void daemon_body(int fd, void *arg)
{
	if (daemon(0, 0) < 0)
		_exit(95);
	recv_text(fd, "question");
	send_text(fd, "answer");
	recv_end(fd);
	_exit(0);
}

static void daemonised(void **state)
{
	struct peer peer;

	peer_start(&peer, *(int *)*state, daemon_body, NULL);
	child_finish(peer.pid);
	send_text(peer.fd, "question");
	recv_text(peer.fd, "answer");
	assert_returns(shutdown(peer.fd, SHUT_WR), 0);
	recv_end(peer.fd);
	close(peer.fd);
}

// No descriptor is left for the library: the connection works without.
static void few_descriptors(void **state)
{
	int family = *(int *)*state;
	pid_t child = fork();

	if (child == 0) {
		struct pair p;
		struct rlimit limit;
		clock_t before;

		pair_open(&p, family);
		limit = (struct rlimit){p.b + 1, p.b + 1};
		assert_returns(setrlimit(RLIMIT_NOFILE, &limit), 0);
		while (dup(0) >= 0)
			;
		for (int i = 0; i < 200; i++) {
			send_text(p.a, "abc");
			recv_text(p.b, "abc");
			send_text(p.b, "def");
			assert_that(wait_for(p.a, POLLIN, DEADLINE_MS));
			recv_text(p.a, "def");
		}
		// Nor does it cost anything to be without.
		before = clock();
		nap_ms(300);
		assert_that(clock() - before < CLOCKS_PER_SEC / 50);
		_exit(0);
	}
	child_finish(child);
}

// dlopen and dlclose of other libraries around calls.
static void libraries_come_and_go(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 10; i++) {
		void *handle = dlopen("libutil.so.1", RTLD_NOW);

		send_text(p->a, "abc");
		recv_text(p->b, "abc");
		if (handle)
			dlclose(handle);
	}
	pair_check_ring(p);
}

static void *small_stack_thread(void *arg)
{
	struct pair *p = arg;

	for (int i = 0; i < 50; i++) {
		send(p->a, "abc", 3, 0);
		struct pollfd item = {.fd = p->b, .events = POLLIN};
		char buffer[8];
		if (poll(&item, 1, DEADLINE_MS) != 1 || recv(p->b, buffer, 3, MSG_WAITALL) != 3)
			return "failed";
	}
	return NULL;
}

// Calls must do with the smallest stack a thread can have.
static void small_stack(void **state)
{
	struct pair *p = *state;
	pthread_attr_t attributes;
	pthread_t thread;
	void *result;

	pthread_attr_init(&attributes);
	assert_returns(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN), 0);
	assert_returns(pthread_create(&thread, &attributes, small_stack_thread, p), 0);
	assert_returns(pthread_join(thread, &result), 0);
	assert_that(!result);
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    {"constructor_used_sockets", constructor_used_sockets, NULL, NULL, NULL},
    TEST_FAMILY(exit_handlers_use_sockets),
    TEST_FAMILY(exit_with_threads),
    TEST_FAMILY(main_thread_ends),
    TEST_FAMILY(last_thread_ends),
    TEST_FAMILY(daemonised),
    TEST_FAMILY(few_descriptors),
    TEST_SETTLED(libraries_come_and_go),
    TEST_SETTLED(small_stack),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// Signal handlers that use sockets, the very one whose call they interrupt too, and what they are told.
#include "pair.h"

#include <sys/mman.h>

static int handler_fd;
static volatile sig_atomic_t handler_failed;

static void sending_handler(int signal)
{
	int error = errno;

	if (send(handler_fd, "h", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
		handler_failed++;
	signal_count++;
	errno = error;
}

// A handler may send on the very socket its thread sleeps on.
static void handler_sends(void **state)
{
	struct pair *p = *state;
	struct sigaction action = {.sa_handler = sending_handler, .sa_flags = SA_RESTART};
	struct sleeper sleeper;

	handler_fd = p->b;
	handler_failed = 0;
	signal_count = 0;
	sigaction(SIGUSR1, &action, NULL);
	sleeper_start(&sleeper, call_recv, &p->b);
	for (int i = 1; i <= 5; i++) {
		kick(&sleeper, SIGUSR1, i);
		recv_text(p->a, "h");
	}
	assert_returns(handler_failed, 0);
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 1);
}

// A handler that sends on the socket which its thread is sending on, at any instant of that.
static void handler_sends_at_any_time(void **state)
{
	struct pair *p = *state;
	struct sigaction action = {.sa_handler = sending_handler, .sa_flags = SA_RESTART};
	struct flow flow;
	unsigned char buffer[4096];
	int got = 0;

	// The handler sends on the other direction of the connection the thread uses.
	handler_fd = p->b;
	handler_failed = 0;
	signal_count = 0;
	sigaction(SIGUSR1, &action, NULL);
	flow_start(&flow, p->a, p->b);
	for (int i = 0; i < 1000; i++) {
		ssize_t n;

		pthread_kill(flow.thread, SIGUSR1);
		while (signal_count <= i)
			sched_yield();
		n = recv(p->a, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (n > 0)
			got += n;
	}
	flow_stop(&flow);
	assert_returns(handler_failed, 0);
	while (got < signal_count) {
		ssize_t n = recv(p->a, buffer, sizeof(buffer), 0);
		assert_that(n > 0);
		got += n;
	}
	assert_returns(got, signal_count);
}

static struct pair *handler_pair;
static int handler_sent, handler_received;

static void exchanging_handler(int signal)
{
	char bytes[64];
	int saved = errno;
	ssize_t n = send(handler_pair->a, "h", 1, MSG_DONTWAIT | MSG_NOSIGNAL);

	handler_sent += n == 1;
	n = recv(handler_pair->b, bytes, sizeof(bytes), MSG_DONTWAIT);
	handler_received += n > 0 ? n : 0;
	signal_count++;
	errno = saved;
}

// A handler that uses both directions of the connection whose calls it interrupts, at any instant: no call waits for it, no byte is lost.
static void handler_uses_same_connection(void **state)
{
	struct itimerval time = {.it_value = {0, 150}, .it_interval = {0, 150}};
	struct sigaction action = {.sa_handler = exchanging_handler, .sa_flags = SA_RESTART};
	int64_t end = now_ms() + DEADLINE_MS;
	int sent = 0, received = 0;
	char bytes[64];

	handler_pair = *state;
	signal_count = handler_sent = handler_received = 0;
	assert_returns(sigaction(SIGALRM, &action, NULL), 0);
	assert_returns(setitimer(ITIMER_REAL, &time, NULL), 0);
	while (signal_count < 2000 && now_ms() < end) {
		ssize_t n = send(handler_pair->a, "mmmm", 4, MSG_DONTWAIT);

		sent += n > 0 ? n : 0;
		n = recv(handler_pair->b, bytes, 8, MSG_DONTWAIT);
		received += n > 0 ? n : 0;
	}
	memset(&time, 0, sizeof(time));
	assert_returns(setitimer(ITIMER_REAL, &time, NULL), 0);
	signal(SIGALRM, SIG_DFL);
	assert_that(signal_count >= 100);
	assert_returns(shutdown(handler_pair->a, SHUT_WR), 0);
	for (ssize_t n; (n = recv(handler_pair->b, bytes, sizeof(bytes), 0)) > 0;)
		received += n;
	assert_returns(received + handler_received, sent + handler_sent);
}

static volatile int info_value;
static volatile bool info_mask_was_open;

static void telling_handler(int signal, siginfo_t *info, void *context)
{
	sigset_t now;

	sigprocmask(SIG_SETMASK, NULL, &now);
	info_mask_was_open = !sigismember(&now, SIGUSR2) && sigismember(&now, SIGHUP) && sigismember(&now, SIGUSR1);
	info_value = info->si_value.sival_int;
	signal_count++;
}

static void simple_handler(int signal)
{
	signal_count++;
}

// What a program sets is what it reads, and what its handlers get.
static void actions_read_back(void **state)
{
	struct sigaction action = {.sa_sigaction = telling_handler, .sa_flags = SA_SIGINFO | SA_RESTART}, old;
	sigset_t before, after;

	sigaddset(&action.sa_mask, SIGHUP);
	signal(SIGUSR1, SIG_DFL);
	assert_returns(sigaction(SIGUSR1, NULL, &old), 0);
	assert_that(old.sa_handler == SIG_DFL);
	assert_returns(sigaction(SIGUSR1, &action, &old), 0);
	assert_that(old.sa_handler == SIG_DFL);
	assert_returns(sigaction(SIGUSR1, NULL, &old), 0);
	assert_that(old.sa_sigaction == telling_handler);
	assert_returns(old.sa_flags & (SA_SIGINFO | SA_RESTART | SA_RESETHAND), SA_SIGINFO | SA_RESTART);
	assert_that(sigismember(&old.sa_mask, SIGHUP) && !sigismember(&old.sa_mask, SIGUSR2));
	sigprocmask(SIG_SETMASK, NULL, &before);
	for (int i = 1; i <= 3; i++) {
		assert_returns(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 40 + i}), 0);
		assert_returns(info_value, 40 + i);
		assert_that(info_mask_was_open);
	}
	sigprocmask(SIG_SETMASK, NULL, &after);
	assert_bytes(&after, &before, 8);
	// The old way.
	signal_count = 0;
	assert_that(signal(SIGUSR1, simple_handler) == (void *)telling_handler);
	assert_returns(sigaction(SIGUSR1, NULL, &old), 0);
	assert_that(old.sa_handler == simple_handler);
	raise(SIGUSR1);
	assert_returns(signal_count, 1);
	// Once only.
	action = (struct sigaction){.sa_handler = simple_handler, .sa_flags = (int)SA_RESETHAND};
	assert_returns(sigaction(SIGUSR1, &action, &old), 0);
	assert_that(old.sa_handler == simple_handler);
	raise(SIGUSR1);
	assert_returns(signal_count, 2);
	assert_that(signal(SIGUSR1, SIG_IGN) == SIG_DFL);
	assert_that(signal(SIGUSR1, SIG_DFL) == SIG_IGN);
	assert_that(signal(SIGKILL, simple_handler) == SIG_ERR);
	assert_fails(sigaction(99, &action, NULL), EINVAL);
}

#define SMALL_STACK 8192 // what SIGSTKSZ is by tradition

static void waiting_handler(int signal)
{
	struct pollfd item = {.fd = handler_pair->b, .events = POLLIN};
	char byte;

	handler_sent = (int)send(handler_pair->a, "h", 1, MSG_NOSIGNAL);
	handler_received = poll(&item, 1, DEADLINE_MS) == 1 && recv(handler_pair->b, &byte, 1, 0) == 1 && byte == 'h';
	if (poll(&item, 1, 5) != 0) // sleeps
		handler_received = 0;
	signal_count++;
}

// A handler with a small stack of its own, below which nothing may be touched.
static void handler_on_small_stack(void **state)
{
	struct sigaction action = {.sa_handler = waiting_handler, .sa_flags = SA_ONSTACK};
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *memory = mmap(NULL, page + SMALL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t stack = {.ss_sp = memory + page, .ss_size = SMALL_STACK}, none = {.ss_flags = SS_DISABLE};

	assert_that(memory != MAP_FAILED);
	assert_returns(mprotect(memory, page, PROT_NONE), 0);
	handler_pair = *state;
	signal_count = 0;
	assert_returns(sigaltstack(&stack, NULL), 0);
	assert_returns(sigaction(SIGUSR1, &action, NULL), 0);
	for (int i = 1; i <= 20; i++) {
		assert_returns(raise(SIGUSR1), 0);
		assert_returns(signal_count, i);
		assert_that(handler_sent == 1 && handler_received);
	}
	assert_returns(signal(SIGUSR1, SIG_DFL) == SIG_ERR, 0);
	assert_returns(sigaltstack(&none, NULL), 0);
	munmap(memory, page + SMALL_STACK);
}

#define MANY 20
static struct pollfd many[MANY];

static void polling_handler(int signal)
{
	handler_failed += poll(many, MANY, 0) != 1 || !(many[0].revents & POLLIN);
	signal_count++;
}

// poll() may be called in a handler that interrupted malloc().
static void handler_polls_while_memory_is_taken(void **state)
{
	struct itimerval time = {.it_value = {0, 200}, .it_interval = {0, 200}}, stop = {0};
	struct sigaction action = {.sa_handler = polling_handler, .sa_flags = SA_RESTART};
	struct pair *p = *state;
	int quiet[2];

	assert_returns(pipe(quiet), 0);
	for (int i = 0; i < MANY; i++)
		many[i] = (struct pollfd){.fd = i ? quiet[0] : p->b, .events = POLLIN};
	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	handler_failed = 0;
	signal_count = 0;
	assert_returns(sigaction(SIGALRM, &action, NULL), 0);
	assert_returns(setitimer(ITIMER_REAL, &time, NULL), 0);
	for (size_t n = 1; signal_count < 1000; n = n * 7 % 5003 + 1) {
		void *volatile memory[4];

		for (int i = 0; i < 4; i++)
			memory[i] = malloc(n * (size_t)(i + 1) * 13);
		for (int i = 0; i < 4; i++)
			free(memory[i]);
	}
	assert_returns(setitimer(ITIMER_REAL, &stop, NULL), 0);
	assert_that(signal(SIGALRM, SIG_DFL) != SIG_ERR);
	assert_returns(handler_failed, 0);
	recv_text(p->b, "x");
	close(quiet[0]);
	close(quiet[1]);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(handler_sends),
    TEST_SETTLED(handler_sends_at_any_time),
    TEST_SETTLED(handler_uses_same_connection),
    TEST_SETTLED(actions_read_back),
    TEST_SETTLED(handler_on_small_stack),
    TEST_SETTLED(handler_polls_while_memory_is_taken),
};
// clang-format on

SUITE_MAIN(tests)

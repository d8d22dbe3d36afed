// SPDX-License-Identifier: BSD-2-Clause
// Signals that arrive while a call sleeps, masks of ppoll and its kin, cancellation.
#include "pair.h"

#include <sys/epoll.h>
#include <sys/select.h>

static int call_recvmsg(void *arg)
{
	char byte;
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	return recvmsg(*(int *)arg, &message, 0);
}

static int call_peek(void *arg)
{
	char byte;
	int got = recv(*(int *)arg, &byte, 1, MSG_PEEK);
	return got == 1 ? recv(*(int *)arg, &byte, 1, 0) : got;
}

static int (*const receives[])(void *) = {call_recv, call_read, call_recvmsg, call_peek};
#define RECEIVES (int)(sizeof(receives) / sizeof(receives[0]))

static void interrupted(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	for (int i = 0; i < RECEIVES; i++) {
		catch_signal(SIGUSR1, 0);
		sleeper_start(&sleeper, receives[i], &p->b);
		kick(&sleeper, SIGUSR1, 1);
		assert_fails(sleeper_join(&sleeper), EINTR);
		send_text(p->a, "x");
		recv_text(p->b, "x");
	}
	pair_check_ring(p);
}

static void restarted(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	for (int i = 0; i < RECEIVES; i++) {
		catch_signal(SIGUSR1, SA_RESTART);
		sleeper_start(&sleeper, receives[i], &p->b);
		for (int n = 1; n <= 3; n++) {
			kick(&sleeper, SIGUSR1, n);
			assert_that(!sleeper_done(&sleeper, QUIET_MS / 3));
		}
		send_text(p->a, "x");
		assert_returns(sleeper_join(&sleeper), 1);
	}
	pair_check_ring(p);
}

// With a time-out a receive is interrupted whatever SA_RESTART says.
static void not_restarted_with_timeout(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	set_timeout(p->b, SO_RCVTIMEO, DEADLINE_MS);
	catch_signal(SIGUSR1, SA_RESTART);
	sleeper_start(&sleeper, call_recv, &p->b);
	kick(&sleeper, SIGUSR1, 1);
	assert_fails(sleeper_join(&sleeper), EINTR);
	pair_check_ring(p);
}

static void ignored_signal(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	signal(SIGUSR1, SIG_IGN);
	sleeper_start(&sleeper, call_recv, &p->b);
	assert_returns(pthread_kill(sleeper.thread, SIGUSR1), 0);
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 1);
	signal(SIGUSR1, SIG_DFL);
}

static int call_waitall(void *arg)
{
	char buffer[10];
	return recv(*(int *)arg, buffer, sizeof(buffer), MSG_WAITALL);
}

// What was collected before the signal is returned.
static void waitall_interrupted(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	catch_signal(SIGUSR1, 0);
	send_text(p->a, "abc");
	sleeper_start(&sleeper, call_waitall, &p->b);
	kick(&sleeper, SIGUSR1, 1);
	assert_returns(sleeper_join(&sleeper), 3);
	send_text(p->a, "x");
	recv_text(p->b, "x");
	pair_check_ring(p);
}

static int call_send(void *arg)
{
	char buffer[4096] = "";
	ssize_t sent;

	do
		sent = send(*(int *)arg, buffer, sizeof(buffer), MSG_NOSIGNAL);
	while (sent == sizeof(buffer));
	return sent;
}

static void send_interrupted(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;
	int result;

	catch_signal(SIGUSR1, 0);
	sleeper_start(&sleeper, call_send, &p->a);
	kick(&sleeper, SIGUSR1, 1);
	result = sleeper_join(&sleeper);
	// Either nothing of the last send was taken, or part of it.
	assert_that((result == -1 && errno == EINTR) || (result > 0 && result < 4096));
}

static void send_restarted(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;
	unsigned char buffer[65536];
	int64_t deadline = now_ms() + DEADLINE_MS;
	int result;

	// A send that took nothing yet is restarted; one that took a part returns it.
	catch_signal(SIGUSR1, SA_RESTART);
	fill_socket(p->a, 1);
	sleeper_start(&sleeper, call_send, &p->a);
	for (int i = 1; i <= 3; i++) {
		kick(&sleeper, SIGUSR1, i);
		if (sleeper_done(&sleeper, QUIET_MS)) {
			assert_that(sleeper.result > 0 && sleeper.result < 4096);
			return;
		}
	}
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	while (recv(p->b, buffer, sizeof(buffer), 0) > 0 && now_ms() < deadline)
		;
	// A change of carrier can make room for a part of one more before the shutdown: that part is then the answer.
	result = sleeper_join(&sleeper);
	assert_that((result == -1 && errno == EPIPE) || (result > 0 && result < 4096));
}

static int call_ppoll(void *arg)
{
	struct pollfd item = {.fd = *(int *)arg, .events = POLLIN};
	return ppoll(&item, 1, NULL, NULL);
}

static int call_pselect(void *arg)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(*(int *)arg, &set);
	return pselect(*(int *)arg + 1, &set, NULL, NULL, NULL, NULL);
}

static int call_epoll(void *arg)
{
	struct epoll_event event = {.events = EPOLLIN};
	int ep = epoll_create1(EPOLL_CLOEXEC), count, error;

	epoll_ctl(ep, EPOLL_CTL_ADD, *(int *)arg, &event);
	count = epoll_wait(ep, &event, 1, -1);
	error = errno;
	close(ep);
	errno = error;
	return count;
}

// Waiting for readiness is never restarted.
static void waits_interrupted(void **state)
{
	static int (*const waits[])(void *) = {call_poll, call_ppoll, call_select, call_pselect, call_epoll};
	struct pair *p = *state;
	struct sleeper sleeper;

	for (int i = 0; i < (int)(sizeof(waits) / sizeof(waits[0])); i++) {
		catch_signal(SIGUSR1, SA_RESTART);
		sleeper_start(&sleeper, waits[i], &p->b);
		kick(&sleeper, SIGUSR1, 1);
		assert_fails(sleeper_join(&sleeper), EINTR);
	}
	send_text(p->a, "x");
	recv_text(p->b, "x");
	pair_check_ring(p);
}

// A signal that is blocked outside and let in by the call's mask: seen by the call, not lost before it.
static void masks(void **state)
{
	struct pair *p = *state;
	struct pollfd item = {.fd = p->b, .events = POLLIN};
	struct timespec short_time = {0, 50 * 1000000}, long_time = {DEADLINE_MS / 1000, 0};
	struct epoll_event event = {.events = EPOLLIN};
	sigset_t block, open;
	fd_set set;
	int ep = epoll_create1(0);

	epoll_ctl(ep, EPOLL_CTL_ADD, p->b, &event);
	catch_signal(SIGUSR1, 0);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &block, &open);
	sigdelset(&open, SIGUSR1);

	raise(SIGUSR1);
	assert_returns(poll(&item, 1, 20), 0);
	assert_returns(ppoll(&item, 1, &short_time, &block), 0);
	assert_returns(signal_count, 0);
	assert_fails(ppoll(&item, 1, &long_time, &open), EINTR);
	assert_returns(signal_count, 1);

	raise(SIGUSR1);
	FD_ZERO(&set);
	FD_SET(p->b, &set);
	assert_returns(pselect(p->b + 1, &set, NULL, NULL, &short_time, &block), 0);
	FD_SET(p->b, &set);
	assert_fails(pselect(p->b + 1, &set, NULL, NULL, &long_time, &open), EINTR);
	assert_returns(signal_count, 2);

	raise(SIGUSR1);
	assert_returns(epoll_pwait(ep, &event, 1, 20, &block), 0);
	assert_fails(epoll_pwait(ep, &event, 1, DEADLINE_MS, &open), EINTR);
	assert_returns(signal_count, 3);

	raise(SIGUSR1);
	assert_returns(epoll_pwait2(ep, &event, 1, &short_time, &block), 0);
	assert_fails(epoll_pwait2(ep, &event, 1, &long_time, &open), EINTR);
	assert_returns(signal_count, 4);

	// The mask of the thread is as before.
	assert_returns(pthread_sigmask(SIG_SETMASK, NULL, &open), 0);
	assert_returns(sigismember(&open, SIGUSR1), 1);
	pthread_sigmask(SIG_UNBLOCK, &block, NULL);
	close(ep);
	pair_check_ring(p);
}

// A mask that lets signals in changes nothing when something is ready and no signal pends.
static void ready_and_masked(void **state)
{
	struct pair *p = *state;
	struct pollfd item = {.fd = p->b, .events = POLLIN};
	sigset_t none;

	sigemptyset(&none);
	send_text(p->a, "x");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(ppoll(&item, 1, NULL, &none), 1);
	recv_text(p->b, "x");
}

// A thread that is cancelled in recv() ends there, and the socket can be used on.
static void cancelled(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;
	void *result = NULL;

	sleeper_start(&sleeper, call_recv, &p->b);
	assert_returns(pthread_cancel(sleeper.thread), 0);
	assert_returns(pthread_join(sleeper.thread, &result), 0);
	assert_that(result == PTHREAD_CANCELED);
	pair_talk(p, 10);
}

static void cancelled_in_poll(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;
	void *result = NULL;

	sleeper_start(&sleeper, call_poll, &p->b);
	assert_returns(pthread_cancel(sleeper.thread), 0);
	assert_returns(pthread_join(sleeper.thread, &result), 0);
	assert_that(result == PTHREAD_CANCELED);
	sleeper_start(&sleeper, call_epoll, &p->b);
	assert_returns(pthread_cancel(sleeper.thread), 0);
	assert_returns(pthread_join(sleeper.thread, &result), 0);
	assert_that(result == PTHREAD_CANCELED);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	pair_check_ring(p);
}

static void alarm_clock(void **state)
{
	struct pair *p = *state;
	struct itimerval time = {.it_value = {0, 50000}};
	char byte;

	catch_signal(SIGALRM, 0);
	assert_returns(setitimer(ITIMER_REAL, &time, NULL), 0);
	assert_fails(recv(p->b, &byte, 1, 0), EINTR);
	assert_returns(signal_count, 1);
	// Ticking all the time while bytes move.
	catch_signal(SIGALRM, SA_RESTART);
	time.it_interval = (struct timeval){0, 200};
	time.it_value = time.it_interval;
	assert_returns(setitimer(ITIMER_REAL, &time, NULL), 0);
	for (uint64_t at = 0; at < 200000; at += 1000) {
		send_pattern(p->a, 1, at, 1000);
		recv_pattern(p->b, 1, at, 1000);
	}
	memset(&time, 0, sizeof(time));
	assert_returns(setitimer(ITIMER_REAL, &time, NULL), 0);
	signal(SIGALRM, SIG_DFL);
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(interrupted),
    TEST_SETTLED(restarted),
    TEST_SETTLED(not_restarted_with_timeout),
    TEST_SETTLED(ignored_signal),
    TEST_SETTLED(waitall_interrupted),
    TEST_SETTLED(send_interrupted),
    TEST_SETTLED(send_restarted),
    TEST_SETTLED(waits_interrupted),
    TEST_SETTLED(masks),
    TEST_SETTLED(ready_and_masked),
    TEST_SETTLED(cancelled),
    TEST_SETTLED(cancelled_in_poll),
    TEST_SETTLED(alarm_clock),
};
// clang-format on

SUITE_MAIN(tests)

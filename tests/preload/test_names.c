// SPDX-License-Identifier: BSD-2-Clause
// The same functions under the other names that libc has for them.
#include "pair.h"

#include <sys/select.h>

ssize_t __read(int fd, void *buf, size_t len);
ssize_t __write(int fd, const void *buf, size_t len);
ssize_t __send(int fd, const void *buf, size_t len, int flags);
int __close(int fd);
int __connect(int fd, const struct sockaddr *addr, socklen_t len);
int __dup2(int oldfd, int newfd);
int __fcntl(int fd, int cmd, ...);
int __poll(struct pollfd *fds, nfds_t n, int timeout);
int __select(int n, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout);
int __sigaction(int signal, const struct sigaction *action, struct sigaction *old);
FILE *_IO_fdopen(int fd, const char *mode);
int _IO_fclose(FILE *file);

static void data(void **state)
{
	struct pair *p = *state;
	char buffer[16] = {0};

	assert_returns(__write(p->a, "one", 3), 3);
	assert_returns(__send(p->a, "two", 3, 0), 3);
	recv_text(p->b, "onetwo");
	send_text(p->b, "three");
	assert_that(wait_for(p->a, POLLIN, DEADLINE_MS));
	assert_returns(__read(p->a, buffer, sizeof(buffer)), 5);
	assert_bytes(buffer, "three", 5);
	pair_check_ring(p);
}

static void readiness(void **state)
{
	struct pair *p = *state;
	struct pollfd wanted = {.fd = p->b, .events = POLLIN};
	struct timeval none = {0}, long_time = {.tv_sec = DEADLINE_MS / 1000};
	fd_set in;

	assert_returns(__poll(&wanted, 1, 0), 0);
	FD_ZERO(&in);
	FD_SET(p->b, &in);
	assert_returns(__select(p->b + 1, &in, NULL, NULL, &none), 0);
	send_text(p->a, "x");
	assert_returns(__poll(&wanted, 1, DEADLINE_MS), 1);
	assert_returns(wanted.revents, POLLIN);
	FD_SET(p->b, &in);
	assert_returns(__select(p->b + 1, &in, NULL, NULL, &long_time), 1);
	recv_text(p->b, "x");
	pair_check_ring(p);
}

static void descriptors(void **state)
{
	struct pair *p = *state;
	int other = dup(STDIN_FILENO), high;
	char byte;

	assert_returns(__dup2(p->a, other), other);
	assert_returns(__close(p->a), 0);
	p->a = other;
	high = __fcntl(p->a, F_DUPFD_CLOEXEC, 100);
	assert_that(high >= 100);
	assert_returns(__fcntl(p->b, F_SETFL, __fcntl(p->b, F_GETFL) | O_NONBLOCK), 0);
	assert_fails(recv(p->b, &byte, 1, 0), EAGAIN);
	assert_returns(__fcntl(p->b, F_SETFL, __fcntl(p->b, F_GETFL) & ~O_NONBLOCK), 0);
	send_text(high, "by dup");
	recv_text(p->b, "by dup");
	assert_returns(__close(high), 0);
	send_text(p->a, "and the other");
	recv_text(p->b, "and the other");
	assert_returns(__close(p->a), 0);
	p->a = -1;
	recv_end(p->b);
	assert_fails(__close(high), EBADF);
}

static void connecting(void **state)
{
	int family = *(int *)*state, listener = listener_open(family);
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	struct pair p = {.family = family};

	assert_returns(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	p.a = tcp_socket(family);
	assert_returns(__connect(p.a, (struct sockaddr *)&address, len), 0);
	p.b = accept(listener, NULL, NULL);
	assert_that(p.b >= 0);
	pair_settle(&p);
	send_text(p.a, "there");
	recv_text(p.b, "there");
	pair_check_ring(&p);
	pair_close(&p);
	close(listener);
}

static void streams(void **state)
{
	struct pair *p = *state;
	FILE *file = _IO_fdopen(p->a, "r");
	char line[32];

	assert_that(file != NULL);
	send_text(p->b, "a line\n");
	assert_that(fgets(line, sizeof(line), file) != NULL);
	assert_string_equal(line, "a line\n");
	assert_returns(_IO_fclose(file), 0);
	p->a = -1;
	recv_end(p->b);
}

static void counting_handler(int signal)
{
	signal_count++;
}

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" // sigset()

static void handlers(void **state)
{
	struct sigaction action = {.sa_handler = counting_handler}, now;

	signal_count = 0;
	assert_returns(__sigaction(SIGUSR1, &action, NULL), 0);
	assert_that(sigset(SIGUSR1, SIG_DFL) == counting_handler);
	assert_that(sigset(SIGUSR1, counting_handler) == SIG_DFL);
	assert_returns(sigaction(SIGUSR1, NULL, &now), 0);
	assert_that(now.sa_handler == counting_handler && !(now.sa_flags & (int)SA_RESETHAND));
	raise(SIGUSR1);
	assert_returns(signal_count, 1);
	assert_that(sigset(SIGUSR1, SIG_HOLD) == counting_handler);
	raise(SIGUSR1);
	assert_returns(signal_count, 1);
	assert_that(sigset(SIGUSR1, counting_handler) == SIG_HOLD);
	assert_returns(signal_count, 2);
	// For one signal.
	assert_that(sysv_signal(SIGUSR1, counting_handler) == counting_handler);
	assert_returns(sigaction(SIGUSR1, NULL, &now), 0);
	assert_that(now.sa_handler == counting_handler && now.sa_flags & (int)SA_RESETHAND);
	raise(SIGUSR1);
	assert_returns(signal_count, 3);
	assert_that(ssignal(SIGUSR1, SIG_DFL) == SIG_DFL);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(data),
    TEST_SETTLED(readiness),
    TEST_SETTLED(descriptors),
    TEST_FAMILY(connecting),
    TEST_SETTLED(streams),
    TEST_FAMILY(handlers),
};
// clang-format on

SUITE_MAIN(tests)

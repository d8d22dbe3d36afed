// SPDX-License-Identifier: BSD-2-Clause
// Time, signals, and the threads and processes that a test waits for.
#include "pair.h"

#include <stdatomic.h>
#include <sys/select.h>
#include <time.h>

volatile sig_atomic_t signal_count;

// -- time and signals --

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

void nap_ms(int ms)
{
	int64_t end = now_ms() + ms, left;

	while ((left = end - now_ms()) > 0)
		syscall(SYS_poll, NULL, 0, (int)left);
}

static void count_signal(int signal)
{
	signal_count++;
}

void catch_signal(int signal, int flags)
{
	struct sigaction action = {.sa_handler = count_signal, .sa_flags = flags};

	signal_count = 0;
	assert_returns(sigaction(signal, &action, NULL), 0);
}

// -- threads --

static char task_state(pid_t pid, pid_t tid)
{
	char path[64], text[256] = "";
	char *state;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 'X';
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	state = strrchr(text, ')');
	return state ? state[2] : 'X';
}

// The task sleeps when three looks in a row say so; the bounded spinning before a sleep is over then.
void wait_asleep(pid_t pid, pid_t tid)
{
	int64_t deadline = now_ms() + DEADLINE_MS;

	for (int seen = 0; seen < 3 && now_ms() < deadline;) {
		seen = task_state(pid, tid) == 'S' ? seen + 1 : 0;
		nap_ms(2);
	}
}

static void *sleeper_main(void *arg)
{
	struct sleeper *sleeper = arg;
	int64_t start = now_ms();

	atomic_store(&sleeper->tid, (int)syscall(SYS_gettid));
	errno = 0;
	sleeper->result = sleeper->fn(sleeper->arg);
	sleeper->error = errno;
	sleeper->took_ms = now_ms() - start;
	return NULL;
}

void sleeper_start(struct sleeper *sleeper, int (*fn)(void *), void *arg)
{
	*sleeper = (struct sleeper){.fn = fn, .arg = arg};
	assert_returns(pthread_create(&sleeper->thread, NULL, sleeper_main, sleeper), 0);
	while (!atomic_load(&sleeper->tid))
		nap_ms(1);
	wait_asleep(getpid(), sleeper->tid);
}

bool sleeper_done(struct sleeper *sleeper, int timeout_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	return pthread_timedjoin_np(sleeper->thread, NULL, &until) == 0;
}

int sleeper_join(struct sleeper *sleeper)
{
	assert_that(sleeper_done(sleeper, DEADLINE_MS));
	errno = sleeper->error;
	return sleeper->result;
}

// -- calls --

int call_recv(void *arg)
{
	char byte;
	return recv(*(int *)arg, &byte, 1, 0);
}

int call_read(void *arg)
{
	char byte;
	return read(*(int *)arg, &byte, 1);
}

int call_send_much(void *arg)
{
	char buffer[4096] = "";
	ssize_t sent;

	do
		sent = send(*(int *)arg, buffer, sizeof(buffer), MSG_NOSIGNAL);
	while (sent > 0);
	return sent;
}

int call_poll(void *arg)
{
	struct pollfd item = {.fd = *(int *)arg, .events = POLLIN};
	return poll(&item, 1, -1);
}

int call_select(void *arg)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(*(int *)arg, &set);
	return select(*(int *)arg + 1, &set, NULL, NULL, NULL);
}

int call_send_pattern(void *arg)
{
	const struct pattern *p = arg;

	send_pattern(p->fd, p->seed, 0, p->size);
	return 0;
}

int call_recv_pattern(void *arg)
{
	const struct pattern *p = arg;

	recv_pattern(p->fd, p->seed, 0, p->size);
	return 0;
}

// -- processes --

void child_finish(pid_t pid)
{
	int64_t deadline = now_ms() + DEADLINE_MS;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_ms() > deadline) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			check_failed(__FILE__, __LINE__, "the child process does not end");
		}
		nap_ms(1);
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		check_failed(__FILE__, __LINE__, "the child process ended with wait status %#x", status);
}

void kick(struct sleeper *sleeper, int signal, int count)
{
	int64_t deadline = now_ms() + DEADLINE_MS;

	assert_returns(pthread_kill(sleeper->thread, signal), 0);
	while (signal_count < count && now_ms() < deadline)
		nap_ms(1);
	assert_returns(signal_count, count);
}

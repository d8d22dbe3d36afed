// SPDX-License-Identifier: BSD-2-Clause
// Child processes that never outlive their time or their parent.
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define CHILDREN_MAX 64
#define SLICE_MS     100 // how long an interruption may go unnoticed
#define OUTPUT_MAX   (4u << 20)

static pid_t children[CHILDREN_MAX];
volatile int child_interrupted;

static void on_signal(int sig)
{
	child_interrupted = sig;
}

void child_catch_signals(void)
{
	struct sigaction a = {.sa_handler = on_signal};

	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
	sigaction(SIGHUP, &a, NULL);
}

static bool registry_replace(pid_t from, pid_t to)
{
	for (int i = 0; i < CHILDREN_MAX; i++) {
		if (children[i] == from) {
			children[i] = to;
			return true;
		}
	}
	return false;
}

static int slice_until(uint64_t deadline)
{
	uint64_t now = clock_now();

	if (now >= deadline)
		return 0;
	return deadline - now > SLICE_MS * NS_PER_MS ? SLICE_MS : (int)((deadline - now) / NS_PER_MS) + 1;
}

static void set_environment(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

__attribute__((noreturn)) static void child_exec(const struct child_spec *s, int out, pid_t parent)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	signal(SIGINT, SIG_IGN); // the parent decides
	dup2(null, STDIN_FILENO);
	dup2(out >= 0 ? out : null, STDOUT_FILENO);
	if (!s->errors)
		dup2(null, STDERR_FILENO);
	if (s->pass_fd >= 0)
		fcntl(s->pass_fd, F_SETFD, 0);
	if (s->netns >= 0 && setns(s->netns, CLONE_NEWNET) < 0)
		_exit(126);
	set_environment("RLM_SOCKET", s->broker);
	set_environment("LD_PRELOAD", s->preload);
	execv(s->argv[0], (char *const *)s->argv);
	_exit(127);
}

int child_start(struct child *c, const struct child_spec *s)
{
	int out[2] = {-1, -1};
	pid_t parent = getpid();
	int e;

	*c = (struct child){.out = -1};
	if (!registry_replace(0, -1))
		return -EAGAIN;
	if (s->capture && pipe2(out, O_CLOEXEC) < 0)
		goto err_slot;
	c->pid = fork();
	if (c->pid == 0)
		child_exec(s, out[1], parent);
	if (c->pid < 0)
		goto err_pipe;
	registry_replace(-1, c->pid);
	if (s->capture)
		close(out[1]);
	c->out = out[0];
	return 0;

err_pipe:
	e = errno;
	c->pid = 0;
	if (s->capture) {
		close(out[0]);
		close(out[1]);
	}
	errno = e;
err_slot:
	e = errno;
	registry_replace(-1, 0);
	return -e;
}

static void forget(struct child *c)
{
	registry_replace(c->pid, 0);
	c->pid = 0;
	if (c->out >= 0)
		close(c->out);
	c->out = -1;
}

static int reap(struct child *c, uint64_t deadline, bool *in_time)
{
	int status = 0;

	*in_time = true;
	while (waitpid(c->pid, &status, WNOHANG) == 0) {
		if (clock_now() >= deadline || child_interrupted) {
			*in_time = false;
			kill(c->pid, SIGKILL);
			waitpid(c->pid, &status, 0);
			break;
		}
		usleep(500);
	}
	forget(c);
	return status;
}

bool child_end(struct child *c, uint64_t deadline)
{
	bool in_time = true;

	if (c->pid > 0)
		reap(c, deadline, &in_time);
	return in_time;
}

void child_stop(struct child *c, int sig)
{
	if (c->pid <= 0)
		return;
	kill(c->pid, sig);
	child_end(c, clock_now() + 2 * NS_PER_S);
}

void child_kill_all(void)
{
	for (int i = 0; i < CHILDREN_MAX; i++) {
		if (children[i] <= 0)
			continue;
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
		children[i] = 0;
	}
}

// Bytes, 0 at the end, -1: too late or interrupted.
static ssize_t read_in_time(int fd, void *data, size_t n, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int slice;

	while (!child_interrupted && (slice = slice_until(deadline)) > 0) {
		if (poll(&p, 1, slice) <= 0)
			continue;
		return read(fd, data, n);
	}
	return -1;
}

char *child_output(struct child *c, uint64_t deadline, int *status)
{
	size_t length = 0, room = 64u << 10;
	char *text = malloc(room);
	ssize_t r = -1;
	bool in_time;

	while (text && length < OUTPUT_MAX) {
		if (room - length < 2) {
			char *more = realloc(text, room *= 2);

			if (!more)
				break;
			text = more;
		}
		r = read_in_time(c->out, text + length, room - length - 1, deadline);
		if (r <= 0)
			break;
		length += (size_t)r;
	}
	*status = reap(c, r == 0 ? deadline : 0, &in_time);
	if (text && r == 0 && in_time) {
		text[length] = '\0';
		return text;
	}
	free(text);
	return NULL;
}

bool child_read_line(int fd, char *text, size_t size, uint64_t deadline)
{
	size_t length = 0;

	while (length + 1 < size) {
		if (read_in_time(fd, text + length, 1, deadline) != 1)
			return false;
		if (text[length] == '\n') {
			text[length] = '\0';
			return true;
		}
		length++;
	}
	return false;
}

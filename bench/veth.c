// SPDX-License-Identifier: BSD-2-Clause
// Two network namespaces joined by a veth pair.
//
// Each namespace is made by a child that holds it while its descriptor is opened. Everything in them is set up by `ip`,
// started inside; nothing is ever changed in the namespace that rlm-bench runs in.
#include "veth.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"

#define IP_SECONDS 10

static const char *find_ip(void)
{
	static const char *const places[] = {"/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"};

	for (unsigned i = 0; i < sizeof(places) / sizeof(*places); i++)
		if (access(places[i], X_OK) == 0)
			return places[i];
	return NULL;
}

// A child in a namespace of its own that waits to be killed.
static pid_t holder_start(void)
{
	pid_t parent = getpid(), pid;
	int told[2];
	char ok = 0;

	if (pipe2(told, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ok = getppid() == parent && unshare(CLONE_NEWNET) == 0;
		if (write(told[1], &ok, 1) == 1 && ok)
			for (;;)
				pause();
		_exit(1);
	}
	close(told[1]);
	if (pid > 0 && (read(told[0], &ok, 1) != 1 || !ok)) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		pid = -EPERM;
	}
	close(told[0]);
	return pid;
}

static int open_netns(pid_t pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

// `ip` with the words of a command line inside a namespace. 0 or -EIO.
static int run_ip(int netns, const char *words)
{
	struct child_spec s = {.argv = {find_ip()}, .netns = netns, .capture = true, .pass_fd = -1};
	struct child c;
	char copy[256];
	char *save, *output;
	int n = 1, status = -1;

	snprintf(copy, sizeof(copy), "%s", words);
	for (char *w = strtok_r(copy, " ", &save); w && n < CHILD_ARGS - 1; w = strtok_r(NULL, " ", &save))
		s.argv[n++] = w;
	if (child_start(&c, &s) < 0)
		return -EIO;
	output = child_output(&c, clock_now() + IP_SECONDS * NS_PER_S, &status);
	free(output);
	return output && status == 0 ? 0 : -EIO;
}

static int set_up(const struct veth *v, pid_t peer)
{
	char link[128];
	int r;

	snprintf(link, sizeof(link), "link add rlm0 type veth peer name rlm1 netns %d", (int)peer);
	r = run_ip(v->netns[0], link);
	for (int i = 0; i < 2 && r == 0; i++) {
		r = run_ip(v->netns[i],
			   i ? "addr add " VETH_SERVER_ADDRESS "/30 dev rlm1" : "addr add 10.202.0.2/30 dev rlm0");
		r = r ? r : run_ip(v->netns[i], i ? "link set rlm1 up" : "link set rlm0 up");
		r = r ? r : run_ip(v->netns[i], "link set lo up");
	}
	return r;
}

int veth_init(struct veth *v, const char **why)
{
	pid_t holder[2];
	int r = 0;

	v->netns[0] = v->netns[1] = -1;
	*why = "ip (iproute2) is not installed";
	if (!find_ip())
		return -ENOENT;
	*why = "network namespaces need root";
	for (int i = 0; i < 2; i++) {
		holder[i] = holder_start();
		if (holder[i] > 0)
			v->netns[i] = open_netns(holder[i]);
		if (v->netns[i] < 0)
			r = -EPERM;
	}
	if (r == 0) {
		*why = "the veth pair could not be set up";
		r = set_up(v, holder[1]);
	}
	for (int i = 0; i < 2; i++) {
		if (holder[i] > 0) {
			kill(holder[i], SIGKILL);
			waitpid(holder[i], NULL, 0);
		}
	}
	if (r < 0)
		veth_deinit(v);
	return r;
}

void veth_deinit(struct veth *v)
{
	for (int i = 0; i < 2; i++) {
		if (v->netns[i] >= 0)
			close(v->netns[i]);
		v->netns[i] = -1;
	}
}

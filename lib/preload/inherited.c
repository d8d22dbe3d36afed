// SPDX-License-Identifier: BSD-2-Clause
// Connections that this program was started with (exec), or was given by another process. The kernel tells nobody how many processes have a
// descriptor of a socket, so before such a connection is promoted all processes of the machine are looked at, and whether there are descriptors on their
// way between any of them. Only a privileged process in the first pid namespace sees all that; in others these connections stay on TCP.
// Later owners come from us, and that is seen.
#include "inherited.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "hooks.h"
#include "stream_internal.h"

struct entry {
	uint64_t ino;
	int64_t off;
	uint16_t length;
	uint8_t type;
	char name[];
};

typedef int visit_fn(void *arg, int dir, const char *name);

// Calls visit for all names that are numbers, until it says something else than 0. 0, -errno, or what visit said.
static int for_each_number(int at, const char *path, visit_fn *visit, void *arg)
{
	_Alignas(struct entry) char buffer[4096];
	int dir = (int)sys_call4(SYS_openat, at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), r = 0;
	long n = 0;

	if (dir < 0)
		return dir;
	while (!r && (n = sys_call3(SYS_getdents64, dir, buffer, sizeof(buffer))) > 0)
		for (long i = 0; i < n && !r; i += ((struct entry *)(void *)(buffer + i))->length) {
			struct entry *e = (void *)(buffer + i);

			if (e->name[0] >= '0' && e->name[0] <= '9')
				r = visit(arg, dir, e->name);
		}
	sys_close(dir);
	return r ? r : (int)n;
}

// --- adopting ---

static uint64_t cookie(int fd)
{
	uint64_t value = 0;
	socklen_t len = sizeof(value);

	return sys_getsockopt(fd, SOL_SOCKET, SO_COOKIE, &value, &len) < 0 ? 0 : value;
}

static int adopt_one(void *arg, int dir, const char *name)
{
	int fd = atoi(name);
	long flags;
	struct rlm_conn *c;

	(void)arg;
	if (fd == dir || fd_kind(fd) != FD_UNKNOWN || !tcp_is_established(fd))
		return 0;
	for (int other = 0; other <= fd_highest(); other++)
		if (fd_conn(other) && cookie(other) == cookie(fd)) {
			stream_duplicated(other, fd);
			return 0;
		}
	flags = sys_fcntl(fd, F_GETFL, 0);
	c = stream_open(fd, flags >= 0 && flags & O_NONBLOCK);
	hook_foreign(fd);
	if (c)
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_INHERITED, memory_order_relaxed);
	return 0;
}

void inherited_adopt(void)
{
	for_each_number(AT_FDCWD, "/proc/self/fd", adopt_one, NULL);
}

// --- whose they are ---

#define QUEUES 64

struct search {
	char link[32];
	unsigned found;
	unsigned queues; // UNIX sockets that hold descriptors which nobody has taken yet
	struct {
		int pid, fd;
	} queue[QUEUES];
	int pid; // in whose directory we are
};

// A UNIX socket says so of itself: "scm_fds:" and how many.
static bool holds_descriptors(int pid, int number)
{
	char path[40], text[1024] = "", *count;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, number);
	fd = (int)sys_call4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return false;
	sys_read(fd, text, sizeof(text) - 1);
	sys_close(fd);
	count = strstr(text, "scm_fds:");
	return count && strtoul(count + strlen("scm_fds:"), NULL, 10);
}

static int see_descriptor(void *arg, int dir, const char *name)
{
	struct search *s = arg;
	char link[sizeof(s->link)] = "";

	if (sys_call4(SYS_readlinkat, dir, name, link, sizeof(link) - 1) <= 0 || strncmp(link, "socket:", 7))
		return 0;
	s->found += !strcmp(link, s->link);
	if (!holds_descriptors(s->pid, atoi(name)))
		return 0;
	if (s->queues == QUEUES)
		return -ENOBUFS;
	s->queue[s->queues].pid = s->pid;
	s->queue[s->queues++].fd = atoi(name);
	return 0;
}

// What is in these queues now will be in a process's table when they have been seen empty.
static bool queues_are_drained(struct search *s)
{
	const struct timespec moment = {.tv_nsec = 1000000};

	for (int i = 0; i < 100 && s->queues; i++) {
		while (s->queues && !holds_descriptors(s->queue[s->queues - 1].pid, s->queue[s->queues - 1].fd))
			s->queues--;
		if (s->queues)
			sys_call2(SYS_nanosleep, &moment, NULL);
	}
	return !s->queues;
}

static int see_process(void *arg, int dir, const char *name)
{
	struct search *s = arg;
	char path[32];
	int r;

	s->pid = atoi(name);
	snprintf(path, sizeof(path), "%.20s/fd", name);
	r = for_each_number(dir, path, see_descriptor, arg);
	return r == -ENOENT || r == -ESRCH ? 0 : r; // it has ended
}

// The first pid namespace's number is part of the kernel's interface: PROC_PID_INIT_INO.
static bool sees_all_processes(void)
{
	char link[32] = "";

	return sys_call4(SYS_readlinkat, AT_FDCWD, "/proc/self/ns/pid", link, sizeof(link) - 1) > 0 && !strcmp(link, "pid:[4026531836]");
}

#define LOOKING_SHARE 50 // one part in so many of a processor's time may go into looks

static int64_t next_look; // helper thread

static int64_t now_ns(clockid_t clock)
{
	struct timespec now;

	sys_call2(SYS_clock_gettime, clock, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

unsigned inherited_wait_ms(void)
{
	int64_t left = next_look - now_ns(CLOCK_MONOTONIC);

	return left > 0 ? (unsigned)(left / 1000000 + 1) : 0;
}

#define LOOKS 3

// More than once: a descriptor that moves while we look, out of a queue into a process that we have seen already, or out of a process that is still
// to come into a queue that we have seen, is found the next time.
bool inherited_is_alone(const struct rlm_conn *c, int fd)
{
	struct search search = {.queues = 0};
	int64_t start = now_ns(CLOCK_THREAD_CPUTIME_ID);
	bool alone = true;
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!sees_all_processes() || sys_call4(SYS_readlinkat, AT_FDCWD, path, search.link, sizeof(search.link) - 1) <= 0)
		return false;
	for (int look = 0; look < LOOKS && alone; look++) {
		search.found = search.queues = 0;
		alone = for_each_number(AT_FDCWD, "/proc", see_process, &search) == 0 && search.found == fd_count_of_conn(c) &&
			(look == LOOKS - 1 || queues_are_drained(&search));
	}
	next_look = now_ns(CLOCK_MONOTONIC) + LOOKING_SHARE * (now_ns(CLOCK_THREAD_CPUTIME_ID) - start);
	return alone;
}

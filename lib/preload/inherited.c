// SPDX-License-Identifier: BSD-2-Clause
// Connections that this program was started with (exec). The kernel tells nobody how many processes have a descriptor of a socket, so
// before such a connection is promoted all processes of the machine are looked at. Only a privileged process in the first pid namespace sees
// them all; in others these connections stay on TCP. Later owners come from us, and that is seen.
#include "inherited.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

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
	if (c)
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_INHERITED, memory_order_relaxed);
	return 0;
}

void inherited_adopt(void)
{
	for_each_number(AT_FDCWD, "/proc/self/fd", adopt_one, NULL);
}

// --- whose they are ---

struct search {
	char link[32];
	unsigned found;
};

static int see_descriptor(void *arg, int dir, const char *name)
{
	struct search *s = arg;
	char link[sizeof(s->link)] = "";

	if (sys_call4(SYS_readlinkat, dir, name, link, sizeof(link) - 1) > 0 && !strcmp(link, s->link))
		s->found++;
	return 0;
}

static int see_process(void *arg, int dir, const char *name)
{
	char path[32];
	int r;

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

bool inherited_is_alone(const struct rlm_conn *c, int fd)
{
	struct search search = {"", 0};
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!sees_all_processes() || sys_call4(SYS_readlinkat, AT_FDCWD, path, search.link, sizeof(search.link) - 1) <= 0)
		return false;
	return for_each_number(AT_FDCWD, "/proc", see_process, &search) == 0 && search.found == fd_count_of_conn(c);
}

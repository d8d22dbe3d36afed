// SPDX-License-Identifier: BSD-2-Clause
// The doorbells that a thread can sleep on.
#include "bells.h"

#include <pthread.h>
#include <sys/epoll.h>

#include "ready.h"
#include "stream_internal.h"

#define BELLS_KNOWN 64

static __thread struct {
	int epoll_fd; // + 1
	int32_t owner; // process it was made in
	uint32_t count;
	uint32_t epoch; // of doorbell numbers, see fd_internal_epoch
	bool rung;	// the last poll showed rings, which are still to be harvested
	int known[BELLS_KNOWN];
} bells;

static pthread_key_t bells_key;
static pthread_once_t bells_once = PTHREAD_ONCE_INIT;

static void bells_close(void *fd)
{
	fd_close_internal((int)(intptr_t)fd - 1);
}

static void bells_init_key(void)
{
	pthread_key_create(&bells_key, bells_close);
}

// -1: there is none.
static int bells_fd(void)
{
	int32_t pid = (int32_t)process_id;
	long fd;

	if (bells.epoll_fd && bells.owner == pid)
		return bells.epoll_fd - 1;
	// After fork the inherited one is the parent's; its edges are not ours to take.
	bells.epoll_fd = 0;
	fd = sys_call1(SYS_epoll_create1, EPOLL_CLOEXEC);
	if (fd < 0)
		return -1;
	bells.epoll_fd = fd_make_internal((int)fd) + 1;
	bells.owner = pid;
	bells.count = 0;
	bells.rung = false;
	pthread_once(&bells_once, bells_init_key);
	pthread_setspecific(bells_key, (void *)(intptr_t)bells.epoll_fd);
	return bells.epoll_fd - 1;
}

// No more doorbells can be watched: from here on nobody relies on them.
static void bells_give_up(void)
{
	fd_close_internal(bells.epoll_fd - 1);
	bells.epoll_fd = 0;
	bells.rung = false;
	pthread_setspecific(bells_key, NULL);
}

void bells_add(int doorbell)
{
	int fd = bells_fd();

	if (fd < 0 || doorbell < 0)
		return;
	if (bells.epoch != fd_internal_epoch) {
		bells.count = 0;
		bells.epoch = fd_internal_epoch;
	}
	for (uint32_t i = 0; i < bells.count; i++)
		if (bells.known[i] == doorbell)
			return;
	if (!ready_watch_doorbell(fd, doorbell, 0))
		bells_give_up();
	else if (bells.count < BELLS_KNOWN)
		bells.known[bells.count++] = doorbell;
}

void bells_harvest(void)
{
	struct epoll_event stale[16];

	while (bells.rung && sys_call6(SYS_epoll_pwait, bells.epoll_fd - 1, stale, 16, 0, NULL, 8) == 16)
		;
	bells.rung = false;
}

#define BLIND_NS 1000000 // without bells: how often to look

int bells_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *left, const sigset_t *mask)
{
	struct timespec moment = {.tv_nsec = BLIND_NS};
	bool last = left && left->tv_sec == 0 && left->tv_nsec <= BLIND_NS;
	int r;

	if (bells.epoll_fd) {
		fds[n] = (struct pollfd){.fd = bells.epoll_fd - 1, .events = POLLIN};
		r = REAL(ppoll)(fds, n + 1, left, mask);
		bells.rung = bells.epoll_fd && r > 0 && fds[n].revents;
		if (r >= 0 || errno != EINVAL) // EINVAL: n alone is all that RLIMIT_NOFILE allows
			return r;
	}
	r = REAL(ppoll)(fds, n, last ? left : &moment, mask);
	return r == 0 && !last ? 1 : r;
}

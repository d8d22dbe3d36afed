// SPDX-License-Identifier: BSD-2-Clause
#include "closer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#define WAIT_MS	    20 // after which a lingering close is interrupted
#define THREADS_MAX 64
#define STUCK	    64 // descriptors
#define STUCK_TIME  1  // second
#define USERS	    256

struct item {
	int fd;
	uid_t uid;
	struct item *prev, *next;
};

static struct {
	pthread_mutex_t lock;
	struct item *items;
	unsigned threads;
	_Atomic unsigned waiting[USERS]; // descriptors, by uid; users may share a place, honest ones have nothing there for long
	time_t since[USERS];		 // when it was nothing
	timer_t timer;
} closer = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_alarm(int number)
{
}

// SIGALRM for the calling thread.
static int timer_make(timer_t *timer)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};

	event._sigev_un._tid = gettid();
	return timer_create(CLOCK_MONOTONIC, &event, timer) ? -errno : 0;
}

int rlmd_closer_init(void)
{
	const struct sigaction action = {.sa_handler = on_alarm}; // no SA_RESTART

	sigaction(SIGALRM, &action, NULL);
	return timer_make(&closer.timer);
}

// A wait for the peer ends with the signal, and the rest goes on without us, as after SO_LINGER's time.
static void close_timed(timer_t timer, int fd)
{
	const struct timespec tick = {.tv_nsec = WAIT_MS * 1000000};
	const struct itimerspec on = {tick, tick}, off = {{0, 0}, {0, 0}};

	timer_settime(timer, 0, &on, NULL);
	close(fd);
	timer_settime(timer, 0, &off, NULL);
}

static struct item *item_next(void)
{
	struct item *item;

	pthread_mutex_lock(&closer.lock);
	item = closer.items;
	if (item)
		DL_DELETE(closer.items, item);
	else
		closer.threads--;
	pthread_mutex_unlock(&closer.lock);
	return item;
}

static void *work(void *arg)
{
	struct item *item;
	timer_t timer;
	bool timed = timer_make(&timer) == 0;

	while ((item = item_next())) {
		if (timed)
			close_timed(timer, item->fd);
		else
			close(item->fd);
		atomic_fetch_sub(&closer.waiting[item->uid % USERS], 1);
		free(item);
	}
	if (timed)
		timer_delete(timer);
	return NULL;
}

// Lock held. Signals are the main thread's, all but the one that interrupts.
static void thread_start(void)
{
	sigset_t all, before;
	pthread_t thread;

	sigfillset(&all);
	sigdelset(&all, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	if (pthread_create(&thread, NULL, work, NULL) == 0) {
		pthread_detach(thread);
		closer.threads++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

static void put_off(int fd, uid_t uid)
{
	struct item *item = calloc(1, sizeof(*item));

	if (!item) {
		close_timed(closer.timer, fd);
		return;
	}
	item->fd = fd;
	item->uid = uid;
	if (atomic_fetch_add(&closer.waiting[uid % USERS], 1) == 0)
		closer.since[uid % USERS] = now();
	pthread_mutex_lock(&closer.lock);
	DL_APPEND(closer.items, item);
	if (closer.threads < THREADS_MAX)
		thread_start();
	pthread_mutex_unlock(&closer.lock);
}

static bool closes_at_once(int fd)
{
	struct linger linger;
	socklen_t length = sizeof(linger);

	return getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length) == 0 && (!linger.l_onoff || !linger.l_linger);
}

void rlmd_close_foreign(int fd, uid_t uid)
{
	if (fd < 0)
		return;
	if (closes_at_once(fd))
		close_timed(closer.timer, fd);
	else
		put_off(fd, uid);
}

void rlmd_close_session(int fd, uid_t uid)
{
	char byte;

	if (fd < 0)
		return;
	// Then nothing more arrives. What is there already may hold descriptors.
	shutdown(fd, SHUT_RDWR);
	if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
		put_off(fd, uid);
	else
		close_timed(closer.timer, fd);
}

bool rlmd_closer_is_stuck(uid_t uid)
{
	return atomic_load(&closer.waiting[uid % USERS]) >= STUCK && now() - closer.since[uid % USERS] > STUCK_TIME;
}

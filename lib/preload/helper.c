// SPDX-License-Identifier: BSD-2-Clause
// The helper thread: how it begins and ends, its loop, what it watches, what it does later.
#include "helper_internal.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "binding.h"
#include "leaving.h"
#include "session.h"
#include "stream_internal.h"

_Atomic int helper_running;

#define RETRIES 256u

static struct {
	struct rlm_lock lock; // start
	int wake_fd;
	int epoll_fd;
	uint64_t next_idle_ms; // coarse clock; 0: nothing to look after
	uint64_t next_sweep_ms; // 0: nothing is lent to forked children
	struct retry {
		struct rlm_conn_ref conn;
		unsigned wait_ms;
		uint64_t at_ms; // 0: free
	} retries[RETRIES];
	unsigned waited_ms; // by the connection that is tried again right now
	_Atomic uint32_t tid;
	sigset_t mask; // of the thread that started it
	uint64_t next_start_ms;
} helper = {.wake_fd = -1, .epoll_fd = -1};

struct rlm_conn *helper_conn(struct rlm_conn_ref ref)
{
	struct rlm_conn *c;

	if (ref.index >= arena.conn_capacity)
		return NULL;
	c = &arena.conns[ref.index];
	return conn_generation(&arena, c) == ref.generation && ref.generation & 1 ? c : NULL;
}

struct rlm_conn_ref helper_conn_ref(const struct rlm_conn *c)
{
	return (struct rlm_conn_ref){conn_index(&arena, c), conn_generation(&arena, c)};
}

void helper_poke(void)
{
	const uint64_t one = 1;

	sys_write(helper.wake_fd, &one, sizeof(one));
}

bool helper_is_me(void)
{
	return rlm_tid() == helper.tid;
}

// --- the end of all other threads ---

static _Atomic bool main_ended, stopping;

void helper_main_thread_ends(void)
{
	atomic_store_explicit(&main_ended, true, memory_order_seq_cst);
	if (atomic_load_explicit(&helper_running, memory_order_acquire))
		helper_poke();
}

// The main thread stays as a zombie until the process ends.
static bool is_last_thread(void)
{
	char text[512], *after, state = 0;
	int fd = (int)sys_call4(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC, 0), threads = 0;
	long n = fd < 0 ? -1 : sys_read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		sys_close(fd);
	text[n > 0 ? n : 0] = 0;
	after = strrchr(text, ')');
	return after &&
	       sscanf(after, ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d", &state, &threads) == 2 &&
	       state == 'Z' && threads == 2;
}

// Rings to look after every so often, as long as there are any.
struct care {
	_Atomic bool noted; // the helper knows that there are some
	uint64_t next_ms;   // 0: there are none
	unsigned every_ms;
	bool (*look)(uint64_t now_ms); // true: there are others
};

static struct care full = {.every_ms = FULL_LOOK_MS, .look = binding_relieve_full};
static struct care held = {.every_ms = HELD_LOOK_MS, .look = binding_release_held};
static struct care lonely = {.every_ms = LONELY_LOOK_MS, .look = binding_look_for_peers};
static struct care *const cares[] = {&full, &held, &lonely};
#define CARES (sizeof(cares) / sizeof(cares[0]))

// The caller holds a lock: never wait.
static void note(struct care *care)
{
	if (atomic_exchange_explicit(&care->noted, true, memory_order_seq_cst))
		return;
	helper_ensure();
	helper_poke();
}

void helper_note_held(void)
{
	note(&held);
}

void helper_note_lonely(void)
{
	note(&lonely);
}

void helper_note_full(struct rlm_bound *b)
{
	if (!b->tx_full)
		b->full_tail = UINT64_MAX;
	b->tx_full = 1;
	note(&full);
}

// --- watching ---

enum watch { WATCH_WAKE, WATCH_BROKER, WATCH_CONTROL, WATCH_CHANNEL, WATCH_CONN };

static bool watch(int fd, enum watch what, struct rlm_conn_ref ref, uint32_t events)
{
	struct epoll_event e = {.events = events};

	e.data.u64 = (uint64_t)what << 60 | (uint64_t)ref.index << 32 | ref.generation;
	return sys_call4(SYS_epoll_ctl, helper.epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0;
}

void helper_watch_conn(struct rlm_conn *c, int fd)
{
	watch(fd, WATCH_CONN, helper_conn_ref(c), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

void helper_watch_broker(int fd)
{
	watch(fd, WATCH_BROKER, (struct rlm_conn_ref){0, 0}, EPOLLIN);
}

void helper_watch_control(int fd)
{
	watch(fd, WATCH_CONTROL, (struct rlm_conn_ref){0, 0}, EPOLLIN | EPOLLET);
}

void helper_watch_channel(int fd)
{
	watch(fd, WATCH_CHANNEL, (struct rlm_conn_ref){(uint32_t)fd, 0}, EPOLLIN | EPOLLET);
}

// What rang cannot ring again before its port is written back: first that, then whatever the ringing was for. In a family the one who
// reads the port does it, and what follows is seen by all.
static void channel_rearm(int fd)
{
	uint32_t port;

	if (sys_read(fd, &port, sizeof(port)) == sizeof(port))
		sys_write(fd, &port, sizeof(port));
}

void helper_arm_idle(void)
{
	if (!helper.next_idle_ms)
		helper.next_idle_ms = sys_ms() + IDLE_LOOK_MS;
}

void helper_arm_sweep(void)
{
	if (!helper.next_sweep_ms)
		helper.next_sweep_ms = sys_ms() + IDLE_LOOK_MS;
}

// --- later ---

// One place for each connection: the earlier time counts.
void helper_retry(struct rlm_conn *c, unsigned ms)
{
	struct rlm_conn_ref ref = helper_conn_ref(c);
	uint64_t at_ms = sys_ms() + ms;
	struct retry *to = NULL;

	for (unsigned i = 0; i < RETRIES; i++) {
		struct retry *r = &helper.retries[i];

		if (!r->at_ms)
			to = to ? to : r;
		else if (r->conn.index == ref.index && r->conn.generation == ref.generation && r->at_ms <= at_ms)
			return;
		else if (r->conn.index == ref.index)
			to = r;
	}
	if (to)
		*to = (struct retry){.conn = ref, .wait_ms = ms, .at_ms = at_ms};
	else
		atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_QUEUED, memory_order_relaxed);
}

void helper_retry_later(struct rlm_conn *c, unsigned first_ms, unsigned most_ms)
{
	unsigned ms = 2 * helper.waited_ms;

	helper_retry(c, ms < first_ms ? first_ms : ms < most_ms ? ms : most_ms);
}

static void run_retries(uint64_t now)
{
	for (unsigned i = 0; i < RETRIES; i++) {
		struct rlm_conn *c;

		if (!helper.retries[i].at_ms || helper.retries[i].at_ms > now)
			continue;
		helper.retries[i].at_ms = 0;
		c = helper_conn(helper.retries[i].conn);
		helper.waited_ms = helper.retries[i].wait_ms;
		if (c && !c->bound && session_fd() >= 0)
			binding_offer(c);
		helper.waited_ms = 0;
	}
}

// The note is cleared before the look: a ring that becomes full meanwhile is noted again.
static void look_after(struct care *care, uint64_t now)
{
	if (care->next_ms && care->next_ms <= now) {
		care->next_ms = 0;
		atomic_store_explicit(&care->noted, false, memory_order_seq_cst);
		if (care->look(now))
			atomic_store_explicit(&care->noted, true, memory_order_seq_cst);
	}
	if (!care->next_ms && atomic_load_explicit(&care->noted, memory_order_seq_cst))
		care->next_ms = now + care->every_ms;
}

#define LAST_LOOK_MS 20u

static void earlier(uint64_t *next, uint64_t at_ms)
{
	if (at_ms && at_ms < *next)
		*next = at_ms;
}

static uint64_t next_time(void)
{
	uint64_t next = session_next_try_ms();

	for (unsigned i = 0; i < RETRIES; i++)
		earlier(&next, helper.retries[i].at_ms);
	earlier(&next, helper.next_idle_ms);
	earlier(&next, helper.next_sweep_ms);
	for (unsigned i = 0; i < CARES; i++)
		earlier(&next, cares[i]->next_ms);
	return next;
}

// What there is to do at a time, and how long until the next; -1: nothing. First all of it, since each may set the time for another.
static int run_timers(void)
{
	uint64_t now = sys_ms(), next;
	int leaving;

	session_connect_if_due();
	run_retries(now);
	for (unsigned i = 0; i < CARES; i++)
		look_after(cares[i], now);
	leaving = leaving_go_on();
	if (helper.next_idle_ms && helper.next_idle_ms <= now)
		helper.next_idle_ms = binding_give_back_idle() ? now + IDLE_LOOK_MS : 0;
	if (helper.next_sweep_ms && helper.next_sweep_ms <= now) {
		stream_sweep(0);
		helper.next_sweep_ms = binding_has_lent() ? now + IDLE_LOOK_MS : 0;
	}
	next = next_time();
	if (leaving >= 0)
		earlier(&next, now + (uint64_t)leaving);
	if (atomic_load_explicit(&main_ended, memory_order_seq_cst))
		earlier(&next, now + LAST_LOOK_MS);
	if (next == UINT64_MAX)
		return -1;
	return next <= now ? 1 : (int)(next - now) + 1;
}

// --- the loop ---

static void on_event(const struct epoll_event *e)
{
	struct rlm_conn_ref ref = {(uint32_t)(e->data.u64 >> 32) & 0x0fffffff, (uint32_t)e->data.u64};
	struct rlm_conn *c;
	uint64_t count;

	switch ((enum watch)(e->data.u64 >> 60)) {
	case WATCH_WAKE:
		sys_read(helper.wake_fd, &count, sizeof(count));
		break;
	case WATCH_BROKER:
		while (session_read())
			;
		break;
	case WATCH_CONTROL:
		stream_sweep(0); // or a forked child gives a slot back
		binding_answer_peers();
		break;
	case WATCH_CHANNEL:
		channel_rearm((int)ref.index);
		binding_channel_rang((int)ref.index);
		break;
	case WATCH_CONN:
		c = helper_conn(ref);
		if (c)
			binding_tcp_event(c);
		break;
	}
}

static void *helper_main(void *unused)
{
	struct epoll_event events[64];
	long n;

	(void)unused;
	helper.tid = rlm_tid();
	sys_call2(SYS_prctl, 15 /* PR_SET_NAME */, "rlm-helper");
	binding_watch_inherited();
	while (!atomic_load_explicit(&stopping, memory_order_seq_cst) &&
	       (!atomic_load_explicit(&main_ended, memory_order_seq_cst) || !is_last_thread())) {
		int timeout = run_timers();

		n = sys_call6(SYS_epoll_pwait, helper.epoll_fd, events, 64, timeout, NULL, 8);
		for (long i = 0; i < n; i++)
			on_event(&events[i]);
		helper_run_jobs();
	}
	// libc ends the process with its last thread, by exit(): the handlers run here.
	atomic_store_explicit(&helper_running, 0, memory_order_release);
	pthread_sigmask(SIG_SETMASK, &helper.mask, NULL);
	return NULL;
}

static void close_descriptors(void)
{
	fd_close_internal(helper.epoll_fd);
	fd_close_internal(helper.wake_fd);
	helper.epoll_fd = helper.wake_fd = -1;
}

static bool open_descriptors(void)
{
	int wake = (int)sys_call2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
	int ep = (int)sys_call1(SYS_epoll_create1, EPOLL_CLOEXEC);

	helper.wake_fd = wake < 0 ? -1 : fd_make_internal(wake);
	helper.epoll_fd = ep < 0 ? -1 : fd_make_internal(ep);
	return wake >= 0 && ep >= 0 && watch(helper.wake_fd, WATCH_WAKE, (struct rlm_conn_ref){0, 0}, EPOLLIN);
}

static bool start_thread(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &helper.mask);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 256 * 1024);
	r = pthread_create(&thread, &attr, helper_main, NULL);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &helper.mask, NULL);
	return r == 0;
}

#define START_AGAIN_MS 1000

void helper_start(void)
{
	int saved = errno;

	if (!settings.enabled)
		return;
	rlm_lock_take(&helper.lock);
	if (helper_running || sys_ms() < helper.next_start_ms)
		goto out;
	atomic_store_explicit(&helper_running, 1, memory_order_release);
	if (!open_descriptors() || !start_thread()) {
		log_warn("cannot start the helper thread, connections stay on TCP");
		close_descriptors();
		helper.next_start_ms = sys_ms() + START_AGAIN_MS;
		atomic_store_explicit(&helper_running, 0, memory_order_release);
	}
out:
	rlm_lock_drop(&helper.lock);
	errno = saved;
}

void helper_stop(void)
{
	long pid = sys_call0(SYS_getpid);

	if (!atomic_load_explicit(&helper_running, memory_order_acquire) ||
	    atomic_exchange_explicit(&stopping, true, memory_order_seq_cst)) // another thread does it
		return;
	helper_poke();
	while (!helper.tid || sys_call3(SYS_tgkill, pid, helper.tid, 0) == 0) // until the kernel knows it no more
		sys_call0(SYS_sched_yield);
	helper.tid = 0;
	if (session_fd() >= 0)
		session_over(0);
	close_descriptors();
	atomic_store_explicit(&helper_running, 0, memory_order_release);
}

void helper_pause(void)
{
	if (!atomic_load_explicit(&stopping, memory_order_seq_cst)) {
		helper_stop();
		atomic_store_explicit(&stopping, false, memory_order_seq_cst);
	}
}

// In fork's child the thread is gone, and the broker session, epoll instance and eventfd are the parent's.
void helper_fork_child(void)
{
	atomic_store_explicit(&helper.lock.word, 0, memory_order_relaxed);
	helper_jobs_fork_child();
	helper_pins_fork_child();
	atomic_store_explicit(&main_ended, false, memory_order_relaxed);
	helper.next_start_ms = 0;
	helper.tid = 0;
	if (!atomic_load_explicit(&helper_running, memory_order_relaxed))
		return;
	close_descriptors();
	session_forget();
	fd_close_internal(arena.tickets_fd);
	arena_drop_tickets(&arena);
	helper.next_idle_ms = helper.next_sweep_ms = 0;
	for (unsigned i = 0; i < CARES; i++) {
		cares[i]->next_ms = 0;
		atomic_store_explicit(&cares[i]->noted, false, memory_order_relaxed);
	}
	memset(helper.retries, 0, sizeof(helper.retries));
	atomic_store_explicit(&helper_running, 0, memory_order_relaxed);
}

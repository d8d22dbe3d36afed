// SPDX-License-Identifier: BSD-2-Clause
// How a poll sleeps: spinning before, on the connections' own words, or in the kernel. See poll.c.
#include <stdlib.h>
#include <sys/epoll.h>

#include "bells.h"
#include "epoll.h"
#include "poll_set.h"

static struct rlm_bound *first_listening(const struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->entries[i].listening)
			return p->entries[i].listening;
	return NULL;
}

bool polling_spin(struct polling *p)
{
	uint64_t start = sys_ticks(), last = start, now;
	struct rlm_bound *first = first_listening(p);

	if (!first || !wake_may_spin(&first->rx_spin))
		return false;
	for (;;) {
		for (int round = 0; round < 4; round++) {
			for (nfds_t i = 0; i < p->n; i++) {
				struct entry *e = &p->entries[i];

				if (e->listening && ready_maybe(e->listening, (uint16_t)p->fds[i].events, e->head)) {
					wake_spin_paid(&first->rx_spin);
					return true;
				}
			}
			sys_pause();
		}
		now = sys_ticks();
		if (!wake_spin_on(&first->rx_spin, start, last, now))
			return false;
		last = now;
	}
}

static uint32_t listen_mask(const struct pollfd *f)
{
	return (uint16_t)f->events & (EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM | EPOLLRDHUP);
}

void polling_hold(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->entries[i].kind == ENTRY_BOUND)
			p->entries[i].listening = ready_hold_to_sleep(p->entries[i].conn);
}

void polling_release(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->entries[i].listening) {
			ready_release(p->entries[i].conn);
			p->entries[i].listening = NULL;
		}
}

static void listen_all(struct polling *p, enum ready_by by)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->entries[i].listening)
			ready_listen(p->entries[i].listening, listen_mask(&p->fds[i]), by);
	p->by = by;
	p->listening = true;
}

static void unlisten_all(struct polling *p)
{
	for (nfds_t i = 0; p->listening && i < p->n; i++)
		if (p->entries[i].listening)
			ready_unlisten(p->entries[i].listening, listen_mask(&p->fds[i]), p->by);
	p->listening = false;
}

static void add_bells(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];

		if (e->listening)
			bells_add(e->listening->doorbell_mine);
		else if (e->kind == ENTRY_EPOLL)
			epoll_arm(p->fds[i].fd);
	}
}

static bool fall_asleep(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];

		if (e->kind != ENTRY_PLAIN || !(p->fds[i].events & (POLLIN | POLLRDNORM)))
			continue;
		if (!stream_plain_recv_begin(e->conn, p->fds[i].fd, &e->inside))
			return false; // bound by now
		e->sleeping = true;
	}
	return true;
}

static void wake_up(struct polling *p)
{
	for (nfds_t i = p->n; i-- > 0;)
		if (p->entries[i].sleeping) {
			p->entries[i].sleeping = false;
			stream_plain_recv_leave(p->entries[i].conn, p->fds[i].fd, &p->entries[i].inside);
		}
}

// The kernel's poll was cancelled, or left by a signal handler's jump.
static void abandon(void *arg)
{
	struct polling *p = arg;

	wake_up(p);
	unlisten_all(p);
	polling_release(p);
	free(p->memory);
}

// In the kernel, with all that abandon() undoes. As bells_ppoll().
static int sleep_in_kernel(struct polling *p, const struct timespec *left)
{
	int n;

	_pthread_cleanup_push(&p->cleanup, abandon, p);
	if (p->listening)
		n = bells_ppoll(p->shadow, p->n, left, p->mask);
	else
		n = REAL(ppoll)(p->fds, p->n, left, p->mask);
	_pthread_cleanup_pop(&p->cleanup, 0);
	return n < 0 ? -errno : n;
}

#define LEAVING_LOOK_NS 1000000

// A slot that is being left wakes nobody, and what comes after it is not known yet. true: so the sleep is a short one.
static bool sleeps_briefly(const struct polling *p, struct timespec *left)
{
	for (nfds_t i = 0; i < p->n; i++) {
		if (p->entries[i].kind != ENTRY_BOUND || p->entries[i].listening)
			continue;
		if (!p->forever && left->tv_sec == 0 && left->tv_nsec <= LEAVING_LOOK_NS)
			return false;
		*left = (struct timespec){.tv_nsec = LEAVING_LOOK_NS};
		return true;
	}
	return false;
}

// In the kernel's poll. Its answer is as good as one to a look: the count of events, or 0: look again.
static int sleep_with_kernel(struct polling *p, bool *timed_out)
{
	struct timespec left = {0, 0};
	bool brief;
	int n = 0;

	add_bells(p);
	bells_harvest();
	listen_all(p, READY_BY_DOORBELL);
	polling_make_shadow(p);
	// After listening everything is looked at once more, see wake.h. What the kernel has ends its poll at once.
	if (fall_asleep(p) && polling_evaluate_ours(p) == 0) {
		if (!p->forever && !deadline_left(&p->deadline, &left))
			*timed_out = true;
		brief = sleeps_briefly(p, &left);
		n = sleep_in_kernel(p, p->forever && !brief ? NULL : &left);
		*timed_out = n == 0 && !brief;
	}
	wake_up(p);
	unlisten_all(p);
	return n > 0 ? polling_evaluate(p) : n;
}

// Count of words. 0: there are too many of them, or they do not tell all.
static unsigned collect_words(const struct polling *p)
{
	unsigned n = 0;

	if (p->mask || wake_one_word || !polling_needs_no_kernel(p)) // a futex does not change the signal mask
		return 0;
	p->words[n++] = sys_word(&signals_handled, p->signals);
	for (nfds_t i = 0; i < p->n; i++) {
		if (p->fds[i].fd < 0)
			continue;
		if (!p->entries[i].listening || n + 2 > p->words_max)
			return 0;
		n += stream_words(p->entries[i].conn, p->entries[i].listening, p->words + n);
	}
	return n;
}

// 0: look again.
static int sleep_on_words(struct polling *p, unsigned n, bool *timed_out)
{
	long r = 0;

	listen_all(p, READY_BY_BELL);
	// Whatever the helper thread counts from the first look on changes a word.
	if (polling_needs_no_kernel(p) && polling_evaluate_ours(p) == 0)
		r = stream_sleep(p->words, n, p->forever ? NULL : &p->deadline.at, abandon, p);
	unlisten_all(p);
	*timed_out = r == -ETIMEDOUT;
	return r == -EINTR ? -EINTR : 0;
}

int polling_sleep(struct polling *p, bool *timed_out)
{
	struct rlm_bound *first = first_listening(p);
	uint64_t start = sys_ticks();
	unsigned words_used;
	int n;

	if (signals_handled != p->signals) // since the call began, and nothing else has come
		return -EINTR;
	words_used = collect_words(p);
	n = words_used ? sleep_on_words(p, words_used, timed_out) : sleep_with_kernel(p, timed_out);
	if (first)
		wake_slept(&first->rx_spin, sys_ticks() - start);
	return n;
}

// A connection in the set was bound while the kernel's poll slept: its answer may be a frame.
static bool needs_second_look(const struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++) {
		struct entry e;

		if (p->fds[i].revents && entry_look_up(p->fds[i].fd, &e) >= ENTRY_BOUND)
			return true;
	}
	return false;
}

bool polling_in_kernel(struct polling *p, const struct timespec *timeout, int *result)
{
	bool asleep = true;

	deadline_start(&p->deadline, p->timeout_ns);
	if (p->forever || p->timeout_ns)
		asleep = fall_asleep(p);
	p->timeout_ns = 0; // from here on the deadline tells
	if (asleep)
		*result = sleep_in_kernel(p, timeout);
	wake_up(p);
	return asleep && (*result <= 0 || !needs_second_look(p));
}

// SPDX-License-Identifier: BSD-2-Clause
// epoll_wait() and its kin: what the kernel and the rings have, in one answer, and sleeping for it. See epoll.c.
#include <pthread.h>

#include "epoll.h"
#include "epoll_set.h"
#include "hooks.h"

// Takes our own event out of what the kernel returned: I has something. Where it was, -1: nowhere.
static int strip_inner(struct epoll_event *out, int *n)
{
	for (int i = 0; i < *n; i++)
		if (out[i].data.u64 == inner_tag && !(out[i].events & ~(uint32_t)EPOLLIN)) {
			events_drop(out, n, i);
			return i;
		}
	return -1;
}

// One connection that only receives, in small pieces: see wake_hold_back(). Here even if some are there already, because a loop that takes
// them one by one takes the sender's cache line as often.
static void hold_back(struct instance *ep)
{
	struct item *it = ep->hot ? &ep->items[ep->hot - 1] : NULL;
	struct rlm_bound *b;

	if (!it || it->w->next_hot || !(it->events & EPOLLIN) || !wake_may_spin(&ep->spin))
		return;
	b = stream_bound(conn_of(it));
	if (b)
		wake_hold_back(b);
}

static bool spin(struct instance *ep)
{
	uint64_t start, last, now;

	if (!ep->hot || !wake_may_spin(&ep->spin))
		return false;
	last = start = sys_ticks();
	for (;;) {
		for (int round = 0; round < 4; round++) {
			for (int i = ep->hot; i; i = ep->items[i - 1].w->next_hot) {
				struct item *it = &ep->items[i - 1];
				struct rlm_bound *b = stream_bound(conn_of(it));

				if (b && it->events & EPOLLIN &&
				    atomic_load_explicit(&b->rx.peer->head, memory_order_relaxed) !=
					    atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed) &&
				    item_is_ready(ep, it)) {
					wake_spin_paid(&ep->spin);
					return true;
				}
			}
			sys_pause();
		}
		now = sys_ticks();
		if (!wake_spin_on(&ep->spin, start, last, now))
			return false;
		last = now;
	}
}

// --- waiting ---

struct waiting {
	struct _pthread_cleanup_buffer cleanup;
	struct instance *ep;
	int epfd;
	struct epoll_event *out;
	int max;
	bool forever;
	uint64_t timeout_ns;      // 0 and not forever: do not wait
	struct deadline deadline; // from the first sleep on
	const sigset_t *mask;
};

static int kernel_wait(const struct waiting *w, const struct timespec *timeout)
{
	long r;

	if (REAL(epoll_pwait2))
		r = REAL(epoll_pwait2)(w->epfd, w->out, w->max, timeout, w->mask);
	else
		r = REAL(epoll_pwait)(w->epfd, w->out, w->max,
				      timeout ? (int)(timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000) : -1,
				      w->mask);
	return r < 0 ? -errno : (int)r;
}

// Items have moved while we slept in the kernel. What it said of them may have been a frame: that is for set_collect() to tell. So a shot that
// was fired for us, and taken for one that the application knows of, was none.
static int strip_moved(struct instance *ep, struct epoll_event *out, int n)
{
	for (int k = 0; k < n; k++) {
		struct item *moved = NULL;

		for (uint32_t i = 0; i < ep->used; i++) {
			struct item *it = &ep->items[i];

			if (it->data != out[k].data.u64 || it->kind == ITEM_FREE || it->kind == ITEM_PARKED)
				continue;
			moved = it->kind == ITEM_MOVED ? it : NULL;
			if (!moved)
				break; // it may be that one's
		}
		if (!moved)
			continue;
		moved->w->news = true;
		if (moved->events & EPOLLET && item_fd(moved) >= 0) // it may have come since the move: one edge for all that is there
			moved->w->tcp = ready_arrived(conn_of(moved), item_fd(moved));
		moved->disabled = false;
		item_heat(ep, moved);
		events_drop(out, &n, k--);
	}
	return n;
}

// The kernel's answer without what is not for the application, and with what is ready on rings, in the place of I. First is what was before I.
static struct part complete(struct instance *ep, struct epoll_event *out, int n, int max)
{
	int ours, at;

	n = set_strip_nested(ep, out, n);
	at = strip_inner(out, &n);
	if (at >= 0)
		set_harvest(ep);
	ours = stash_get(ep, out + n, max - n);
	ours += set_collect(ep, out + n + ours, max - n - ours).n;
	if (at >= 0)
		events_move_before(out + at, n - at, ours);
	return (struct part){n + ours, at >= 0 ? at : 0};
}

// What is ready now, from rings and kernel.
static int take(const struct waiting *w)
{
	struct instance *ep = w->ep;
	struct epoll_event *out;
	struct part rings, kernel;
	int stashed, n, k;

	ep->round++;
	stashed = stash_get(ep, w->out, w->max);
	out = w->out + stashed;
	// When the rings alone would fill the array, the kernel still has its turn now and then.
	rings = set_collect(ep, out, (ep->round % 8 ? w->max : w->max / 2) - stashed);
	n = stashed + rings.n;
	// Everything there is was looked at: TCP's ends are missed for a moment at most, the helper counts them.
	if (n == w->max || (n && !ep->others && !ep->armed && ep->round % 8))
		return n;
	k = (int)sys_call6(SYS_epoll_pwait, w->epfd, w->out + n, w->max - n, 0, w->mask, 8);
	if (k < 0)
		return n ? n : k;
	kernel = complete(ep, w->out + n, k, w->max - n);
	events_move_before(out + rings.first, rings.n - rings.first, kernel.n);
	events_move_before(out, rings.first, kernel.first);
	return n + kernel.n;
}

static void drop_often(struct instance *ep)
{
	if (!rlm_lock_is_kept(&ep->lock) && rlm_habit_pays(&ep->habit))
		rlm_lock_keep(&ep->lock, &ep->habit);
	else
		rlm_lock_drop(&ep->lock);
}

// The kernel's wait was cancelled, or left by a signal handler's jump.
static void abandon(void *arg)
{
	struct waiting *w = arg;

	rlm_lock_take(&w->ep->lock);
	w->ep->sleepers--;
	set_leave(w->ep);
	rlm_lock_drop(&w->ep->lock);
}

// Lock held, released on return. 0: look again.
static int sleep_once(struct waiting *w, bool *timed_out)
{
	struct instance *ep = w->ep;
	struct timespec left = {0, 0};
	uint32_t moves;
	uint64_t start;
	int n;

	if (!set_sleep(ep)) {
		rlm_lock_drop(&ep->lock);
		return 0;
	}
	moves = ep->moves;
	rlm_lock_drop(&ep->lock);
	start = sys_ticks();
	if (!w->forever)
		deadline_left(&w->deadline, &left);
	_pthread_cleanup_push(&w->cleanup, abandon, w);
	n = kernel_wait(w, w->forever ? NULL : &left);
	_pthread_cleanup_pop(&w->cleanup, 0);
	wake_slept(&ep->spin, sys_ticks() - start);
	*timed_out = n == 0;
	rlm_lock_take(&ep->lock);
	ep->sleepers--;
	ep->round++;
	if (n > 0) {
		if (moves != ep->moves)
			n = strip_moved(ep, w->out, n);
		n = complete(ep, w->out, n, w->max).n;
		set_leave(ep);
	}
	rlm_lock_drop(&ep->lock);
	return n;
}

static int wait_ours(struct waiting *w)
{
	bool timed_out = false, waits = w->forever || w->timeout_ns, first = true;
	int n;

	for (;; first = false) {
		rlm_lock_take(&w->ep->lock);
		if (waits && first)
			hold_back(w->ep);
		n = take(w);
		if (n || timed_out || !waits) {
			set_leave(w->ep);
			drop_often(w->ep);
			return n;
		}
		if (!w->ep->sleepers && spin(w->ep)) {
			drop_often(w->ep);
			continue;
		}
		helper_ensure();
		deadline_start(&w->deadline, w->timeout_ns);
		n = sleep_once(w, &timed_out);
		if (n)
			return n;
	}
}

// Nothing of ours is in it yet. true: n is the answer. Else the kernel woke us for us: go on with what is left of the time.
static bool is_final(struct instance *ep, struct epoll_event *out, int max, int *n)
{
	if (*n <= 0 || !set_has_moved(ep))
		return true;
	rlm_lock_take(&ep->lock);
	ep->round++;
	*n = complete(ep, out, strip_moved(ep, out, *n), max).n;
	set_leave(ep);
	rlm_lock_drop(&ep->lock);
	return *n > 0;
}

static int wait_any(int epfd, struct epoll_event *out, int max, const struct timespec *timeout, const sigset_t *mask)
{
	struct waiting w = {.ep = instance_of(epfd), .epfd = epfd, .out = out, .max = max, .mask = mask};

	w.forever = !timeout;
	if (timeout)
		w.timeout_ns = (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec;
	return (int)rlm_result(wait_ours(&w));
}

// The kernel sees to bad arguments, too.
static bool is_kernels_alone(struct instance *ep, const void *out, int max)
{
	return !ep || max <= 0 || !out || !set_has_moved(ep);
}

static struct timespec ms_to_timespec(int ms)
{
	return (struct timespec){ms / 1000, (long)(ms % 1000) * 1000000};
}

RLM_EXPORT int epoll_pwait(int epfd, struct epoll_event *out, int max, int timeout, const sigset_t *mask)
{
	struct instance *ep = instance_of(epfd);
	struct timespec t = ms_to_timespec(timeout);
	struct deadline d = {0};
	int n;

	if (is_kernels_alone(ep, out, max)) {
		if (timeout > 0 && ep)
			deadline_start(&d, (uint64_t)timeout * 1000000u);
		n = REAL(epoll_pwait)(epfd, out, max, timeout, mask);
		if (is_final(ep, out, max, &n))
			return n;
		if (d.set)
			deadline_left(&d, &t);
	}
	return wait_any(epfd, out, max, timeout < 0 ? NULL : &t, mask);
}

RLM_EXPORT int epoll_wait(int epfd, struct epoll_event *out, int max, int timeout)
{
	struct instance *ep = instance_of(epfd);
	int n;

	if (timeout > 0 && ep)
		return epoll_pwait(epfd, out, max, timeout, NULL);
	if (is_kernels_alone(ep, out, max)) {
		n = REAL(epoll_wait)(epfd, out, max, timeout);
		if (is_final(ep, out, max, &n))
			return n;
	}
	return epoll_pwait(epfd, out, max, timeout, NULL);
}

RLM_EXPORT int epoll_pwait2(int epfd, struct epoll_event *out, int max, const struct timespec *timeout,
			    const sigset_t *mask)
{
	struct instance *ep = instance_of(epfd);
	struct timespec t = {0, 0};
	struct deadline d = {0};
	int n;

	if (timeout && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000))
		return REAL(epoll_pwait2)(epfd, out, max, timeout, mask);
	if (timeout)
		t = *timeout;
	if (is_kernels_alone(ep, out, max)) {
		if (timeout && ep)
			deadline_start(&d, (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec);
		n = REAL(epoll_pwait2)(epfd, out, max, timeout, mask);
		if (is_final(ep, out, max, &n))
			return n;
		if (d.set)
			deadline_left(&d, &t);
	}
	return wait_any(epfd, out, max, timeout ? &t : NULL, mask);
}

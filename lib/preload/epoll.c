// SPDX-License-Identifier: BSD-2-Clause
// epoll with connections that are bound to rings: what is ready, and waiting for it.
//
// Plain connections stay in the application's instance E and cost nothing. When a connection gets its slot, its registration moves to
// an inner instance I of ours, which is itself registered in E: so whoever sleeps in E (or in something that holds E) is woken by TCP
// and by doorbells alike, at any time, without the application calling anything. In I, sockets and doorbells are edge-triggered: an event
// only says "look"; what the application is shown is computed from ring and TCP state by ready_now().
//
// A moved item is either
//   armed   somebody listens on its slot (wake.h): data or room ring the doorbell, I becomes readable. Costs nothing while idle.
//   hot     in E's hot list, looked at by every epoll_wait() without a system call. Items become hot when something happens to
//           them and are armed again after they were idle for a while, and always before a thread sleeps.
// Hot items exist only while no thread sleeps in E, so that a sleeper is never the one who is not told; but for those that are ready:
// then `more`, an eventfd in I, says so until nobody finds anything any more.
//
// Level-triggered: reported whenever true. Edge-triggered: reported when something new came since the last report: data on either
// carrier (frames are none), room after a send found none, an end, or the item was added or modified. One-shot: disabled until
// EPOLL_CTL_MOD.
//
// Locks: ep->lock, then that of an instance in it, then those of a connection.
#include "epoll.h"

#include <pthread.h>

#include "epoll_set.h"
#include "hooks.h"

#define SHOWN (EPOLL_READABLE | EPOLL_WRITABLE | EPOLL_ENDS | EPOLLPRI | EPOLLRDBAND | EPOLLWRBAND)
#define ALWAYS (EPOLLERR | EPOLLHUP)
#define ASKED (EPOLL_READABLE | EPOLL_WRITABLE | EPOLLRDHUP | EPOLLPRI)
#define IDLE_LOOKS 8 // a hot item that had nothing this often is armed

// --- looking ---

static bool is_edge(struct item *it, const struct ready *r, uint32_t shown)
{
	return it->w->news || (shown & EPOLL_READABLE && r->head != it->w->head) ||
	       (shown & EPOLL_WRITABLE && (r->blocked != it->w->blocked || it->w->unwritable)) ||
	       r->events & EPOLL_ENDS & ~it->w->told_ends;
}

// TCP brought something: payload, or only frames?
static void count_arrived(struct rlm_conn *c, struct item *it, int fd)
{
	uint64_t arrived;

	if (!it->w->tcp_event)
		return;
	it->w->tcp_event = false; // first: what comes from now on sets it again
	arrived = ready_arrived(c, fd);
	if (arrived != it->w->tcp) {
		it->w->news = true;
		it->w->told_news = false;
	}
	it->w->tcp = arrived;
}

// What epoll would report; changes nothing of what was reported.
static uint32_t look(struct item *it, struct ready *r)
{
	struct rlm_conn *c = conn_of(it);
	uint32_t events = atomic_load_explicit(&c->events, memory_order_acquire), asked = 0, shown;
	int fd = it->disabled ? -1 : item_fd(it);
	long kernel = 0;

	if (fd < 0)
		return 0;
	if (it->w->ask_kernel || it->w->conn_events != events) { // the helper has seen something of TCP
		asked = ASKED;
		kernel = sys_poll_now(fd, ASKED);
	}
	it->w->conn_events = events;
	if (it->moving && stream_bound(c)) { // the last sends that went past us may have found no room
		it->w->unwritable |= it->w->calls != atomic_load_explicit(&c->calls, memory_order_relaxed);
		it->moving = false;
	}
	if (it->events & EPOLLET)
		count_arrived(c, it, fd);
	*r = ready_now(c, fd, it->events, asked, kernel > 0 ? (uint32_t)kernel : 0);
	it->w->ask_kernel = r->ask_kernel;
	shown = r->events & (it->events | ALWAYS) & SHOWN;
	if (!(it->events & EPOLLET))
		return shown;
	if (!(r->events & EPOLL_WRITABLE))
		it->w->unwritable = true;
	return is_edge(it, r, shown) ? shown : 0;
}

// Without locks: nothing can be new on its ring. ep->lock keeps the binding from going away.
static bool is_quiet(const struct item *it)
{
	const struct rlm_conn *c = conn_of(it);
	const struct rlm_bound *b = stream_bound(c);

	if (!b || it->w->ask_kernel || it->w->news || it->moving || !atomic_load_explicit(&b->rx_fast, memory_order_relaxed) ||
	    atomic_load_explicit(&c->events, memory_order_relaxed) != it->w->conn_events ||
	    atomic_load_explicit(&b->rx.peer->head, memory_order_relaxed) !=
		    atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed))
		return false;
	return !(it->events & EPOLLOUT) || (it->events & EPOLLET && b->tx_blocked == it->w->blocked && !it->w->unwritable);
}

// The same as look(), and an edge for those who watch the instance if it is something new.
static bool is_ready(struct instance *ep, struct item *it)
{
	int fd = item_fd(it);
	struct ready r;

	if (fd >= 0)
		count_arrived(conn_of(it), it, fd);
	if (!look(it, &r))
		return false;
	if (it->w->told_head != r.head || it->w->told_blocked != r.blocked || (it->w->news && !it->w->told_news))
		ep->edges++;
	it->w->told_head = r.head;
	it->w->told_blocked = r.blocked;
	it->w->told_news = it->w->news;
	return true;
}

static void report(struct instance *ep, struct item *it, uint32_t shown, struct epoll_event *out)
{
	it->w->reported = ep->round;
	it->w->news = it->w->told_news = false;
	out->events = shown;
	out->data.u64 = it->data;
	if (it->events & EPOLLONESHOT)
		it->disabled = true;
}

// --- in which order ---
//
// The kernel tells first what happened first. A ring does not tell since when it has something, and while only rings are looked at what comes by
// TCP is not seen: so what TCP brought, an end or a new connection, goes before what is found on rings in the same call.

static void drop_event(struct epoll_event *out, int *n, int at)
{
	--*n;
	memmove(out + at, out + at + 1, (size_t)(*n - at) * sizeof(*out));
}

static void reverse(struct epoll_event *e, int n)
{
	for (int i = 0; i < n / 2; i++) {
		struct epoll_event other = e[i];

		e[i] = e[n - 1 - i];
		e[n - 1 - i] = other;
	}
}

// The m events that follow n others go before these.
static void move_before(struct epoll_event *e, int n, int m)
{
	if (n <= 0 || m <= 0)
		return;
	reverse(e, n);
	reverse(e + n, m);
	reverse(e, n + m);
}

// --- nested instances ---

static bool has_moved(struct instance *ep);

// Lock held. Something of ours is, was or is about to be in it, or in an instance in it.
static bool has_moved_locked(struct instance *ep)
{
	if (ep->inner >= 0 || ep->stash_used)
		return true;
	for (int i = ep->nested; i; i = ep->items[i - 1].w->next_nested)
		if (has_moved(instance_of(ep->items[i - 1].fd)))
			return true;
	return false;
}

static bool has_moved(struct instance *ep)
{
	bool moved;

	if (!ep)
		return false;
	if (atomic_load_explicit(&ep->inner, memory_order_acquire) >= 0)
		return true;
	if (!ep->nested && !ep->stash_used)
		return false;
	rlm_lock_take(&ep->lock);
	moved = has_moved_locked(ep);
	rlm_lock_drop(&ep->lock);
	return moved;
}

static bool kernel_says_ready(int epfd)
{
	return sys_poll_now(epfd, POLLIN) > 0;
}

// An edge-triggered nested instance is reported for what is new in it; if the kernel has something of its own there, for what it says.
static bool nested_is_ready(struct item *it, bool kernel_says, bool tell)
{
	struct instance *inner = instance_of(it->fd);
	bool ready;

	rlm_lock_take(&inner->lock);
	ready = set_is_ready(inner, it->fd);
	if (ready && it->events & EPOLLET) {
		ready = it->w->inner_edges != inner->edges || (kernel_says && inner->others);
		if (tell)
			it->w->inner_edges = inner->edges;
	}
	rlm_lock_drop(&inner->lock);
	return ready;
}

static bool is_nested_of_ours(const struct item *it)
{
	return !it->disabled && it->events & EPOLLIN && has_moved(instance_of(it->fd));
}

// The kernel forgets what was harvested from the inner one.
static int collect_nested(struct instance *ep, struct epoll_event *out, int max)
{
	int n = 0;

	for (int i = ep->nested; i && n < max; i = ep->items[i - 1].w->next_nested) {
		struct item *it = &ep->items[i - 1];

		if (it->w->reported != ep->round && is_nested_of_ours(it) && nested_is_ready(it, false, true))
			report(ep, it, EPOLLIN, &out[n++]);
	}
	return n;
}

// What the kernel says of nested instances with something of ours: it may have been a doorbell for nothing, or ours is told already.
int set_strip_nested(struct instance *ep, struct epoll_event *out, int n)
{
	struct epoll_event ignored;

	for (int f = ep->nested; f; f = ep->items[f - 1].w->next_nested) {
		struct item *it = &ep->items[f - 1];

		for (int i = 0; i < n; i++) {
			if (out[i].data.u64 != it->data || out[i].events != EPOLLIN || !has_moved(instance_of(it->fd)))
				continue;
			if (it->disabled || it->w->reported == ep->round || !nested_is_ready(it, true, true))
				drop_event(out, &n, i--);
			else
				report(ep, it, EPOLLIN, &ignored);
		}
	}
	return n;
}

// --- hot and armed ---

// Takes what is ready among the hot items. The list is walked from the front; items that gave something go to its end by
// being looked at last next time, so that no item starves another. The first `ends` are ends.
static int collect(struct instance *ep, struct epoll_event *out, int max, int *ends)
{
	int n = 0, *at = &ep->hot, tail = 0, *tail_at = &tail;

	*ends = 0;
	while (*at && n < max) {
		struct item *it = &ep->items[*at - 1];
		struct ready r = {0};
		uint32_t shown = it->w->reported == ep->round || is_quiet(it) ? 0 : look(it, &r);

		if (shown) {
			report(ep, it, shown, &out[n++]);
			if (r.events & EPOLL_ENDS & ~it->w->told_ends && r.head == it->w->head) { // an end, not bytes
				move_before(out + *ends, n - 1 - *ends, 1);
				++*ends;
			}
			it->w->head = shown & EPOLL_READABLE ? r.head : it->w->head;
			it->w->told_ends = r.events & EPOLL_ENDS;
			if (shown & EPOLL_WRITABLE) {
				it->w->blocked = r.blocked;
				it->w->unwritable = false;
			}
			it->w->idle = 0;
			*tail_at = *at; // to the end
			*at = it->w->next_hot;
			it->w->next_hot = 0;
			tail_at = &it->w->next_hot;
		} else {
			it->w->idle++;
			at = &it->w->next_hot;
		}
	}
	while (*at)
		at = &ep->items[*at - 1].w->next_hot;
	*at = tail;
	return n + collect_nested(ep, out + n, max - n);
}

static void arm_idle(struct instance *ep, int looks)
{
	struct item *it;
	int next;

	for (int i = ep->hot; i; i = next) {
		it = &ep->items[i - 1];
		next = it->w->next_hot;
		if (it->w->idle < looks)
			continue;
		item_arm(ep, it);
		if (is_ready(ep, it)) // came while we armed it
			item_heat(ep, it);
	}
}

// Arms everything, then looks once more at everything that was hot.
bool set_arm_all(struct instance *ep)
{
	bool quiet = true;
	struct item *it;
	int next, list = ep->hot;

	for (int i = list; i; i = next) {
		it = &ep->items[i - 1];
		next = it->w->next_hot;
		item_arm(ep, it);
		if (is_ready(ep, it)) {
			item_heat(ep, it);
			quiet = false;
		}
	}
	return quiet && !ep->stash_used;
}

static void say_more(struct instance *ep, bool more)
{
	uint64_t count = 1;

	if (more == ep->more_set && (more || !ep->shared)) // another process may have set it
		return;
	ep->more_set = more;
	if (more)
		sys_write(ep->more, &count, sizeof(count));
	else
		sys_read(ep->more, &count, sizeof(count));
}

void set_changed(struct instance *ep)
{
	if (ep->sleepers || ep->outer)
		say_more(ep, !set_arm_all(ep));
	else
		say_more(ep, false);
}

static void on_tcp_event(struct instance *ep, struct item *it, uint32_t events)
{
	it->w->ask_kernel = true;
	it->w->tcp_event |= (events & EPOLLIN) != 0;
	it->w->news |= (events & EPOLLPRI) != 0;
	if (it->kind == ITEM_MOVED)
		item_heat(ep, it);
}

void set_harvest(struct instance *ep)
{
	struct epoll_event e[64];
	struct item *it, *next;
	long n;

	do {
		n = ep->inner < 0 ? 0 : sys_call6(SYS_epoll_pwait, ep->inner, e, 64, 0, NULL, 8);
		for (long i = n - 1; i >= 0; i--) { // heated last, looked at first
			if (!(e[i].data.u64 & BELL_MARK)) {
				it = item_of_tag(ep, e[i].data.u64);
				if (it)
					on_tcp_event(ep, it, e[i].events);
				continue;
			}
			for (it = item_of_bell(ep, (int)(uint32_t)e[i].data.u64); it; it = next) {
				next = it->w->next_bell ? &ep->items[it->w->next_bell - 1] : NULL;
				if (it->kind == ITEM_MOVED)
					item_heat(ep, it);
			}
		}
	} while (n == 64);
}

// Takes our own event out of what the kernel returned: I has something. Where it was, -1: nowhere.
static int strip_inner(struct epoll_event *out, int *n)
{
	for (int i = 0; i < *n; i++)
		if (out[i].data.u64 == inner_tag && !(out[i].events & ~(uint32_t)EPOLLIN)) {
			drop_event(out, n, i);
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
				    is_ready(ep, it)) {
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

// Items have moved while we slept in the kernel. What it said of them may have been a frame: that is for collect() to tell. So a shot that
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
		drop_event(out, &n, k--);
	}
	return n;
}

// The kernel's answer without what is not for the application, and with what is ready on rings, in the place of I: in_front are before that.
static int complete(struct instance *ep, struct epoll_event *out, int n, int max, int *in_front)
{
	int ours, at, ends;

	n = set_strip_nested(ep, out, n);
	at = strip_inner(out, &n);
	if (at >= 0)
		set_harvest(ep);
	ours = stash_get(ep, out + n, max - n);
	ours += collect(ep, out + n + ours, max - n - ours, &ends);
	if (at >= 0)
		move_before(out + at, n - at, ours);
	*in_front = at >= 0 ? at : 0;
	return n + ours;
}

// What is ready now, from rings and kernel.
static int take(const struct waiting *w)
{
	struct instance *ep = w->ep;
	struct epoll_event *out;
	int stashed, n, k, ends, in_front;

	ep->round++;
	n = stashed = stash_get(ep, w->out, w->max);
	out = w->out + stashed;
	// When the rings alone would fill the array, the kernel still has its turn now and then.
	n += collect(ep, out, (ep->round % 8 ? w->max : w->max / 2) - n, &ends);
	// Everything there is was looked at: TCP's ends are missed for a moment at most, the helper counts them.
	if (n == w->max || (n && !ep->others && !ep->armed && ep->round % 8))
		return n;
	k = (int)sys_call6(SYS_epoll_pwait, w->epfd, w->out + n, w->max - n, 0, w->mask, 8);
	if (k < 0)
		return n ? n : k;
	k = complete(ep, w->out + n, k, w->max - n, &in_front);
	move_before(out + ends, n - stashed - ends, k);
	move_before(out, ends, in_front);
	return n + k;
}

static void drop_often(struct instance *ep)
{
	if (!rlm_lock_is_kept(&ep->lock) && rlm_habit_pays(&ep->habit))
		rlm_lock_keep(&ep->lock, &ep->habit);
	else
		rlm_lock_drop(&ep->lock);
}

static void leave(struct instance *ep)
{
	if (!ep->sleepers && !ep->outer)
		arm_idle(ep, IDLE_LOOKS);
	set_changed(ep);
}

// The kernel's wait was cancelled, or left by a signal handler's jump.
static void abandon(void *arg)
{
	struct waiting *w = arg;

	rlm_lock_take(&w->ep->lock);
	w->ep->sleepers--;
	leave(w->ep);
	rlm_lock_drop(&w->ep->lock);
}

static void arm_nested(struct instance *ep)
{
	for (int i = ep->nested; i; i = ep->items[i - 1].w->next_nested)
		epoll_arm(ep->items[i - 1].fd);
}

// Lock held, released on return. 0: look again.
static int sleep_once(struct waiting *w, bool *timed_out)
{
	struct instance *ep = w->ep;
	struct timespec left = {0, 0};
	uint32_t moves;
	uint64_t start;
	int n, in_front;

	arm_nested(ep);
	ep->sleepers++;
	if (!set_arm_all(ep)) {
		ep->sleepers--;
		rlm_lock_drop(&ep->lock);
		return 0;
	}
	say_more(ep, false);
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
		n = complete(ep, w->out, n, w->max, &in_front);
		leave(ep);
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
			leave(w->ep);
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
	int in_front;

	if (*n <= 0 || !has_moved(ep))
		return true;
	rlm_lock_take(&ep->lock);
	ep->round++;
	*n = complete(ep, out, strip_moved(ep, out, *n), max, &in_front);
	leave(ep);
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
	return !ep || max <= 0 || !out || !has_moved(ep);
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

// --- as a polled descriptor ---

bool set_is_ready(struct instance *ep, int epfd)
{
	bool ready = false;

	if (!has_moved_locked(ep))
		return kernel_says_ready(epfd);
	set_harvest(ep);
	if (ep->sleepers || ep->outer)
		ready = !set_arm_all(ep);
	else
		for (int i = ep->hot; i; i = ep->items[i - 1].w->next_hot)
			ready |= is_ready(ep, &ep->items[i - 1]);
	for (int i = ep->nested; i; i = ep->items[i - 1].w->next_nested)
		ready |= is_nested_of_ours(&ep->items[i - 1]) && nested_is_ready(&ep->items[i - 1], false, false);
	ready |= ep->stash_used != 0;
	if (!ready || ep->sleepers || ep->outer)
		say_more(ep, ready);
	// What the kernel alone knows: after the harvest I is quiet, unless it has more.
	return ready || kernel_says_ready(epfd);
}

bool epoll_is_ready(int epfd)
{
	struct instance *ep = instance_of(epfd);
	bool ready;

	if (!ep)
		return kernel_says_ready(epfd);
	rlm_lock_take(&ep->lock);
	ready = set_is_ready(ep, epfd);
	rlm_lock_drop(&ep->lock);
	return ready;
}

void epoll_arm(int epfd)
{
	struct instance *ep = instance_of(epfd);

	if (!has_moved(ep))
		return;
	rlm_lock_take(&ep->lock);
	ep->outer = true;
	set_changed(ep);
	arm_nested(ep);
	rlm_lock_drop(&ep->lock);
}

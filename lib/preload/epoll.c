// SPDX-License-Identifier: BSD-2-Clause
// epoll with connections that are bound to rings: what is ready, and what must be done so that nobody sleeps through it.
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
//           The list has the order of the kernel's: what becomes hot, is asked for anew or was reported goes to the end.
// Hot items exist only while no thread sleeps in E, so that a sleeper is never the one who is not told; but for those that are ready:
// then `more`, an eventfd in I, says so until nobody finds anything any more.
//
// Level-triggered: reported whenever true. Edge-triggered: reported when something new came since the last report: data on either
// carrier (frames are none), room after a send found none, an end, or the item was added or modified. One-shot: disabled until
// EPOLL_CTL_MOD.
//
// Locks: ep->lock, then that of an instance in it, then those of a connection.
#include "epoll.h"

#include "epoll_set.h"

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

bool item_is_ready(struct instance *ep, struct item *it)
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

// --- nested instances ---

// Lock held. Something of ours is, was or is about to be in it, or in an instance in it.
static bool has_moved_locked(struct instance *ep)
{
	if (ep->inner >= 0 || ep->stash_used)
		return true;
	for (int i = ep->nested; i; i = ep->items[i - 1].w->next_nested)
		if (set_has_moved(instance_of(ep->items[i - 1].fd)))
			return true;
	return false;
}

bool set_has_moved(struct instance *ep)
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
	return !it->disabled && it->events & EPOLLIN && set_has_moved(instance_of(it->fd));
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
			if (out[i].data.u64 != it->data || out[i].events != EPOLLIN || !set_has_moved(instance_of(it->fd)))
				continue;
			if (it->disabled || it->w->reported == ep->round || !nested_is_ready(it, true, true))
				events_drop(out, &n, i--);
			else
				report(ep, it, EPOLLIN, &ignored);
		}
	}
	return n;
}

// --- hot and armed ---

// Takes what is ready among the hot items, from the front. Items that gave something go to the end, so that no item starves another.
struct part set_collect(struct instance *ep, struct epoll_event *out, int max)
{
	int n = 0, ends = 0, next, last = ep->hot_end;

	for (int i = ep->hot; i && n < max; i = i == last ? 0 : next) {
		struct item *it = &ep->items[i - 1];
		struct ready r = {0};
		uint32_t shown = it->w->reported == ep->round || is_quiet(it) ? 0 : look(it, &r);

		next = it->w->next_hot;
		if (!shown) {
			it->w->idle++;
			continue;
		}
		report(ep, it, shown, &out[n++]);
		if (r.events & EPOLL_ENDS & ~it->w->told_ends && r.head == it->w->head) { // an end, not bytes
			events_move_before(out + ends, n - 1 - ends, 1);
			ends++;
		}
		it->w->head = shown & EPOLL_READABLE ? r.head : it->w->head;
		it->w->told_ends = r.events & EPOLL_ENDS;
		if (shown & EPOLL_WRITABLE) {
			it->w->blocked = r.blocked;
			it->w->unwritable = false;
		}
		it->w->idle = 0;
		item_to_end(ep, it);
	}
	return (struct part){n + collect_nested(ep, out + n, max - n), ends};
}

static void arm_idle(struct instance *ep)
{
	struct item *it;
	int next, last = ep->hot_end;

	for (int i = ep->hot; i; i = i == last ? 0 : next) {
		it = &ep->items[i - 1];
		next = it->w->next_hot;
		if (it->w->idle < IDLE_LOOKS)
			continue;
		item_arm(ep, it);
		if (item_is_ready(ep, it)) // came while we armed it
			item_heat(ep, it);
	}
}

// Arms everything, then looks once more at everything that was hot. What is ready stays hot, in the order in which it was found.
static bool arm_all(struct instance *ep)
{
	bool quiet = true;
	struct item *it;
	int next, last = ep->hot_end;

	for (int i = ep->hot; i; i = i == last ? 0 : next) {
		it = &ep->items[i - 1];
		next = it->w->next_hot;
		item_arm(ep, it);
		if (item_is_ready(ep, it)) {
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
		say_more(ep, !arm_all(ep));
	else
		say_more(ep, false);
}

void set_leave(struct instance *ep)
{
	if (!ep->sleepers && !ep->outer)
		arm_idle(ep);
	set_changed(ep);
}

static void arm_nested(struct instance *ep)
{
	for (int i = ep->nested; i; i = ep->items[i - 1].w->next_nested)
		epoll_arm(ep->items[i - 1].fd);
}

bool set_sleep(struct instance *ep)
{
	arm_nested(ep);
	ep->sleepers++;
	if (arm_all(ep)) {
		say_more(ep, false);
		return true;
	}
	ep->sleepers--;
	return false;
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
		for (long i = 0; i < n; i++) {
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

// --- as a polled descriptor ---

bool set_is_ready(struct instance *ep, int epfd)
{
	bool ready = false;

	if (!has_moved_locked(ep))
		return kernel_says_ready(epfd);
	set_harvest(ep);
	if (ep->sleepers || ep->outer)
		ready = !arm_all(ep);
	else
		for (int i = ep->hot; i; i = ep->items[i - 1].w->next_hot)
			ready |= item_is_ready(ep, &ep->items[i - 1]);
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

	if (!set_has_moved(ep))
		return;
	rlm_lock_take(&ep->lock);
	ep->outer = true;
	set_changed(ep);
	arm_nested(ep);
	rlm_lock_drop(&ep->lock);
}

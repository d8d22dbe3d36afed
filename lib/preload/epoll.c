// SPDX-License-Identifier: BSD-2-Clause
// epoll with connections that are bound to rings.
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
// Hot items exist only while no thread sleeps in E, so that a sleeper is never the one who is not told.
//
// Level-triggered: reported whenever true. Edge-triggered: reported when something new came since the last report (the ring's
// head moved, TCP said something, the item was added or modified). One-shot: disabled until EPOLL_CTL_MOD.
//
// Locks: ep->lock, then those of a connection. The helper thread moves items in epoll_conn_binds(), before the connection is bound.
#include "epoll.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "ready.h"
#include "stream_internal.h"

#define INSTANCES 1024u
#define SHOWN (EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM | EPOLLRDHUP | EPOLLPRI | EPOLLERR | EPOLLHUP | EPOLLRDBAND | EPOLLWRBAND)
#define ALWAYS (EPOLLERR | EPOLLHUP)
#define IDLE_LOOKS 8 // a hot item that had nothing this often is armed

enum item_kind { ITEM_NONE, ITEM_PLAIN, ITEM_MOVED, ITEM_NESTED };

struct item {
	uint8_t kind; // enum item_kind
	bool hot;
	bool armed;
	bool disabled; // one-shot has fired
	bool ask_kernel;
	bool news;      // edge: report even if the head did not move
	uint8_t idle;   // looks in a row without anything
	uint32_t events; // as the application registered it
	uint32_t listening; // what was listened for, while armed
	uint32_t conn;      // index
	uint32_t reported;  // round of the instance in which it was last reported
	uint32_t blocked;   // sends that found no room, as of the last report
	uint64_t data;
	uint64_t head;  // peer's head at the last report
	int next_hot;   // fd + 1
	int next_bell;  // fd + 1, items of one doorbell
	int bell;       // doorbell, -1
};

struct instance {
	struct rlm_lock lock;
	_Atomic uint32_t refs; // descriptors in this process
	_Atomic uint32_t moved; // items in I, and nested instances
	_Atomic uint32_t sleepers;
	struct rlm_spin spin;
	int inner;   // I, -1
	int more;    // eventfd in E: more is ready than one thread could take
	uint32_t round; // of epoll_wait()
	int hot;        // fd + 1
	int highest; // fd of an item
	int nested;  // how many items are epoll instances
	bool inherited; // over fork: the kernel's instances are the parent's too
	bool renaming;
	bool outer;     // somebody may sleep on it through another instance or poll
	struct item *items; // by descriptor, zero pages until used
	int *bells;         // by doorbell: fd + 1 of its first item
};

static struct instance instances[INSTANCES]; // in use while refs is not 0
static struct rlm_lock instances_lock;
static _Atomic uint32_t instances_used;

// Identifies I's and `more`'s events in E: no application data equals it but with probability 2^-64.
static uint64_t inner_tag;

static void *map_zero(size_t size)
{
	long p = sys_call6(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

static long kernel_ctl(int epfd, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = {.events = events, .data.u64 = data};

	return sys_call4(SYS_epoll_ctl, epfd, op, fd, &e);
}

static struct instance *instance_at(uint32_t index)
{
	return index < INSTANCES && atomic_load_explicit(&instances[index].refs, memory_order_acquire) ?
		       &instances[index] :
		       NULL;
}

static struct instance *instance_of(int epfd)
{
	uint32_t entry = fd_entry(epfd);

	return entry >> FD_VALUE_BITS == FD_EPOLL ? instance_at(entry & FD_VALUE_MASK) : NULL;
}

// NULL when there are too many: connections in it are never promoted (epoll_ctl() bars them).
static struct instance *instance_new(int epfd)
{
	struct instance *ep = NULL;
	uint32_t i;

	rlm_lock_take(&instances_lock);
	if (!inner_tag)
		sys_call3(SYS_getrandom, &inner_tag, sizeof(inner_tag), 0);
	for (i = 0; i < INSTANCES && instances[i].refs; i++)
		;
	if (i < INSTANCES) {
		ep = &instances[i];
		memset(ep, 0, sizeof(*ep));
		ep->inner = ep->more = ep->highest = -1;
		wake_spin_init(&ep->spin);
		atomic_store_explicit(&ep->refs, 1, memory_order_release);
		if (i >= instances_used)
			instances_used = i + 1;
		fd_set_entry(epfd, FD_EPOLL, i);
	}
	rlm_lock_drop(&instances_lock);
	return ep;
}

// Lock held. The tables, when the first of our sockets is put in.
static bool make_tables(struct instance *ep)
{
	if (!ep->items)
		ep->items = map_zero(FDTABLE_SIZE * sizeof(*ep->items));
	if (!ep->bells)
		ep->bells = map_zero(FDTABLE_SIZE * sizeof(*ep->bells));
	return ep->items && ep->bells;
}

// --- items, ep->lock held ---

static struct item *item_of(struct instance *ep, int fd)
{
	return ep->items && (unsigned)fd < FDTABLE_SIZE && ep->items[fd].kind != ITEM_NONE ? &ep->items[fd] : NULL;
}

static struct rlm_conn *conn_of(const struct item *it)
{
	return &arena.conns[it->conn];
}

static void make_hot(struct instance *ep, struct item *it)
{
	if (it->armed) {
		struct rlm_bound *b = stream_bound(conn_of(it));

		if (b)
			ready_unlisten(b, it->listening);
		ready_release(conn_of(it));
		it->armed = false;
	}
	it->idle = 0;
	if (it->hot)
		return;
	it->hot = true;
	it->next_hot = ep->hot;
	ep->hot = (int)(it - ep->items) + 1;
}

static void hot_remove(struct instance *ep, struct item *it)
{
	int *at = &ep->hot;

	if (!it->hot)
		return;
	while (*at - 1 != (int)(it - ep->items))
		at = &ep->items[*at - 1].next_hot;
	*at = it->next_hot;
	it->hot = false;
}

static void bell_remove(struct instance *ep, struct item *it)
{
	int *at;

	if (it->bell < 0)
		return;
	at = &ep->bells[it->bell];
	while (*at && *at - 1 != (int)(it - ep->items))
		at = &ep->items[*at - 1].next_bell;
	if (*at)
		*at = it->next_bell;
	it->bell = -1;
}

// Data of events in I: the descriptor, and whether it is a doorbell.
#define BELL_MARK (1ull << 32)

static bool make_inner(struct instance *ep, int epfd)
{
	if (ep->inner >= 0)
		return true;
	ep->inner = (int)sys_call1(SYS_epoll_create1, EPOLL_CLOEXEC);
	if (ep->inner < 0)
		return false;
	ep->inner = fd_make_internal(ep->inner);
	ep->more = (int)sys_call2(SYS_eventfd2, 0, 02000000 | 04000);
	if (ep->more < 0 || kernel_ctl(epfd, EPOLL_CTL_ADD, ep->inner, EPOLLIN, inner_tag) < 0) {
		fd_close_internal(ep->inner);
		ep->inner = -1;
		if (ep->more >= 0)
			sys_close(ep->more);
		ep->more = -1;
		return false;
	}
	ep->more = fd_make_internal(ep->more);
	kernel_ctl(ep->inner, EPOLL_CTL_ADD, ep->more, EPOLLIN | EPOLLET, BELL_MARK | (uint32_t)ep->more);
	return true;
}

// A one-shot registration that has fired shows no events in fdinfo, only its flags.
static bool has_fired(int epfd, int fd)
{
	char path[40], line[256];
	unsigned events;
	bool fired = false;
	FILE *f;
	int tfd;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", epfd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "tfd: %d events: %x", &tfd, &events) == 2 && tfd == fd)
			fired = !(events & SHOWN);
	if (f)
		fclose(f);
	return fired;
}

// E -> I. true: moved.
static bool move_in(struct instance *ep, int epfd, int fd, struct item *it, struct rlm_bound *b)
{
	if (it->kind == ITEM_MOVED || !make_inner(ep, epfd))
		return false;
	if (kernel_ctl(ep->inner, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET, (uint32_t)fd) < 0)
		return false;
	// What is not in E was left behind by a socket of the same number that is closed.
	if (kernel_ctl(epfd, EPOLL_CTL_DEL, fd, 0, 0) == -ENOENT && !ep->renaming) {
		kernel_ctl(ep->inner, EPOLL_CTL_DEL, fd, 0, 0);
		memset(it, 0, sizeof(*it));
		return true;
	}
	it->kind = ITEM_MOVED;
	it->bell = b->doorbell_mine;
	if (it->bell >= 0) { // not while it leaves its slot
		it->next_bell = ep->bells[it->bell];
		ep->bells[it->bell] = fd + 1;
		ready_watch_doorbell(ep->inner, it->bell, BELL_MARK | (uint32_t)it->bell);
	}
	it->ask_kernel = true;
	it->news = true; // an event that E had and nobody fetched must not be lost
	if (it->events & EPOLLONESHOT)
		it->disabled = has_fired(epfd, fd);
	ep->moved++;
	make_hot(ep, it);
	return true;
}

static void item_drop(struct instance *ep, struct item *it)
{
	if (it->kind == ITEM_MOVED) {
		make_hot(ep, it); // disarms
		hot_remove(ep, it);
		bell_remove(ep, it);
		ep->moved--;
	}
	if (it->kind == ITEM_NESTED)
		ep->nested--;
	memset(it, 0, sizeof(*it));
}

// --- looking ---

static bool has_moved_below(const struct instance *ep);

// What epoll would report; changes nothing of what was reported.
static uint32_t look(struct instance *ep, struct item *it, struct ready *result)
{
	int fd = (int)(it - ep->items);
	struct rlm_conn *c = conn_of(it);
	uint32_t kernel = 0, shown;
	struct ready r;
	bool edge;

	if (it->disabled || fd_conn(fd) != c)
		return 0;
	if (it->ask_kernel) {
		long k = sys_poll_now(fd, (short)(EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM));

		kernel = k > 0 ? (uint32_t)k : 0;
	}
	*result = r = ready_now(c, fd, kernel);
	it->ask_kernel = r.ask_kernel;
	shown = r.events & (it->events | ALWAYS) & SHOWN;
	if (!(it->events & EPOLLET))
		return shown;
	edge = it->news || (shown & (EPOLLIN | EPOLLRDNORM) && r.head != it->head) ||
	       (shown & (EPOLLOUT | EPOLLWRNORM) && r.blocked != it->blocked);
	return edge ? shown : 0;
}

// Without locks: nothing can be new on its ring. ep->lock keeps the binding from going away.
static bool is_quiet(const struct item *it)
{
	const struct rlm_bound *b = stream_bound(conn_of(it));

	if (!b || it->ask_kernel || it->news || !atomic_load_explicit(&b->rx_fast, memory_order_relaxed) ||
	    atomic_load_explicit(&b->rx.peer->head, memory_order_relaxed) !=
		    atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed))
		return false;
	return !(it->events & EPOLLOUT) || (it->events & EPOLLET && b->tx_blocked == it->blocked);
}

static bool is_ready(struct instance *ep, struct item *it)
{
	struct ready r;

	return look(ep, it, &r) != 0;
}

static void report(struct instance *ep, struct item *it, uint32_t shown, struct epoll_event *out)
{
	it->reported = ep->round;
	it->news = false;
	out->events = shown;
	out->data.u64 = it->data;
	if (it->events & EPOLLONESHOT)
		it->disabled = true;
}

static bool has_moved(const struct instance *ep)
{
	return ep && (atomic_load_explicit(&ep->moved, memory_order_acquire) || has_moved_below(ep));
}

// Something of ours is in one of the instances that are in it.
static bool has_moved_below(const struct instance *ep)
{
	for (int fd = 0; ep->nested && fd <= ep->highest; fd++)
		if (ep->items[fd].kind == ITEM_NESTED && has_moved(instance_of(fd)))
			return true;
	return false;
}

// Level-triggered nested instances: the kernel forgets what was harvested from the inner one. Edges it reports itself.
static bool look_at_nested(struct instance *ep, int fd, struct item *it, struct epoll_event *out)
{
	if (it->disabled || it->events & EPOLLET || !(it->events & EPOLLIN) || !has_moved(instance_of(fd)) ||
	    !epoll_is_ready(fd))
		return false;
	report(ep, it, EPOLLIN, out);
	return true;
}

// What the kernel says of nested instances with something of ours: it may have been a doorbell for nothing, or ours is told already.
static int strip_nested(struct instance *ep, struct epoll_event *out, int n)
{
	for (int fd = 0; ep->nested && fd <= ep->highest; fd++) {
		struct item *it = &ep->items[fd];

		if (it->kind != ITEM_NESTED || !has_moved(instance_of(fd)))
			continue;
		for (int i = 0; i < n; i++)
			if (out[i].data.u64 == it->data && (it->reported == ep->round || !epoll_is_ready(fd)))
				out[i--] = out[--n];
	}
	return n;
}

static void arm(struct instance *ep, struct item *it)
{
	struct rlm_bound *b;

	hot_remove(ep, it);
	if (it->armed || it->disabled)
		return;
	b = ready_hold_to_sleep(conn_of(it));
	if (!b)
		return;
	it->listening = it->events & (EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM | EPOLLRDHUP);
	ready_listen(b, it->listening);
	it->armed = true;
}

// Takes what is ready among the hot items. The list is walked from the front; items that gave something go to its end by
// being looked at last next time, so that no item starves another.
static int collect(struct instance *ep, struct epoll_event *out, int max)
{
	int n = 0, *at = &ep->hot, tail = 0, *tail_at = &tail;

	while (*at && n < max) {
		struct item *it = &ep->items[*at - 1];
		struct ready r = {0};
		uint32_t shown = it->reported == ep->round || is_quiet(it) ? 0 : look(ep, it, &r);

		if (shown) {
			report(ep, it, shown, &out[n++]);
			it->head = shown & (EPOLLIN | EPOLLRDNORM) ? r.head : it->head;
			it->blocked = shown & (EPOLLOUT | EPOLLWRNORM) ? r.blocked : it->blocked;
			it->idle = 0;
			*tail_at = *at; // to the end
			*at = it->next_hot;
			it->next_hot = 0;
			tail_at = &it->next_hot;
		} else {
			it->idle++;
			at = &it->next_hot;
		}
	}
	while (*at)
		at = &ep->items[*at - 1].next_hot;
	*at = tail;
	if (ep->nested)
		for (int fd = 0; fd <= ep->highest && n < max; fd++)
			if (ep->items[fd].kind == ITEM_NESTED && look_at_nested(ep, fd, &ep->items[fd], &out[n]))
				n++;
	return n;
}

static void arm_idle(struct instance *ep, int looks)
{
	struct item *it;
	int next;

	for (int fd = ep->hot; fd; fd = next) {
		it = &ep->items[fd - 1];
		next = it->next_hot;
		if (it->idle < looks)
			continue;
		arm(ep, it);
		if (is_ready(ep, it)) // came while we armed it
			make_hot(ep, it);
	}
}

// Arms everything, then looks once more at everything that was hot. false: something is ready after all.
static bool arm_all(struct instance *ep)
{
	bool quiet = true;
	struct item *it;
	int next, list = ep->hot;

	for (int fd = list; fd; fd = next) {
		it = &ep->items[fd - 1];
		next = it->next_hot;
		arm(ep, it);
		if (is_ready(ep, it)) {
			make_hot(ep, it);
			quiet = false;
		}
	}
	return quiet;
}

static bool tcp_may_hold_payload(const struct rlm_conn *c)
{
	const struct rlm_bound *b = stream_bound(c);

	return !b || !conn_stat(&arena, c)->rx_carrier || cutover_rx_has_ended(b);
}

// I says something: which items?
static void harvest(struct instance *ep)
{
	struct epoll_event e[64];
	long n;

	do {
		n = sys_call6(SYS_epoll_pwait, ep->inner, e, 64, 0, NULL, 8);
		for (long i = 0; i < n; i++) {
			int fd = (int)(uint32_t)e[i].data.u64;
			struct item *it;

			if (!(e[i].data.u64 & BELL_MARK)) {
				it = item_of(ep, fd);
				if (it && it->kind == ITEM_MOVED) {
					it->ask_kernel = true;
					// Frames are no news; what they bring is seen by its effect. The rest is.
					if (e[i].events & (EPOLLRDHUP | EPOLLPRI | ALWAYS) ||
					    tcp_may_hold_payload(conn_of(it)))
						it->news = true;
					if (!conn_stat(&arena, conn_of(it))->tx_carrier && e[i].events & EPOLLOUT &&
					    it->events & EPOLLOUT)
						it->news = true;
					make_hot(ep, it);
				}
				continue;
			}
			for (int f = ep->bells[fd], next; f; f = next) {
				it = &ep->items[f - 1];
				next = it->next_bell;
				make_hot(ep, it);
			}
		}
	} while (n == 64);
}

// Takes our own events out of what the kernel returned. true: I has something.
static bool strip_inner(struct epoll_event *out, int *n)
{
	for (int i = 0; i < *n; i++)
		if (out[i].data.u64 == inner_tag && !(out[i].events & ~(uint32_t)EPOLLIN)) {
			out[i] = out[--*n];
			return true;
		}
	return false;
}

static bool spin(struct instance *ep)
{
	uint64_t start = sys_ticks(), last = start, now;

	if (!ep->hot || !wake_may_spin(&ep->spin))
		return false;
	for (;;) {
		for (int round = 0; round < 4; round++) {
			for (int fd = ep->hot; fd; fd = ep->items[fd - 1].next_hot) {
				struct item *it = &ep->items[fd - 1];
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
	struct instance *ep;
	int epfd;
	struct epoll_event *out;
	int max;
	bool forever;
	uint64_t timeout_ns;      // 0 and not forever: do not wait
	struct deadline deadline; // from the first sleep on
	const sigset_t *mask;
};

static int kernel_wait(const struct waiting *w, int at, const struct timespec *timeout)
{
	long r;

	if (REAL(epoll_pwait2))
		r = REAL(epoll_pwait2)(w->epfd, w->out + at, w->max - at, timeout, w->mask);
	else
		r = REAL(epoll_pwait)(w->epfd, w->out + at, w->max - at,
				      timeout ? (int)(timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000) : -1,
				      w->mask);
	return r < 0 ? -errno : (int)r;
}

// What is ready now, from rings and kernel. Lock held.
static int take(const struct waiting *w)
{
	struct instance *ep = w->ep;
	int n, k;

	ep->round++;
	// When the rings alone would fill the array, the kernel still has its turn now and then.
	n = collect(ep, w->out, ep->round % 8 ? w->max : w->max / 2);
	if (n && ep->round % 8)
		return n;
	k = (int)sys_call6(SYS_epoll_pwait, w->epfd, w->out + n, w->max - n, 0, w->mask, 8);
	if (k < 0)
		return n ? n : k;
	if (strip_inner(w->out + n, &k))
		harvest(ep);
	n += strip_nested(ep, w->out + n, k);
	return n < w->max ? n + collect(ep, w->out + n, w->max - n) : n;
}

static void leave(struct instance *ep)
{
	const uint64_t one = 1;
	bool quiet = true;

	if (ep->sleepers || ep->outer)
		quiet = arm_all(ep);
	else
		arm_idle(ep, IDLE_LOOKS);
	if (!quiet)
		sys_write(ep->more, &one, sizeof(one)); // for another sleeper
}

static int sleep_once(const struct waiting *w, bool *timed_out)
{
	struct instance *ep = w->ep;
	struct timespec left = {0, 0};
	uint64_t start;
	int k;

	for (int fd = 0; ep->nested && fd <= ep->highest; fd++)
		if (ep->items[fd].kind == ITEM_NESTED)
			epoll_arm(fd);
	if (!arm_all(ep)) {
		rlm_lock_drop(&ep->lock);
		return 0;
	}
	ep->sleepers++;
	rlm_lock_drop(&ep->lock);
	start = sys_ticks();
	if (!w->forever && !deadline_left(&w->deadline, &left))
		*timed_out = true;
	k = kernel_wait(w, 0, w->forever ? NULL : &left);
	wake_slept(&ep->spin, sys_ticks() - start);
	*timed_out = k == 0;
	rlm_lock_take(&ep->lock);
	ep->sleepers--;
	if (k > 0 && strip_inner(w->out, &k))
		harvest(ep);
	if (k > 0)
		k = strip_nested(ep, w->out, k);
	if (k > 0) // the kernel's own first; the rings with the next call, or for another thread
		leave(ep);
	rlm_lock_drop(&ep->lock);
	return k;
}

static int wait_ours(struct waiting *w)
{
	bool timed_out = false;
	int n;

	for (;;) {
		rlm_lock_take(&w->ep->lock);
		n = take(w);
		if (n || timed_out || (!w->forever && !w->timeout_ns)) {
			leave(w->ep);
			rlm_lock_drop(&w->ep->lock);
			return n;
		}
		if (!w->ep->sleepers && spin(w->ep)) {
			rlm_lock_drop(&w->ep->lock);
			continue;
		}
		helper_ensure();
		deadline_start(&w->deadline, w->timeout_ns);
		n = sleep_once(w, &timed_out);
		if (n)
			return n;
	}
}

static int wait_any(int epfd, struct epoll_event *out, int max, const struct timespec *timeout, const sigset_t *mask)
{
	struct waiting w = {.ep = instance_of(epfd), .epfd = epfd, .out = out, .max = max, .mask = mask};

	w.forever = !timeout;
	if (timeout)
		w.timeout_ns = (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec;
	return (int)rlm_result(wait_ours(&w));
}

// Nothing of ours in it: the kernel alone. But a connection may move in while we sleep, then I's event comes back with our tag.
static bool is_kernels_alone(int epfd, const void *out, int max)
{
	struct instance *ep = instance_of(epfd);

	return !has_moved(ep) || max <= 0 || !out;
}

static bool only_inner(int epfd, struct epoll_event *out, int *n)
{
	return *n > 0 && instance_of(epfd) && inner_tag && strip_inner(out, n) && *n == 0;
}

static struct timespec ms_to_timespec(int ms)
{
	return (struct timespec){ms / 1000, (long)(ms % 1000) * 1000000};
}

RLM_EXPORT int epoll_pwait(int epfd, struct epoll_event *out, int max, int timeout, const sigset_t *mask)
{
	struct timespec t = ms_to_timespec(timeout);
	struct deadline d = {0};
	int n;

	if (is_kernels_alone(epfd, out, max)) {
		if (timeout > 0 && instance_of(epfd))
			deadline_start(&d, (uint64_t)timeout * 1000000u);
		n = REAL(epoll_pwait)(epfd, out, max, timeout, mask);
		if (!only_inner(epfd, out, &n))
			return n;
		if (d.set && !deadline_left(&d, &t))
			t = (struct timespec){0, 0};
	}
	return wait_any(epfd, out, max, timeout < 0 ? NULL : &t, mask);
}

RLM_EXPORT int epoll_wait(int epfd, struct epoll_event *out, int max, int timeout)
{
	int n;

	if (is_kernels_alone(epfd, out, max)) {
		struct instance *ep = instance_of(epfd);

		if (!ep)
			return REAL(epoll_wait)(epfd, out, max, timeout);
		if (timeout <= 0) {
			n = REAL(epoll_wait)(epfd, out, max, timeout);
			if (!only_inner(epfd, out, &n))
				return n;
		}
	}
	return epoll_pwait(epfd, out, max, timeout, NULL);
}

RLM_EXPORT int epoll_pwait2(int epfd, struct epoll_event *out, int max, const struct timespec *timeout,
			    const sigset_t *mask)
{
	struct timespec t = {0, 0};
	struct deadline d = {0};
	int n;

	if (timeout && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000))
		return REAL(epoll_pwait2)(epfd, out, max, timeout, mask);
	if (timeout)
		t = *timeout;
	if (is_kernels_alone(epfd, out, max)) {
		if (timeout && (t.tv_sec || t.tv_nsec) && instance_of(epfd))
			deadline_start(&d, (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec);
		n = REAL(epoll_pwait2)(epfd, out, max, timeout, mask);
		if (!only_inner(epfd, out, &n))
			return n;
		if (d.set)
			deadline_left(&d, &t);
	}
	return wait_any(epfd, out, max, timeout ? &t : NULL, mask);
}

// --- control ---

RLM_EXPORT int epoll_create1(int flags)
{
	int fd = REAL(epoll_create1)(flags);

	if (fd >= 0 && fdtable)
		instance_new(fd);
	return fd;
}

RLM_EXPORT int epoll_create(int size)
{
	int fd = REAL(epoll_create)(size);

	if (fd >= 0 && fdtable)
		instance_new(fd);
	return fd;
}

static void remember(struct instance *ep, int fd, const struct epoll_event *e, enum item_kind kind)
{
	struct item *it = &ep->items[fd];

	memset(it, 0, sizeof(*it));
	it->kind = (uint8_t)kind;
	it->bell = -1;
	it->events = e->events;
	it->data = e->data.u64;
	if (kind == ITEM_PLAIN)
		it->conn = fd_entry(fd) & FD_VALUE_MASK;
	if (fd > ep->highest)
		ep->highest = fd;
}

static int add(struct instance *ep, int epfd, int fd, const struct epoll_event *e, uint32_t kind)
{
	struct epoll_event copy = *e;
	struct rlm_bound *b;

	if (item_of(ep, fd) && item_of(ep, fd)->kind == ITEM_MOVED)
		return -EEXIST;
	if (REAL(epoll_ctl)(epfd, EPOLL_CTL_ADD, fd, &copy) < 0)
		return -errno;
	if (kind == FD_EPOLL) {
		remember(ep, fd, e, ITEM_NESTED);
		ep->nested++;
		return 0;
	}
	remember(ep, fd, e, ITEM_PLAIN);
	if (kind != FD_CONN) {
		ep->items[fd].conn = UINT32_MAX; // a socket that may become a connection
		return 0;
	}
	b = ready_hold(&arena.conns[ep->items[fd].conn]);
	if (b) {
		if (move_in(ep, epfd, fd, &ep->items[fd], b))
			ep->items[fd].news = true;
		ready_release(&arena.conns[ep->items[fd].conn]);
	}
	return 0;
}

static int modify(struct instance *ep, int epfd, int fd, const struct epoll_event *e)
{
	struct epoll_event copy = *e;
	struct item *it = item_of(ep, fd);

	if (it && it->kind == ITEM_MOVED) {
		if (e->events & EPOLLEXCLUSIVE || it->events & EPOLLEXCLUSIVE)
			return -EINVAL;
		make_hot(ep, it);
		it->events = e->events;
		it->data = e->data.u64;
		it->disabled = false;
		it->news = true;
		it->ask_kernel = true;
		if ((ep->sleepers || ep->outer) && !arm_all(ep)) {
			const uint64_t one = 1;

			sys_write(ep->more, &one, sizeof(one));
		}
		return 0;
	}
	if (REAL(epoll_ctl)(epfd, EPOLL_CTL_MOD, fd, &copy) < 0)
		return -errno;
	if (it) {
		it->events = e->events;
		it->data = e->data.u64;
		it->disabled = false;
	}
	return 0;
}

static int remove_item(struct instance *ep, int epfd, int fd)
{
	struct item *it = item_of(ep, fd);

	if (it && it->kind == ITEM_MOVED) {
		kernel_ctl(ep->inner, EPOLL_CTL_DEL, fd, 0, 0);
		item_drop(ep, it);
		return 0;
	}
	if (REAL(epoll_ctl)(epfd, EPOLL_CTL_DEL, fd, NULL) < 0)
		return -errno;
	if (it)
		item_drop(ep, it);
	return 0;
}

// A descriptor that we never saw may be anything.
static bool is_epoll(int fd)
{
	static const char wanted[] = "anon_inode:[eventpoll]";
	char path[40], target[64];
	long n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = sys_call4(SYS_readlinkat, -100 /* AT_FDCWD */, path, target, sizeof(target));
	return n == (long)sizeof(wanted) - 1 && !memcmp(target, wanted, (size_t)n);
}

RLM_EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct instance *ep = instance_of(epfd);
	uint32_t kind = fd_entry(fd) >> FD_VALUE_BITS;
	int r;

	if (kind == FD_INTERNAL) {
		errno = EBADF;
		return -1;
	}
	if (!ep && op == EPOLL_CTL_ADD && (kind == FD_CONN || kind == FD_SOCKET) && fdtable && is_epoll(epfd))
		ep = instance_new(epfd); // inherited
	if (!ep && op == EPOLL_CTL_ADD && kind == FD_CONN)
		atomic_fetch_or_explicit(&fd_conn(fd)->flags, RLM_CONN_BARRED, memory_order_seq_cst); // too many instances
	if (!ep || !fdtable || (unsigned)fd >= FDTABLE_SIZE || (!event && op != EPOLL_CTL_DEL) ||
	    (op == EPOLL_CTL_ADD && kind == FD_UNKNOWN))
		return REAL(epoll_ctl)(epfd, op, fd, event);
	rlm_lock_take(&ep->lock);
	if (!make_tables(ep))
		r = -ENOMEM;
	else if (op == EPOLL_CTL_ADD)
		r = add(ep, epfd, fd, event, kind);
	else if (op == EPOLL_CTL_MOD)
		r = modify(ep, epfd, fd, event);
	else if (op == EPOLL_CTL_DEL)
		r = remove_item(ep, epfd, fd);
	else
		r = -EINVAL;
	rlm_lock_drop(&ep->lock);
	return (int)rlm_result(r);
}

// --- what happens to the sockets ---

static int descriptor_of(uint32_t index)
{
	uint32_t wanted = fd_make_entry(FD_EPOLL, index);

	for (int fd = 0; fd <= fd_highest(); fd++)
		if (fd_entry(fd) == wanted)
			return fd;
	return -1;
}

static bool move_descriptors(struct instance *ep, int epfd, struct rlm_conn *c, struct rlm_bound *b)
{
	uint32_t wanted = fd_make_entry(FD_CONN, conn_index(&arena, c));
	bool many = atomic_load_explicit(&c->refs, memory_order_relaxed) > 1;
	int fd = fd_of_conn(c);

	for (int f = many ? 0 : fd; f >= 0 && f <= (many ? ep->highest : fd); f++) {
		struct item *it;

		if (fd_entry(f) != wanted)
			continue;
		it = item_of(ep, f);
		if (!it || it->kind != ITEM_PLAIN)
			continue;
		it->conn = conn_index(&arena, c);
		if (!move_in(ep, epfd, f, it, b))
			return false;
		if (ep->sleepers || ep->outer)
			arm_all(ep);
	}
	return true;
}

bool epoll_conn_binds(struct rlm_conn *c, struct rlm_bound *b)
{
	bool good = true;

	for (uint32_t i = 0; i < atomic_load_explicit(&instances_used, memory_order_acquire); i++) {
		struct instance *ep = instance_at(i);
		int epfd;

		if (!ep || (epfd = descriptor_of(i)) < 0)
			continue;
		rlm_lock_take(&ep->lock);
		good &= move_descriptors(ep, epfd, c, b);
		rlm_lock_drop(&ep->lock);
	}
	return good;
}

// I -> E.
static void move_out(struct instance *ep, int epfd, int fd, struct item *it)
{
	struct item old = *it;
	const struct epoll_event e = {.events = old.events, .data.u64 = old.data};

	kernel_ctl(ep->inner, EPOLL_CTL_DEL, fd, 0, 0);
	item_drop(ep, it);
	remember(ep, fd, &e, ITEM_PLAIN);
	it->disabled = old.disabled;
	kernel_ctl(epfd, EPOLL_CTL_ADD, fd, old.disabled ? EPOLLONESHOT : old.events, old.data);
}

void epoll_conn_unbinds(struct rlm_conn *c)
{
	uint32_t wanted = fd_make_entry(FD_CONN, conn_index(&arena, c));

	for (uint32_t i = 0; i < atomic_load_explicit(&instances_used, memory_order_acquire); i++) {
		struct instance *ep = instance_at(i);
		int epfd;

		if (!ep || !ep->moved || (epfd = descriptor_of(i)) < 0)
			continue;
		rlm_lock_take(&ep->lock);
		for (int fd = 0; fd <= ep->highest; fd++)
			if (fd_entry(fd) == wanted && ep->items[fd].kind == ITEM_MOVED)
				move_out(ep, epfd, fd, &ep->items[fd]);
		rlm_lock_drop(&ep->lock);
	}
}

static void item_leaves(struct instance *ep, struct item *it)
{
	make_hot(ep, it); // disarms
	bell_remove(ep, it);
	it->ask_kernel = true;
}

void epoll_conn_leaves(struct rlm_conn *c)
{
	const uint64_t one = 1;

	for (uint32_t i = 0; i < atomic_load_explicit(&instances_used, memory_order_acquire); i++) {
		struct instance *ep = instance_at(i);
		bool any = false;

		if (!ep || !ep->moved)
			continue;
		rlm_lock_take(&ep->lock);
		for (int fd = 0; fd <= ep->highest; fd++)
			if (ep->items[fd].kind == ITEM_MOVED && conn_of(&ep->items[fd]) == c) {
				item_leaves(ep, &ep->items[fd]);
				any = true;
			}
		if (any && (ep->sleepers || ep->outer) && !arm_all(ep))
			sys_write(ep->more, &one, sizeof(one));
		rlm_lock_drop(&ep->lock);
	}
}

void epoll_wait_for_lookers(void)
{
	for (uint32_t i = 0; i < atomic_load_explicit(&instances_used, memory_order_acquire); i++) {
		struct instance *ep = instance_at(i);

		if (!ep)
			continue;
		rlm_lock_take(&ep->lock);
		rlm_lock_drop(&ep->lock);
	}
}

// The kernel goes on reporting a registration whose number was closed while another descriptor of the socket lives. It gets that one's
// number here; if the other one is registered too, the connection goes back to TCP and the kernel sees to it.
static void rename_item(struct instance *ep, int epfd, int fd, struct rlm_conn *c)
{
	struct item old = ep->items[fd];
	const struct epoll_event e = {.events = old.events, .data.u64 = old.data};
	uint32_t entry = fd_entry(fd);
	struct rlm_bound *b;
	int other;

	if (ep->inherited) {
		item_drop(ep, &ep->items[fd]);
		return;
	}
	kernel_ctl(ep->inner, EPOLL_CTL_DEL, fd, 0, 0);
	item_drop(ep, &ep->items[fd]);
	fd_clear(fd);
	other = fd_of_conn(c);
	fd_set_entry(fd, FD_CONN, entry & FD_VALUE_MASK);
	if (other < 0 || item_of(ep, other))
		return;
	remember(ep, other, &e, ITEM_PLAIN);
	b = ready_hold(c);
	if (b) {
		ep->renaming = true;
		move_in(ep, epfd, other, &ep->items[other], b);
		ep->renaming = false;
		ep->items[other].disabled = old.disabled;
		if (ep->sleepers)
			arm_all(ep);
		ready_release(c);
	}
}

void epoll_forget_conn(int fd, struct rlm_conn *c)
{
	bool others = atomic_load_explicit(&c->refs, memory_order_relaxed) > 1;

	for (uint32_t i = 0; i < atomic_load_explicit(&instances_used, memory_order_acquire); i++) {
		struct instance *ep = instance_at(i);
		struct item *it;

		if (!ep || fd > ep->highest)
			continue;
		rlm_lock_take(&ep->lock);
		it = item_of(ep, fd);
		if (it && it->kind == ITEM_MOVED && others) {
			rename_item(ep, descriptor_of(i), fd, c);
			it = NULL;
		} else if (it && it->kind == ITEM_PLAIN && others) { // the kernel goes on reporting it under a closed number
			atomic_fetch_or_explicit(&c->flags, RLM_CONN_BARRED, memory_order_relaxed);
		}
		if (it)
			item_drop(ep, it);
		rlm_lock_drop(&ep->lock);
	}
}

void epoll_forget(uint32_t index, int fd)
{
	struct instance *ep = instance_at(index);

	if (!ep)
		return;
	rlm_lock_take(&instances_lock);
	if (ep->refs > 1) {
		ep->refs--;
		rlm_lock_drop(&instances_lock);
		return;
	}
	rlm_lock_take(&ep->lock);
	for (int f = 0; f <= ep->highest; f++)
		if (ep->items[f].kind != ITEM_NONE)
			item_drop(ep, &ep->items[f]);
	rlm_lock_drop(&ep->lock);
	if (ep->inner >= 0)
		fd_close_internal(ep->inner);
	if (ep->more >= 0)
		fd_close_internal(ep->more);
	if (ep->items)
		sys_call2(SYS_munmap, ep->items, FDTABLE_SIZE * sizeof(*ep->items));
	if (ep->bells)
		sys_call2(SYS_munmap, ep->bells, FDTABLE_SIZE * sizeof(*ep->bells));
	atomic_store_explicit(&ep->refs, 0, memory_order_release);
	rlm_lock_drop(&instances_lock);
}

void epoll_duplicated(uint32_t index)
{
	struct instance *ep = instance_at(index);

	if (ep)
		atomic_fetch_add_explicit(&ep->refs, 1, memory_order_relaxed);
}

// --- as a polled descriptor ---

bool epoll_is_ready(int epfd)
{
	struct instance *ep = instance_of(epfd);
	struct pollfd p = {.fd = epfd, .events = POLLIN};
	struct timespec zero = {0, 0};
	bool ready = false;

	if (!has_moved(ep))
		return sys_call5(SYS_ppoll, &p, 1, &zero, 0, 8) > 0;
	rlm_lock_take(&ep->lock);
	if (ep->inner >= 0)
		harvest(ep);
	for (int fd = ep->hot; fd && !ready; fd = ep->items[fd - 1].next_hot)
		ready = is_ready(ep, &ep->items[fd - 1]);
	for (int fd = 0; ep->nested && fd <= ep->highest && !ready; fd++)
		ready = ep->items[fd].kind == ITEM_NESTED && !ep->items[fd].disabled && epoll_is_ready(fd);
	rlm_lock_drop(&ep->lock);
	// What the kernel alone knows: after the harvest I is quiet, unless it has more.
	return ready || sys_call5(SYS_ppoll, &p, 1, &zero, 0, 8) > 0;
}

void epoll_arm(int epfd)
{
	const uint64_t one = 1;
	struct instance *ep = instance_of(epfd);

	if (!has_moved(ep))
		return;
	rlm_lock_take(&ep->lock);
	ep->outer = true;
	if (!arm_all(ep) && ep->more >= 0)
		sys_write(ep->more, &one, sizeof(one));
	for (int fd = 0; ep->nested && fd <= ep->highest; fd++)
		if (ep->items[fd].kind == ITEM_NESTED)
			epoll_arm(fd);
	rlm_lock_drop(&ep->lock);
}

// --- fork ---

void epoll_fork_prepare(void)
{
	rlm_lock_take(&instances_lock);
	for (uint32_t i = 0; i < instances_used; i++)
		if (instances[i].refs)
			rlm_lock_take(&instances[i].lock);
}

void epoll_fork_parent(void)
{
	for (uint32_t i = 0; i < instances_used; i++)
		if (instances[i].refs)
			rlm_lock_drop(&instances[i].lock);
	rlm_lock_drop(&instances_lock);
}

// What our copies say of listening is the parent's: in shared memory it counts once. The kernel's instances are shared too, so that closing
// a descriptor here must not take it out of them.
static void inherit(struct instance *ep)
{
	ep->inherited = true;
	for (int fd = 0; fd <= ep->highest; fd++) {
		struct item *it = &ep->items[fd];

		if (it->kind != ITEM_MOVED)
			continue;
		it->armed = false;
		make_hot(ep, it);
	}
}

void epoll_fork_child(void)
{
	atomic_store_explicit(&instances_lock.word, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < instances_used; i++)
		if (instances[i].refs) {
			atomic_store_explicit(&instances[i].lock.word, 0, memory_order_relaxed);
			instances[i].sleepers = 0;
			inherit(&instances[i]);
		}
}

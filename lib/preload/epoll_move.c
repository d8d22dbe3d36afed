// SPDX-License-Identifier: BSD-2-Clause
// Registrations move between an instance of the application, E, and ours in it, I, as connections get and lose their slots. See epoll.c.
#include "epoll.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "epoll_set.h"

// --- E <-> I ---

static bool make_inner(struct instance *ep, int epfd)
{
	long inner, more;

	if (ep->inner >= 0)
		return true;
	inner = sys_call1(SYS_epoll_create1, EPOLL_CLOEXEC);
	if (inner < 0)
		return false;
	more = sys_call2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (more < 0)
		goto err_inner;
	inner = fd_make_internal((int)inner);
	more = fd_make_internal((int)more);
	if (epoll_kernel_ctl((int)inner, EPOLL_CTL_ADD, (int)more, EPOLLIN, 0) < 0 ||
	    epoll_kernel_ctl(epfd, EPOLL_CTL_ADD, (int)inner, EPOLLIN, inner_tag) < 0)
		goto err_more;
	ep->inner = (int)inner;
	ep->more = (int)more;
	return true;

err_more:
	fd_close_internal((int)more);
err_inner:
	fd_close_internal((int)inner);
	return false;
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
			fired = !(events & 0xffff);
	if (f)
		fclose(f);
	return fired;
}

#define FETCHED 128

// Has E an edge of this item (NULL: of none) that nobody has fetched? The only way to know is to fetch all there is. Edges and shots of
// others are kept for the application; what is level-triggered comes again by itself.
static bool fetch_pending(struct instance *ep, int epfd, const struct item *it)
{
	struct epoll_event e[FETCHED];
	long n = sys_call6(SYS_epoll_pwait, epfd, e, FETCHED, 0, NULL, 8);
	bool pending = n == FETCHED;

	if (n > 0)
		n = set_strip_nested(ep, e, (int)n);
	for (long i = 0; i < n; i++) {
		bool known = e[i].data.u64 == inner_tag, keep = false;

		for (uint32_t k = 0; k < ep->used; k++) {
			const struct item *other = &ep->items[k];

			if (other->kind == ITEM_FREE || item_is_in_inner(other) || other->data != e[i].data.u64)
				continue;
			known = true;
			if (other == it)
				pending = true;
			else
				keep |= (other->events & (EPOLLET | EPOLLONESHOT)) != 0;
		}
		if (keep || (!known && ep->shared))
			stash_put(ep, &e[i]);
	}
	return pending;
}

// Fetched when another one moved in, and not told yet. An event that may be another item's stays, too.
static bool stash_knows(struct instance *ep, const struct item *it)
{
	bool alone = true;

	for (uint32_t i = 0; i < ep->used; i++)
		if (&ep->items[i] != it && ep->items[i].kind != ITEM_FREE && ep->items[i].data == it->data)
			alone = false;
	return stash_has(ep, it->data, alone);
}

bool item_move_in(struct instance *ep, int epfd, struct item *it, struct rlm_bound *b, bool fresh)
{
	struct rlm_conn *c = conn_of(it);
	int fd = it->fd;
	bool kept;
	long now;

	if (!item_watch(ep, it))
		return false;
	if (!make_inner(ep, epfd) ||
	    (b->doorbell_mine >= 0 &&
	     !ready_watch_doorbell(ep->inner, b->doorbell_mine, BELL_MARK | (uint32_t)b->doorbell_mine)) ||
	    epoll_kernel_ctl(ep->inner, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET,
			     item_tag(ep, it)) < 0)
		return false;
	it->w->news = it->w->tcp_event = fresh;
	it->w->conn_events = atomic_load_explicit(&c->events, memory_order_acquire);
	if (!fresh) {
		set_harvest(ep); // what was so when it was added is no news
		// A send that finds no room before this waits for news of E, one after it for news of I: for that see look().
		it->w->calls = atomic_load_explicit(&c->calls, memory_order_seq_cst);
		it->moving = true;
		now = sys_poll_now(fd, POLLRDHUP | POLLOUT);
		it->w->told_ends = now > 0 ? (uint32_t)now & EPOLL_ENDS : 0;
		it->w->unwritable = now >= 0 && !(now & POLLOUT);
		it->w->tcp = ready_arrived(c, fd);
		kept = stash_knows(ep, it);
		it->disabled = it->events & EPOLLONESHOT && !kept && has_fired(epfd, fd);
		it->w->news = it->w->told_news = it->events & EPOLLET && (fetch_pending(ep, epfd, it) || kept);
		if (it->w->news) // what came since the count and was fetched is told with it, and not once more
			it->w->tcp = ready_arrived(c, fd);
	}
	if (!item_take(ep, it, b->doorbell_mine)) {
		epoll_kernel_ctl(ep->inner, EPOLL_CTL_DEL, fd, 0, 0);
		return false;
	}
	// What is not in E was left behind by a socket of the same number that is closed.
	if (epoll_kernel_ctl(epfd, EPOLL_CTL_DEL, fd, 0, 0) == -ENOENT) {
		epoll_kernel_ctl(ep->inner, EPOLL_CTL_DEL, fd, 0, 0);
		item_free(ep, it);
		return true;
	}
	item_heat(ep, it);
	return true;
}

// Whoever slept in E before anything moved in comes out and looks.
static void wake_sleepers(struct instance *ep)
{
	const uint64_t one = 1;

	if (ep->inner < 0)
		return;
	set_changed(ep);
	if (!ep->more_set)
		sys_write(ep->more, &one, sizeof(one));
	ep->more_set = true;
}

// I -> E.
static void move_out(struct instance *ep, int epfd, struct item *it)
{
	uint32_t events = it->disabled ? EPOLLONESHOT : it->events;
	bool parked = it->kind == ITEM_PARKED;
	int fd = it->fd, other;

	if (fd >= 0)
		epoll_kernel_ctl(ep->inner, EPOLL_CTL_DEL, fd, 0, 0);
	item_give_back(ep, it);
	if (parked) {
		item_free(ep, it);
		return;
	}
	if (fd >= 0) {
		epoll_kernel_ctl(epfd, EPOLL_CTL_ADD, fd, events, it->data);
		return;
	}
	// Its number is closed: a registration that outlives its descriptor is made in the same way.
	other = (int)sys_fcntl(item_fd(it), F_DUPFD_CLOEXEC, 3);
	if (other >= 0) {
		epoll_kernel_ctl(epfd, EPOLL_CTL_ADD, other, events, it->data);
		sys_close(other);
	}
	atomic_fetch_or_explicit(&conn_of(it)->flags, RLM_CONN_BARRED, memory_order_relaxed); // it could not come back
	item_free(ep, it);
}

// --- the connections ---

// The items of a connection, one after the other: at its one descriptor, or wherever they are.
static struct item *next_of_conn(struct instance *ep, struct rlm_conn *c, struct item *last)
{
	bool many = ep->orphans || atomic_load_explicit(&c->refs, memory_order_relaxed) > 1;
	uint32_t wanted = fd_make_entry(FD_CONN, conn_index(&arena, c));

	if (!many)
		return last ? NULL : item_of(ep, fd_of_conn(c));
	for (uint32_t i = last ? (uint32_t)item_index(ep, last) : 0; i < ep->used; i++) {
		struct item *it = &ep->items[i];

		if (it->kind != ITEM_FREE && (it->fd >= 0 ? fd_entry(it->fd) == wanted : it->conn == conn_index(&arena, c)))
			return it;
	}
	return NULL;
}

static bool bind_items(struct instance *ep, int epfd, struct rlm_conn *c, struct rlm_bound *b)
{
	for (struct item *it = next_of_conn(ep, c, NULL); it; it = next_of_conn(ep, c, it)) {
		if (it->kind != ITEM_PLAIN)
			continue;
		it->conn = conn_index(&arena, c);
		if (!item_move_in(ep, epfd, it, b, false))
			return false;
		wake_sleepers(ep);
	}
	return true;
}

// Those who watch an instance edge-triggered shall not take what is going to happen in it for an edge.
static void keep_outer_edges(struct instance *ep, int epfd)
{
	bool edges = false;

	for (int i = ep->nested; i; i = ep->items[i - 1].w->next_nested)
		edges |= (ep->items[i - 1].events & EPOLLET) != 0;
	if (edges)
		fetch_pending(ep, epfd, NULL);
}

bool epoll_conn_binds(struct rlm_conn *c, struct rlm_bound *b)
{
	struct instance *ep;
	bool good = true;
	int epfd;

	for (uint32_t i = 0; i < instances_end(); i++)
		if ((ep = instance_at(i))) {
			rlm_lock_take(&ep->lock);
			if (ep->nested && (epfd = instance_fd(ep, i)) >= 0)
				keep_outer_edges(ep, epfd);
			rlm_lock_drop(&ep->lock);
		}
	for (uint32_t i = 0; i < instances_end(); i++)
		if ((ep = instance_at(i))) {
			rlm_lock_take(&ep->lock);
			if ((epfd = instance_fd(ep, i)) >= 0)
				good &= bind_items(ep, epfd, c, b);
			rlm_lock_drop(&ep->lock);
		}
	return good;
}

// Whoever looked in between, and sleeps again by now, has found no slot to listen on, and nobody would tell a sender of room there.
void epoll_conn_is_bound(struct rlm_conn *c)
{
	for (uint32_t i = 0; i < instances_end(); i++) {
		struct instance *ep = instance_at(i);

		if (!ep || !ep->moved)
			continue;
		rlm_lock_take(&ep->lock);
		for (struct item *it = next_of_conn(ep, c, NULL); it; it = next_of_conn(ep, c, it))
			if (it->kind == ITEM_MOVED) {
				item_heat(ep, it);
				wake_sleepers(ep);
			}
		rlm_lock_drop(&ep->lock);
	}
}

void epoll_conn_unbinds(struct rlm_conn *c)
{
	for (uint32_t i = 0; i < instances_end(); i++) {
		struct instance *ep = instance_at(i);
		int epfd;

		if (!ep || !ep->moved)
			continue;
		rlm_lock_take(&ep->lock);
		epfd = instance_fd(ep, i);
		for (struct item *it = epfd < 0 ? NULL : next_of_conn(ep, c, NULL); it; it = next_of_conn(ep, c, it))
			if (item_is_in_inner(it))
				move_out(ep, epfd, it);
		rlm_lock_drop(&ep->lock);
	}
}

void epoll_conn_leaves(struct rlm_conn *c)
{
	for (uint32_t i = 0; i < instances_end(); i++) {
		struct instance *ep = instance_at(i);

		if (!ep || !ep->moved)
			continue;
		rlm_lock_take(&ep->lock);
		for (uint32_t k = 0; k < ep->used; k++)
			if (item_is_in_inner(&ep->items[k]) && conn_of(&ep->items[k]) == c)
				item_leaves(ep, &ep->items[k]);
		set_changed(ep);
		rlm_lock_drop(&ep->lock);
	}
}

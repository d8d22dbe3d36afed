// SPDX-License-Identifier: BSD-2-Clause
// What is in an epoll instance: epoll_create(), epoll_ctl(), and what becomes of the sockets in it. See epoll.c.
#include "epoll.h"

#include <fcntl.h>
#include <stdio.h>

#include "engine.h"
#include "epoll_set.h"
#include "hooks.h"

// --- control ---

RLM_EXPORT int epoll_create1(int flags)
{
	int fd = REAL(epoll_create1)(flags);

	if (fd >= 0 && engine_start())
		instance_new(fd);
	return fd;
}

RLM_EXPORT int epoll_create(int size)
{
	int fd = REAL(epoll_create)(size);

	if (fd >= 0 && engine_start())
		instance_new(fd);
	return fd;
}

// As the application wants it now, and as news: what is true is reported, also to threads that sleep already.
static void renew(struct instance *ep, struct item *it, const struct epoll_event *e)
{
	bool queued = item_is_ready(ep, it); // what the kernel has in its queue already keeps its place there

	item_heat(ep, it);
	if (!queued)
		item_to_end(ep, it);
	it->events = e->events;
	it->data = e->data.u64;
	it->disabled = false;
	it->w->news = it->w->tcp_event = true;
	it->w->told_news = false;
	set_changed(ep);
}

// Of what is shown to nobody nothing is listened for; it leaves the hot list like what is idle.
static void park(struct instance *ep, struct item *it)
{
	item_disarm(ep, it);
	it->kind = ITEM_PARKED;
	it->disabled = true;
}

static void unpark(struct instance *ep, struct item *it)
{
	if (!ep->inherited)
		epoll_kernel_ctl(ep->inner, EPOLL_CTL_DEL, it->fd, 0, 0);
	item_free(ep, it);
}

static bool add_parked(struct instance *ep, int fd, struct item *it, const struct epoll_event *e)
{
	if (fd_conn(fd) != conn_of(it) || !stream_bound(conn_of(it)) || e->events & EPOLLEXCLUSIVE) {
		unpark(ep, it);
		return false;
	}
	it->kind = ITEM_MOVED;
	renew(ep, it, e);
	return true;
}

#define NOT_WATCHED 1 // the kernel watches it, and we cannot: it must stay on TCP

static int add_conn(struct instance *ep, int epfd, struct item *it)
{
	struct rlm_conn *c;
	struct rlm_bound *b;
	bool moved = true;

	it->conn = fd_entry(it->fd) & FD_VALUE_MASK;
	c = conn_of(it);
	b = ready_hold(c);
	if (b) {
		moved = item_move_in(ep, epfd, it, b, true);
		set_changed(ep);
		ready_release(c);
	}
	return moved ? 0 : NOT_WATCHED;
}

static int add(struct instance *ep, int epfd, int fd, const struct epoll_event *e, uint32_t kind)
{
	struct epoll_event copy = *e;
	struct item *it = item_of(ep, fd);

	if (it && it->kind == ITEM_MOVED)
		return -EEXIST;
	if (it && it->kind == ITEM_PARKED && add_parked(ep, fd, it, e))
		return 0;
	if (REAL(epoll_ctl)(epfd, EPOLL_CTL_ADD, fd, &copy) < 0)
		return -errno;
	it = item_new(ep, fd, e, kind == FD_EPOLL ? ITEM_NESTED : kind == FD_UNKNOWN ? ITEM_KERNEL : ITEM_PLAIN);
	if (!it)
		return NOT_WATCHED;
	return kind == FD_CONN ? add_conn(ep, epfd, it) : 0;
}

static int modify(struct instance *ep, int epfd, int fd, const struct epoll_event *e)
{
	struct epoll_event copy = *e;
	struct item *it = item_of(ep, fd);

	if (it && it->kind == ITEM_MOVED) {
		if (e->events & EPOLLEXCLUSIVE || it->events & EPOLLEXCLUSIVE)
			return -EINVAL;
		renew(ep, it, e);
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
		if (!ep->shared) {
			park(ep, it);
			return 0;
		}
		epoll_kernel_ctl(ep->inner, EPOLL_CTL_DEL, fd, 0, 0); // the other processes see that, too
		item_free(ep, it);
		return 0;
	}
	if (REAL(epoll_ctl)(epfd, EPOLL_CTL_DEL, fd, NULL) < 0)
		return -errno;
	if (it)
		item_free(ep, it);
	return 0;
}

// A descriptor that we never saw may be anything.
static bool is_epoll(int fd)
{
	static const char wanted[] = "anon_inode:[eventpoll]";
	char path[40], target[64];
	long n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = sys_call4(SYS_readlinkat, AT_FDCWD, path, target, sizeof(target));
	return n == (long)sizeof(wanted) - 1 && !memcmp(target, wanted, (size_t)n);
}

// What we cannot follow stays on TCP, or goes back to it.
static void give_up_socket(int fd)
{
	struct rlm_conn *c = fd_conn(fd);
	uint32_t entry = fd_entry(fd);

	if (c)
		stream_to_kernel(c, fd, RLM_WHY_LIMIT);
	else if (entry >> FD_VALUE_BITS == FD_SOCKET)
		fd_set_entry(fd, FD_SOCKET, (entry & FD_VALUE_MASK) | SOCKET_BARRED);
}

// One that was made where we did not see it. NULL: we cannot follow it, and what is put into it.
static struct instance *inherited_instance(int epfd, int fd)
{
	struct instance *ep;

	if (!is_epoll(epfd))
		return NULL;
	ep = instance_new(epfd);
	if (ep)
		ep->shared = true;
	else
		give_up_socket(fd); // too many instances
	return ep;
}

// Lock held. The helper thread may be binding it: it moves what it finds in the instances, then binds, and what came into one that it
// has seen already would stay in E. It pins the connection before it takes our lock.
static void let_helper_bind(struct instance *ep, int fd)
{
	const struct rlm_conn *c = fd_conn(fd);

	while (c && helper_has_pinned(c)) {
		rlm_lock_drop(&ep->lock);
		sys_call0(SYS_sched_yield);
		rlm_lock_take(&ep->lock);
	}
}

static int control(struct instance *ep, int epfd, int op, int fd, struct epoll_event *event, uint32_t kind)
{
	int r;

	rlm_lock_take(&ep->lock);
	if (op == EPOLL_CTL_ADD) {
		let_helper_bind(ep, fd);
		r = add(ep, epfd, fd, event, kind);
	} else if (op == EPOLL_CTL_MOD) {
		r = modify(ep, epfd, fd, event);
	} else if (op == EPOLL_CTL_DEL) {
		r = remove_item(ep, epfd, fd);
	} else {
		r = -EINVAL;
	}
	rlm_lock_drop(&ep->lock);
	return r;
}

RLM_EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct instance *ep = instance_of(epfd);
	uint32_t kind = fd_entry(fd) >> FD_VALUE_BITS;
	bool socket = kind == FD_CONN || kind == FD_SOCKET;
	int r;

	if (kind == FD_INTERNAL) {
		errno = EBADF;
		return -1;
	}
	if (!ep && op == EPOLL_CTL_ADD && socket)
		ep = inherited_instance(epfd, fd);
	if (!ep || (unsigned)fd >= FDTABLE_SIZE || (!event && op != EPOLL_CTL_DEL))
		return REAL(epoll_ctl)(epfd, op, fd, event);
	r = control(ep, epfd, op, fd, event, kind);
	if (r == NOT_WATCHED) {
		give_up_socket(fd);
		r = 0;
	}
	return (int)rlm_result(r);
}

// --- what happens to the sockets ---

void epoll_wait_for_lookers(void)
{
	for (uint32_t i = 0; i < instances_end(); i++) {
		struct instance *ep = instance_at(i);

		if (!ep)
			continue;
		rlm_lock_take(&ep->lock);
		rlm_lock_drop(&ep->lock);
	}
}

// The kernel goes on reporting a registration whose number was closed while another descriptor of the socket lives.
static void number_closes(struct instance *ep, struct item *it, struct rlm_conn *c, bool others)
{
	if (it->kind == ITEM_MOVED && others) {
		item_orphan(ep, it);
	} else if (it->kind == ITEM_PARKED && others) {
		unpark(ep, it);
	} else {
		if (others && it->kind == ITEM_PLAIN) // could not be taken out of E any more
			atomic_fetch_or_explicit(&c->flags, RLM_CONN_BARRED, memory_order_relaxed);
		item_free(ep, it);
	}
}

void epoll_forget_conn(int fd, struct rlm_conn *c)
{
	bool others = atomic_load_explicit(&c->refs, memory_order_relaxed) > 1 && fd_count_of_conn(c) > 1;

	for (uint32_t i = 0; i < instances_end(); i++) {
		struct instance *ep = instance_at(i);
		struct item *it;

		if (!ep)
			continue;
		rlm_lock_take(&ep->lock);
		it = item_of(ep, fd);
		if (it)
			number_closes(ep, it, c, others);
		for (uint32_t k = 0; ep->orphans && !others && k < ep->used; k++)
			if (ep->items[k].kind == ITEM_MOVED && ep->items[k].fd < 0 && conn_of(&ep->items[k]) == c)
				item_free(ep, &ep->items[k]);
		rlm_lock_drop(&ep->lock);
	}
}

void epoll_take_out(int fd)
{
	for (uint32_t i = 0; i < instances_end(); i++) {
		struct instance *ep = instance_at(i);
		int epfd;

		if (!ep)
			continue;
		rlm_lock_take(&ep->lock);
		epfd = instance_fd(ep, i);
		if (epfd >= 0)
			epoll_kernel_ctl(epfd, EPOLL_CTL_DEL, fd, 0, 0);
		rlm_lock_drop(&ep->lock);
	}
}

void epoll_forget(uint32_t index)
{
	struct instance *ep = instance_at(index);

	if (ep)
		instance_free(ep);
}

void epoll_duplicated(uint32_t index)
{
	struct instance *ep = instance_at(index);

	if (ep)
		atomic_fetch_add_explicit(&ep->refs, 1, memory_order_relaxed);
}

void epoll_stop(void)
{
	for (uint32_t i = 0; i < instances_end(); i++) {
		struct instance *ep = instance_at(i);

		if (!ep)
			continue;
		rlm_lock_end_keeping(&ep->lock);
		rlm_lock_take(&ep->lock);
		if (!ep->moved && ep->inner >= 0) {
			fd_close_internal(ep->inner);
			fd_close_internal(ep->more);
			ep->inner = ep->more = -1;
		}
		rlm_lock_drop(&ep->lock);
	}
}

// --- fork ---

void epoll_fork_prepare(void)
{
	instances_lock_all();
}

void epoll_fork_parent(void)
{
	instances_unlock_all();
}

// What our copies say of listening is the parent's: in shared memory it counts once. The kernel's instances are shared too, so that closing
// a descriptor here must not take it out of them.
static void inherit(struct instance *ep)
{
	ep->inherited = true;
	ep->sleepers = 0;
	ep->armed = 0;
	for (uint32_t i = 0; i < ep->used; i++) {
		struct item *it = &ep->items[i];

		if (it->w)
			it->w->armed = false;
		if (it->kind == ITEM_MOVED)
			item_heat(ep, it);
	}
}

void epoll_fork_child(void)
{
	instances_unlock_child();
	for (uint32_t i = 0; i < instances_end(); i++) {
		struct instance *ep = instance_at(i);

		if (ep)
			inherit(ep);
	}
}

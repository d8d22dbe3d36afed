// SPDX-License-Identifier: BSD-2-Clause
// The tables of an epoll instance. See epoll_set.h.
#include "epoll_set.h"

#include <sys/mman.h>

#define INSTANCES 1024u

static struct instance instances[INSTANCES]; // in use while refs is not 0
static struct rlm_lock instances_lock;
static _Atomic uint32_t instances_used;

uint64_t inner_tag;

long epoll_kernel_ctl(int epfd, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = {.events = events, .data.u64 = data};

	return sys_call4(SYS_epoll_ctl, epfd, op, fd, &e);
}

// Makes room for `wanted` entries, zeros behind the old ones. false: no memory, all is as it was.
static bool grow(void **table, uint32_t *size, uint32_t wanted, size_t entry)
{
	uint32_t n = *size ? *size : 64;
	long p;

	if (wanted <= *size)
		return true;
	while (n < wanted)
		n *= 2;
	p = *table ? sys_call4(SYS_mremap, *table, *size * entry, n * entry, MREMAP_MAYMOVE) : (long)map_private(n * entry);
	if (!p || (p < 0 && p > -4096))
		return false;
	*table = (void *)p;
	*size = n;
	return true;
}

static void drop_table(void *table, uint32_t size, size_t entry)
{
	if (table)
		sys_call2(SYS_munmap, table, size * entry);
}

// --- watches ---

#define WATCHES 64 // in one mapping

struct watch_block {
	struct watch_block *next;
	struct watch watches[WATCHES];
};

static bool more_watches(struct instance *ep)
{
	struct watch_block *block = map_private(sizeof(*block));

	if (!block)
		return false;
	block->next = ep->blocks;
	ep->blocks = block;
	for (int i = 0; i < WATCHES; i++) {
		block->watches[i].next_free = ep->watches;
		ep->watches = &block->watches[i];
	}
	return true;
}

bool item_watch(struct instance *ep, struct item *it)
{
	if (!it->w) {
		if (!ep->watches && !more_watches(ep))
			return false;
		it->w = ep->watches;
		ep->watches = it->w->next_free;
	}
	*it->w = (struct watch){.bell = -1, .serial = ++ep->serial & 0x7fffffff};
	return true;
}

void item_unwatch(struct instance *ep, struct item *it)
{
	if (!it->w)
		return;
	it->w->next_free = ep->watches;
	ep->watches = it->w;
	it->w = NULL;
}

static void drop_watches(struct instance *ep)
{
	while (ep->blocks) {
		struct watch_block *block = ep->blocks;

		ep->blocks = block->next;
		sys_call2(SYS_munmap, block, sizeof(*block));
	}
}

// --- instances ---

struct instance *instance_at(uint32_t index)
{
	return index < INSTANCES && atomic_load_explicit(&instances[index].refs, memory_order_acquire) ?
		       &instances[index] :
		       NULL;
}

struct instance *instance_of(int epfd)
{
	uint32_t entry = fd_entry(epfd);

	return entry >> FD_VALUE_BITS == FD_EPOLL ? instance_at(entry & FD_VALUE_MASK) : NULL;
}

uint32_t instances_end(void)
{
	return atomic_load_explicit(&instances_used, memory_order_acquire);
}

struct instance *instance_new(int epfd)
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
		rlm_lock_take(&ep->lock);
		ep->fd = epfd;
		ep->inner = ep->more = -1;
		wake_spin_init(&ep->spin, false);
		atomic_store_explicit(&ep->refs, 1, memory_order_release);
		rlm_lock_drop(&ep->lock);
		if (i >= instances_used)
			instances_used = i + 1;
		fd_set_entry(epfd, FD_EPOLL, i);
	}
	rlm_lock_drop(&instances_lock);
	return ep;
}

static void empty(struct instance *ep)
{
	const size_t from = offsetof(struct instance, moved);

	for (uint32_t i = 0; i < ep->used; i++)
		item_disarm(ep, &ep->items[i]);
	fd_close_internal(ep->inner);
	fd_close_internal(ep->more);
	drop_table(ep->items, ep->items_size, sizeof(*ep->items));
	drop_table(ep->by_fd, ep->by_fd_size, sizeof(*ep->by_fd));
	drop_table(ep->stash, ep->stash_size, sizeof(*ep->stash));
	drop_watches(ep);
	memset((uint8_t *)ep + from, 0, sizeof(*ep) - from);
	atomic_store_explicit(&ep->refs, 0, memory_order_release);
}

// One of its descriptors was closed.
void instance_free(struct instance *ep)
{
	rlm_lock_take(&instances_lock);
	rlm_lock_take(&ep->lock);
	if (ep->refs > 1)
		ep->refs--;
	else
		empty(ep);
	rlm_lock_drop(&ep->lock);
	rlm_lock_drop(&instances_lock);
}

int instance_fd(struct instance *ep, uint32_t index)
{
	uint32_t wanted = fd_make_entry(FD_EPOLL, index);

	if (fd_entry(ep->fd) == wanted)
		return ep->fd;
	for (int fd = 0; fd <= fd_highest(); fd++)
		if (fd_entry(fd) == wanted)
			return ep->fd = fd;
	return -1;
}

// For fork.
void instances_lock_all(void)
{
	rlm_lock_take(&instances_lock);
	for (uint32_t i = 0; i < instances_used; i++)
		if (instances[i].refs) {
			rlm_lock_take(&instances[i].lock);
			instances[i].shared = true;
		}
}

void instances_unlock_all(void)
{
	for (uint32_t i = 0; i < instances_used; i++)
		if (instances[i].refs)
			rlm_lock_drop(&instances[i].lock);
	rlm_lock_drop(&instances_lock);
}

// Their owner does not exist in the child.
void instances_unlock_child(void)
{
	atomic_store_explicit(&instances_lock.word, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < instances_used; i++)
		atomic_store_explicit(&instances[i].lock.word, 0, memory_order_relaxed);
}

// --- items ---

struct item *item_of(struct instance *ep, int fd)
{
	return fd >= 0 && (uint32_t)fd < ep->by_fd_size && ep->by_fd[fd] ? &ep->items[ep->by_fd[fd] - 1] : NULL;
}

int item_fd(const struct item *it)
{
	if (it->fd >= 0)
		return fd_conn(it->fd) == conn_of(it) ? it->fd : -1;
	return fd_of_conn(conn_of(it));
}

struct item *item_of_bell(struct instance *ep, int doorbell)
{
	return item_of(ep, doorbell);
}

struct item *item_of_tag(struct instance *ep, uint64_t tag)
{
	uint32_t index = (uint32_t)tag;
	struct item *it = index && index <= ep->used ? &ep->items[index - 1] : NULL;

	return it && item_is_in_inner(it) && it->w->serial == tag >> 32 ? it : NULL;
}

struct item *item_new(struct instance *ep, int fd, const struct epoll_event *e, enum item_kind kind)
{
	struct item *it = item_of(ep, fd);

	if (it)
		item_free(ep, it); // left behind by a file that is closed
	if (!grow((void **)&ep->by_fd, &ep->by_fd_size, (uint32_t)fd + 1, sizeof(*ep->by_fd)))
		return NULL;
	if (ep->free) {
		it = &ep->items[ep->free - 1];
		ep->free = it->fd;
	} else {
		if (!grow((void **)&ep->items, &ep->items_size, ep->used + 1, sizeof(*ep->items)))
			return NULL;
		it = &ep->items[ep->used++];
	}
	*it = (struct item){.kind = (uint8_t)kind,
			    .fd = fd,
			    .events = e->events,
			    .conn = UINT32_MAX,
			    .data = e->data.u64};
	ep->by_fd[fd] = item_index(ep, it);
	ep->others++;
	if (kind != ITEM_NESTED)
		return it;
	if (!item_watch(ep, it)) {
		it->kind = ITEM_KERNEL;
		item_free(ep, it);
		return NULL;
	}
	it->w->next_nested = ep->nested;
	ep->nested = item_index(ep, it);
	return it;
}

static void hot_remove(struct instance *ep, struct item *it)
{
	struct watch *w = it->w;

	if (!w->hot)
		return;
	*(w->prev_hot ? &ep->items[w->prev_hot - 1].w->next_hot : &ep->hot) = w->next_hot;
	*(w->next_hot ? &ep->items[w->next_hot - 1].w->prev_hot : &ep->hot_end) = w->prev_hot;
	w->hot = false;
}

static void hot_append(struct instance *ep, struct item *it)
{
	int index = item_index(ep, it);

	it->w->hot = true;
	it->w->next_hot = 0;
	it->w->prev_hot = ep->hot_end;
	*(ep->hot_end ? &ep->items[ep->hot_end - 1].w->next_hot : &ep->hot) = index;
	ep->hot_end = index;
}

static void bell_remove(struct instance *ep, struct item *it)
{
	int *at;

	if (it->w->bell < 0)
		return;
	at = &ep->by_fd[it->w->bell];
	while (*at && *at != item_index(ep, it))
		at = &ep->items[*at - 1].w->next_bell;
	if (*at)
		*at = it->w->next_bell;
	it->w->bell = -1;
}

void item_leaves(struct instance *ep, struct item *it)
{
	item_heat(ep, it); // disarms
	bell_remove(ep, it);
	it->w->ask_kernel = true;
}

static void nested_remove(struct instance *ep, struct item *it)
{
	int *at = &ep->nested;

	while (*at != item_index(ep, it))
		at = &ep->items[*at - 1].w->next_nested;
	*at = it->w->next_nested;
}

void item_free(struct instance *ep, struct item *it)
{
	item_give_back(ep, it);
	if (it->kind == ITEM_NESTED)
		nested_remove(ep, it);
	item_unwatch(ep, it);
	ep->others--;
	if (it->fd >= 0)
		ep->by_fd[it->fd] = 0;
	else
		ep->orphans--;
	it->kind = ITEM_FREE;
	it->fd = ep->free;
	ep->free = item_index(ep, it);
}

void item_orphan(struct instance *ep, struct item *it)
{
	ep->by_fd[it->fd] = 0;
	it->fd = -1;
	ep->orphans++;
}

bool item_take(struct instance *ep, struct item *it, int doorbell)
{
	int *at;

	if (!grow((void **)&ep->by_fd, &ep->by_fd_size, (uint32_t)(doorbell + 1), sizeof(*ep->by_fd)))
		return false;
	it->kind = ITEM_MOVED;
	it->w->bell = doorbell;
	if (doorbell >= 0) { // behind the others, which are few: those of one segment
		for (at = &ep->by_fd[doorbell]; *at; at = &ep->items[*at - 1].w->next_bell)
			;
		it->w->next_bell = 0;
		*at = item_index(ep, it);
	}
	it->w->ask_kernel = true;
	ep->moved++;
	ep->moves++;
	ep->others--;
	return true;
}

void item_give_back(struct instance *ep, struct item *it)
{
	if (!item_is_in_inner(it))
		return;
	item_disarm(ep, it);
	hot_remove(ep, it);
	bell_remove(ep, it);
	item_unwatch(ep, it);
	it->kind = ITEM_PLAIN;
	ep->moved--;
	ep->others++;
}

void item_disarm(struct instance *ep, struct item *it)
{
	struct rlm_bound *b;

	if (!it->w || !it->w->armed)
		return;
	b = stream_bound(conn_of(it));
	if (b)
		ready_unlisten(b, it->w->listening, READY_BY_DOORBELL);
	ready_release(conn_of(it));
	it->w->armed = false;
	ep->armed--;
}

void item_heat(struct instance *ep, struct item *it)
{
	const struct rlm_bound *b = stream_bound(conn_of(it));

	item_disarm(ep, it);
	it->w->idle = 0;
	if (b && b->bell_port)
		atomic_store_explicit(&ep->spin.far, true, memory_order_relaxed);
	if (!it->w->hot)
		hot_append(ep, it);
}

void item_to_end(struct instance *ep, struct item *it)
{
	if (ep->hot_end == item_index(ep, it))
		return;
	hot_remove(ep, it);
	hot_append(ep, it);
}

void item_arm(struct instance *ep, struct item *it)
{
	struct rlm_bound *b;

	hot_remove(ep, it);
	if (it->w->armed || it->disabled)
		return;
	b = ready_hold_to_sleep(conn_of(it));
	if (!b)
		return;
	it->w->listening = it->events & (EPOLL_READABLE | EPOLL_WRITABLE | EPOLLRDHUP);
	ready_listen(b, it->w->listening, READY_BY_DOORBELL);
	it->w->armed = true;
	ep->armed++;
}

// --- the stash ---

void stash_put(struct instance *ep, const struct epoll_event *e)
{
	if (grow((void **)&ep->stash, &ep->stash_size, ep->stash_used + 1, sizeof(*ep->stash)))
		ep->stash[ep->stash_used++] = *e;
}

// As the kernel does when it hands an event out: what is not true any more is not told, and a shot that was not told can still be fired. What
// was closed meanwhile has no item, or is no socket; other processes' registrations have no item either, and are told in any case.
static bool stash_check(struct instance *ep, struct epoll_event *e)
{
	uint32_t shown = 0;
	bool known = false;

	for (uint32_t i = 0; i < ep->used; i++) {
		struct item *it = &ep->items[i];
		uint32_t now;

		if (it->kind == ITEM_FREE || item_is_in_inner(it) || it->data != e->data.u64)
			continue;
		known = true;
		now = (uint32_t)sys_poll_now(it->fd, (short)it->events) & (it->events | EPOLLERR | EPOLLHUP) & ~(uint32_t)POLLNVAL;
		shown |= now;
		if (!now && it->events & EPOLLONESHOT)
			epoll_kernel_ctl(instance_fd(ep, (uint32_t)(ep - instances)), EPOLL_CTL_MOD, it->fd, it->events, it->data);
	}
	if (known)
		e->events = shown;
	return known ? shown != 0 : ep->shared;
}

int stash_get(struct instance *ep, struct epoll_event *out, int max)
{
	uint32_t at = 0;
	int n = 0;

	while (at < ep->stash_used && n < max) {
		out[n] = ep->stash[at++];
		n += stash_check(ep, &out[n]);
	}
	if (at) {
		ep->stash_used -= at;
		memmove(ep->stash, ep->stash + at, ep->stash_used * sizeof(*out));
	}
	return n;
}

bool stash_has(struct instance *ep, uint64_t data, bool take)
{
	uint32_t left = 0;
	bool has = false;

	for (uint32_t i = 0; i < ep->stash_used; i++) {
		bool same = ep->stash[i].data.u64 == data;

		has |= same;
		if (!same || !take)
			ep->stash[left++] = ep->stash[i];
	}
	ep->stash_used = left;
	return has;
}

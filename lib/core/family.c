// SPDX-License-Identifier: BSD-2-Clause
// Places of processes, and what dead ones held. See family.h.
#include "family.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "sys.h"

struct rlm_family_shared {
	struct rlm_lock lock;       // places are taken
	struct rlm_lock sweep_lock; // places are taken back
	uint32_t serial;
	_Atomic uint32_t used; // places below may be taken
	_Atomic uint32_t id[FAMILY_PLACES];
};

static uint32_t place_of_id(uint32_t id)
{
	return id % FAMILY_PLACES;
}

static size_t page_up(size_t n)
{
	return (n + 4095) & ~(size_t)4095;
}

static size_t head_size(void)
{
	return page_up(sizeof(struct rlm_family_shared));
}

static size_t row_size(const struct rlm_arena *a)
{
	return page_up(a->conn_capacity * sizeof(struct rlm_share));
}

// Programs close descriptors in ways that nobody sees, and the number may be another file's by now.
static struct rlm_share *row_map(const struct rlm_arena *a, uint32_t index)
{
	struct stat st;

	if (sys_call2(SYS_fstat, a->family_fd, &st) < 0 || st.st_dev != a->family_device || st.st_ino != a->family_inode)
		return NULL;
	return arena_map(a->family_fd, head_size() + (uint64_t)index * row_size(a), row_size(a));
}

static void row_unmap(const struct rlm_arena *a, struct rlm_share *row)
{
	if (row)
		sys_call2(SYS_munmap, row, row_size(a));
}

void family_init(struct rlm_arena *a)
{
	int fd = arena_make_memfd("rlm-family", head_size() + FAMILY_PLACES * row_size(a));
	struct stat st;

	if (fd < 0)
		return;
	if (sys_call2(SYS_fstat, fd, &st) == 0)
		a->family = arena_map(fd, 0, head_size());
	if (!a->family) {
		sys_close(fd);
		return;
	}
	a->family_fd = fd;
	a->family_device = st.st_dev;
	a->family_inode = st.st_ino;
}

// --- places ---

static struct flock lock_of(uint32_t index)
{
	return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = index, .l_len = 1};
}

static bool is_locked(const struct rlm_arena *a, uint32_t index)
{
	struct flock lock = lock_of(index);

	return sys_fcntl(a->table_fd, F_OFD_GETLK, (long)&lock) < 0 || lock.l_type != F_UNLCK;
}

// A description of its own, because locks belong to it.
static int open_again(const struct rlm_arena *a)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", a->table_fd);
	return (int)sys_call4(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
}

// A process that is ending may still have the lock of a place that was taken back.
static int lock_free_place(struct rlm_arena *a, int fd)
{
	for (uint32_t i = 0; i < FAMILY_PLACES; i++) {
		struct flock lock = lock_of(i);

		if (!a->family->id[i] && sys_fcntl(fd, F_OFD_SETLK, (long)&lock) == 0)
			return (int)i;
	}
	return -EAGAIN;
}

int family_take_place(struct rlm_arena *a, struct rlm_place *place)
{
	struct rlm_family_shared *f = a->family;
	int index;

	*place = (struct rlm_place){.fd = -1};
	if (!f)
		return -ENOMEM;
	place->fd = open_again(a);
	if (place->fd < 0)
		return place->fd;
	rlm_lock_take(&f->lock);
	index = lock_free_place(a, place->fd);
	place->row = index >= 0 ? row_map(a, (uint32_t)index) : NULL;
	if (index >= 0 && !place->row)
		index = -ENOMEM;
	if (index >= 0) {
		if (++f->serial == UINT32_MAX / FAMILY_PLACES)
			f->serial = 1;
		place->index = (uint32_t)index;
		place->id = f->serial * FAMILY_PLACES + place->index;
		atomic_store_explicit(&f->id[index], place->id, memory_order_release);
		if (place->index >= f->used)
			f->used = place->index + 1;
	}
	rlm_lock_drop(&f->lock);
	if (index < 0) {
		sys_close(place->fd);
		place->fd = -1;
	}
	return index < 0 ? index : 0;
}

void family_leave_place(struct rlm_arena *a, struct rlm_place *place)
{
	row_unmap(a, place->row);
	place->row = NULL;
	place->id = 0;
}

bool family_is_alive(const struct rlm_arena *a, uint32_t id)
{
	uint32_t index = place_of_id(id);

	return id && a->family && atomic_load_explicit(&a->family->id[index], memory_order_acquire) == id &&
	       (id == a->place.id || is_locked(a, index));
}

// --- what they hold ---

bool family_hold(struct rlm_arena *a, const struct rlm_place *place, struct rlm_conn *c)
{
	if (place->id) {
		_Atomic uint16_t *held = &place->row[conn_index(a, c)].descriptors;

		if (atomic_load_explicit(held, memory_order_relaxed) == FAMILY_HOLDS_MAX)
			return false;
		atomic_fetch_add_explicit(held, 1, memory_order_relaxed);
	}
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return true;
}

bool family_release(struct rlm_arena *a, struct rlm_conn *c)
{
	if (a->place.id)
		atomic_fetch_sub_explicit(&family_mine(a, c)->descriptors, 1, memory_order_relaxed);
	return atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1;
}

static bool undo(_Atomic uint32_t *sum, _Atomic uint16_t *share)
{
	uint16_t n = atomic_exchange_explicit(share, 0, memory_order_acq_rel);

	atomic_fetch_sub_explicit(sum, n, memory_order_seq_cst);
	return n;
}

static bool undo_calls(struct rlm_conn *c, struct rlm_share *share)
{
	bool tx = undo(&c->tx_inflight, &share->tx_inflight), rx = undo(&c->rx_inflight, &share->rx_inflight);

	return undo(&c->users, &share->users) || tx || rx;
}

// Whoever is killed in here loses one connection's count at most: it is taken from the row before it is given back.
static void take_back(struct rlm_arena *a, uint32_t index, void (*lost)(struct rlm_conn *, bool))
{
	uint32_t used = atomic_load_explicit(&a->table->used, memory_order_acquire);
	struct rlm_share *row = row_map(a, index);

	if (!row)
		return; // later
	for (uint32_t i = 0; i < used; i++) {
		struct rlm_share *share = &row[i];
		struct rlm_conn *c = &a->conns[i];
		bool inside = undo_calls(c, share);
		uint32_t n = atomic_exchange_explicit(&share->descriptors, 0, memory_order_acq_rel);

		if (n || inside)
			lost(c, n && atomic_fetch_sub_explicit(&c->refs, n, memory_order_acq_rel) == n);
	}
	row_unmap(a, row);
	atomic_store_explicit(&a->family->id[index], 0, memory_order_release);
}

void family_sweep(struct rlm_arena *a, void (*lost)(struct rlm_conn *, bool last))
{
	struct rlm_family_shared *f = a->family;

	// The lock of our own place shows that table_fd still is what it was: programs close descriptors in ways that nobody sees.
	if (!f || !a->place.id || !is_locked(a, a->place.index))
		return;
	rlm_lock_take(&f->sweep_lock);
	for (uint32_t i = 0; i < atomic_load_explicit(&f->used, memory_order_acquire); i++)
		if (f->id[i] && i != a->place.index && !is_locked(a, i))
			take_back(a, i, lost);
	rlm_lock_drop(&f->sweep_lock);
}

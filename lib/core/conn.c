// SPDX-License-Identifier: BSD-2-Clause
// Connection entries and bindings: free lists in family-shared memory.
#include "conn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "sys.h"

// Lists are touched once per connection, so a lock is simple enough.
struct rlm_arena_shared {
	struct rlm_lock lock;
	uint32_t conn_free; // index + 1
	uint32_t conn_used;
	uint32_t bound_free; // index + 1
	uint32_t bound_used;
	_Atomic bool timestamps;
};

#define TICKETS_SIZE 4096

static size_t page_up(size_t n)
{
	return (n + 4095) & ~(size_t)4095;
}

void *arena_map(int fd, uint64_t at, size_t size)
{
	int flags = MAP_SHARED | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);
	long p = sys_call6(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, flags, fd, at);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

static void *map_shared(size_t size, int fd)
{
	return arena_map(fd, 0, size);
}

// To try it would cost the process a SIGXFSZ.
static bool may_make(size_t size)
{
	struct rlimit limit;

	return sys_call4(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &limit) < 0 || limit.rlim_cur >= size;
}

int arena_make_memfd(const char *name, size_t size)
{
	int fd = may_make(size) ? (int)sys_call2(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING) : -EFBIG;
	long r;

	if (fd < 0)
		return fd;
	r = sys_call2(SYS_ftruncate, fd, size);
	if (r == 0)
		r = sys_fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (r < 0) {
		sys_close(fd);
		return (int)r;
	}
	return fd;
}

int arena_init(struct rlm_arena *a, uint32_t conn_capacity, uint32_t bound_capacity)
{
	size_t table_size = RLM_TABLE_OFFSET + page_up((size_t)conn_capacity * sizeof(struct rlm_conn_stat));
	size_t conns = page_up((size_t)conn_capacity * sizeof(struct rlm_conn));
	size_t bounds = page_up((size_t)bound_capacity * sizeof(struct rlm_bound));
	uint8_t *private;

	memset(a, 0, sizeof(*a));
	a->table_fd = arena_make_memfd("rlm-table", table_size);
	if (a->table_fd < 0)
		return a->table_fd;
	a->tickets_fd = a->family_fd = -1;
	a->table = map_shared(table_size, a->table_fd);
	private = map_shared(4096 + conns + bounds, -1);
	if (!a->table || !private)
		goto err_table; // mappings stay: this happens once, at the end of memory
	a->stats = (struct rlm_conn_stat *)((uint8_t *)a->table + RLM_TABLE_OFFSET);
	a->shared = (struct rlm_arena_shared *)private;
	a->timestamps = &a->shared->timestamps;
	a->conns = (struct rlm_conn *)(private + 4096);
	a->bounds = (struct rlm_bound *)(private + 4096 + conns);
	a->conn_capacity = conn_capacity;
	a->bound_capacity = bound_capacity;
	a->table->magic = RLM_TABLE_MAGIC;
	a->table->version = RLM_TABLE_VERSION;
	a->table->capacity = conn_capacity;
	a->table->entry_size = sizeof(struct rlm_conn_stat);
	return 0;

err_table:
	sys_close(a->table_fd);
	return -ENOMEM;
}

int arena_make_tickets(struct rlm_arena *a)
{
	int fd = arena_make_memfd("rlm-tickets", TICKETS_SIZE);

	if (fd < 0)
		return fd;
	a->tickets = map_shared(TICKETS_SIZE, fd);
	if (!a->tickets) {
		sys_close(fd);
		return -ENOMEM;
	}
	a->tickets_fd = fd;
	return 0;
}

void arena_drop_tickets(struct rlm_arena *a)
{
	if (a->tickets)
		sys_call2(SYS_munmap, a->tickets, TICKETS_SIZE);
	a->tickets = NULL;
	a->tickets_fd = -1;
}

struct rlm_conn *conn_new(struct rlm_arena *a)
{
	struct rlm_arena_shared *s = a->shared;
	struct rlm_conn *c = NULL;
	struct rlm_conn_stat *stat;
	uint32_t generation;

	rlm_lock_take(&s->lock);
	if (s->conn_free) {
		c = &a->conns[s->conn_free - 1];
		s->conn_free = c->next;
	} else if (s->conn_used < a->conn_capacity) {
		c = &a->conns[s->conn_used++];
		atomic_store_explicit(&a->table->used, s->conn_used, memory_order_relaxed);
	}
	if (c)
		stat_add(&a->table->opened, 1);
	rlm_lock_drop(&s->lock);
	if (!c)
		return NULL;
	memset(c, 0, sizeof(*c));
	stat = conn_stat(a, c);
	generation = stat->generation;
	memset(stat, 0, sizeof(*stat));
	stat->why = RLM_WHY_THRESHOLD;
	atomic_store_explicit(&stat->generation, generation + 1, memory_order_release);
	return c;
}

void conn_free(struct rlm_arena *a, struct rlm_conn *c)
{
	struct rlm_arena_shared *s = a->shared;
	struct rlm_conn_stat *stat = conn_stat(a, c);

	rlm_lock_take(&s->lock);
	stat_add(&a->table->tx_bytes_plain, stat->tx_bytes_plain);
	stat_add(&a->table->rx_bytes_plain, stat->rx_bytes_plain);
	stat_add(&a->table->tx_bytes_ring, stat->tx_bytes_ring);
	stat_add(&a->table->rx_bytes_ring, stat->rx_bytes_ring);
	stat_add(&a->table->switches, stat->switches);
	atomic_store_explicit(&stat->generation, stat->generation + 1, memory_order_release);
	c->next = s->conn_free;
	s->conn_free = conn_index(a, c) + 1;
	rlm_lock_drop(&s->lock);
}

struct rlm_bound *bound_new(struct rlm_arena *a)
{
	struct rlm_arena_shared *s = a->shared;
	struct rlm_bound *b = NULL;

	rlm_lock_take(&s->lock);
	if (s->bound_free) {
		b = &a->bounds[s->bound_free - 1];
		s->bound_free = b->next;
	} else if (s->bound_used < a->bound_capacity) {
		b = &a->bounds[s->bound_used++];
	}
	rlm_lock_drop(&s->lock);
	if (b)
		memset(b, 0, sizeof(*b));
	return b;
}

void bound_free(struct rlm_arena *a, struct rlm_bound *b)
{
	struct rlm_arena_shared *s = a->shared;

	atomic_store_explicit(&b->returned, 0, memory_order_relaxed);
	rlm_lock_take(&s->lock);
	b->next = s->bound_free;
	s->bound_free = (uint32_t)(b - a->bounds) + 1;
	rlm_lock_drop(&s->lock);
}

struct rlm_bound *bound_next_returned(struct rlm_arena *a, uint32_t *at)
{
	while (*at < a->shared->bound_used) {
		struct rlm_bound *b = &a->bounds[(*at)++];

		if (atomic_load_explicit(&b->returned, memory_order_acquire))
			return b;
	}
	return NULL;
}

// SPDX-License-Identifier: BSD-2-Clause
// The descriptor table. See fdtable.h for what an entry promises.
#include "fdtable.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "sys.h"

_Atomic uint32_t *fdtable;
struct rlm_arena arena;
_Atomic uint32_t fd_internal_epoch;
int process_id;

static _Atomic int32_t *hints; // per connection: a descriptor + 1 that probably refers to it
static _Atomic int highest = -1;

void *map_private(size_t size)
{
	long p = sys_call6(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

int fdtable_init(void)
{
	void *table = map_private(FDTABLE_SIZE * sizeof(*fdtable));

	hints = map_private(arena.conn_capacity * sizeof(*hints));
	if (!table || !hints)
		return -ENOMEM;
	fdtable = table;
	return 0;
}

void fd_set_entry(int fd, enum fd_kind kind, uint32_t value)
{
	int seen = atomic_load_explicit(&highest, memory_order_relaxed);

	if ((unsigned)fd >= FDTABLE_SIZE || !fdtable)
		return;
	while (fd > seen && !atomic_compare_exchange_weak_explicit(&highest, &seen, fd, memory_order_relaxed,
								   memory_order_relaxed))
		;
	if (kind == FD_CONN)
		atomic_store_explicit(&hints[value], fd + 1, memory_order_relaxed);
	atomic_store_explicit(&fdtable[fd], fd_make_entry(kind, value), memory_order_seq_cst);
}

void fd_clear(int fd)
{
	if ((unsigned)fd < FDTABLE_SIZE && fdtable)
		atomic_store_explicit(&fdtable[fd], 0, memory_order_seq_cst);
}

int fd_highest(void)
{
	return atomic_load_explicit(&highest, memory_order_relaxed);
}

int fd_of_conn(const struct rlm_conn *conn)
{
	uint32_t index = conn_index(&arena, conn);
	int fd = atomic_load_explicit(&hints[index], memory_order_relaxed) - 1;
	uint32_t wanted = fd_make_entry(FD_CONN, index);

	if (fd >= 0 && fd_entry(fd) == wanted)
		return fd;
	for (fd = 0; fd <= fd_highest(); fd++)
		if (fd_entry(fd) == wanted) {
			atomic_store_explicit(&hints[index], fd + 1, memory_order_relaxed);
			return fd;
		}
	return -1;
}

uint32_t fd_count_of_conn(const struct rlm_conn *conn)
{
	uint32_t wanted = fd_make_entry(FD_CONN, conn_index(&arena, conn)), n = 0;

	for (int fd = 0; fd <= fd_highest(); fd++)
		n += fd_entry(fd) == wanted;
	return n;
}

static int internal_floor(void)
{
	struct rlimit limit;
	long soft = 1024;

	if (sys_call4(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit) == 0)
		soft = limit.rlim_cur > FDTABLE_SIZE ? FDTABLE_SIZE : (long)limit.rlim_cur;
	return (int)(soft - soft / 4 < 8192 ? soft - soft / 4 : 8192); // the kernel's table grows up to the highest
}

int fd_make_internal(int fd)
{
	long high = sys_fcntl(fd, F_DUPFD_CLOEXEC, internal_floor());

	if (high < 0 || high >= (long)FDTABLE_SIZE) {
		if (high >= 0)
			sys_close((int)high);
		sys_fcntl(fd, F_SETFD, FD_CLOEXEC);
		fd_set_entry(fd, FD_INTERNAL, 0);
		return fd;
	}
	sys_close(fd);
	fd_set_entry((int)high, FD_INTERNAL, 0);
	return (int)high;
}

void fd_close_internal(int fd)
{
	if (fd < 0)
		return;
	atomic_fetch_add_explicit(&fd_internal_epoch, 1, memory_order_relaxed);
	fd_clear(fd);
	sys_close(fd);
}

// Other parts remember the number, also in memory that forked children share, so it stays: the caller reports EBUSY.
int fd_relocate_internal(int fd)
{
	return fd_kind(fd) == FD_INTERNAL ? -EBUSY : 0;
}

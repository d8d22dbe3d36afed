// SPDX-License-Identifier: BSD-2-Clause
// What librlm knows of each descriptor of this process. Private memory: fork copies it with the descriptors.
// Look-ups take no lock. An entry is cleared before the kernel closes the descriptor and set after the kernel made it, so a stale
// entry never names a newer file. Descriptors that librlm never saw have no entry and go straight to the kernel.
#ifndef RLM_FDTABLE_H
#define RLM_FDTABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "conn.h"

enum fd_kind {
	FD_UNKNOWN = 0,
	FD_SOCKET = 1,   // a TCP socket that is not connected (yet), maybe listening; value: SOCKET_*, see hooks.h
	FD_CONN = 2,     // value: index of the connection
	FD_EPOLL = 3,    // value: index of the epoll instance, see epoll.c
	FD_INTERNAL = 4, // ours: the application must neither close nor use it
};

#define FDTABLE_SIZE (1u << 20)
#define FD_VALUE_BITS 28
#define FD_VALUE_MASK ((1u << FD_VALUE_BITS) - 1)

extern _Atomic uint32_t *fdtable; // FDTABLE_SIZE entries, zero pages until used; NULL before the engine starts

static inline uint32_t fd_entry(int fd)
{
	if (__builtin_expect((unsigned)fd >= FDTABLE_SIZE || !fdtable, 0))
		return 0;
	return atomic_load_explicit(&fdtable[fd], memory_order_acquire);
}

static inline enum fd_kind fd_kind(int fd)
{
	return (enum fd_kind)(fd_entry(fd) >> FD_VALUE_BITS);
}

static inline uint32_t fd_make_entry(enum fd_kind kind, uint32_t value)
{
	return (uint32_t)kind << FD_VALUE_BITS | value;
}

extern struct rlm_arena arena;

// The connection behind a descriptor, or NULL: then the kernel alone is concerned.
static inline struct rlm_conn *fd_conn(int fd)
{
	uint32_t e = fd_entry(fd);

	return __builtin_expect(e >> FD_VALUE_BITS == FD_CONN, 0) ? &arena.conns[e & FD_VALUE_MASK] : NULL;
}

// Before the first entry. 0 or -ENOMEM.
int fdtable_init(void);
// Zero pages that cost nothing until used, for tables of this process. NULL: no memory.
void *map_private(size_t size);
void fd_set_entry(int fd, enum fd_kind kind, uint32_t value);
void fd_clear(int fd);
// Highest descriptor that ever had an entry; for scans.
int fd_highest(void);
// A descriptor of this process that refers to the connection, or -1. Follows dup and close.
int fd_of_conn(const struct rlm_conn *conn);
// How many descriptors of this process refer to it. A scan: for rare decisions.
uint32_t fd_count_of_conn(const struct rlm_conn *conn);
// Moves a descriptor of ours out of the application's way (high number, close-on-exec) and marks it FD_INTERNAL.
int fd_make_internal(int fd);
void fd_close_internal(int fd);
// Grows whenever an internal descriptor is closed: remembered numbers may mean something else now.
extern _Atomic uint32_t fd_internal_epoch;
// This process's id without a system call; fork's child sets it anew.
extern int process_id;
// The application wants this very number (dup2): 0 when it is free for it, -EBUSY when it is ours.
int fd_relocate_internal(int fd);

#endif

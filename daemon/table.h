// SPDX-License-Identifier: BSD-2-Clause
// Connection tables of processes, see rlm/stat.h. Read with pread, so that a process that writes nonsense or shrinks
// its file harms nobody. A family of forked processes has one table and several sessions: tables are counted by file,
// not by session.
#ifndef RLMD_TABLE_H
#define RLMD_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uthash.h>

#include "rlm/stat.h"

struct rlmd_sums {
	uint64_t opened;
	uint64_t promoted;
	uint64_t switches;
	uint64_t tx_bytes_ring;
	uint64_t rx_bytes_ring;
	uint64_t tx_bytes_plain;
	uint64_t rx_bytes_plain;
};

// A copy of one live entry.
struct rlmd_row {
	uint32_t index;
	uint32_t generation;
	struct rlm_conn_stat stat;
};

struct rlmd_table {
	struct {
		uint64_t device;
		uint64_t inode;
	} file;
	int fd; // owned
	uid_t uid;
	unsigned refs;
	uint32_t capacity;
	uint32_t entry_size;
	UT_hash_handle hh;
};

struct rlmd_tables {
	struct rlmd_table *by_file;
};

// Takes the table in file descriptor fd (and owns fd, also on error). NULL: not what stat.h says, *problem tells.
struct rlmd_table *rlmd_table_get(struct rlmd_tables *tables, int fd, uid_t uid, uint32_t capacity, const char **problem);
// True: nobody else has a session with it, *last holds what it said in the end, and the table is gone.
bool rlmd_table_put(struct rlmd_tables *tables, struct rlmd_table *table, struct rlmd_sums *last);
void rlmd_table_sums(const struct rlmd_table *table, struct rlmd_sums *sums);
// Calls row for each live entry.
void rlmd_table_each(const struct rlmd_table *table, void (*row)(void *arg, const struct rlmd_row *row), void *arg);
void rlmd_sums_add(struct rlmd_sums *sums, const struct rlmd_sums *more);

// Maps the page of naming tickets; does not own fd. NULL when it could shrink under us, or is no such page.
struct rlm_tickets_shared *rlmd_tickets_map(int fd);
void rlmd_tickets_unmap(struct rlm_tickets_shared *tickets);

#endif

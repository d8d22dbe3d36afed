// SPDX-License-Identifier: BSD-2-Clause
#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "closer.h"

#define CAPACITY_MAX   (1u << 20)
#define ENTRY_SIZE_MAX 4096u
#define BATCH	       256u
#define TICKETS_SIZE   4096
#define TICKETS_SEALS  (F_SEAL_SHRINK | F_SEAL_GROW) // neither a fault, nor memory without end that unmapping would free

// A memfd in ordinary memory, and nothing else: reading from whatever else a process might pass could block, or fault.
static bool is_memfd(int fd)
{
	struct statfs fs;

	return fcntl(fd, F_GET_SEALS) >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static bool header_read(int fd, struct rlm_table_shared *header)
{
	return pread(fd, header, sizeof(*header), 0) == sizeof(*header);
}

static const char *table_check(int fd, uint32_t capacity, struct rlm_table_shared *header, struct stat *st)
{
	if (!is_memfd(fd))
		return "connection table is not a memfd";
	if (fstat(fd, st) || !header_read(fd, header))
		return "connection table cannot be read";
	if (header->magic != RLM_TABLE_MAGIC || header->version != RLM_TABLE_VERSION)
		return "connection table of another version";
	if (header->capacity != capacity || capacity == 0 || capacity > CAPACITY_MAX)
		return "connection table of impossible capacity";
	if (header->entry_size < sizeof(struct rlm_conn_stat) || header->entry_size > ENTRY_SIZE_MAX)
		return "connection table with entries of impossible size";
	if (st->st_size < (off_t)(RLM_TABLE_OFFSET + (uint64_t)capacity * header->entry_size))
		return "connection table shorter than its entries";
	return NULL;
}

struct rlmd_table *rlmd_table_get(struct rlmd_tables *tables, int fd, uid_t uid, uint32_t capacity, const char **problem)
{
	struct rlm_table_shared header;
	struct rlmd_table *table, *known;
	struct stat st;

	*problem = table_check(fd, capacity, &header, &st);
	table = *problem ? NULL : calloc(1, sizeof(*table));
	if (!table) {
		rlmd_close_foreign(fd, uid);
		return NULL;
	}
	table->file.device = st.st_dev;
	table->file.inode = st.st_ino;
	HASH_FIND(hh, tables->by_file, &table->file, sizeof(table->file), known);
	if (known) {
		free(table);
		rlmd_close_foreign(fd, uid);
		known->refs++;
		return known;
	}
	table->fd = fd;
	table->uid = uid;
	table->refs = 1;
	table->capacity = header.capacity;
	table->entry_size = header.entry_size;
	HASH_ADD(hh, tables->by_file, file, sizeof(table->file), table);
	return table;
}

bool rlmd_table_put(struct rlmd_tables *tables, struct rlmd_table *table, struct rlmd_sums *last)
{
	if (!table || --table->refs)
		return false;
	rlmd_table_sums(table, last);
	HASH_DEL(tables->by_file, table);
	rlmd_close_foreign(table->fd, table->uid);
	free(table);
	return true;
}

void rlmd_sums_add(struct rlmd_sums *sums, const struct rlmd_sums *more)
{
	sums->opened += more->opened;
	sums->promoted += more->promoted;
	sums->switches += more->switches;
	sums->tx_bytes_ring += more->tx_bytes_ring;
	sums->rx_bytes_ring += more->rx_bytes_ring;
	sums->tx_bytes_plain += more->tx_bytes_plain;
	sums->rx_bytes_plain += more->rx_bytes_plain;
}

static void row_add(void *arg, const struct rlmd_row *row)
{
	struct rlmd_sums *sums = arg;

	sums->switches += row->stat.switches;
	sums->tx_bytes_ring += row->stat.tx_bytes_ring;
	sums->rx_bytes_ring += row->stat.rx_bytes_ring;
	sums->tx_bytes_plain += row->stat.tx_bytes_plain;
	sums->rx_bytes_plain += row->stat.rx_bytes_plain;
}

void rlmd_table_sums(const struct rlmd_table *table, struct rlmd_sums *sums)
{
	struct rlm_table_shared header;

	memset(sums, 0, sizeof(*sums));
	if (!header_read(table->fd, &header))
		return;
	*sums = (struct rlmd_sums){.opened = header.opened,
				   .promoted = header.promoted,
				   .switches = header.switches,
				   .tx_bytes_ring = header.tx_bytes_ring,
				   .rx_bytes_ring = header.rx_bytes_ring,
				   .tx_bytes_plain = header.tx_bytes_plain,
				   .rx_bytes_plain = header.rx_bytes_plain};
	rlmd_table_each(table, row_add, sums);
}

static bool batch_each(const struct rlmd_table *table, uint32_t first, uint32_t count, uint8_t *buffer,
		       void (*visit)(void *arg, const struct rlmd_row *row), void *arg)
{
	size_t size = (size_t)count * table->entry_size;
	off_t offset = (off_t)(RLM_TABLE_OFFSET + (uint64_t)first * table->entry_size);
	struct rlmd_row row;

	if (pread(table->fd, buffer, size, offset) != (ssize_t)size)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		memcpy(&row.stat, buffer + (size_t)i * table->entry_size, sizeof(row.stat));
		row.index = first + i;
		row.generation = row.stat.generation;
		if (row.generation & 1)
			visit(arg, &row);
	}
	return true;
}

// The first entry from `first` on that may be live: where nothing was ever written is none, however long that is.
static uint32_t data_next(const struct rlmd_table *table, uint32_t first)
{
	off_t offset = (off_t)(RLM_TABLE_OFFSET + (uint64_t)first * table->entry_size);
	off_t data = lseek(table->fd, offset, SEEK_DATA);

	if (data < 0)
		return errno == ENXIO ? UINT32_MAX : first;
	return first + (uint32_t)((uint64_t)(data - offset) / table->entry_size);
}

void rlmd_table_each(const struct rlmd_table *table, void (*visit)(void *arg, const struct rlmd_row *row), void *arg)
{
	struct rlm_table_shared header;
	uint8_t *buffer;
	uint32_t used;

	if (!header_read(table->fd, &header))
		return;
	used = header.used;
	if (used > table->capacity)
		used = table->capacity;
	buffer = malloc((size_t)BATCH * table->entry_size);
	if (!buffer)
		return;
	for (uint32_t first = data_next(table, 0); first < used; first = data_next(table, first + BATCH))
		if (!batch_each(table, first, used - first < BATCH ? used - first : BATCH, buffer, visit, arg))
			break;
	free(buffer);
}

struct rlm_tickets_shared *rlmd_tickets_map(int fd)
{
	struct stat st;
	void *page;

	if (!is_memfd(fd))
		return NULL;
	// Cannot be done on behalf of the process if it forbade sealing; then only what it did itself counts.
	if (fcntl(fd, F_ADD_SEALS, TICKETS_SEALS) && (fcntl(fd, F_GET_SEALS) & TICKETS_SEALS) != TICKETS_SEALS)
		return NULL;
	if (fstat(fd, &st) || st.st_size != TICKETS_SIZE)
		return NULL;
	page = mmap(NULL, TICKETS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return page == MAP_FAILED ? NULL : page;
}

void rlmd_tickets_unmap(struct rlm_tickets_shared *tickets)
{
	if (tickets)
		munmap(tickets, TICKETS_SIZE);
}

// SPDX-License-Identifier: BSD-2-Clause
// One kernel: regions are memfds, doorbells are eventfds.
//
// The owner of a region gets the memfd itself, its peer a second open file description that is read-only. The file's
// mode keeps the peer from opening it again for writing through /proc (processes of the same user as rlmd, who could as
// well attach with ptrace, and root excepted). Seals keep the size fixed, so that a mapping never faults beyond the
// end. Not sealed against writing: that would forbid the owner to punch holes, which is how idle rings give their
// memory back.
#include "backend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rlm/layout.h"

static struct {
	int fd; // read-only
	struct rlm_location_shared *page;
} location = {.fd = -1};

void rlmd_parts_close(int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

static int reopen_read_only(int fd)
{
	char path[40];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	return ro < 0 ? -errno : ro;
}

static int header_write(int fd, uint32_t slots, uint32_t ring_size)
{
	struct rlm_region_shared header = {
	    .magic = RLM_LAYOUT_MAGIC,
	    .version = RLM_LAYOUT_VERSION,
	    .slots = slots,
	    .ring_size = ring_size,
	    .data_offset = rlm_data_offset(slots),
	    .size = rlm_region_size(slots, ring_size),
	};

	if (pwrite(fd, &header, sizeof(header), 0) != sizeof(header))
		return errno ? -errno : -EIO;
	return 0;
}

static int memfd_make(const char *name, uint64_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int err;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) == 0 && fchmod(fd, 0400) == 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static int region_make(int *rw, int *ro, uint32_t slots, uint32_t ring_size)
{
	int err;

	*ro = -1;
	*rw = memfd_make("rlm-region", rlm_region_size(slots, ring_size));
	if (*rw < 0)
		return *rw;
	err = header_write(*rw, slots, ring_size);
	if (!err && fcntl(*rw, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		err = -errno;
	if (!err) {
		*ro = reopen_read_only(*rw);
		err = *ro < 0 ? *ro : 0;
	}
	if (err)
		rlmd_parts_close(rw, 1);
	return err;
}

// Side 0 waits at one bell and rings the other, side 1 the other way round. Each side gets descriptors of its own, to
// be closed one by one.
static int bells_make(int *mine0, int *peer0, int *mine1, int *peer1)
{
	int err;

	*mine0 = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	*mine1 = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	*peer0 = *mine1 < 0 ? -1 : fcntl(*mine1, F_DUPFD_CLOEXEC, 0);
	*peer1 = *mine0 < 0 ? -1 : fcntl(*mine0, F_DUPFD_CLOEXEC, 0);
	if (*mine0 >= 0 && *mine1 >= 0 && *peer0 >= 0 && *peer1 >= 0)
		return 0;
	err = errno ? -errno : -EMFILE;
	rlmd_parts_close(mine0, 1);
	rlmd_parts_close(mine1, 1);
	rlmd_parts_close(peer0, 1);
	rlmd_parts_close(peer1, 1);
	return err;
}

static int local_link_make(struct rlmd_link_parts *parts)
{
	return bells_make(&parts->fd[0][RLMD_LINK_MINE], &parts->fd[0][RLMD_LINK_PEER], &parts->fd[1][RLMD_LINK_MINE],
			  &parts->fd[1][RLMD_LINK_PEER]);
}

static int local_segment_make(struct rlmd_segment_parts *parts, uint32_t slots, uint32_t ring_size)
{
	int *side0 = parts->fd[0], *side1 = parts->fd[1];
	int err;

	memset(parts, 0xff, sizeof(*parts)); // all -1
	err = region_make(&side0[RLMD_SEGMENT_RW], &side1[RLMD_SEGMENT_RO], slots, ring_size);
	if (!err)
		err = region_make(&side1[RLMD_SEGMENT_RW], &side0[RLMD_SEGMENT_RO], slots, ring_size);
	if (!err)
		err = bells_make(&side0[RLMD_SEGMENT_MINE], &side0[RLMD_SEGMENT_PEER], &side1[RLMD_SEGMENT_MINE],
				 &side1[RLMD_SEGMENT_PEER]);
	if (err) {
		rlmd_parts_close(side0, RLMD_SEGMENT_FDS);
		rlmd_parts_close(side1, RLMD_SEGMENT_FDS);
	}
	return err;
}

// One stay of all namespaces on this kernel is one boot; a restarted broker must say the same, or links would be taken
// for lost.
static uint64_t location_number(void)
{
	char id[64] = "";
	uint64_t hash = 0xcbf29ce484222325u; // FNV-1a
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, id, sizeof(id));

	if (fd >= 0)
		close(fd);
	for (ssize_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)id[i]) * 0x100000001b3u;
	return hash ? hash : 1;
}

static int local_init(void)
{
	int err = 0, fd = memfd_make("rlm-location", 4096);

	if (fd < 0)
		return fd;
	location.page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (location.page == MAP_FAILED) {
		location.page = NULL;
		err = -errno;
		goto out;
	}
	location.page->magic = RLM_LAYOUT_MAGIC;
	location.page->version = RLM_LAYOUT_VERSION;
	atomic_store(&location.page->location, location_number());
	// Our own mapping stays writable, nobody can make another one.
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)) {
		err = -errno;
		goto out;
	}
	location.fd = reopen_read_only(fd);
	err = location.fd < 0 ? location.fd : 0;
out:
	close(fd);
	return err;
}

static void local_deinit(void)
{
	if (location.page)
		munmap(location.page, 4096);
	location.page = NULL;
	rlmd_parts_close(&location.fd, 1);
}

static int local_location_open(void)
{
	int fd = fcntl(location.fd, F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

static uint64_t local_location(void)
{
	return atomic_load(&location.page->location);
}

static void local_quiesce(bool on)
{
	atomic_store(&location.page->quiesce, on);
}

const struct rlmd_backend rlmd_backend_local = {
    .name = "local",
    .init = local_init,
    .deinit = local_deinit,
    .link_make = local_link_make,
    .segment_make = local_segment_make,
    .location_open = local_location_open,
    .location = local_location,
    .quiesce = local_quiesce,
};

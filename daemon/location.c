// SPDX-License-Identifier: BSD-2-Clause
#include "location.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rlm/layout.h"

#define PAGE 4096

int rlmd_memfd_make(const char *name, uint64_t size)
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

int rlmd_memfd_reopen_read_only(int fd)
{
	char path[40];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	return ro < 0 ? -errno : ro;
}

int rlmd_location_init(struct rlmd_location *location, uint64_t domain, uint64_t number)
{
	int err = 0, fd = rlmd_memfd_make("rlm-location", PAGE);

	location->fd = -1;
	location->page = NULL;
	if (fd < 0)
		return fd;
	location->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (location->page == MAP_FAILED) {
		location->page = NULL;
		err = -errno;
		goto out;
	}
	location->page->magic = RLM_LAYOUT_MAGIC;
	location->page->version = RLM_LAYOUT_VERSION;
	location->page->domain = domain;
	atomic_store(&location->page->location, number);
	// Our own mapping stays writable, nobody can make another one.
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)) {
		err = -errno;
		goto out;
	}
	location->fd = rlmd_memfd_reopen_read_only(fd);
	err = location->fd < 0 ? location->fd : 0;
out:
	close(fd);
	if (err)
		rlmd_location_deinit(location);
	return err;
}

void rlmd_location_deinit(struct rlmd_location *location)
{
	if (location->page)
		munmap(location->page, PAGE);
	location->page = NULL;
	if (location->fd >= 0)
		close(location->fd);
	location->fd = -1;
}

void rlmd_location_set(struct rlmd_location *location, uint64_t number)
{
	atomic_store(&location->page->location, number);
}

uint64_t rlmd_location_number(const struct rlmd_location *location)
{
	return atomic_load(&location->page->location);
}

void rlmd_location_quiesce(struct rlmd_location *location, bool on)
{
	atomic_store(&location->page->quiesce, on);
}

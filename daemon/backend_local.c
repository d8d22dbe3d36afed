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
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "location.h"
#include "rlm/layout.h"

void rlmd_parts_close(int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

static int header_write(int fd, uint32_t slots, uint32_t ring_size)
{
	struct rlm_region_shared header = rlm_region_header(slots, ring_size);

	if (pwrite(fd, &header, sizeof(header), 0) != sizeof(header))
		return errno ? -errno : -EIO;
	return 0;
}

static int region_make(int *rw, int *ro, uint32_t slots, uint32_t ring_size)
{
	int err;

	*ro = -1;
	*rw = rlmd_memfd_make("rlm-region", rlm_region_size(slots, ring_size));
	if (*rw < 0)
		return *rw;
	err = header_write(*rw, slots, ring_size);
	if (!err && fcntl(*rw, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		err = -errno;
	if (!err) {
		*ro = rlmd_memfd_reopen_read_only(*rw);
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

static uint64_t hash(uint64_t hash, const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u; // FNV-1a
	return hash;
}

// Nothing is kept between two runs of rlmd but the number of stays, so all of this has to follow from what is there.
static uint64_t local_location(const char *host, uint64_t domain, uint32_t stay)
{
	char boot[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, boot, sizeof(boot));
	uint64_t number = hash(0xcbf29ce484222325u, boot, length > 0 ? (size_t)length : 0);

	if (fd >= 0)
		close(fd);
	number = hash(number, host, strlen(host) + 1);
	number = hash(number, &domain, sizeof(domain));
	number = hash(number, &stay, sizeof(stay));
	return number ? number : 1;
}

static int local_init(void)
{
	return 0;
}

static void local_deinit(void)
{
}

const struct rlmd_backend rlmd_backend_local = {
    .name = "local",
    .init = local_init,
    .deinit = local_deinit,
    .link_make = local_link_make,
    .segment_make = local_segment_make,
    .location = local_location,
};

// SPDX-License-Identifier: BSD-2-Clause
// What a role makes shared memory and doorbells from. The broker hands the descriptors out and closes them; it maps
// nothing and keeps nothing.
#ifndef RLMD_BACKEND_H
#define RLMD_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

// What one side of a link gets with LINK, in the order of the message.
enum { RLMD_LINK_MINE, RLMD_LINK_PEER, RLMD_LINK_FDS };
// ... and with SEGMENT.
enum { RLMD_SEGMENT_RW, RLMD_SEGMENT_RO, RLMD_SEGMENT_MINE, RLMD_SEGMENT_PEER, RLMD_SEGMENT_FDS };

struct rlmd_link_parts {
	int fd[2][RLMD_LINK_FDS]; // by side; the caller closes them with rlmd_parts_close()
};

struct rlmd_segment_parts {
	int fd[2][RLMD_SEGMENT_FDS];
};

struct rlmd_backend {
	const char *name;
	// 0 or -errno; on error nothing is left open.
	int (*link_make)(struct rlmd_link_parts *parts);
	int (*segment_make)(struct rlmd_segment_parts *parts, uint32_t slots, uint32_t ring_size);
	// Where a domain is: unique to this stay here, the same again after a restart of rlmd, never 0.
	uint64_t (*location)(const char *host, uint64_t domain, uint32_t stay);
	int (*init)(void);
	void (*deinit)(void);
};

extern const struct rlmd_backend rlmd_backend_local;

void rlmd_parts_close(int *fds, unsigned count);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Packets on their way to a client. Never blocks: what the socket does not take now waits here, up to a bound.
#ifndef RLMD_OUTBOX_H
#define RLMD_OUTBOX_H

#include <stddef.h>

#define RLMD_OUTBOX_MAX 1024u

struct rlmd_packet;

struct rlmd_outbox {
	int fd; // the client's socket, borrowed
	struct rlmd_packet *packets;
	unsigned count;
};

enum rlmd_outbox_state {
	RLMD_OUTBOX_EMPTY,
	RLMD_OUTBOX_WAITS,  // until the socket is writable
	RLMD_OUTBOX_LATER,  // the kernel is short of something: try again in a while
	RLMD_OUTBOX_FULL,   // the client does not read
	RLMD_OUTBOX_BROKEN, // the client is gone
};

void rlmd_outbox_init(struct rlmd_outbox *outbox, int fd);
void rlmd_outbox_deinit(struct rlmd_outbox *outbox);
// Copies data and descriptors as far as needed: the caller still owns its own.
enum rlmd_outbox_state rlmd_outbox_send(struct rlmd_outbox *outbox, const void *data, size_t size, const int *fds,
					unsigned fd_count);
enum rlmd_outbox_state rlmd_outbox_flush(struct rlmd_outbox *outbox);

#endif

// SPDX-License-Identifier: BSD-2-Clause
#include "outbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "rlm/proto.h"

struct rlmd_packet {
	struct rlmd_packet *prev, *next;
	size_t size;
	unsigned fd_count;
	int fds[RLM_MSG_FDS_MAX];
	unsigned char data[];
};

void rlmd_outbox_init(struct rlmd_outbox *outbox, int fd)
{
	*outbox = (struct rlmd_outbox){.fd = fd};
}

static void packet_free(struct rlmd_packet *packet)
{
	for (unsigned i = 0; i < packet->fd_count; i++)
		close(packet->fds[i]);
	free(packet);
}

void rlmd_outbox_deinit(struct rlmd_outbox *outbox)
{
	struct rlmd_packet *packet, *next;

	DL_FOREACH_SAFE (outbox->packets, packet, next)
		packet_free(packet);
	outbox->packets = NULL;
	outbox->count = 0;
}

static enum rlmd_outbox_state packet_send(int fd, const void *data, size_t size, const int *fds, unsigned fd_count)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * RLM_MSG_FDS_MAX)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {(void *)(uintptr_t)data, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd_count) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, sizeof(int) * fd_count);
	}
	for (;;) {
		if (sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return RLMD_OUTBOX_EMPTY;
		switch (errno) {
		case EINTR:
			continue;
		case EAGAIN:
			return RLMD_OUTBOX_WAITS;
		case ETOOMANYREFS: // descriptors in flight, of all clients
		case ENOBUFS:
		case ENOMEM:
			return RLMD_OUTBOX_LATER;
		default:
			return RLMD_OUTBOX_BROKEN;
		}
	}
}

static struct rlmd_packet *packet_new(const void *data, size_t size, const int *fds, unsigned fd_count)
{
	struct rlmd_packet *packet = calloc(1, sizeof(*packet) + size);

	if (!packet)
		return NULL;
	packet->size = size;
	memcpy(packet->data, data, size);
	for (unsigned i = 0; i < fd_count; i++) {
		packet->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (packet->fds[i] < 0) {
			packet_free(packet);
			return NULL;
		}
		packet->fd_count++;
	}
	return packet;
}

enum rlmd_outbox_state rlmd_outbox_send(struct rlmd_outbox *outbox, const void *data, size_t size, const int *fds,
					unsigned fd_count)
{
	enum rlmd_outbox_state state = RLMD_OUTBOX_WAITS;
	struct rlmd_packet *packet;

	if (!outbox->packets)
		state = packet_send(outbox->fd, data, size, fds, fd_count);
	if (state == RLMD_OUTBOX_EMPTY || state == RLMD_OUTBOX_BROKEN)
		return state;
	if (outbox->count >= RLMD_OUTBOX_MAX)
		return RLMD_OUTBOX_FULL;
	packet = packet_new(data, size, fds, fd_count);
	if (!packet)
		return RLMD_OUTBOX_BROKEN;
	DL_APPEND(outbox->packets, packet);
	outbox->count++;
	return state;
}

enum rlmd_outbox_state rlmd_outbox_flush(struct rlmd_outbox *outbox)
{
	struct rlmd_packet *packet;
	enum rlmd_outbox_state state;

	while ((packet = outbox->packets)) {
		state = packet_send(outbox->fd, packet->data, packet->size, packet->fds, packet->fd_count);
		if (state != RLMD_OUTBOX_EMPTY)
			return state;
		DL_DELETE(outbox->packets, packet);
		outbox->count--;
		packet_free(packet);
	}
	return RLMD_OUTBOX_EMPTY;
}

// SPDX-License-Identifier: BSD-2-Clause
// One packet of the protocol, for the tests and for the fuzzer of sessions, which judge a failure differently.
#ifndef BROKER_MESSAGE_H
#define BROKER_MESSAGE_H

#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#define MESSAGE_FDS_MAX 64u

// As sendmsg(), with descriptors.
static inline ssize_t message_put(int sock, const void *data, size_t size, const int *fds, unsigned fd_count, int flags)
{
	char control[CMSG_SPACE(sizeof(int) * MESSAGE_FDS_MAX)] = {0};
	struct iovec iov = {(void *)(uintptr_t)data, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd_count) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, sizeof(int) * fd_count);
	}
	return sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
}

#endif

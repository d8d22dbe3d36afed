// SPDX-License-Identifier: BSD-2-Clause
// Optional API: a program asks what carries its own socket. Header-only: it needs no linking and works without librlm.so in the process
// (every socket is then "plain").
//
//   struct rlm_info info;
//   if (rlm_socket_info(fd, &info) == 0 && info.tx_carrier == RLM_CARRIER_RING) ...
//
// Errors: -1 with errno EBADF or ENOTSOCK. Thread-safe; has no effect on the socket. After fork both processes may ask;
// after exec the new program asks afresh.
#ifndef RLM_H
#define RLM_H

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

enum rlm_carrier {
	RLM_CARRIER_PLAIN = 0, // the kernel's TCP
	RLM_CARRIER_RING = 1,  // shared memory
};

// Why a connection is not (or not fully) carried by shared memory. Values are stable; rlm_why_words() gives the text. OTHER_HOST is not told yet:
// a peer on another host looks like one without librlm, NO_PEER.
#define RLM_WHY_TABLE(X)                                                                                               \
	X(ACCELERATED, 0, "accelerated")                                                                               \
	X(NOT_LOADED, 1, "librlm is not loaded")                                                                       \
	X(NOT_TCP, 2, "not a TCP connection")                                                                          \
	X(THRESHOLD, 3, "below threshold")                                                                             \
	X(NO_BROKER, 4, "no broker")                                                                                   \
	X(MATCHING, 5, "looking for the peer")                                                                         \
	X(NO_PEER, 6, "peer has no librlm")                                                                            \
	X(OTHER_GROUP, 7, "other group")                                                                               \
	X(OTHER_HOST, 8, "peer is on another host")                                                                    \
	X(LIMIT, 9, "limit reached")                                                                                   \
	X(UNNAMED, 10, "cannot be identified for certain")                                                             \
	X(DISABLED, 11, "disabled by configuration")                                                                   \
	X(KERNEL, 12, "kernel lacks what is needed")                                                                   \
	X(SHARED, 13, "shared with another process")                                                                   \
	X(STDIO, 14, "used through stdio")                                                                             \
	X(OPTION, 15, "uses a socket option or flag that only TCP has")                                                \
	X(DEMOTED, 16, "demoted on request")                                                                           \
	X(MISBEHAVED, 17, "peer wrote nonsense into shared memory")                                                    \
	X(MIGRATING, 18, "domain is about to move")                                                                    \
	X(CLOSING, 19, "closing")                                                                                      \
	X(WAITING, 20, "waiting for the next send")                                                                    \
	X(UNTRACKED, 21, "made before librlm could see it")

enum rlm_why {
#define RLM_WHY_ENUM(name, value, words) RLM_WHY_##name = value,
	RLM_WHY_TABLE(RLM_WHY_ENUM)
#undef RLM_WHY_ENUM
};

struct rlm_info {
	uint32_t size;             // set by rlm_socket_info()
	uint8_t tx_carrier;        // enum rlm_carrier
	uint8_t rx_carrier;        // enum rlm_carrier
	uint16_t why;              // enum rlm_why
	uint64_t tx_bytes_ring;    // bytes sent through shared memory
	uint64_t rx_bytes_ring;    // bytes received through shared memory
	uint64_t tx_bytes_plain;   // bytes sent through TCP while librlm watched
	uint64_t rx_bytes_plain;   // bytes received through TCP while librlm watched
	uint32_t switches;         // carrier changes of both directions
	uint32_t reserved;
};

static inline const char *rlm_why_words(unsigned why)
{
	switch (why) {
#define RLM_WHY_CASE(name, value, words)                                                                               \
	case value:                                                                                                    \
		return words;
		RLM_WHY_TABLE(RLM_WHY_CASE)
#undef RLM_WHY_CASE
	}
	return "unknown";
}

// 0, or -1 and errno.
static inline int rlm_socket_info(int fd, struct rlm_info *info)
{
	int (*impl)(int, struct rlm_info *);
	int type;
	socklen_t len = sizeof(type);

	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	*(void **)&impl = dlsym(RTLD_DEFAULT, "rlm_socket_info_v1");
	if (impl)
		return impl(fd, info);
	info->why = RLM_WHY_NOT_LOADED;
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
}

#endif

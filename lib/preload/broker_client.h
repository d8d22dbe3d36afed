// SPDX-License-Identifier: BSD-2-Clause
// The helper thread's connection to rlmd: packets in, packets out. Nothing here waits longer than a moment.
#ifndef RLM_BROKER_CLIENT_H
#define RLM_BROKER_CLIENT_H

#include "rlm/proto.h"

// Connects and says HELLO. The descriptor (internal, non-blocking) or -errno.
int broker_connect(void);
// 0 or -errno; -EPIPE and others: the session is over. fd: -1 or a descriptor to pass along.
int broker_send(int broker, const union rlm_msg *msg, int fd);
// Bytes of a whole message, 0 when there is none now, -errno when the session is over. fds: RLM_MSG_FDS_MAX, -1 where none.
int broker_receive(int broker, union rlm_msg *msg, int *fds);

#define broker_message(type_, field, ...)                                                                              \
	((union rlm_msg){.field = {.header = {.type = (type_), .size = sizeof(((union rlm_msg *)0)->field)}, __VA_ARGS__}})

#endif

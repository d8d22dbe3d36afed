// SPDX-License-Identifier: BSD-2-Clause
// Checks messages that arrive from processes, before anything in them is used. Pure.
#ifndef RLMD_CODEC_H
#define RLMD_CODEC_H

#include <stddef.h>

#include "rlm/proto.h"

enum rlmd_check {
	RLMD_CHECK_OK,	   // known, complete, every field that is an enum or an index is in range
	RLMD_CHECK_IGNORE, // a type of a newer protocol: no harm, no effect
	RLMD_CHECK_BAD,	   // the sender does not follow the protocol: end its session
};

// size: bytes received; fds: descriptors received with it. On BAD, *problem tells what is wrong.
enum rlmd_check rlmd_msg_check(const union rlm_msg *msg, size_t size, size_t fds, const char **problem);

// Copies a name that a process told us: terminated, without control characters.
void rlmd_text_clean(char *to, size_t size, const char *from, size_t from_size);

#endif

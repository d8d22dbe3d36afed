// SPDX-License-Identifier: BSD-2-Clause
// Connect, request, response, close.
#ifndef BENCH_CRR_H
#define BENCH_CRR_H

#include "net.h"
#include "params.h"
#include "rlm/rlm.h"

// Where the client's threads connect; set before run_start().
extern struct net_peer crr_peer;
extern uint64_t crr_token;

// The server's part of one connection whose greeting has been read: the rest of the request, the response, then it
// waits for the client to close first. 0 or -errno; -EILSEQ: wrong data.
int crr_serve(int fd, const struct bench_params *p, unsigned connection, uint8_t *buffer, struct rlm_info *info);

#endif

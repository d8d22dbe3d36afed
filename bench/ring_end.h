// SPDX-License-Identifier: BSD-2-Clause
// One end of a bare shared-memory ring pair: librlm's rings and its waiting policy with nothing around them. What it
// reaches is the limit for librlm on the same machine.
#ifndef BENCH_RING_END_H
#define BENCH_RING_END_H

#include <stdint.h>
#include <sys/types.h>

struct ring_end;

// Makes the shared memory; *memfd goes to the peer, the caller closes it. `alive`: a socket that ends when the peer
// dies, borrowed. NULL with errno.
struct ring_end *ring_end_new(uint32_t ring_size, int alive, int *memfd);
// The other end, from the descriptor received. NULL with errno.
struct ring_end *ring_end_attach(uint32_t ring_size, int alive, int memfd);
void ring_end_free(struct ring_end *e);

// As blocking send() and recv(): all n bytes or -1 with errno; bytes, 0 at the end of the stream, or -1 with errno.
ssize_t ring_end_send(struct ring_end *e, const void *data, size_t n);
ssize_t ring_end_recv(struct ring_end *e, void *data, size_t n);
// No more will be sent. Once; from any thread.
void ring_end_finish(struct ring_end *e);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Two ends of a link in one process, for the tests and fuzz targets of the core: regions between guard pages, a real
// TCP connection, and the little of a stream (nonblocking send and receive) that the core needs around it.
#ifndef RLM_TEST_ENDS_H
#define RLM_TEST_ENDS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "cutover.h"

#define must(cond)                                                                                                     \
	do {                                                                                                           \
		if (!(cond))                                                                                           \
			fail_hard(__FILE__, __LINE__, #cond);                                                          \
	} while (0)

_Noreturn void fail_hard(const char *file, int line, const char *what);

// One side's region: its owner writes through `slot` and `ring`; the peer has the other two, which are mapped
// read-only. Ring and slot each lie between pages that nobody may touch; the ring ends and begins exactly at them.
struct region {
	struct rlm_slot_shared *slot;
	uint8_t *ring;
	const struct rlm_slot_shared *slot_ro;
	uint8_t *ring_ro;
	uint8_t *maps[4];
	uint64_t size;
};

void region_open(struct region *r, uint64_t ring_size);
void region_close(struct region *r);

struct end {
	struct rlm_conn conn;
	struct rlm_bound b;
	int fd;
	uint64_t sent, received; // bytes of the stream
	bool eof;
};

struct pair {
	struct region region[2];
	struct end end[2]; // [0] connected, [1] accepted
};

enum { EPOCH = 7 };

// A connected pair of TCP sockets, [0] the connecting one. family: AF_INET or AF_INET6; false if there is no such
// loopback.
bool tcp_pair(int family, int fd[2]);
// Sets the size of the send and receive buffers; the kernel doubles it, and has a least size.
void tcp_set_buffers(int fd, int size);

void pair_open(struct pair *p, uint64_t ring_size);
void pair_close(struct pair *p);

// Byte `at` of a stream that begins with `seed`. The stream that end i sends has seed i.
static inline uint8_t pattern(unsigned seed, uint64_t at)
{
	return (uint8_t)(at * 0x9e3779b97f4a7c15u >> 32 ^ at >> 7 ^ seed * 0x55);
}

// What librlm.so does around the core, without waiting: > 0 bytes, 0 end of stream (receive), -errno; -EAGAIN: nothing
// possible now.
int64_t end_send(struct end *e, const void *data, uint64_t n);
int64_t end_recv(struct end *e, void *data, uint64_t n, bool peek);

// The same with the pattern of seed `seed`, at the position where the stream is.
int64_t end_send_pattern(struct end *e, unsigned seed, uint64_t n);
int64_t end_recv_pattern(struct end *e, unsigned seed, uint64_t n, bool peek);

// The peer is dead, and what it wrote stays as it is: does a thread that sends or receives, and looks again as long as it is told to wait,
// come back? peeks: it looks before each receive.
bool end_recv_comes_back(struct end *e, bool peeks);
bool end_send_comes_back(struct end *e);

uint64_t random_next(uint64_t *state);
uint64_t random_below(uint64_t *state, uint64_t limit);
uint64_t now_ms(void);

// Kills the program with a message if it lives longer: for what would hang otherwise. 0: no longer.
void watchdog(unsigned seconds);

#endif

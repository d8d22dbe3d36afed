// SPDX-License-Identifier: BSD-2-Clause
// A cut-over that a test drives by hand: S sends and R receives. S is honest, or a puppet: then the test writes its shared memory and its TCP
// itself.
#ifndef RLM_TEST_BY_HAND_H
#define RLM_TEST_BY_HAND_H

#include "unit.h"

#include "ends.h"

enum { RING = 4096 };

extern struct pair pair;
#define S    (&pair.end[0])
#define R    (&pair.end[1])
#define SLOT (pair.region[0].slot) // S's

int pair_setup(void **state);
int pair_teardown(void **state);
#define TEST(name) cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)
// A new connection, within a test.
void restart(void);

// --- both are honest ---

void send_exactly(uint64_t n);
void receive_exactly(uint64_t n);
void receive_nothing(void);
void receive_end(void); // after everything that was sent
// R would take a round.
void offer(void);
// And S begins it.
void promote(void);
// S ends it without asking first, and sends 50 bytes.
void end_by_sender(void);
// S sends no more.
void finish_sender(void);
// S is gone, with a reset.
void reset_sender(void);
// These are S's bytes from `at` on.
void expect_pattern(const uint8_t *data, uint64_t n, uint64_t at);

// --- S is a puppet ---

void puppet_tcp(const void *data, uint64_t n);
void puppet_tcp_payload(uint64_t n);
void puppet_ring(uint64_t n);
void puppet_begin(uint32_t round, uint64_t cut);
void puppet_end(uint32_t round, uint64_t end);
void puppet_frames(char cut, char end, uint64_t position);
// R is on the ring, in round 1, which began at TCP byte 20 with 100 bytes in the ring.
void puppet_promote(void);
// R sees that S cheats.
void expect_broken(void);

#endif

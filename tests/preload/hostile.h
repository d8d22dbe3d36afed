// SPDX-License-Identifier: BSD-2-Clause
// The processes of test_hostile.c that lie, and what all of its processes share.
#ifndef RLM_TEST_HOSTILE_H
#define RLM_TEST_HOSTILE_H

#include "pair.h"

#include <stdatomic.h>

#define HOSTILE 5u // connections to each hostile process
#define CHUNK 40000u

struct board {
	_Atomic int stop;
	_Atomic int lie, lied;
	_Atomic uint64_t written;   // by hostile processes into shared memory
	_Atomic uint64_t truncated; // regions that let themselves be made shorter
	_Atomic uint64_t echoed, on_ring; // honest bytes
};

extern struct board *board; // in memory that all map
extern int board_fd;

void map_board(int fd);
int connect_to(int family, int port);

// Both run until they are killed. argv: program, role, family, port, descriptor of the board, seed.
int hostile_main(char **argv);
// Honest until it is told to lie: then it says that it put more into each ring than fits there.
int liar_main(char **argv);

#endif

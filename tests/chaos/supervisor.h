// SPDX-License-Identifier: BSD-2-Clause
// The supervisor of the chaos test: what it knows, and its parts.
#ifndef SUPERVISOR_H
#define SUPERVISOR_H

#include <sys/types.h>

#include "chaos.h"

#define PAIRS		 3
#define WORKERS		 (2 * PAIRS)
#define HELPERS		 8
#define HOSTS		 2
#define SWITCHES_PER_MIN 1000

struct slot {
	pid_t pid; // 0: not running
	uint32_t incarnation;
	uint64_t start_at; // when not running
	uint64_t cont_at;  // 0: not stopped
};

struct supervisor {
	struct board *board;
	const char *build, *dir, *netns[2], *preload;
	char config[96], log[96]; // in dir
	bool bare, quiet, moves;
	uint64_t seed;
	struct rng rng;
	unsigned seconds;
	struct slot worker[WORKERS]; // pair p: server 2p, client 2p + 1
	unsigned hosts;
	struct {
		pid_t broker;
		uint64_t broker_at;
		char socket[96];
	} host[HOSTS];
	struct {
		unsigned host; // where it is, as far as we know
		bool moving, doubt;
	} domain[2]; // as netns
	uint64_t promote_at;
	struct {
		pid_t pid;
		uint64_t started;
		int domain; // that it moves, -1
		unsigned from;
	} helper[HELPERS];
	uint32_t incarnations;
	int stop_pipe[2];
	unsigned demotes, promotes, kills, stops, broker_kills, moved, refused;
};
extern struct supervisor chaos;

// --- processes.c: workers, brokers and rlmctl, from their start to their end

void order_start(const char *order, pid_t pid); // at every broker; pid 0: to all
void move_start(unsigned domain);
// Sees what has ended; what has died by itself fails the test.
void reap(void);
// Starts, continues and orders what is due by now.
void due(void);
void kill_all(void);

// --- actions.c: what happens at random

void act(void);

// --- verdict.c: what is told, and when it is too much

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
// A worker has seen something wrong.
void fail_if_wrong(void);
// So has one, or a connection stands still.
void watch(void);
bool switches_are_enough(void);
void show_process(pid_t pid);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Child processes that never outlive their time or their parent.
//
// Every child is in a registry until it is reaped, is killed by the kernel when its parent dies, and is waited for by
// pid with a deadline. One thread only.
#ifndef BENCH_CHILD_H
#define BENCH_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CHILD_ARGS 48

struct child_spec {
	const char *argv[CHILD_ARGS]; // NULL at the end
	const char *preload;	      // LD_PRELOAD, or NULL: without
	const char *broker;	      // RLM_SOCKET, or NULL
	int netns;		      // network namespace to enter, or -1
	bool capture;		      // standard output goes to child_output()
	bool errors;		      // standard error is passed on, else thrown away
	int pass_fd;		      // descriptor that it keeps, or -1
};

struct child {
	pid_t pid; // 0: none
	int out;   // pipe from its standard output, or -1
};

// 0 or -errno.
int child_start(struct child *c, const struct child_spec *spec);
// Everything it writes until it ends, NUL-terminated, for the caller to free; *status as from waitpid(). A child that
// is not done at `deadline` (clock_now()) is killed. NULL when that happened or on interruption.
char *child_output(struct child *c, uint64_t deadline, int *status);
// Gives it until the deadline to end, then kills. true: ended by itself.
bool child_end(struct child *c, uint64_t deadline);
void child_stop(struct child *c, int sig);
void child_kill_all(void);

// One line from a descriptor, within the deadline. false: nothing came.
bool child_read_line(int fd, char *text, size_t size, uint64_t deadline);

// SIGINT, SIGTERM and SIGHUP only set this; who waits returns soon.
extern volatile int child_interrupted;
void child_catch_signals(void);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Command lines.
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "net.h"
#include "params.h"

#define BENCH_DEFAULT_PORT "5301"

// Exit statuses.
enum bench_exit {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_WRONG_DATA = 3,
};

struct server_options {
	struct net_address address;
	unsigned threads;
	int ready_fd; // told the port once listening; -1: none
	bool once, quiet;
};

struct client_options {
	struct net_address address;
	struct bench_params params;	     // of the first test
	uint64_t size_to;		     // tests go on, doubling the size, up to this one
	bool response_follows, recv_follows; // sizes that follow params.size
	uint64_t interval_ns;
	bool json;
};

struct compare_options {
	const char *preset, *lib, *rlmd, *svg, *json, *columns;
	unsigned runs;
	uint64_t time_ns; // 0: the preset's own
	bool quiet;
};

// Each parses argv[1..] and exits with EXIT_USAGE on its own when something is wrong. Strings live as long as the
// process.
void options_server(int argc, const char **argv, struct server_options *o);
void options_client(int argc, const char **argv, struct client_options *o);
void options_compare(int argc, const char **argv, struct compare_options *o);

int server_main(const struct server_options *o);
int client_main(const struct client_options *o);
int compare_main(const struct compare_options *o);

#endif

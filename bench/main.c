// SPDX-License-Identifier: BSD-2-Clause
// rlm-bench: measures streams, round trips and connections, bare or under librlm, and compares carriers.
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "options.h"

static int usage(FILE *to)
{
	fputs("Usage: rlm-bench server [OPTION...]\n"
	      "       rlm-bench client [OPTION...]\n"
	      "       rlm-bench compare [OPTION...]\n"
	      "Each has --help. With librlm: LD_PRELOAD=/path/to/librlm.so rlm-bench ...\n",
	      to);
	return to == stdout ? EXIT_OK : EXIT_USAGE;
}

int main(int argc, const char **argv)
{
	static struct server_options server;
	static struct client_options client;
	static struct compare_options compare;

	signal(SIGPIPE, SIG_IGN);
	if (argc < 2)
		return usage(stderr);
	if (strcmp(argv[1], "server") == 0) {
		options_server(argc - 1, argv + 1, &server);
		return server_main(&server);
	}
	if (strcmp(argv[1], "client") == 0) {
		options_client(argc - 1, argv + 1, &client);
		return client_main(&client);
	}
	if (strcmp(argv[1], "compare") == 0) {
		options_compare(argc - 1, argv + 1, &compare);
		return compare_main(&compare);
	}
	if (strcmp(argv[1], "--version") == 0)
		return puts("rlm-bench " RLM_VERSION) < 0;
	return usage(strcmp(argv[1], "--help") == 0 ? stdout : stderr);
}

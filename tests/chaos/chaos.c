// SPDX-License-Identifier: BSD-2-Clause
// Checked streams through connections that are promoted, demoted, stopped and killed at random, with a broker that dies
// at random.
//
//   chaos --build DIR --dir DIR [--seconds N] [--seed N] [--netns SERVERS,CLIENTS] [--preload FILES] [--moves] [--bare] [--quiet]
//
// The supervisor starts everything and decides, from the seed, what happens next. It fails on the first wrong, lost or doubled byte, on a
// connection that ends or stands still without a reason, on a worker or broker that dies by itself, and when less than 1,000 switches per
// minute were made: on a busy machine it goes on for up to three times as long to see that many. --moves: with two brokers that stand for
// two hosts, between which the two namespaces move. --bare: without broker and library, to check the test itself.
#include "supervisor.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define END_MS	       30000
#define LONGER_AT_MOST 3 // times

const char *const style_names[STYLES] = {"threads", "mixed", "poll", "select", "epoll-level", "epoll-edge"};

struct supervisor chaos;

static void run(void)
{
	uint64_t start = now_ms(), next_act = start + 500, next_watch = 0;
	uint64_t end = start + chaos.seconds * 1000, end_at_most = start + LONGER_AT_MOST * chaos.seconds * 1000;

	while (now_ms() < end || (!switches_are_enough() && now_ms() < end_at_most)) {
		reap();
		due();
		if (now_ms() >= next_act) {
			act();
			next_act = now_ms() + 20 + rng_below(&chaos.rng, 130);
		}
		if (now_ms() >= next_watch) {
			watch();
			next_watch = now_ms() + 200;
		}
		usleep(5000);
	}
}

// Everybody is let run and comes to an end; nobody may stay behind.
static void wind_up(void)
{
	uint64_t end = now_ms() + END_MS;
	int left;

	say("end");
	for (int i = 0; i < WORKERS; i++)
		if (chaos.worker[i].pid) {
			kill(chaos.worker[i].pid, SIGCONT);
			chaos.worker[i].cont_at = 0;
		}
	chaos.board->stop = true;
	close(chaos.stop_pipe[1]);
	do {
		reap();
		due();
		watch();
		left = 0;
		for (int i = 0; i < WORKERS; i++)
			left += chaos.worker[i].pid != 0;
		usleep(10000);
	} while (left && now_ms() < end);
	for (int i = 0; left && i < WORKERS; i++)
		if (chaos.worker[i].pid)
			show_process(chaos.worker[i].pid);
	if (left)
		fail("%d workers do not come to an end", left);
}

// --- main

static void board_make(void)
{
	int fd = memfd_create("chaos-board", 0);

	if (fd < 0 || ftruncate(fd, sizeof(struct board)) < 0 || dup2(fd, BOARD_FD) < 0 ||
	    pipe2(chaos.stop_pipe, O_CLOEXEC) < 0 || dup2(chaos.stop_pipe[0], STOP_FD) < 0) {
		perror("chaos: board");
		exit(2);
	}
	close(fd);
	chaos.board = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED, BOARD_FD, 0);
	if (chaos.board == MAP_FAILED) {
		perror("chaos: board");
		exit(2);
	}
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {
	    {"build", 1, NULL, 'b'}, {"dir", 1, NULL, 'd'},   {"seconds", 1, NULL, 's'},
	    {"seed", 1, NULL, 'r'},  {"netns", 1, NULL, 'n'}, {"preload", 1, NULL, 'p'},
	    {"bare", 0, NULL, 'B'},  {"quiet", 0, NULL, 'q'}, {"moves", 0, NULL, 'm'},
	    {0}};
	int c;

	chaos.seconds = 60;
	chaos.seed = now_ms() ^ (uint64_t)getpid() << 20;
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'b':
			chaos.build = optarg;
			break;
		case 'd':
			chaos.dir = optarg;
			break;
		case 's':
			chaos.seconds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'r':
			chaos.seed = strtoull(optarg, NULL, 10);
			break;
		case 'n':
			chaos.netns[0] = strtok(optarg, ",");
			chaos.netns[1] = strtok(NULL, ",");
			break;
		case 'p':
			chaos.preload = optarg;
			break;
		case 'm':
			chaos.moves = true;
			break;
		case 'B':
			chaos.bare = true;
			break;
		case 'q':
			chaos.quiet = true;
			break;
		default:
			exit(2);
		}
	}
	chaos.hosts = chaos.moves ? HOSTS : 1;
	if (!chaos.build || !chaos.dir || (chaos.netns[0] && !chaos.netns[1]) || (chaos.moves && !chaos.netns[0])) {
		fprintf(stderr, "chaos: --build and --dir are needed, see the top of chaos.c\n");
		exit(2);
	}
}

static void on_signal(int number)
{
	// Workers and broker die with us (PR_SET_PDEATHSIG).
	_exit(128 + number);
}

int main(int argc, char **argv)
{
	static char preload[256];
	uint64_t switches;

	if (strcmp(argv[0], "chaos-worker") == 0)
		return worker_main(argc, argv);
	options(argc, argv);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	chaos.rng.state = mix(chaos.seed);
	printf("seed %llu\n", (unsigned long long)chaos.seed);
	fflush(stdout);
	for (unsigned i = 0; i < chaos.hosts; i++)
		snprintf(chaos.host[i].socket, sizeof(chaos.host[i].socket), "%s/rlmd%u.sock", chaos.dir, i);
	snprintf(chaos.config, sizeof(chaos.config), "%s/rlmd.conf", chaos.dir);
	snprintf(chaos.log, sizeof(chaos.log), "%s/rlmd.log", chaos.dir);
	if (!chaos.preload) {
		snprintf(preload, sizeof(preload), "%s/librlm.so", chaos.build);
		chaos.preload = preload;
	}
	board_make();
	chaos.board->failed_record = -1;
	run();
	wind_up();
	report_summary(chaos.board);
	switches = report_switches(chaos.board);
	printf(
	    "%llu switches; %u demotions and %u promotions ordered, %u workers killed, %u stopped, %u brokers killed\n",
	    (unsigned long long)switches, chaos.demotes, chaos.promotes, chaos.kills, chaos.stops, chaos.broker_kills);
	if (chaos.moves)
		printf("%u moves, %u refused\n", chaos.moved, chaos.refused);
	kill_all();
	if (!switches_are_enough()) {
		printf("FAILED: less than %u switches\n", SWITCHES_PER_MIN * chaos.seconds / 60);
		return 1;
	}
	printf("ok\n");
	return 0;
}

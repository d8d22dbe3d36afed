// SPDX-License-Identifier: BSD-2-Clause
// Checked streams through connections that are promoted, demoted, stopped and killed at random, with a broker that dies
// at random.
//
//   chaos --build DIR --dir DIR [--seconds N] [--seed N] [--netns SERVERS,CLIENTS] [--preload FILES] [--moves] [--bare] [--quiet]
//
// The supervisor (this file) starts everything and decides, from the seed, what happens next. It fails on the first
// wrong, lost or doubled byte, on a connection that ends or stands still without a reason, on a worker or broker that
// dies by itself, and when less than 1,000 switches per minute were made: on a busy machine it goes on for up to three times as long to
// see that many. --moves: with two brokers that stand for two hosts,
// between which the two namespaces move. --bare: without broker and library, to check the test itself.
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAIRS		   3
#define CONNECTIONS	   3
#define WORKERS		   (2 * PAIRS)
#define HELPERS		   8
#define PATIENCE_MS	   20000
#define HELPER_PATIENCE_MS 15000
#define END_MS		   30000
#define SWITCHES_PER_MIN   1000
#define LONGER_AT_MOST	   3 // times
#define HOSTS		   2

const char *const style_names[STYLES] = {"threads", "mixed", "poll", "select", "epoll-level", "epoll-edge"};

struct slot {
	pid_t pid; // 0: not running
	uint32_t incarnation;
	uint64_t start_at; // when not running
	uint64_t cont_at;  // 0: not stopped
};

static struct {
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
} chaos;

// Where the pairs meet: one over loopback, one over IPv4 and one over IPv6 between two namespaces.
static const struct {
	const char *address; // of the server, with two namespaces
	const char *alone;   // with one
	int client_netns;
	const char *port;
} places[PAIRS] = {
    {"127.0.0.1", "127.0.0.1", 0, "9001"},
    {"10.79.0.1", "127.0.0.1", 1, "9002"},
    {"fd79::1", "::1", 1, "9003"},
};

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
	static uint64_t start;
	va_list ap;

	if (!start)
		start = now_ms();
	if (chaos.quiet)
		return;
	printf("%6.2f ", (double)(now_ms() - start) / 1000);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

static void kill_all(void)
{
	for (int i = 0; i < WORKERS; i++)
		if (chaos.worker[i].pid > 0)
			kill(chaos.worker[i].pid, SIGKILL);
	for (int i = 0; i < HELPERS; i++)
		if (chaos.helper[i].pid > 0)
			kill(chaos.helper[i].pid, SIGKILL);
	for (unsigned i = 0; i < chaos.hosts; i++)
		if (chaos.host[i].broker > 0)
			kill(chaos.host[i].broker, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static void show_file(const char *path, const char *title)
{
	char line[512];
	FILE *file = fopen(path, "r");

	if (!file)
		return;
	while (fgets(line, sizeof(line), file))
		printf("   %s%s%s", title, line, strchr(line, '\n') ? "" : "\n");
	fclose(file);
}

static unsigned record_pair(uint32_t record)
{
	return chaos.board->incarnation[chaos.board->record[record].end[CLIENT].incarnation].pair;
}

// Where the process sleeps; with CHAOS_GDB set, all of its stacks.
static void show_process(pid_t pid)
{
	char command[256];

	printf("process %d\n", pid);
	fflush(stdout);
	if (getenv("CHAOS_GDB"))
		snprintf(command, sizeof(command),
			 "gdb -q -batch -ex 'thread apply all bt 12' -p %d 2>&1 | grep -E '^(#|Thread)'", pid);
	else
		snprintf(command, sizeof(command),
			 "for t in /proc/%d/task/*; do echo \"   $(cat $t/comm) $(cat $t/wchan) $(cat $t/syscall)\"; "
			 "done 2>/dev/null",
			 pid);
	if (system(command) < 0)
		printf("   cannot be looked at\n");
}

static _Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static _Noreturn void fail(const char *format, ...)
{
	va_list ap;

	printf("FAILED: ");
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
	for (int i = 0; i < WORKERS; i++)
		if (chaos.worker[i].pid > 0)
			kill(chaos.worker[i].pid, SIGCONT);
	if (chaos.board->failed_record >= 0)
		report_record(chaos.board, (uint32_t)chaos.board->failed_record);
	for (int i = 0; i < WORKERS; i++)
		if (chaos.worker[i].pid > 0 && chaos.board->failed_record >= 0 &&
		    (unsigned)i / 2 == record_pair((uint32_t)chaos.board->failed_record))
			show_process(chaos.worker[i].pid);
	printf("--- all connections\n");
	report_open(chaos.board);
	printf("---\n");
	show_file(chaos.log, "rlmd: ");
	report_summary(chaos.board);
	printf("seed %llu\n", (unsigned long long)chaos.seed);
	kill_all();
	exit(1);
}

static void fail_if_wrong(void)
{
	char error[sizeof(chaos.board->error)];

	if (!chaos.board->failed)
		return;
	usleep(50000); // the text follows the flag
	memcpy(error, chaos.board->error, sizeof(error));
	error[sizeof(error) - 1] = '\0';
	fail("%s", error);
}

// --- processes

// Between fork and exec: dies with the supervisor.
static void child_setup(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
}

static void enter_netns(const char *name)
{
	char path[128];
	int fd;

	if (!name)
		return;
	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) {
		fprintf(stderr, "chaos: %s: %s\n", path, strerror(errno));
		_exit(1);
	}
	close(fd);
}

static void config_write(void)
{
	static const char *const sizes[] = {"4K", "16K", "64K", "256K"};
	FILE *file = fopen(chaos.config, "w");

	if (!file)
		fail("%s: %s", chaos.config, strerror(errno));
	fprintf(file, "ring_size = %s\nslots = %d\nidle_time = %s\n", sizes[rng_below(&chaos.rng, 4)],
		1 << rng_below(&chaos.rng, 4), rng_below(&chaos.rng, 2) ? "0.2" : "5");
	fclose(file);
}

static void broker_start(unsigned host)
{
	char path[256], name[8];
	pid_t parent = getpid();

	config_write();
	snprintf(path, sizeof(path), "%s/rlmd", chaos.build);
	snprintf(name, sizeof(name), "%u", host);
	chaos.host[host].broker = fork();
	if (chaos.host[host].broker == 0) {
		int log = open(chaos.log, O_WRONLY | O_CREAT | O_APPEND, 0600);

		child_setup(parent);
		dup2(log, 1);
		dup2(log, 2);
		execl(path, "rlmd", "--socket", chaos.host[host].socket, "--host", name, "--config", chaos.config,
		      (char *)NULL);
		_exit(127);
	}
	chaos.promote_at = now_ms() + 300;
}

static void worker_env(const struct incarnation *incarnation, bool eager)
{
	char flap[32];

	if (chaos.bare)
		return;
	setenv("RLM_SOCKET", chaos.host[0].socket, 1);
	setenv("RLM_PROMOTE", eager ? "eager" : "auto", 1);
	if (incarnation->flap) {
		snprintf(flap, sizeof(flap), "%llu", (unsigned long long)incarnation->flap);
		setenv("RLM_TEST_FLAP", flap, 1);
	}
	setenv("LD_PRELOAD", chaos.preload, 1);
}

static void worker_start(int index)
{
	struct slot *slot = &chaos.worker[index];
	unsigned pair = (unsigned)index / 2;
	enum side side = index % 2 ? CLIENT : SERVER;
	uint32_t number = ++chaos.incarnations;
	struct incarnation *incarnation = &chaos.board->incarnation[number];
	bool eager = rng_below(&chaos.rng, 8) != 0;
	char args[5][24];
	pid_t parent = getpid();

	if (number >= BOARD_INCARNATIONS)
		fail("out of incarnations");
	incarnation->side = side;
	incarnation->pair = pair;
	incarnation->style = (enum style)rng_below(&chaos.rng, STYLES);
	incarnation->flap = rng_below(&chaos.rng, 4) ? 2048 + rng_size(&chaos.rng, 1 << 20) : 0;
	snprintf(args[0], sizeof(args[0]), "%u", number);
	snprintf(args[1], sizeof(args[1]), "%llu", (unsigned long long)rng_next(&chaos.rng));
	snprintf(args[2], sizeof(args[2]), "%d", CONNECTIONS);
	snprintf(args[3], sizeof(args[3]), "%llu", (unsigned long long)rng_below(&chaos.rng, 2));
	slot->incarnation = number;
	slot->cont_at = 0;
	slot->pid = fork();
	if (slot->pid == 0) {
		child_setup(parent);
		enter_netns(chaos.netns[side == SERVER ? 0 : places[pair].client_netns]);
		worker_env(incarnation, eager);
		execl("/proc/self/exe", "chaos-worker", args[0], args[1], args[2], args[3],
		      chaos.netns[0] ? places[pair].address : places[pair].alone, places[pair].port, (char *)NULL);
		_exit(127);
	}
	incarnation->pid = slot->pid;
	say("start %s of pair %u, %s, flap %llu, %s: pid %d", side == SERVER ? "server" : "client", pair,
	    style_names[incarnation->style], (unsigned long long)incarnation->flap, eager ? "eager" : "auto",
	    slot->pid);
}

// rlmctl at a host's broker. Its number, -1: too many of them.
static int ctl_start(unsigned host, const char *order, const char *first, const char *second)
{
	char path[256];
	pid_t parent = getpid();
	int i = 0;

	while (i < HELPERS && chaos.helper[i].pid)
		i++;
	if (i == HELPERS)
		return -1;
	snprintf(path, sizeof(path), "%s/rlmctl", chaos.build);
	say("%s %s%s%s", order, first, second ? " " : "", second ? second : "");
	chaos.helper[i].started = now_ms();
	chaos.helper[i].domain = -1;
	chaos.helper[i].pid = fork();
	if (chaos.helper[i].pid == 0) {
		int log = open(chaos.log, O_WRONLY | O_CREAT | O_APPEND, 0600);

		child_setup(parent);
		dup2(log, 1);
		dup2(log, 2);
		execl(path, "rlmctl", "--socket", chaos.host[host].socket, order, first, second, (char *)NULL);
		_exit(127);
	}
	return i;
}

static void order_start(const char *order, pid_t pid)
{
	char target[16];

	snprintf(target, sizeof(target), "%d", pid);
	for (unsigned host = 0; host < chaos.hosts; host++)
		ctl_start(host, order, pid ? target : "all", NULL);
}

static void move_start(unsigned domain)
{
	unsigned from = chaos.domain[domain].host;
	int i;

	if (chaos.domain[domain].doubt) // a broker died at the wrong moment: the other one may have it
		from = (unsigned)rng_below(&chaos.rng, HOSTS);
	i = ctl_start(from, "move", chaos.netns[domain], chaos.host[!from].socket);
	if (i < 0)
		return;
	chaos.helper[i].domain = (int)domain;
	chaos.helper[i].from = from;
	chaos.domain[domain].moving = true;
}

static void move_ended(int helper, int status)
{
	unsigned domain = (unsigned)chaos.helper[helper].domain;

	chaos.domain[domain].moving = false;
	chaos.domain[domain].doubt = status != 0;
	if (status == 0) {
		chaos.domain[domain].host = !chaos.helper[helper].from;
		chaos.moved++;
	} else {
		chaos.refused++;
	}
}

// --- what happens

static int random_worker(void)
{
	return (int)rng_below(&chaos.rng, WORKERS);
}

static void act_kill(void)
{
	int index = random_worker();
	struct slot *slot = &chaos.worker[index];
	uint64_t delay = rng_below(&chaos.rng, 300);

	if (!slot->pid)
		return;
	say("kill %d", slot->pid);
	chaos.board->incarnation[slot->incarnation].killed = true;
	if (index % 2 == 0)
		chaos.board->server_kills[index / 2]++;
	kill(slot->pid, SIGKILL);
	waitpid(slot->pid, NULL, 0);
	if (index % 2 == 0)
		chaos.board->server_kills[index / 2]++;
	slot->pid = 0;
	slot->start_at = now_ms() + delay;
	chaos.kills++;
}

static void act_stop(void)
{
	struct slot *slot = &chaos.worker[random_worker()];
	uint64_t duration = rng_size(&chaos.rng, 800);

	if (!slot->pid || slot->cont_at)
		return;
	say("stop %d for %llu ms", slot->pid, (unsigned long long)duration);
	kill(slot->pid, SIGSTOP);
	slot->cont_at = now_ms() + duration;
	chaos.stops++;
}

static void act_order(const char *order)
{
	int index = random_worker();
	bool all = rng_below(&chaos.rng, 3) == 0;

	order_start(order, all ? 0 : chaos.worker[index].pid);
}

static void act_broker_kill(void)
{
	uint64_t delay = rng_below(&chaos.rng, 4) ? rng_below(&chaos.rng, 1500) : 0;
	unsigned host = (unsigned)rng_below(&chaos.rng, chaos.hosts);
	pid_t broker = chaos.host[host].broker;

	if (broker <= 0)
		return;
	say("kill the broker, %d", broker);
	kill(broker, SIGKILL);
	waitpid(broker, NULL, 0);
	chaos.host[host].broker = 0;
	chaos.host[host].broker_at = now_ms() + delay;
	chaos.broker_kills++;
}

static void act_move(void)
{
	unsigned domain = (unsigned)rng_below(&chaos.rng, 2);

	if (!chaos.domain[domain].moving)
		move_start(domain);
}

static void act(void)
{
	uint64_t dice = rng_below(&chaos.rng, 100);

	if (chaos.moves && rng_below(&chaos.rng, 3)) {
		act_move();
	} else if (dice < 8) {
		act_kill();
	} else if (dice < 20) {
		act_stop();
	} else if (chaos.bare) {
		return;
	} else if (dice < 24) {
		act_broker_kill();
	} else if (dice < 50) {
		act_order("demote");
		chaos.demotes++;
		chaos.promote_at = now_ms() + rng_below(&chaos.rng, 300);
	} else if (dice < 70) {
		act_order("promote");
		chaos.promotes++;
	}
}

// --- what was due

static void reap(void)
{
	for (int i = 0; i < WORKERS; i++) {
		struct slot *slot = &chaos.worker[i];
		int status;

		if (!slot->pid || waitpid(slot->pid, &status, WNOHANG) != slot->pid)
			continue;
		fail_if_wrong();
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && chaos.board->stop) {
			slot->pid = 0;
			continue;
		}
		slot->pid = 0;
		fail("worker %d (%s) died by itself: %s %d", chaos.board->incarnation[slot->incarnation].pid,
		     style_names[chaos.board->incarnation[slot->incarnation].style],
		     WIFSIGNALED(status) ? "signal" : "status",
		     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	}
	for (int i = 0; i < HELPERS; i++) {
		int status;

		if (chaos.helper[i].pid && waitpid(chaos.helper[i].pid, &status, WNOHANG) == chaos.helper[i].pid) {
			chaos.helper[i].pid = 0;
			if (chaos.helper[i].domain >= 0)
				move_ended(i, status);
		}
		if (chaos.helper[i].pid && chaos.helper[i].started + HELPER_PATIENCE_MS < now_ms())
			fail("rlmctl %d hangs", chaos.helper[i].pid);
	}
	for (unsigned i = 0; i < chaos.hosts; i++) {
		int status;

		if (chaos.host[i].broker > 0 && waitpid(chaos.host[i].broker, &status, WNOHANG) == chaos.host[i].broker) {
			chaos.host[i].broker = 0;
			fail("rlmd died by itself: %s %d", WIFSIGNALED(status) ? "signal" : "status",
			     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		}
	}
}

static void due(void)
{
	uint64_t now = now_ms();

	for (int i = 0; i < WORKERS; i++) {
		struct slot *slot = &chaos.worker[i];

		if (slot->pid && slot->cont_at && now >= slot->cont_at) {
			kill(slot->pid, SIGCONT);
			slot->cont_at = 0;
		}
		if (!slot->pid && !chaos.board->stop && now >= slot->start_at)
			worker_start(i);
	}
	if (chaos.bare)
		return;
	for (unsigned i = 0; i < chaos.hosts; i++)
		if (!chaos.host[i].broker && now >= chaos.host[i].broker_at)
			broker_start(i);
	if (chaos.promote_at && now >= chaos.promote_at) {
		chaos.promote_at = 0;
		order_start("promote", 0);
	}
}

static void watch(void)
{
	long stuck = report_stuck(chaos.board, PATIENCE_MS);

	fail_if_wrong();
	if (stuck < 0)
		return;
	chaos.board->failed_record = stuck;
	fail("record %ld has stood still for %d s", stuck, PATIENCE_MS / 1000);
}

static bool switches_are_enough(void)
{
	return chaos.bare || report_switches(chaos.board) * 60 >= (uint64_t)SWITCHES_PER_MIN * chaos.seconds;
}

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

static int worker_main(int argc, char **argv)
{
	static struct worker worker;
	const struct incarnation *incarnation;

	if (argc != 7)
		return 2;
	worker.board = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED, BOARD_FD, 0);
	if (worker.board == MAP_FAILED)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	worker.self = (uint32_t)strtoul(argv[1], NULL, 10);
	worker.seed = strtoull(argv[2], NULL, 10);
	worker.connections = (unsigned)strtoul(argv[3], NULL, 10);
	worker.calm = argv[4][0] == '1';
	worker.address = argv[5];
	worker.port = argv[6];
	incarnation = &worker.board->incarnation[worker.self];
	worker.side = incarnation->side;
	worker.style = incarnation->style;
	worker.pair = incarnation->pair;
	worker_run(&worker);
}

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

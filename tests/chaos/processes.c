// SPDX-License-Identifier: BSD-2-Clause
// The supervisor's processes: workers, brokers and rlmctl, from their start to their end.
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONNECTIONS	   3
#define HELPER_PATIENCE_MS 15000

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

// Between fork and exec: dies with the supervisor.
static void child_setup(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
}

static void log_setup(void)
{
	int log = open(chaos.log, O_WRONLY | O_CREAT | O_APPEND, 0600);

	dup2(log, 1);
	dup2(log, 2);
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
		child_setup(parent);
		log_setup();
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
		child_setup(parent);
		log_setup();
		execl(path, "rlmctl", "--socket", chaos.host[host].socket, order, first, second, (char *)NULL);
		_exit(127);
	}
	return i;
}

void order_start(const char *order, pid_t pid)
{
	char target[16];

	snprintf(target, sizeof(target), "%d", pid);
	for (unsigned host = 0; host < chaos.hosts; host++)
		ctl_start(host, order, pid ? target : "all", NULL);
}

void move_start(unsigned domain)
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

static const char *status_kind(int status)
{
	return WIFSIGNALED(status) ? "signal" : "status";
}

static int status_number(int status)
{
	return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void reap_workers(void)
{
	for (int i = 0; i < WORKERS; i++) {
		struct slot *slot = &chaos.worker[i];
		const struct incarnation *incarnation = &chaos.board->incarnation[slot->incarnation];
		int status;

		if (!slot->pid || waitpid(slot->pid, &status, WNOHANG) != slot->pid)
			continue;
		fail_if_wrong();
		slot->pid = 0;
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !chaos.board->stop)
			fail("worker %d (%s) died by itself: %s %d", incarnation->pid, style_names[incarnation->style], status_kind(status),
			     status_number(status));
	}
}

static void reap_helpers(void)
{
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
}

static void reap_brokers(void)
{
	for (unsigned i = 0; i < chaos.hosts; i++) {
		int status;

		if (chaos.host[i].broker > 0 && waitpid(chaos.host[i].broker, &status, WNOHANG) == chaos.host[i].broker) {
			chaos.host[i].broker = 0;
			fail("rlmd died by itself: %s %d", status_kind(status), status_number(status));
		}
	}
}

void reap(void)
{
	reap_workers();
	reap_helpers();
	reap_brokers();
}

void due(void)
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

void kill_all(void)
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

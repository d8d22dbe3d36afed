// SPDX-License-Identifier: BSD-2-Clause
// What happens to workers and brokers, at random.
#include "supervisor.h"

#include <signal.h>
#include <sys/wait.h>

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

void act(void)
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

// SPDX-License-Identifier: BSD-2-Clause
#include "leave.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "broker.h"
#include "log.h"

#define BACK_TIME 4.0 // processes look for a new broker at least every 3.2 seconds

// A link that an earlier broker made, as one of its processes told.
struct rlmd_kept {
	uint64_t link;
	uint32_t side;
	struct rlmd_kept *prev, *next; // rlmd_client.kept
};

// An answer that is due. One for each that waits for it: both ends of a link may be about to move.
struct rlmd_leave {
	uint64_t link;
	uint32_t side;
	struct rlmd_quiesce *quiesce; // NULL: nobody waits
	struct rlmd_leave *prev, *next; // rlmd_client.leaves
};

static struct rlmd_client *client_of(struct rlmd_party *party)
{
	return (struct rlmd_client *)((char *)party - offsetof(struct rlmd_client, party));
}

static struct rlmd_leave *leave_find(const struct rlmd_client *client, uint64_t link, uint32_t side)
{
	struct rlmd_leave *leave;

	DL_FOREACH (client->leaves, leave)
		if (leave->link == link && leave->side == side)
			return leave;
	return NULL;
}

static void leave_ask(struct rlmd_client *client, uint64_t link, uint32_t side, struct rlmd_quiesce *quiesce)
{
	struct rlm_msg_leave msg = {.header = {.type = RLM_MSG_LEAVE, .size = sizeof(msg)}, .link = link, .side = side};
	bool asked = leave_find(client, link, side) != NULL;
	struct rlmd_leave *leave;

	if (client->doomed || !client->hello || (asked && !quiesce))
		return;
	leave = calloc(1, sizeof(*leave));
	if (!leave) {
		rlmd_client_doom(client, "out of memory");
		return;
	}
	leave->link = link;
	leave->side = side;
	leave->quiesce = quiesce;
	if (quiesce)
		quiesce->pending++;
	DL_APPEND(client->leaves, leave);
	if (!asked)
		rlmd_client_send(client, &msg, NULL, 0);
}

void rlmd_link_leave(struct rlmd_broker *broker, struct rlmd_link *link, struct rlmd_quiesce *quiesce)
{
	struct rlmd_client *party, *client;

	if (!link->leaving)
		rlmd_event(&broker->events, "link-ends", NULL, NULL, "link %016llx", (unsigned long long)link->id);
	rlmd_link_shut(&broker->links, link);
	link->leaving = true;
	for (uint32_t side = 0; side < 2; side++) {
		if (!link->end[side].party)
			continue;
		party = client_of(link->end[side].party);
		DL_FOREACH (broker->clients, client)
			if (client == party || (client->table && client->table == party->table))
				leave_ask(client, link->id, side, quiesce);
	}
}

bool rlmd_link_is_awaited(const struct rlmd_broker *broker, uint64_t link)
{
	struct rlmd_client *client;

	DL_FOREACH (broker->clients, client)
		if (leave_find(client, link, 0) || leave_find(client, link, 1))
			return true;
	return false;
}

static void quiesce_check(struct rlmd_quiesce *quiesce)
{
	if (quiesce->pending == 0)
		ev_feed_event(quiesce->broker->loop, &quiesce->timer, EV_CUSTOM);
}

static void leave_free(struct rlmd_client *client, struct rlmd_leave *leave)
{
	if (leave->quiesce) {
		leave->quiesce->pending--;
		quiesce_check(leave->quiesce);
	}
	DL_DELETE(client->leaves, leave);
	free(leave);
}

// --- links of an earlier broker ---

static struct rlmd_kept *kept_find(const struct rlmd_client *client, uint64_t link, uint32_t side)
{
	struct rlmd_kept *kept;

	DL_FOREACH (client->kept, kept)
		if (kept->link == link && kept->side == side)
			return kept;
	return NULL;
}

static void kept_free(struct rlmd_client *client, struct rlmd_kept *kept)
{
	DL_DELETE(client->kept, kept);
	rlmd_user_forget(client->user);
	free(kept);
}

// It is not known which domains have sockets there, and whether these may still be joined with one another.
static void kept_leave(struct rlmd_broker *broker, struct rlmd_client *client, struct rlmd_quiesce *quiesce)
{
	struct rlmd_kept *kept;

	DL_FOREACH (client->kept, kept) {
		leave_ask(client, kept->link, kept->side, quiesce);
		if (quiesce && kept->side == 0)
			quiesce->links++;
	}
}

bool rlmd_kept(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_kept *msg)
{
	const struct rlmd_link *link = rlmd_link_by_id(&broker->links, msg->link);
	const struct rlmd_party *party = link ? link->end[msg->side].party : NULL;
	struct rlmd_quiesce *quiesce;
	struct rlmd_kept *kept;

	if (kept_find(client, msg->link, msg->side))
		return true;
	if (party && client_of((struct rlmd_party *)(uintptr_t)party)->table == client->table)
		return true; // inherited by fork: all that have the table are asked
	kept = calloc(1, sizeof(*kept));
	if (!kept || !rlmd_user_remember(client->user, &broker->config.limits)) {
		free(kept);
		return false;
	}
	kept->link = msg->link;
	kept->side = msg->side;
	DL_APPEND(client->kept, kept);
	if (broker->config.groups.count)
		leave_ask(client, kept->link, kept->side, NULL);
	DL_FOREACH (broker->quiesces, quiesce)
		leave_ask(client, kept->link, kept->side, quiesce);
	return true;
}

void rlmd_kept_leave(struct rlmd_broker *broker)
{
	struct rlmd_client *client;

	DL_FOREACH (broker->clients, client)
		kept_leave(broker, client, NULL);
}

void rlmd_kept_forget(struct rlmd_client *client)
{
	while (client->kept)
		kept_free(client, client->kept);
}

void rlmd_left(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_left *msg)
{
	struct rlmd_leave *leave = leave_find(client, msg->link, msg->side);
	struct rlmd_kept *kept = kept_find(client, msg->link, msg->side);
	struct rlmd_link *link;

	if (kept)
		kept_free(client, kept);
	if (!leave)
		return;
	for (; leave; leave = leave_find(client, msg->link, msg->side))
		leave_free(client, leave);
	link = rlmd_link_by_id(&broker->links, msg->link);
	if (link && link->leaving && !rlmd_link_is_awaited(broker, msg->link))
		rlmd_link_end(broker, link);
}

void rlmd_leaves_forget(struct rlmd_client *client)
{
	while (client->leaves)
		leave_free(client, client->leaves);
}

// --- domains ---

static bool covers(const struct rlmd_quiesce *quiesce, const struct rlmd_domain *domain)
{
	return !quiesce->domain || quiesce->domain == domain;
}

bool rlmd_quiesce_covers(const struct rlmd_broker *broker, const struct rlmd_domain *domain)
{
	const struct rlmd_quiesce *quiesce;

	DL_FOREACH (broker->quiesces, quiesce)
		if (covers(quiesce, domain))
			return true;
	return false;
}

// A process may have sockets of other domains than its own.
static bool link_touches(const struct rlmd_link *link, const struct rlmd_quiesce *quiesce)
{
	const struct rlmd_segment *segment;

	for (unsigned side = 0; side < 2; side++)
		if (link->end[side].party && covers(quiesce, client_of(link->end[side].party)->domain))
			return true;
	DL_FOREACH (link->segments, segment)
		for (uint32_t i = 0; i < segment->slots; i++)
			if (segment->slot[i].held && (covers(quiesce, segment->slot[i].end[0].domain) ||
						      covers(quiesce, segment->slot[i].end[1].domain)))
				return true;
	return false;
}

static void links_leave(struct rlmd_quiesce *quiesce)
{
	struct rlmd_link *link, *next;
	struct rlmd_segment *segment;
	struct rlmd_client *client;

	HASH_ITER (hh, quiesce->broker->links.by_id, link, next) {
		if (!link_touches(link, quiesce))
			continue;
		quiesce->links++;
		DL_FOREACH (link->segments, segment)
			quiesce->connections += segment->bound;
		rlmd_link_leave(quiesce->broker, link, quiesce);
	}
	DL_FOREACH (quiesce->broker->clients, client)
		kept_leave(quiesce->broker, client, quiesce);
}

static void pages_set(struct rlmd_quiesce *quiesce, bool on)
{
	struct rlmd_domain *domain, *next;

	HASH_ITER (hh, quiesce->broker->domains.by_cookie, domain, next)
		if (covers(quiesce, domain))
			rlmd_location_quiesce(&domain->location, on);
}

// 't' traced, 'T' stopped: why it does not answer, mostly.
char rlmd_state_of(pid_t pid)
{
	char path[32], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "re");
	if (file && fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	if (file)
		fclose(file);
	return state;
}

// Of another domain's process only its rlmd can tell.
static const char *state_name(const struct rlmd_client *client)
{
	char state = client->guest ? client->state : rlmd_state_of(client->pid);

	return state == 'T' ? " (stopped)" : state == 't' ? " (held by a debugger)" : "";
}

static void culprits_name(const struct rlmd_quiesce *quiesce, char *text, size_t size)
{
	struct rlmd_client *client;
	struct rlmd_leave *leave;
	size_t at = 0;

	snprintf(text, size, "processes that may not have come back since rlmd was started");
	DL_FOREACH (quiesce->broker->clients, client) {
		DL_FOREACH (client->leaves, leave)
			if (leave->quiesce == quiesce)
				break;
		if (leave && at < size)
			at += (size_t)snprintf(text + at, size - at, "%s%s%s%s[%d]%s", at ? ", " : "",
					       client->guest ? client->domain->name : "", client->guest ? " " : "", client->command,
					       (int)client->pid, state_name(client));
	}
}

static void leaves_detach(struct rlmd_quiesce *quiesce)
{
	struct rlmd_client *client;
	struct rlmd_leave *leave;

	DL_FOREACH (quiesce->broker->clients, client)
		DL_FOREACH (client->leaves, leave)
			if (leave->quiesce == quiesce)
				leave->quiesce = NULL;
	quiesce->pending = 0;
}

static void on_back(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_quiesce *quiesce = timer->data;

	quiesce->pending--;
	quiesce_check(quiesce);
}

static void back_await(struct rlmd_quiesce *quiesce)
{
	double left = quiesce->broker->started + BACK_TIME - ev_time();

	ev_timer_init(&quiesce->back, on_back, left, 0);
	quiesce->back.data = quiesce;
	if (!quiesce->broker->succeeds || left <= 0)
		return;
	quiesce->pending++;
	ev_timer_start(quiesce->broker->loop, &quiesce->back);
}

static void on_quiesce(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_quiesce *quiesce = timer->data;
	char culprits[256];

	ev_timer_stop(loop, timer);
	if (quiesce->pending == 0) {
		quiesce->done(quiesce, NULL);
		return;
	}
	culprits_name(quiesce, culprits, sizeof(culprits));
	quiesce->done(quiesce, culprits);
}

struct rlmd_quiesce *rlmd_quiesce_start(struct rlmd_broker *broker, struct rlmd_domain *domain, double seconds,
					void (*done)(struct rlmd_quiesce *quiesce, const char *culprits), void *data)
{
	struct rlmd_quiesce *quiesce, *other;

	DL_FOREACH (broker->quiesces, other)
		if (!other->domain || !domain || other->domain == domain)
			return NULL;
	quiesce = calloc(1, sizeof(*quiesce));
	if (!quiesce)
		return NULL;
	quiesce->broker = broker;
	quiesce->domain = domain ? rlmd_domain_get(domain) : NULL;
	quiesce->done = done;
	quiesce->data = data;
	quiesce->started = ev_time();
	DL_APPEND(broker->quiesces, quiesce);
	ev_timer_init(&quiesce->timer, on_quiesce, seconds, 0);
	quiesce->timer.data = quiesce;
	ev_timer_start(broker->loop, &quiesce->timer);
	pages_set(quiesce, true);
	back_await(quiesce);
	links_leave(quiesce);
	quiesce_check(quiesce);
	return quiesce;
}

void rlmd_quiesce_end(struct rlmd_quiesce *quiesce)
{
	struct rlm_msg_resume msg = {.header = {.type = RLM_MSG_RESUME, .size = sizeof(msg)}};
	struct rlmd_broker *broker = quiesce->broker;
	struct rlmd_client *client;

	ev_timer_stop(broker->loop, &quiesce->back);
	ev_timer_stop(broker->loop, &quiesce->timer);
	ev_clear_pending(broker->loop, &quiesce->timer);
	leaves_detach(quiesce);
	DL_DELETE(broker->quiesces, quiesce);
	pages_set(quiesce, false);
	DL_FOREACH (broker->clients, client)
		if (client->hello && covers(quiesce, client->domain))
			rlmd_client_send(client, &msg, NULL, 0);
	rlmd_offers_retry(broker);
	rlmd_domain_put(&broker->domains, quiesce->domain);
	free(quiesce);
}

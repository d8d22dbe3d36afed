// SPDX-License-Identifier: BSD-2-Clause
#include "leave.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "broker.h"
#include "log.h"

// An answer that is due.
struct rlmd_leave {
	uint64_t link;
	uint32_t side;
	struct rlmd_quiesce *quiesce; // that waits for it; NULL: nobody
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

static void leave_ask(struct rlmd_client *client, const struct rlmd_link *link, uint32_t side, struct rlmd_quiesce *quiesce)
{
	struct rlm_msg_leave msg = {
	    .header = {.type = RLM_MSG_LEAVE, .size = sizeof(msg)}, .link = link->id, .side = side};
	struct rlmd_leave *leave = leave_find(client, link->id, side);

	if (client->doomed || !client->hello)
		return;
	if (!leave) {
		leave = calloc(1, sizeof(*leave));
		if (!leave) {
			rlmd_client_doom(client, "out of memory");
			return;
		}
		leave->link = link->id;
		leave->side = side;
		DL_APPEND(client->leaves, leave);
		rlmd_client_send(client, &msg, NULL, 0);
	}
	if (quiesce && !leave->quiesce) {
		leave->quiesce = quiesce;
		quiesce->pending++;
	}
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
				leave_ask(client, link, side, quiesce);
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

void rlmd_left(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_left *msg)
{
	struct rlmd_leave *leave = leave_find(client, msg->link, msg->side);
	struct rlmd_link *link;

	if (!leave)
		return;
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

	HASH_ITER (hh, quiesce->broker->links.by_id, link, next) {
		if (!link_touches(link, quiesce))
			continue;
		quiesce->links++;
		DL_FOREACH (link->segments, segment)
			quiesce->connections += segment->bound;
		rlmd_link_leave(quiesce->broker, link, quiesce);
	}
}

static void pages_set(struct rlmd_quiesce *quiesce, bool on)
{
	struct rlmd_domain *domain, *next;

	HASH_ITER (hh, quiesce->broker->domains.by_cookie, domain, next)
		if (covers(quiesce, domain))
			rlmd_location_quiesce(&domain->location, on);
}

// 't' traced, 'T' stopped: why it does not answer, mostly.
static const char *state_of(pid_t pid)
{
	char path[32], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "re");
	if (file && fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	if (file)
		fclose(file);
	return state == 'T' ? " (stopped)" : state == 't' ? " (held by a debugger)" : "";
}

static void culprits_name(const struct rlmd_quiesce *quiesce, char *text, size_t size)
{
	struct rlmd_client *client;
	struct rlmd_leave *leave;
	size_t at = 0;

	text[0] = 0;
	DL_FOREACH (quiesce->broker->clients, client) {
		DL_FOREACH (client->leaves, leave)
			if (leave->quiesce == quiesce)
				break;
		if (leave && at < size)
			at += (size_t)snprintf(text + at, size - at, "%s%s[%d]%s", at ? ", " : "", client->command,
					       (int)client->pid, state_of(client->pid));
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
	links_leave(quiesce);
	quiesce_check(quiesce);
	return quiesce;
}

void rlmd_quiesce_end(struct rlmd_quiesce *quiesce)
{
	struct rlm_msg_resume msg = {.header = {.type = RLM_MSG_RESUME, .size = sizeof(msg)}};
	struct rlmd_broker *broker = quiesce->broker;
	struct rlmd_client *client;

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

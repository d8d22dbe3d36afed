// SPDX-License-Identifier: BSD-2-Clause
// From offers to bindings: asks the registry who belongs together, groups and limits whether they may, and binds them
// to a slot.
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "broker.h"
#include "log.h"
#include "move.h"
#include "rlm/layout.h"
#include "rlm/rlm.h"
#include "xen.h"

static struct rlmd_offer *offer_of(struct rlmd_end *end)
{
	return (struct rlmd_offer *)((char *)end - offsetof(struct rlmd_offer, end));
}

static struct rlmd_client *client_of(struct rlmd_party *party)
{
	return (struct rlmd_client *)((char *)party - offsetof(struct rlmd_client, party));
}

static void wait_set(struct rlmd_broker *broker, struct rlmd_offer *offer, enum rlmd_wait wait, double deadline)
{
	if (offer->wait)
		DL_DELETE2(broker->waiting[offer->wait], offer, wait_prev, wait_next);
	offer->wait = wait;
	offer->deadline = deadline;
	if (wait)
		DL_APPEND2(broker->waiting[wait], offer, wait_prev, wait_next);
}

static void limited_set(struct rlmd_broker *broker, struct rlmd_offer *offer, bool limited)
{
	if (offer->limited == limited)
		return;
	offer->limited = limited;
	if (limited)
		DL_APPEND2(broker->limited, offer, limited_prev, limited_next);
	else
		DL_DELETE2(broker->limited, offer, limited_prev, limited_next);
}

void rlmd_offer_add(struct rlmd_broker *broker, struct rlmd_offer *offer)
{
	struct rlmd_client *client = offer->client;
	struct rlmd_end *outlived;

	HASH_ADD(hh, client->offers, conn.index, sizeof(offer->conn.index), offer);
	client->offer_count++;
	broker->counters.offers++;
	offer->noted = RLM_WHY_MATCHING;
	if (!rlmd_registry_add(&broker->registry, &offer->end)) {
		rlmd_offer_note(offer, RLM_WHY_LIMIT, false);
		return;
	}
	while ((outlived = rlmd_registry_outlived(&offer->end)))
		rlmd_offer_free(broker, offer_of(outlived));
	wait_set(broker, offer, RLMD_WAIT_SHORT, ev_now(broker->loop) + RLMD_WAIT_SHORT_TIME);
	rlmd_offer_try(broker, offer);
}

void rlmd_offer_free(struct rlmd_broker *broker, struct rlmd_offer *offer)
{
	rlmd_xen_withdrawn(broker, offer);
	wait_set(broker, offer, RLMD_WAIT_NONE, 0);
	limited_set(broker, offer, false);
	rlmd_registry_remove(&broker->registry, &offer->end);
	HASH_DEL(offer->client->offers, offer);
	offer->client->offer_count--;
	rlmd_user_forget(offer->client->user);
	rlmd_domain_put(&broker->domains, offer->domain);
	free(offer);
}

void rlmd_offer_note(struct rlmd_offer *offer, enum rlm_why why, bool again)
{
	if (offer->noted == why && !again)
		return;
	offer->noted = why;
	rlmd_client_note(offer->client, offer->conn, why, again);
}

static void limit_reached(struct rlmd_broker *broker, struct rlmd_offer *a, struct rlmd_offer *b)
{
	if (a->noted != RLM_WHY_LIMIT || b->noted != RLM_WHY_LIMIT) {
		broker->counters.refused_limit++;
		rlmd_event(&broker->events, "limit", a->domain->name, b->domain->name, "%s[%d] %s[%d]: limit reached",
			   a->client->command, (int)a->client->pid, b->client->command, (int)b->client->pid);
	}
	rlmd_offer_note(a, RLM_WHY_LIMIT, false);
	rlmd_offer_note(b, RLM_WHY_LIMIT, false);
	limited_set(broker, a, true);
}

static bool same_group(struct rlmd_broker *broker, const struct rlmd_domain *a, const struct rlmd_domain *b)
{
	const struct rlmd_groups *groups = &broker->config.groups;

	return a == b || strcmp(rlmd_domain_group(a, groups), rlmd_domain_group(b, groups)) == 0;
}

static void group_refused(struct rlmd_broker *broker, struct rlmd_offer *a, struct rlmd_offer *b)
{
	if (a->noted != RLM_WHY_OTHER_GROUP || b->noted != RLM_WHY_OTHER_GROUP) {
		broker->counters.refused_group++;
		rlmd_event(&broker->events, "other-group", a->domain->name, b->domain->name,
			   "%s[%d] %s[%d]: other group", a->client->command, (int)a->client->pid, b->client->command,
			   (int)b->client->pid);
	}
	rlmd_offer_note(a, RLM_WHY_OTHER_GROUP, false);
	rlmd_offer_note(b, RLM_WHY_OTHER_GROUP, false);
}

// Descriptors are ours to give within this kernel only.
static void party_send(struct rlmd_broker *broker, struct rlmd_link *link, unsigned side, const void *msg, const int *fds, unsigned fd_count)
{
	if (link->far)
		rlmd_xen_send(broker, link, side, msg);
	else
		rlmd_client_send(client_of(link->end[side].party), msg, fds, fd_count);
}

static void link_send(struct rlmd_broker *broker, struct rlmd_link *link, struct rlmd_link_parts *parts)
{
	for (unsigned side = 0; side < 2; side++) {
		struct rlmd_client *client = client_of(link->end[side].party), *peer = client_of(link->end[!side].party);
		struct rlm_msg_link msg = {.header = {.type = RLM_MSG_LINK, .size = sizeof(msg)},
					   .link = link->id,
					   .side = side,
					   .peer_pid = (uint32_t)peer->pid,
					   .location = rlmd_location_number(&client->domain->location)};

		memcpy(msg.peer_command, peer->command, sizeof(msg.peer_command));
		party_send(broker, link, side, &msg, parts->fd[side], RLMD_LINK_FDS);
	}
}

static void segment_send(struct rlmd_broker *broker, struct rlmd_segment *segment, struct rlmd_segment_parts *parts)
{
	for (unsigned side = 0; side < 2; side++) {
		struct rlm_msg_segment msg = {.header = {.type = RLM_MSG_SEGMENT, .size = sizeof(msg)},
					      .link = segment->link->id,
					      .side = side,
					      .segment = segment->number,
					      .slots = segment->slots,
					      .ring_size = segment->ring_size};

		party_send(broker, segment->link, side, &msg, parts->fd[side], RLMD_SEGMENT_FDS);
	}
}

// One more segment, with its link if there is none yet. NULL: the kernel did not give what it takes.
static struct rlmd_segment *segment_make(struct rlmd_broker *broker, struct rlmd_link *link, struct rlmd_client *a,
					 struct rlmd_client *b)
{
	const struct rlmd_limits *limits = &broker->config.limits;
	struct rlmd_link_parts link_parts;
	struct rlmd_segment_parts parts;
	struct rlmd_segment *segment = NULL;
	bool fresh = !link, far = a->guest || b->guest;
	int err;

	// Between domains it is the domains that make the parts.
	memset(&parts, 0xff, sizeof(parts));
	memset(&link_parts, 0xff, sizeof(link_parts));
	err = far ? 0 : broker->backend->segment_make(&parts, limits->slots, limits->ring_size);
	if (err) {
		log_warn("cannot make a segment: %s", strerror(-err));
		return NULL;
	}
	if (fresh) {
		err = far ? 0 : broker->backend->link_make(&link_parts);
		if (err) {
			log_warn("cannot make a link: %s", strerror(-err));
			goto out;
		}
		link = rlmd_link_new(&broker->links, &a->party, &b->party);
	}
	segment = link ? rlmd_segment_new(&broker->links, link, ev_now(broker->loop)) : NULL;
	if (segment && fresh) {
		rlmd_move_linked(broker);
		link_send(broker, link, &link_parts);
		rlmd_event(&broker->events, "link-made", a->domain ? a->domain->name : "",
			   b->domain ? b->domain->name : "", "%s[%d] %s[%d]", a->command, (int)a->pid, b->command,
			   (int)b->pid);
	}
	if (segment)
		segment_send(broker, segment, &parts);
	else if (link && fresh)
		rlmd_link_free(&broker->links, link);
	if (fresh) {
		rlmd_parts_close(link_parts.fd[0], RLMD_LINK_FDS);
		rlmd_parts_close(link_parts.fd[1], RLMD_LINK_FDS);
	}
out:
	rlmd_parts_close(parts.fd[0], RLMD_SEGMENT_FDS);
	rlmd_parts_close(parts.fd[1], RLMD_SEGMENT_FDS);
	return segment;
}

// Idle segments are kept for a while in case they are needed again; others need them more. The oldest that helps goes.
static bool reclaim(struct rlmd_broker *broker, struct rlmd_client *a, struct rlmd_client *b)
{
	const struct rlmd_limits *limits = &broker->config.limits;
	struct rlmd_shape shape = rlmd_limits_shape(limits, a->guest || b->guest);
	struct rlmd_segment *segment;
	bool total = broker->links.memory + 2 * rlm_region_size(shape.slots, shape.ring_size) > limits->memory_total;

	DL_FOREACH2(broker->links.idle, segment, idle_next)
	{
		struct rlmd_party *party[2] = {segment->link->end[0].party, segment->link->end[1].party};

		if (segment->link->closed)
			continue;
		if (total || party[0] == &a->party || party[1] == &a->party || party[0] == &b->party ||
		    party[1] == &b->party) {
			rlmd_segment_drop(broker, segment);
			return true;
		}
	}
	return false;
}

// NULL: not now, because of a limit.
static struct rlmd_segment *segment_get(struct rlmd_broker *broker, struct rlmd_client *a, struct rlmd_client *b)
{
	struct rlmd_link *link = rlmd_link_find(&broker->links, &a->party, &b->party);
	struct rlmd_segment *segment = link ? rlmd_segment_find(link) : NULL;

	if (segment)
		return segment;
	while (!rlmd_segment_allowed(&broker->links, link, &a->party, &b->party)) {
		if (!reclaim(broker, a, b))
			return NULL;
		link = rlmd_link_find(&broker->links, &a->party, &b->party);
	}
	return segment_make(broker, link, a, b);
}

static void bind_send(struct rlmd_broker *broker, struct rlmd_segment *segment, uint32_t slot, unsigned side, struct rlmd_offer *offer)
{
	struct rlm_msg_bind msg = {.header = {.type = RLM_MSG_BIND, .size = sizeof(msg)},
				   .conn = offer->conn,
				   .link = segment->link->id,
				   .side = side,
				   .segment = segment->number,
				   .slot = slot,
				   .epoch = segment->slot[slot].epoch};

	segment->slot[slot].end[side].conn = offer->conn;
	segment->slot[slot].end[side].domain = rlmd_domain_get(offer->domain);
	party_send(broker, segment->link, side, &msg, NULL, 0);
}

static bool is_quiet(const struct rlmd_broker *broker, const struct rlmd_offer *offer)
{
	return rlmd_quiesce_covers(broker, offer->domain) || rlmd_quiesce_covers(broker, offer->client->domain);
}

// Named by addresses alone, an offer may have outlived its socket. Who still has it can show it again.
static void show_again(struct rlmd_offer *offer)
{
	if (!offer->asked)
		rlmd_client_note(offer->client, offer->conn, RLM_WHY_MATCHING, true);
	offer->asked = true;
}

static void join(struct rlmd_broker *broker, struct rlmd_offer *a, struct rlmd_offer *b)
{
	struct rlmd_segment *segment;
	unsigned side;
	uint32_t slot;

	if (a->client->doomed || b->client->doomed)
		return;
	if (is_quiet(broker, a) || is_quiet(broker, b)) {
		rlmd_offer_note(a, RLM_WHY_MIGRATING, false);
		rlmd_offer_note(b, RLM_WHY_MIGRATING, false);
		return;
	}
	// A domain's own rlmd matches what is within it.
	if (a->client->guest && a->client->guest == b->client->guest)
		return;
	if (!same_group(broker, a->domain, b->domain)) {
		group_refused(broker, a, b);
		return;
	}
	if (!rlmd_registry_proven(&a->end, &b->end)) {
		show_again(a->end.last < b->end.last ? a : b);
		return;
	}
	segment = segment_get(broker, a->client, b->client);
	if (!segment) {
		limit_reached(broker, a, b);
		return;
	}
	side = rlmd_link_side(segment->link, &a->client->party);
	slot = rlmd_slot_bind(&broker->links, segment);
	bind_send(broker, segment, slot, side, a);
	bind_send(broker, segment, slot, !side, b);
	broker->counters.matches++;
	rlmd_event(&broker->events, "matched", a->domain->name, b->domain->name, "%s[%d] port %u, %s[%d] port %u",
		   a->client->command, (int)a->client->pid, a->end.tuple.local.port, b->client->command,
		   (int)b->client->pid, b->end.tuple.local.port);
	rlmd_offer_free(broker, a);
	rlmd_offer_free(broker, b);
}

void rlmd_offer_try(struct rlmd_broker *broker, struct rlmd_offer *offer)
{
	struct rlmd_end *other;

	limited_set(broker, offer, false);
	switch (rlmd_registry_match(&broker->registry, &offer->end, &other)) {
	case RLMD_MATCH_NONE:
		rlmd_xen_offered(broker, offer);
		break;
	case RLMD_MATCH_AMBIGUOUS:
		if (offer->noted != RLM_WHY_UNNAMED)
			broker->counters.ambiguous++;
		rlmd_offer_note(offer, RLM_WHY_UNNAMED, false);
		other = rlmd_registry_rival(&offer->end);
		if (other)
			rlmd_offer_note(offer_of(other), RLM_WHY_UNNAMED, false);
		break;
	case RLMD_MATCH_FOUND:
		join(broker, offer, offer_of(other));
		break;
	}
}

static void drop_send(struct rlmd_broker *broker, struct rlmd_link *link, uint32_t segment)
{
	for (unsigned side = 0; side < 2; side++) {
		struct rlm_msg_drop msg = {.header = {.type = RLM_MSG_DROP, .size = sizeof(msg)},
					   .link = link->id,
					   .side = side,
					   .segment = segment};

		if (link->end[side].party)
			party_send(broker, link, side, &msg, NULL, 0);
	}
}

static void slot_forget(struct rlmd_broker *broker, struct rlmd_slot *slot)
{
	for (unsigned side = 0; side < 2; side++) {
		rlmd_domain_put(&broker->domains, slot->end[side].domain);
		slot->end[side].domain = NULL;
	}
}

static void segment_forget(struct rlmd_broker *broker, struct rlmd_segment *segment)
{
	for (uint32_t i = 0; i < segment->slots; i++)
		slot_forget(broker, &segment->slot[i]);
}

static void link_forget(struct rlmd_broker *broker, struct rlmd_link *link)
{
	struct rlmd_segment *segment;

	DL_FOREACH (link->segments, segment)
		segment_forget(broker, segment);
	rlmd_link_free(&broker->links, link);
	broker->freed = true;
}

void rlmd_segment_drop(struct rlmd_broker *broker, struct rlmd_segment *segment)
{
	struct rlmd_link *link = segment->link;
	bool last = link->segments == segment && !segment->next;

	if (!link->closed)
		drop_send(broker, link, last ? RLM_ALL_SEGMENTS : segment->number);
	broker->freed = true;
	if (!last) {
		segment_forget(broker, segment);
		rlmd_segment_free(&broker->links, segment);
		return;
	}
	rlmd_event(&broker->events, "link-dropped", NULL, NULL, "link %016llx was idle", (unsigned long long)link->id);
	link_forget(broker, link);
}

void rlmd_link_abandon(struct rlmd_broker *broker, struct rlmd_link *link)
{
	const char *name[2] = {"", ""};

	for (unsigned side = 0; side < 2; side++) {
		struct rlmd_client *client = link->end[side].party ? client_of(link->end[side].party) : NULL;

		if (client && client->domain)
			name[side] = client->domain->name;
	}
	rlmd_event(&broker->events, "link-failed", name[0], name[1], "link %016llx could not be made", (unsigned long long)link->id);
	drop_send(broker, link, RLM_ALL_SEGMENTS);
	link_forget(broker, link);
}

void rlmd_release(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *msg)
{
	if (!rlmd_xen_release(broker, client, msg))
		rlmd_release_own(broker, client, msg);
}

void rlmd_release_own(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *msg)
{
	struct rlmd_link *link = rlmd_link_by_id(&broker->links, msg->link);
	struct rlmd_segment *segment;

	if (!link || link->end[msg->side].party != &client->party)
		return; // dropped meanwhile, or none of its own
	segment = rlmd_segment_by_number(link, msg->segment);
	if (!segment || msg->slot >= segment->slots)
		return;
	if (rlmd_slot_release(&broker->links, segment, msg->slot, msg->side, msg->epoch, ev_now(broker->loop)) !=
	    RLMD_RELEASE_FREE)
		return;
	slot_forget(broker, &segment->slot[msg->slot]);
	broker->freed = true;
	if (!link->closed || link->leaving || segment->bound)
		return;
	DL_FOREACH (link->segments, segment)
		if (segment->bound)
			return;
	link_forget(broker, link);
}

void rlmd_link_end(struct rlmd_broker *broker, struct rlmd_link *link)
{
	link_forget(broker, link);
}

void rlmd_links_close(struct rlmd_broker *broker, struct rlmd_client *client)
{
	while (client->party.ends) {
		struct rlmd_link *link = client->party.ends->link;
		bool was_open = !link->closed;
		bool useless = rlmd_link_close(&broker->links, link, &client->party);

		if (link->leaving)
			useless = !rlmd_link_is_awaited(broker, link->id);
		if (was_open)
			drop_send(broker, link, RLM_ALL_SEGMENTS);
		if (useless)
			link_forget(broker, link);
	}
}

static bool link_is_split(struct rlmd_broker *broker, const struct rlmd_link *link)
{
	const struct rlmd_segment *segment;

	DL_FOREACH (link->segments, segment)
		for (uint32_t i = 0; i < segment->slots; i++)
			if (segment->slot[i].held == 3 &&
			    !same_group(broker, segment->slot[i].end[0].domain, segment->slot[i].end[1].domain))
				return true;
	return false;
}

void rlmd_offers_retry(struct rlmd_broker *broker)
{
	struct rlmd_client *client;
	struct rlmd_offer *offer, *next;

	// A match removes two offers, perhaps the next one of this walk: mark first, try later.
	DL_FOREACH (broker->clients, client)
		HASH_ITER (hh, client->offers, offer, next)
			limited_set(broker, offer, true);
	broker->freed = true;
}

void rlmd_regroup(struct rlmd_broker *broker)
{
	struct rlmd_link *link, *next;

	HASH_ITER (hh, broker->links.by_id, link, next)
		if (!link->leaving && link_is_split(broker, link))
			rlmd_link_leave(broker, link, NULL);
	if (broker->config.groups.count)
		rlmd_kept_leave(broker);
	rlmd_offers_retry(broker);
}

// SPDX-License-Identifier: BSD-2-Clause
#include "xen_far.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "broker.h"
#include "log.h"
#include "xen_channel.h"

// A segment, or the link's control doorbell.
struct part {
	uint32_t number;
	uint32_t slots; // 0: a doorbell
	uint32_t ring_size;
	struct rlmd_xen_half mine;
	struct rlmd_xen_view peer;
	bool opened; // peer
	struct part *prev, *next;
};

struct waiting {
	union rlm_msg msg;
	struct waiting *prev, *next;
};

struct rlmd_far_link {
	uint64_t id;
	uint32_t side;
	unsigned peer; // domain
	struct rlmd_client *client;
	struct part *parts;
	struct waiting *waiting;
	uint32_t bound;	 // slots that the process holds
	bool told;	 // the process knows of the link
	bool failed;	 // a part could not be made
	bool dropped;	 // by the broker; kept while the process holds a slot
	UT_hash_handle hh;
};

static struct part *part_find(struct rlmd_far_link *link, uint32_t number)
{
	struct part *part;

	DL_SEARCH_SCALAR(link->parts, part, number, number);
	return part;
}

static void part_free(struct rlmd_far_link *link, struct part *part)
{
	DL_DELETE(link->parts, part);
	rlmd_xen_half_close(&part->mine);
	if (part->opened)
		rlmd_xen_view_close(&part->peer);
	free(part);
}

static void waiting_free(struct rlmd_far_link *link, struct waiting *waiting)
{
	DL_DELETE(link->waiting, waiting);
	free(waiting);
}

static void link_free(struct rlmd_far *far, struct rlmd_far_link *link)
{
	while (link->parts)
		part_free(link, link->parts);
	while (link->waiting)
		waiting_free(link, link->waiting);
	HASH_DEL(far->by_id, link);
	free(link);
	if (!far->by_id && far->empty)
		far->empty(far->broker);
}

static struct rlmd_far_link *link_find(struct rlmd_far *far, uint64_t id)
{
	struct rlmd_far_link *link;

	HASH_FIND(hh, far->by_id, &id, sizeof(id), link);
	return link;
}

// The process never hears of this binding: give the slot back in its name.
static void bind_refuse(struct rlmd_far *far, struct rlmd_far_link *link, const struct rlm_msg_bind *bind)
{
	struct rlm_msg_release release = rlm_release_of(bind);

	rlmd_client_note(link->client, bind->conn, RLM_WHY_LIMIT, false);
	far->release(far->broker, link->client, &release);
}

static void waiting_refuse(struct rlmd_far *far, struct rlmd_far_link *link)
{
	while (link->waiting) {
		if (link->waiting->msg.header.type == RLM_MSG_BIND)
			bind_refuse(far, link, &link->waiting->msg.bind);
		waiting_free(link, link->waiting);
	}
}

static void half_tell(struct rlmd_far *far, struct rlmd_far_link *link, uint32_t number, const struct rlmd_xen_half *mine, int status)
{
	struct rlmd_wire_half half = {.header = {.type = RLMD_WIRE_HALF, .size = sizeof(half)},
				      .link = link->id,
				      .side = link->side,
				      .segment = number,
				      .status = status};

	if (mine) {
		half.page_ref = mine->page_ref;
		half.port = mine->port;
	}
	far->half(far->broker, &half);
}

static void fail(struct rlmd_far *far, struct rlmd_far_link *link, const char *what, int err)
{
	if (link->failed)
		return;
	link->failed = true;
	log_warn("link of %s[%d] with domain %u: cannot %s: %s; its connections stay on TCP", link->client->command, (int)link->client->pid,
		 link->peer, what, strerror(-err));
	waiting_refuse(far, link);
	half_tell(far, link, RLM_ALL_SEGMENTS, NULL, err);
}

static void part_make(struct rlmd_far *far, struct rlmd_far_link *link, uint32_t number, uint32_t slots, uint32_t ring_size)
{
	struct part *part = calloc(1, sizeof(*part));
	int err = part ? 0 : -ENOMEM;

	if (!err && slots)
		err = rlmd_xen_shape_valid(slots, ring_size) ? rlmd_xen_half_make(&part->mine, link->peer, slots, ring_size) : -EINVAL;
	else if (!err)
		err = rlmd_xen_bell_make(&part->mine, link->peer);
	if (err) {
		free(part);
		fail(far, link, slots ? "grant a segment" : "make a doorbell", err);
		return;
	}
	part->number = number;
	part->slots = slots;
	part->ring_size = ring_size;
	DL_APPEND(link->parts, part);
	half_tell(far, link, number, &part->mine, 0);
}

// False: what it needs is not there yet.
static bool link_tell(struct rlmd_far_link *link, struct rlm_msg_link *msg)
{
	struct part *part = part_find(link, RLM_ALL_SEGMENTS);

	if (!part->opened)
		return false;
	msg->port[0] = part->mine.port;
	msg->port[1] = part->peer.port;
	msg->location = rlmd_location_number(&link->client->domain->location);
	rlmd_client_send(link->client, msg, (int[]){part->mine.bell, part->peer.bell}, RLMD_LINK_FDS);
	link->told = true;
	part_free(link, part);
	return true;
}

// Descriptors are the process's now; only the shared page stays here, in case the other side has not read it yet.
static bool segment_tell(struct rlmd_far_link *link, struct rlm_msg_segment *msg)
{
	struct part *part = part_find(link, msg->segment);

	if (!part)
		return true; // dropped meanwhile
	if (!part->opened)
		return false;
	msg->port[0] = part->mine.port;
	msg->port[1] = part->peer.port;
	msg->offset[0] = part->mine.offset;
	msg->offset[1] = part->peer.offset;
	msg->flags = RLM_SEGMENT_NO_FORK;
	rlmd_client_send(link->client, msg, (int[]){part->mine.region, part->peer.region, part->mine.bell, part->peer.bell},
			 RLMD_SEGMENT_FDS);
	rlmd_xen_view_close(&part->peer);
	rlmd_parts_close(&part->mine.region, 1);
	rlmd_parts_close(&part->mine.bell, 1);
	return true;
}

static bool tell(struct rlmd_far *far, struct rlmd_far_link *link, union rlm_msg *msg)
{
	switch (msg->header.type) {
	case RLM_MSG_LINK:
		return link_tell(link, &msg->link);
	case RLM_MSG_SEGMENT:
		return segment_tell(link, &msg->segment);
	case RLM_MSG_BIND:
		link->bound++;
		break;
	}
	rlmd_client_send(link->client, msg, NULL, 0);
	return true;
}

static void pump(struct rlmd_far *far, struct rlmd_far_link *link)
{
	while (link->waiting && tell(far, link, &link->waiting->msg))
		waiting_free(link, link->waiting);
}

static void drop(struct rlmd_far *far, struct rlmd_far_link *link, const union rlm_msg *msg)
{
	struct part *part = part_find(link, msg->drop.segment);

	if (msg->drop.segment != RLM_ALL_SEGMENTS) {
		if (part)
			part_free(link, part);
		rlmd_client_send(link->client, msg, NULL, 0);
		return;
	}
	waiting_refuse(far, link);
	if (link->told)
		rlmd_client_send(link->client, msg, NULL, 0);
	link->dropped = true;
	if (!link->bound)
		link_free(far, link);
}

static struct rlmd_far_link *link_new(struct rlmd_far *far, struct rlmd_client *client, unsigned peer, const struct rlm_msg_link *msg)
{
	struct rlmd_far_link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	link->id = msg->link;
	link->side = msg->side;
	link->peer = peer;
	link->client = client;
	HASH_ADD(hh, far->by_id, id, sizeof(link->id), link);
	return link;
}

void rlmd_far_deliver(struct rlmd_far *far, struct rlmd_client *client, unsigned peer_domain, const union rlm_msg *msg)
{
	uint64_t id = msg->header.type == RLM_MSG_LINK	    ? msg->link.link
		      : msg->header.type == RLM_MSG_SEGMENT ? msg->segment.link
		      : msg->header.type == RLM_MSG_BIND    ? msg->bind.link
							    : msg->drop.link;
	struct rlmd_far_link *link = link_find(far, id);
	struct waiting *waiting;

	if (!link && msg->header.type == RLM_MSG_LINK)
		link = link_new(far, client, peer_domain, &msg->link);
	if (!link || link->client != client)
		return;
	if (msg->header.type == RLM_MSG_DROP) {
		drop(far, link, msg);
		return;
	}
	waiting = link->failed ? NULL : calloc(1, sizeof(*waiting));
	if (!waiting) {
		if (msg->header.type == RLM_MSG_BIND)
			bind_refuse(far, link, &msg->bind);
		fail(far, link, "go on", -ENOMEM);
		return;
	}
	memcpy(&waiting->msg, msg, msg->header.size);
	DL_APPEND(link->waiting, waiting);
	if (msg->header.type == RLM_MSG_LINK)
		part_make(far, link, RLM_ALL_SEGMENTS, 0, 0);
	else if (msg->header.type == RLM_MSG_SEGMENT && !part_find(link, msg->segment.segment))
		part_make(far, link, msg->segment.segment, msg->segment.slots, msg->segment.ring_size);
	pump(far, link);
}

// What still waits for its parts is not worth waiting for.
static bool leave(struct rlmd_far *far, struct rlmd_far_link *link, const union rlm_msg *msg)
{
	bool told = link->told;

	waiting_refuse(far, link);
	if (told)
		rlmd_client_send(link->client, msg, NULL, 0);
	else
		link_free(far, link);
	return told;
}

bool rlmd_far_leave(struct rlmd_far *far, struct rlmd_client *client, const union rlm_msg *msg)
{
	struct rlmd_far_link *link = link_find(far, msg->leave.link);

	return link && link->client == client && leave(far, link, msg);
}

void rlmd_far_leave_all(struct rlmd_far *far)
{
	struct rlmd_far_link *link, *next;

	HASH_ITER (hh, far->by_id, link, next) {
		union rlm_msg msg = {.leave = {.header = {.type = RLM_MSG_LEAVE, .size = sizeof(msg.leave)},
					       .link = link->id,
					       .side = link->side}};

		leave(far, link, &msg);
	}
}

void rlmd_far_abandon(struct rlmd_far *far)
{
	struct rlmd_far_link *link, *next;

	HASH_ITER (hh, far->by_id, link, next) {
		waiting_refuse(far, link);
		link->parts = NULL;
	}
}

void rlmd_far_half(struct rlmd_far *far, const struct rlmd_wire_half *half)
{
	struct rlmd_far_link *link = link_find(far, half->link);
	struct part *part;
	int err;

	if (!link || link->failed || half->side == link->side)
		return;
	if (half->status) {
		fail(far, link, "have the other side's half", half->status);
		return;
	}
	part = part_find(link, half->segment);
	if (!part || part->opened)
		return;
	if (part->slots)
		err = rlmd_xen_view_open(&part->peer, link->peer, half->page_ref, half->port, part->slots, part->ring_size);
	else
		err = rlmd_xen_bell_open(&part->peer, link->peer, half->port);
	if (err) {
		fail(far, link, "open the other side's half", err);
		return;
	}
	part->opened = true;
	pump(far, link);
}

// A link that was left is gone: nothing of it is mapped any more.
bool rlmd_far_left(struct rlmd_far *far, struct rlmd_client *client, const struct rlm_msg_left *left)
{
	struct rlmd_far_link *link = link_find(far, left->link);

	if (!link || link->client != client)
		return false;
	link_free(far, link);
	return true;
}

bool rlmd_far_release(struct rlmd_far *far, struct rlmd_client *client, const struct rlm_msg_release *release)
{
	struct rlmd_far_link *link = link_find(far, release->link);

	if (!link || link->client != client || link->side != release->side)
		return false;
	if (link->bound)
		link->bound--;
	far->release(far->broker, client, release);
	if (link->dropped && !link->bound)
		link_free(far, link);
	return true;
}

void rlmd_far_client_gone(struct rlmd_far *far, struct rlmd_client *client)
{
	struct rlmd_far_link *link, *next;

	HASH_ITER (hh, far->by_id, link, next)
		if (link->client == client)
			link_free(far, link);
}

static void drop_lost(struct rlmd_far *far, struct rlmd_far_link *link)
{
	union rlm_msg msg = {.drop = {.header = {.type = RLM_MSG_DROP, .size = sizeof(msg.drop)},
				      .link = link->id,
				      .side = link->side,
				      .segment = RLM_ALL_SEGMENTS,
				      .lost = 1}};

	drop(far, link, &msg);
}

void rlmd_far_domain_lost(struct rlmd_far *far, unsigned domain)
{
	struct rlmd_far_link *link, *next;

	HASH_ITER (hh, far->by_id, link, next)
		if (link->peer == domain)
			drop_lost(far, link);
}

void rlmd_far_deinit(struct rlmd_far *far)
{
	struct rlmd_far_link *link, *next;

	HASH_ITER (hh, far->by_id, link, next)
		link_free(far, link);
}

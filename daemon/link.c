// SPDX-License-Identifier: BSD-2-Clause
#include "link.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "rlm/layout.h"

void rlmd_links_init(struct rlmd_links *links, const struct rlmd_limits *limits, uint64_t (*random)(void))
{
	memset(links, 0, sizeof(*links));
	links->limits = limits;
	links->random = random;
}

static void pair_make(uint64_t pair[2], const struct rlmd_party *a, const struct rlmd_party *b)
{
	pair[0] = a->id < b->id ? a->id : b->id;
	pair[1] = a->id < b->id ? b->id : a->id;
}

struct rlmd_link *rlmd_link_find(struct rlmd_links *links, const struct rlmd_party *a, const struct rlmd_party *b)
{
	struct rlmd_link *link;
	uint64_t pair[2];

	pair_make(pair, a, b);
	HASH_FIND(hh_pair, links->by_pair, pair, sizeof(pair), link);
	return link;
}

struct rlmd_link *rlmd_link_by_id(struct rlmd_links *links, uint64_t id)
{
	struct rlmd_link *link;

	HASH_FIND(hh, links->by_id, &id, sizeof(id), link);
	return link;
}

static void end_init(struct rlmd_link *link, unsigned side, struct rlmd_party *party)
{
	struct rlmd_link_end *end = &link->end[side];

	end->link = link;
	end->party = party;
	DL_APPEND(party->ends, end);
}

struct rlmd_link *rlmd_link_new(struct rlmd_links *links, struct rlmd_party *a, struct rlmd_party *b)
{
	struct rlmd_link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	do
		link->id = links->random();
	while (link->id == 0 || rlmd_link_by_id(links, link->id));
	pair_make(link->pair, a, b);
	link->far = a->far || b->far;
	end_init(link, 0, a);
	end_init(link, 1, b);
	HASH_ADD(hh, links->by_id, id, sizeof(link->id), link);
	HASH_ADD(hh_pair, links->by_pair, pair, sizeof(link->pair), link);
	links->links_made++;
	return link;
}

unsigned rlmd_link_side(const struct rlmd_link *link, const struct rlmd_party *party)
{
	return link->end[0].party != party;
}

bool rlmd_link_tell(struct rlmd_link *link, unsigned side, uint32_t segment, bool bad)
{
	struct rlmd_segment *found = segment == RLM_ALL_SEGMENTS ? NULL : rlmd_segment_by_number(link, segment);
	uint8_t *told = bad ? &link->told_bad : found ? &found->told : &link->told, bit = (uint8_t)(1u << side);

	if ((segment != RLM_ALL_SEGMENTS && !found) || *told & bit)
		return false;
	*told |= bit;
	return true;
}

static struct rlmd_account *account_of(const struct rlmd_party *party)
{
	return party ? party->account : NULL;
}

// A party, or a user, of both sides is charged once: it maps the memory twice but owns it once.
static void memory_add(struct rlmd_links *links, struct rlmd_link *link, uint64_t memory)
{
	struct rlmd_party *first = link->end[0].party, *second = link->end[1].party;

	links->memory += memory;
	link->memory += memory;
	if (first)
		first->memory += memory;
	if (second && second != first)
		second->memory += memory;
	if (account_of(first))
		account_of(first)->memory += memory;
	if (account_of(second) && account_of(second) != account_of(first))
		account_of(second)->memory += memory;
}

static void idle_set(struct rlmd_links *links, struct rlmd_segment *segment, bool idle, double now)
{
	if (segment->idle)
		DL_DELETE2(links->idle, segment, idle_prev, idle_next);
	segment->idle = idle;
	segment->idle_since = now;
	if (idle)
		DL_APPEND2(links->idle, segment, idle_prev, idle_next);
}

void rlmd_link_free(struct rlmd_links *links, struct rlmd_link *link)
{
	struct rlmd_segment *segment, *next;

	DL_FOREACH_SAFE (link->segments, segment, next)
		rlmd_segment_free(links, segment);
	for (unsigned side = 0; side < 2; side++)
		if (link->end[side].party)
			DL_DELETE(link->end[side].party->ends, &link->end[side]);
	HASH_DELETE(hh, links->by_id, link);
	if (!link->closed)
		HASH_DELETE(hh_pair, links->by_pair, link);
	free(link);
}

static void side_release_all(struct rlmd_links *links, struct rlmd_link *link, unsigned side)
{
	struct rlmd_segment *segment;

	DL_FOREACH (link->segments, segment)
		for (uint32_t i = 0; i < segment->slots; i++)
			rlmd_slot_release(links, segment, i, side, segment->slot[i].epoch, 0);
}

void rlmd_link_shut(struct rlmd_links *links, struct rlmd_link *link)
{
	if (!link->closed)
		HASH_DELETE(hh_pair, links->by_pair, link);
	link->closed = true;
}

bool rlmd_link_close(struct rlmd_links *links, struct rlmd_link *link, struct rlmd_party *gone)
{
	struct rlmd_segment *segment;

	rlmd_link_shut(links, link);
	for (unsigned side = 0; side < 2; side++) {
		if (link->end[side].party != gone)
			continue;
		side_release_all(links, link, side);
	}
	for (unsigned side = 0; side < 2; side++) {
		if (link->end[side].party != gone)
			continue;
		DL_DELETE(gone->ends, &link->end[side]);
		link->end[side].party = NULL;
	}
	gone->memory -= link->memory;
	if (gone->account && account_of(link->end[0].party) != gone->account && account_of(link->end[1].party) != gone->account)
		gone->account->memory -= link->memory;
	if (!link->end[0].party && !link->end[1].party)
		return true;
	DL_FOREACH (link->segments, segment)
		if (segment->bound)
			return false;
	return true;
}

struct rlmd_segment *rlmd_segment_find(struct rlmd_link *link)
{
	struct rlmd_segment *segment;

	DL_FOREACH (link->segments, segment)
		if (segment->bound < segment->slots)
			for (uint32_t i = 0; i < segment->slots; i++)
				if (!segment->slot[i].held && !segment->slot[i].worn)
					return segment;
	return NULL;
}

struct rlmd_segment *rlmd_segment_by_number(struct rlmd_link *link, uint32_t number)
{
	struct rlmd_segment *segment;

	DL_FOREACH (link->segments, segment)
		if (segment->number == number)
			return segment;
	return NULL;
}

static uint64_t segment_memory(const struct rlmd_limits *limits, bool far)
{
	struct rlmd_shape shape = rlmd_limits_shape(limits, far);

	return 2 * rlm_region_size(shape.slots, shape.ring_size);
}

static bool fits(uint64_t used, uint64_t more, uint64_t limit)
{
	return used <= limit && more <= limit - used;
}

static bool account_allows(const struct rlmd_party *party, uint64_t more, const struct rlmd_limits *limits)
{
	return !party->account || party->account->unlimited || fits(party->account->memory, more, limits->memory_per_user);
}

bool rlmd_segment_allowed(const struct rlmd_links *links, const struct rlmd_link *link, const struct rlmd_party *a,
			  const struct rlmd_party *b)
{
	const struct rlmd_limits *limits = links->limits;
	uint64_t more = segment_memory(limits, a->far || b->far);

	return account_allows(a, more, limits) && account_allows(b, more, limits) &&
	       fits(link ? link->memory : 0, more, limits->memory_per_link) &&
	       fits(a->memory, more, limits->memory_per_process) && fits(b->memory, more, limits->memory_per_process) &&
	       fits(links->memory, more, limits->memory_total);
}

struct rlmd_segment *rlmd_segment_new(struct rlmd_links *links, struct rlmd_link *link, double now)
{
	struct rlmd_shape shape = rlmd_limits_shape(links->limits, link->far);
	struct rlmd_segment *segment = calloc(1, sizeof(*segment) + shape.slots * sizeof(segment->slot[0]));

	if (!segment)
		return NULL;
	segment->link = link;
	segment->number = link->next_segment++;
	segment->slots = shape.slots;
	segment->ring_size = shape.ring_size;
	segment->memory = segment_memory(links->limits, link->far);
	for (uint32_t i = 0; i < shape.slots; i++) {
		do
			segment->slot[i].first = (uint32_t)links->random();
		while (segment->slot[i].first == 0);
	}
	memory_add(links, link, segment->memory);
	links->segments++;
	DL_APPEND(link->segments, segment);
	idle_set(links, segment, true, now);
	return segment;
}

void rlmd_segment_free(struct rlmd_links *links, struct rlmd_segment *segment)
{
	struct rlmd_link *link = segment->link;

	idle_set(links, segment, false, 0);
	DL_DELETE(link->segments, segment);
	memory_add(links, link, -segment->memory);
	links->segments--;
	links->bound -= segment->bound;
	free(segment);
}

static uint32_t epoch_next(struct rlmd_slot *slot)
{
	uint32_t epoch = slot->epoch ? slot->epoch + 1 : slot->first;
	uint32_t after;

	if (epoch == 0)
		epoch = 1;
	after = epoch + 1 ? epoch + 1 : 1;
	slot->worn = after == slot->first;
	return epoch;
}

uint32_t rlmd_slot_bind(struct rlmd_links *links, struct rlmd_segment *segment)
{
	uint32_t i = 0;

	while (segment->slot[i].held || segment->slot[i].worn)
		i++;
	segment->slot[i].epoch = epoch_next(&segment->slot[i]);
	segment->slot[i].held = 3;
	segment->bound++;
	links->bound++;
	links->bindings++;
	idle_set(links, segment, false, 0);
	return i;
}

enum rlmd_release rlmd_slot_release(struct rlmd_links *links, struct rlmd_segment *segment, uint32_t slot,
				    unsigned side, uint32_t epoch, double now)
{
	struct rlmd_slot *s = &segment->slot[slot];

	if (slot >= segment->slots || s->epoch != epoch || !(s->held & 1u << side))
		return RLMD_RELEASE_STALE;
	s->held &= (uint8_t) ~(1u << side);
	if (s->held)
		return RLMD_RELEASE_HALF;
	segment->bound--;
	links->bound--;
	if (segment->bound == 0)
		idle_set(links, segment, true, now);
	return RLMD_RELEASE_FREE;
}

// SPDX-License-Identifier: BSD-2-Clause
#include "registry.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

// Hashed as bytes: all of it, padding included, is set.
struct key {
	uint32_t kind;
	uint32_t isn[2];
	uint32_t pad;
	struct rlmd_tuple tuple;
};

struct rlmd_bucket {
	struct key key;
	struct rlmd_entry *entries[2];
	unsigned count[2];
	UT_hash_handle hh;
};

static int endpoint_compare(const struct rlmd_endpoint *a, const struct rlmd_endpoint *b)
{
	return memcmp(a, b, sizeof(*a));
}

// Both ends make the same key; the return value tells them apart. -1: the name has no two halves.
static int key_make(struct key *key, const struct rlmd_end *end, enum rlmd_name_kind kind)
{
	int order;

	memset(key, 0, sizeof(*key));
	key->kind = kind;
	if (kind == RLMD_NAME_ISN) {
		order = end->isn.own < end->isn.peer ? -1 : end->isn.own > end->isn.peer;
		key->isn[0] = order < 0 ? end->isn.own : end->isn.peer;
		key->isn[1] = order < 0 ? end->isn.peer : end->isn.own;
	} else {
		order = endpoint_compare(&end->tuple.local, &end->tuple.remote);
		key->tuple.netns = end->tuple.netns;
		key->tuple.local = order < 0 ? end->tuple.local : end->tuple.remote;
		key->tuple.remote = order < 0 ? end->tuple.remote : end->tuple.local;
	}
	return order == 0 ? -1 : order < 0 ? 0 : 1;
}

void rlmd_registry_init(struct rlmd_registry *registry)
{
	memset(registry, 0, sizeof(*registry));
}

void rlmd_registry_deinit(struct rlmd_registry *registry)
{
	struct rlmd_bucket *bucket, *next;

	HASH_ITER (hh, registry->buckets, bucket, next) {
		HASH_DEL(registry->buckets, bucket);
		free(bucket);
	}
}

static struct rlmd_bucket *bucket_get(struct rlmd_registry *registry, const struct key *key)
{
	struct rlmd_bucket *bucket;

	HASH_FIND(hh, registry->buckets, key, sizeof(*key), bucket);
	if (bucket)
		return bucket;
	bucket = calloc(1, sizeof(*bucket));
	if (!bucket)
		return NULL;
	bucket->key = *key;
	HASH_ADD(hh, registry->buckets, key, sizeof(bucket->key), bucket);
	return bucket;
}

static bool entry_add(struct rlmd_registry *registry, struct rlmd_end *end, enum rlmd_name_kind kind)
{
	struct rlmd_entry *entry = &end->entry[kind];
	struct key key;
	int role = key_make(&key, end, kind);

	if (role < 0)
		return true;
	entry->bucket = bucket_get(registry, &key);
	if (!entry->bucket)
		return false;
	entry->end = end;
	entry->role = (unsigned)role;
	DL_APPEND(entry->bucket->entries[role], entry);
	entry->bucket->count[role]++;
	return true;
}

bool rlmd_registry_add(struct rlmd_registry *registry, struct rlmd_end *end)
{
	bool ok = true;

	memset(end->entry, 0, sizeof(end->entry));
	end->retry = false;
	for (int kind = 0; kind < RLMD_NAME_KINDS && ok; kind++)
		if (end->has[kind])
			ok = entry_add(registry, end, kind);
	if (rlmd_registry_registered(end))
		registry->ends++;
	if (!ok)
		rlmd_registry_remove(registry, end);
	return ok;
}

static void retry_add(struct rlmd_registry *registry, struct rlmd_end *end)
{
	if (end->retry)
		return;
	end->retry = true;
	DL_APPEND2(registry->retry, end, retry_prev, retry_next);
}

static void entry_remove(struct rlmd_registry *registry, struct rlmd_entry *entry)
{
	struct rlmd_bucket *bucket = entry->bucket;

	if (!bucket)
		return;
	entry->bucket = NULL;
	DL_DELETE(bucket->entries[entry->role], entry);
	bucket->count[entry->role]--;
	if (bucket->count[0] == 0 && bucket->count[1] == 0) {
		HASH_DEL(registry->buckets, bucket);
		free(bucket);
	} else if (bucket->count[0] == 1 && bucket->count[1] == 1) {
		retry_add(registry, bucket->entries[0]->end);
	}
}

void rlmd_registry_remove(struct rlmd_registry *registry, struct rlmd_end *end)
{
	if (end->retry) {
		end->retry = false;
		DL_DELETE2(registry->retry, end, retry_prev, retry_next);
	}
	if (rlmd_registry_registered(end))
		registry->ends--;
	for (int kind = 0; kind < RLMD_NAME_KINDS; kind++)
		entry_remove(registry, &end->entry[kind]);
}

bool rlmd_registry_registered(const struct rlmd_end *end)
{
	return end->entry[RLMD_NAME_TUPLE].bucket || end->entry[RLMD_NAME_ISN].bucket;
}

static enum rlmd_match entry_match(const struct rlmd_entry *entry, struct rlmd_end **peer)
{
	const struct rlmd_bucket *bucket = entry->bucket;

	if (!bucket)
		return RLMD_MATCH_NONE;
	if (bucket->count[0] > 1 || bucket->count[1] > 1)
		return RLMD_MATCH_AMBIGUOUS;
	if (bucket->count[!entry->role] == 0)
		return RLMD_MATCH_NONE;
	*peer = bucket->entries[!entry->role]->end;
	return RLMD_MATCH_FOUND;
}

enum rlmd_match rlmd_registry_match(const struct rlmd_registry *registry, const struct rlmd_end *end,
				    struct rlmd_end **peer)
{
	struct rlmd_end *other = NULL;
	enum rlmd_match by_isn = entry_match(&end->entry[RLMD_NAME_ISN], peer);
	enum rlmd_match by_tuple;

	// Either kind in doubt means that something is shared which should not be: no match by the other one either.
	if (by_isn == RLMD_MATCH_AMBIGUOUS)
		return by_isn;
	by_tuple = entry_match(&end->entry[RLMD_NAME_TUPLE], &other);
	if (by_tuple == RLMD_MATCH_AMBIGUOUS)
		return by_tuple;
	if (by_isn == RLMD_MATCH_FOUND)
		return rlmd_registry_rival(*peer) ? RLMD_MATCH_AMBIGUOUS : RLMD_MATCH_FOUND;
	if (by_tuple == RLMD_MATCH_NONE)
		return RLMD_MATCH_NONE;
	if (end->has[RLMD_NAME_ISN] && other->has[RLMD_NAME_ISN])
		return RLMD_MATCH_NONE;
	if (rlmd_registry_rival(other))
		return RLMD_MATCH_AMBIGUOUS;
	*peer = other;
	return RLMD_MATCH_FOUND;
}

bool rlmd_registry_proven(const struct rlmd_end *a, const struct rlmd_end *b)
{
	if (a->has[RLMD_NAME_ISN] && b->has[RLMD_NAME_ISN])
		return true;
	return a->first <= b->last && b->first <= a->last;
}

struct rlmd_end *rlmd_registry_outlived(const struct rlmd_end *end)
{
	const struct rlmd_entry *entry = &end->entry[RLMD_NAME_TUPLE], *other;

	if (!entry->bucket)
		return NULL;
	DL_FOREACH (entry->bucket->entries[entry->role], other)
		if (other->end->socket != end->socket && other->end->last < end->first)
			return other->end;
	return NULL;
}

struct rlmd_end *rlmd_registry_rival(const struct rlmd_end *end)
{
	for (int kind = 0; kind < RLMD_NAME_KINDS; kind++) {
		const struct rlmd_entry *entry = &end->entry[kind];

		if (!entry->bucket || entry->bucket->count[entry->role] < 2)
			continue;
		struct rlmd_entry *first = entry->bucket->entries[entry->role];
		return first == entry ? first->next->end : first->end;
	}
	return NULL;
}

struct rlmd_end *rlmd_registry_retry(struct rlmd_registry *registry)
{
	struct rlmd_end *end = registry->retry;

	if (end) {
		DL_DELETE2(registry->retry, end, retry_prev, retry_next);
		end->retry = false;
	}
	return end;
}

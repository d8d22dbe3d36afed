// SPDX-License-Identifier: BSD-2-Clause
// Matches the two ends of a connection by their names. Pure: knows nothing of sockets, clients or links.
//
// A name is unordered: {a, b} seen by one end is {b, a} seen by the other, so both ends find the same bucket, each with
// the opposite role. An end matches only if its bucket holds exactly one end of each role: as soon as two claim the
// same role, nobody can tell who is who, and none of them matches until the others are gone.
//
//   kind   what is compared                                     exact because
//   TUPLE  network namespace, both addresses and ports          a namespace has one established socket per 4-tuple
//   ISN    both initial sequence numbers                        64 random bits, the same at both ends, whatever is between
//
// An end may go by both kinds. Two ends that both know their sequence numbers never match by anything else.
//
// Addresses name a socket only as long as it lives: an offer may outlive its socket, whose addresses somebody else's
// connection has then. So a match by TUPLE counts when the two sockets are known to have existed at one time: each end
// keeps when its socket (SO_COOKIE) was shown first and last, and these spans must overlap. Whoever was shown earlier
// has to be shown once more.
#ifndef RLMD_REGISTRY_H
#define RLMD_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

struct rlmd_endpoint {
	uint8_t address[16]; // network order; IPv4 in the first four, the rest zero
	uint16_t port;	     // host order
	uint16_t family;     // AF_INET or AF_INET6; a mapped IPv4 address counts as AF_INET
};

struct rlmd_tuple {
	uint64_t netns; // SO_NETNS_COOKIE
	struct rlmd_endpoint local;
	struct rlmd_endpoint remote;
};

struct rlmd_isn {
	uint32_t own;
	uint32_t peer;
};

enum rlmd_name_kind { RLMD_NAME_TUPLE, RLMD_NAME_ISN, RLMD_NAME_KINDS };

struct rlmd_bucket;

// Embedded in whatever wants to be matched.
struct rlmd_end {
	bool has[RLMD_NAME_KINDS];
	struct rlmd_tuple tuple;
	struct rlmd_isn isn;
	uint64_t socket;      // SO_COOKIE
	uint64_t first, last; // when it was shown, in the order of all showings
	bool retry; // the registry: on the retry list
	struct rlmd_end *retry_prev, *retry_next;
	struct rlmd_entry {
		struct rlmd_end *end;
		struct rlmd_bucket *bucket; // NULL: not registered under this kind
		unsigned role;
		struct rlmd_entry *prev, *next; // rlmd_bucket.entries[role]
	} entry[RLMD_NAME_KINDS];
};

struct rlmd_registry {
	struct rlmd_bucket *buckets; // hash, owned
	struct rlmd_end *retry;	     // ends whose bucket may have become unambiguous
	uint64_t ends;
};

enum rlmd_match {
	RLMD_MATCH_NONE,      // the other end is not there yet
	RLMD_MATCH_FOUND,     // *peer is the other end
	RLMD_MATCH_AMBIGUOUS, // several ends claim the same name
};

void rlmd_registry_init(struct rlmd_registry *registry);
void rlmd_registry_deinit(struct rlmd_registry *registry);

// Registers an end under the names it has; false: out of memory, not registered. A name with both halves equal (a
// socket connected to itself) is registered nowhere.
bool rlmd_registry_add(struct rlmd_registry *registry, struct rlmd_end *end);
// Safe for an end that is not registered. May put others on the retry list.
void rlmd_registry_remove(struct rlmd_registry *registry, struct rlmd_end *end);
enum rlmd_match rlmd_registry_match(const struct rlmd_registry *registry, const struct rlmd_end *end,
				    struct rlmd_end **peer);
// Whether two ends that match were there at one time.
bool rlmd_registry_proven(const struct rlmd_end *a, const struct rlmd_end *b);
// An end whose socket is gone, since that of this one has its addresses. NULL: none.
struct rlmd_end *rlmd_registry_outlived(const struct rlmd_end *end);
bool rlmd_registry_registered(const struct rlmd_end *end);
// Someone else who claims the same name and role, the first of them; NULL: nobody.
struct rlmd_end *rlmd_registry_rival(const struct rlmd_end *end);
// Takes one end off the retry list. NULL: empty.
struct rlmd_end *rlmd_registry_retry(struct rlmd_registry *registry);

#endif

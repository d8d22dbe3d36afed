// SPDX-License-Identifier: BSD-2-Clause
// Links, their segments and slots, and the memory they take. Pure: makes no memory and sends nothing.
//
// A slot is FREE, or bound: then both sides hold it, and it is free again when both have released it. Each binding has
// an epoch that this slot never had before, so what is left in memory from an earlier connection is never taken for the
// present one. A link whose client is gone is closed: nothing is bound there any more, and it goes when the survivor
// has released its slots.
#ifndef RLMD_LINK_H
#define RLMD_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "config.h"
#include "rlm/proto.h"

struct rlmd_domain;

// What several parties have together: all processes of a user.
struct rlmd_account {
	uint64_t memory; // of all their links; a link between two of them counts once
	bool unlimited;
};

// What links need to know of a client. Embedded in it.
struct rlmd_party {
	uint64_t id;	 // unique over the broker's life
	uint64_t memory; // bytes of all its links' segments
	struct rlmd_account *account; // NULL: none
	bool far;	 // lives in another Xen domain
	struct rlmd_link_end *ends;
};

struct rlmd_slot {
	uint32_t epoch; // of the present or last binding
	uint32_t first; // epoch of the first binding
	uint8_t held;	// bit per side that has not released yet; 0: free
	bool worn;	// all epochs were used
	struct {
		struct rlm_conn_ref conn;
		struct rlmd_domain *domain;
	} end[2];
};

struct rlmd_segment {
	struct rlmd_link *link;
	uint32_t number;
	uint32_t slots;
	uint32_t ring_size;
	uint32_t bound;
	uint64_t memory;
	double idle_since;
	bool idle;				    // on the idle list
	uint8_t told;				    // far: bit per side whose half the other one has been told of
	struct rlmd_segment *prev, *next;	    // rlmd_link.segments
	struct rlmd_segment *idle_prev, *idle_next; // rlmd_links.idle, oldest first
	struct rlmd_slot slot[];
};

struct rlmd_link {
	uint64_t id;
	uint64_t pair[2]; // ids of the parties, the smaller first
	struct rlmd_link_end {
		struct rlmd_link *link;
		struct rlmd_party *party;	   // NULL: gone
		struct rlmd_link_end *prev, *next; // rlmd_party.ends
	} end[2];
	bool closed;
	bool leaving; // its processes were told to leave it, see leave.c
	bool far; // its ends are in two Xen domains: its segments have the shape that channels can have
	uint8_t told;	  // far: the same for the control doorbell
	uint8_t told_bad; // and for its telling that it cannot make a half
	uint32_t next_segment;
	uint64_t memory;
	struct rlmd_segment *segments;
	UT_hash_handle hh;	// by id
	UT_hash_handle hh_pair; // by pair, while not closed
};

struct rlmd_links {
	const struct rlmd_limits *limits;
	struct rlmd_link *by_id;
	struct rlmd_link *by_pair;
	struct rlmd_segment *idle;
	uint64_t memory;
	uint64_t segments;
	uint64_t links_made;
	uint64_t bindings;
	uint64_t bound;
	uint64_t (*random)(void);
};

void rlmd_links_init(struct rlmd_links *links, const struct rlmd_limits *limits, uint64_t (*random)(void));

// The open link of two parties (which may be the same one), NULL when there is none.
struct rlmd_link *rlmd_link_find(struct rlmd_links *links, const struct rlmd_party *a, const struct rlmd_party *b);
struct rlmd_link *rlmd_link_by_id(struct rlmd_links *links, uint64_t id);
// Side 0 is a, side 1 is b. NULL: out of memory.
struct rlmd_link *rlmd_link_new(struct rlmd_links *links, struct rlmd_party *a, struct rlmd_party *b);
// The party's side; for a link with itself as well 0.
unsigned rlmd_link_side(const struct rlmd_link *link, const struct rlmd_party *party);
// far: side tells the other one what it has made of a segment (RLM_ALL_SEGMENTS: the control doorbell), or that it cannot. False: it has said
// so before, or there is no such segment.
bool rlmd_link_tell(struct rlmd_link *link, unsigned side, uint32_t segment, bool bad);
// Frees the link and its segments and gives their memory back.
void rlmd_link_free(struct rlmd_links *links, struct rlmd_link *link);
// Nothing is bound there from now on.
void rlmd_link_shut(struct rlmd_links *links, struct rlmd_link *link);
// The party is gone. Returns true when the link has no reason to exist any more (free it).
bool rlmd_link_close(struct rlmd_links *links, struct rlmd_link *link, struct rlmd_party *gone);

// A segment with a free slot, NULL when there is none.
struct rlmd_segment *rlmd_segment_find(struct rlmd_link *link);
struct rlmd_segment *rlmd_segment_by_number(struct rlmd_link *link, uint32_t number);
// Whether limits allow a link (NULL: a new one between these parties) one more segment.
bool rlmd_segment_allowed(const struct rlmd_links *links, const struct rlmd_link *link, const struct rlmd_party *a,
			  const struct rlmd_party *b);
// Does not look at the limits. NULL: out of memory.
struct rlmd_segment *rlmd_segment_new(struct rlmd_links *links, struct rlmd_link *link, double now);
void rlmd_segment_free(struct rlmd_links *links, struct rlmd_segment *segment);

// Binds a free slot for both sides; its number, its epoch is in the slot. The segment must have one.
uint32_t rlmd_slot_bind(struct rlmd_links *links, struct rlmd_segment *segment);

enum rlmd_release {
	RLMD_RELEASE_STALE, // no such binding held by this side (any more): no effect
	RLMD_RELEASE_HALF,  // the other side still holds it
	RLMD_RELEASE_FREE,  // the slot is free
};
enum rlmd_release rlmd_slot_release(struct rlmd_links *links, struct rlmd_segment *segment, uint32_t slot,
				    unsigned side, uint32_t epoch, double now);

#endif

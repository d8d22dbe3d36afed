// SPDX-License-Identifier: BSD-2-Clause
// Links and segments of this process. Used by the helper thread alone, except after fork, when the child inherits what is mapped.
#ifndef RLM_LINKS_H
#define RLM_LINKS_H

#include <stdbool.h>

#include "rlm/layout.h"
#include "rlm/proto.h"

struct segment {
	struct segment *next; // link::segments
	uint32_t number;
	uint32_t slots;
	uint32_t ring_size;
	uint32_t bound;   // slots in use on our side
	bool dropped;     // unmap when bound is 0
	uint64_t size;    // bytes of each region
	uint8_t *mine;    // read-write
	uint8_t *peer;    // read-only
	int doorbell_mine;
	int doorbell_peer;
	int channel;   // the event channel that rings for us, -1: the peer writes doorbell_mine itself
	uint32_t port; // of doorbell_peer, 0: an eventfd
	bool no_fork;  // RLM_SEGMENT_NO_FORK
	struct {
		uint32_t conn; // index + 1 of the connection that got it last
		uint32_t bell; // the peer's, when `channel` rang last
	} slot[RLM_SLOTS_MAX];
};

struct link {
	struct link *next;
	uint64_t id;
	uint32_t side;
	uint32_t peer_pid;
	char peer_command[32];
	int control_mine;
	int control_peer;
	int control_channel; // as channel above
	uint32_t control_port;
	const _Atomic uint64_t *here; // see location.h
	uint64_t location;
	bool dropped;
	bool leaving; // see leaving.c
	bool lost;    // its memory is of another place
	struct segment *segments;
};

extern struct link *links;

struct link *link_find(uint64_t id, uint32_t side);
// Whose event channel it is; *segment NULL: the control doorbell's.
struct link *link_of_channel(int channel, struct segment **segment);
struct segment *segment_find(const struct link *link, uint32_t number);
// Take ownership of the descriptors, also on failure. 0 or -errno.
int link_add(const struct rlm_msg_link *msg, const int fds[2]);
int segment_add(const struct rlm_msg_segment *msg, const int fds[4]);
// The domain of the peer is gone; its memory is not, as long as we map it. Puts a private copy, which is writable, where the peer's regions were,
// so that what it left unread in its rings can still be read. false: nothing is bound there.
bool link_detach(uint64_t id, uint32_t side);
void link_drop(uint64_t id, uint32_t side, uint32_t segment);
// In fork's child: what it may not have. Its connections have left it before.
void links_fork_child(void);
// Unmaps and closes all of it, whatever is bound there.
void link_end(struct link *link);
// A slot is free again on our side.
void segment_unbind(uint64_t id, uint32_t side, uint32_t segment);

static inline struct rlm_slot_shared *segment_slot(uint8_t *region, uint32_t slot)
{
	return (struct rlm_slot_shared *)(region + RLM_SLOTS_OFFSET) + slot;
}

static inline uint8_t *segment_ring(const struct segment *s, uint8_t *region, uint32_t slot)
{
	return region + rlm_data_offset(s->slots) + (uint64_t)slot * s->ring_size;
}

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Which process of a family holds which connection, so that what a dead one held can be taken back.
//
// Each process has a place, and a row of shares in which it counts its descriptors of each connection and its threads inside calls; the
// counts in rlm_conn are the sums over all rows. A process maps its own row, and another's only to take back what is in it.
// A place is alive as long as somebody has the open file description that locks the place's byte of the table's memfd. fork's
// child gets its place, with a description of its own, from the parent beforehand. The kernel drops the lock when the process ends, in whatever
// way, or executes another program; nothing is told by process ids, which mean different things in different pid namespaces.
//
// Without /proc, without descriptors, or beyond FAMILY_PLACES processes there is no place: then only what is closed in order is
// given back.
#ifndef RLM_FAMILY_H
#define RLM_FAMILY_H

#include "conn.h"

#define FAMILY_PLACES 1024u
#define FAMILY_HOLDS_MAX UINT16_MAX // descriptors of one connection in one process

// Makes room for the rows; without, nobody gets a place. The caller may move family_fd.
void family_init(struct rlm_arena *arena);

// A place for this process, or for the child that is about to be forked. 0 or -errno; id 0: none.
int family_take_place(struct rlm_arena *arena, struct rlm_place *place);
// Of a place that another process goes on with: lets go of its row here. The caller closes place->fd.
void family_leave_place(struct rlm_arena *arena, struct rlm_place *place);

// One more descriptor of the connection in the process with this place. false: too many.
bool family_hold(struct rlm_arena *arena, const struct rlm_place *place, struct rlm_conn *conn);
// One less in this process. true: it was the last one of the family.
bool family_release(struct rlm_arena *arena, struct rlm_conn *conn);
// The process with this id goes on. Ids are not used again.
bool family_is_alive(const struct rlm_arena *arena, uint32_t id);

// This process's share, NULL: it has no place.
static inline struct rlm_share *family_mine(const struct rlm_arena *a, const struct rlm_conn *c)
{
	return __builtin_expect(a->place.id != 0, 1) ? &a->place.row[conn_index(a, c)] : NULL;
}

// A thread of this process goes in or comes out; count: tx_inflight, rx_inflight or users. Whoever is killed between the two additions stays
// counted for ever; the other way round it would be forgotten while it is inside.
#define FAMILY_ENTER(a, c, count)                                                                                      \
	do {                                                                                                           \
		struct rlm_share *share_ = family_mine(a, c);                                                          \
                                                                                                                       \
		atomic_fetch_add_explicit(&(c)->count, 1, memory_order_seq_cst);                                       \
		if (share_)                                                                                            \
			atomic_fetch_add_explicit(&share_->count, 1, memory_order_relaxed);                            \
	} while (0)
#define FAMILY_LEAVE(a, c, count)                                                                                      \
	do {                                                                                                           \
		struct rlm_share *share_ = family_mine(a, c);                                                          \
                                                                                                                       \
		if (share_)                                                                                            \
			atomic_fetch_sub_explicit(&share_->count, 1, memory_order_relaxed);                            \
		atomic_fetch_sub_explicit(&(c)->count, 1, memory_order_seq_cst);                                       \
	} while (0)

// Some thread of this process is inside a call, as far as is known.
static inline bool family_is_inside(const struct rlm_arena *a, const struct rlm_conn *c)
{
	const struct rlm_share *share = family_mine(a, c);

	return !share || share->tx_inflight || share->rx_inflight || share->users;
}

// The same of any process.
static inline bool conn_in_use(const struct rlm_conn *c)
{
	return atomic_load_explicit(&c->users, memory_order_seq_cst) || atomic_load_explicit(&c->tx_inflight, memory_order_seq_cst) ||
	       atomic_load_explicit(&c->rx_inflight, memory_order_seq_cst);
}

// Takes back what dead processes held. lost(c, last): a dead one had it, or was inside; last: nobody has a descriptor of it any more.
void family_sweep(struct rlm_arena *arena, void (*lost)(struct rlm_conn *, bool last));

#endif

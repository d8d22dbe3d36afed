// SPDX-License-Identifier: BSD-2-Clause
// The inside of the receiving half of the cut-over, cutover_rx*.c. All of it under rx_lock.
#ifndef RLM_CUTOVER_RX_H
#define RLM_CUTOVER_RX_H

#include "cutover.h"

#define FRAMES_SIZE (1 + RLM_FRAME_END_SIZE) // CUT and END: every round has exactly these
#define FRAMES_AHEAD 2			     // of these, what the sender may send before it knows that we are past the cut: see cutover_tx.c

// Of round r the sender says 2r-1: it goes on, or 2r: it has ended, or never was. 0: nothing of this binding.
static inline uint32_t rx_peer_round(const struct rlm_bound *b)
{
	if (!cutover_peer_is_bound(b))
		return 0;
	return atomic_load_explicit(&b->rx.peer->tx_round, memory_order_acquire); // pairs with begin() and end_at()
}

static inline bool rx_is_decided(const struct rlm_bound *b)
{
	return rx_peer_round(b) == 2 * b->rx_round;
}

// We withdrew our offer just when the sender began, and it saw that: the round never was. One whose end we have reached was none of these,
// whatever the peer says now.
static inline bool rx_is_void(const struct rlm_bound *b)
{
	return b->rx_state != RX_FRAMES && rx_is_decided(b) &&
	       atomic_load_explicit(&b->rx.peer->end, memory_order_relaxed) == RLM_END_VOID;
}

// Once seen it stays so, and the cut is what it was then: a peer that takes it back, or writes another one, changes nothing.
static inline bool rx_has_begun(struct rlm_bound *b)
{
	uint32_t r;
	uint64_t cut;

	if (b->rx_begun)
		return true;
	r = rx_peer_round(b);
	if (r != 2 * b->rx_round - 1 && r != 2 * b->rx_round)
		return false;
	cut = atomic_load_explicit(&b->rx.peer->cut, memory_order_relaxed);
	b->rx_cut = cut > INT64_MAX / 2 ? -1 : (int64_t)cut;
	b->rx_begun = 1;
	return true;
}

static inline void rx_set_state(struct rlm_bound *b, enum rlm_rx_state state)
{
	atomic_store_explicit(&b->rx_state, state, memory_order_relaxed);
	atomic_store_explicit(&b->rx_fast, state == RX_RING && !b->rx_asked && !b->rx_orphaned, memory_order_relaxed);
}

// --- cutover_rx_frames.c ---

// Somebody was killed in rx_take(), or before it had counted what it got: see rx_counted().
void rx_recount_now(struct rlm_bound *b, int fd);

static inline void rx_recount(struct rlm_bound *b, int fd)
{
	if (__builtin_expect(b->rx_taking, 0))
		rx_recount_now(b, fd);
}

// Takes frame bytes, never more than belong to this round. An error stays in the socket for the caller to ask the kernel for.
// > 0: bytes taken, 0: TCP has ended (rx_eof), -EAGAIN: nothing there, -EPROTO: these are no frames.
int rx_take_frames(struct rlm_bound *b, int fd);
// When all of them are here.
bool rx_frames_name_the_end(const struct rlm_bound *b);

// --- cutover_rx_ask.c ---

// `tail` stands still from here on.
void rx_ask(struct rlm_bound *b);
// The offer is withdrawn, the round never was.
void rx_unoffer(struct rlm_bound *b);
// Has the sender look at what was stored for it.
void rx_tell_asked(struct rlm_bound *b);

#endif

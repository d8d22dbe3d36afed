// SPDX-License-Identifier: BSD-2-Clause
// The receiving half of the cut-over: TCP up to the cut, the ring up to the end, the frames, TCP again.
#include <errno.h>
#include <string.h>

#include "cutover_rx.h"
#include "inside.h"
#include "sys.h"

static const uint8_t frames_ahead[FRAMES_AHEAD] = {RLM_FRAME_CUT, RLM_FRAME_END};

__thread struct rlm_inside *rlm_inside;

// 2r-1: the sender would like to leave the ring; 2r: it must; 0.
static uint32_t peer_wish(const struct rlm_bound *b)
{
	uint32_t wish = atomic_load_explicit(&b->rx.peer->tx_wish, memory_order_acquire); // pairs with publish_wish()

	if (rx_peer_round(b) != 2 * b->rx_round - 1)
		return 0;
	if (atomic_load_explicit(&b->rx.mine->rx_leave, memory_order_relaxed) == b->rx_round && !wish)
		return 2 * b->rx_round - 1;
	return (wish + 1) / 2 == b->rx_round ? wish : 0;
}

// Nobody is left in the kernel who was there before the cut was known: all bytes that it gave are accounted for. What it gave beyond the
// cut were frames, and which ones is known. false: they cannot be.
static bool pass(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	int64_t cut = b->rx_cut, taken;

	if (atomic_load_explicit(&c->rx_inflight, memory_order_seq_cst))
		return true;
	taken = tcp_taken(fd);
	if (taken < 0)
		taken = cut + b->frame_got - (int64_t)b->drain; // reset: nothing more comes
	if (taken - cut > FRAMES_AHEAD)
		return false;
	b->drain = taken < cut ? (uint64_t)(cut - taken) : 0;
	b->frame_got = taken > cut ? (uint8_t)(taken - cut) : 0;
	memcpy(b->frame, frames_ahead, b->frame_got);
	b->rx_past = 1;
	if (b->rx_state == RX_RING)
		cutover_rx_look_at_tcp(b, fd);
	// The sender sees that we are past, or we see its wish in answer_wish(), later: it rings after it has published it.
	atomic_store_explicit(&b->rx.mine->rx_past, b->rx_round, memory_order_release); // pairs with cutover_tx_peer_is_past()
	if (b->rx_asked)
		rx_tell_asked(b);
	return true;
}

// DRAIN, RING. An offer that we withdrew just when the round began: whoever was in the kernel may have taken payload beyond its cut.
static bool is_withdrawn(const struct rlm_bound *b)
{
	return b->rx_asked && !b->frame_got && rx_is_void(b);
}

static void answer_wish(struct rlm_bound *b)
{
	uint32_t wish = b->rx_past && !b->rx_asked && !b->rx_orphaned && !b->rx_eof ? peer_wish(b) : 0;

	if (!wish)
		return;
	if (wish == 2 * b->rx_round) {
		rx_ask(b);
		rx_tell_asked(b);
	} else if (!b->rx_told && b->rx_state == RX_RING && ring_available_now(&b->rx) == 0) {
		b->rx_told = 1; // once: what it sends from now on it need not send that way
		rx_tell_asked(b);
	}
}

// READY: has the sender cut? What comes before the cut is told by the kernel's count, which stands still only while nobody takes anything.
static enum rx_way leave_ready(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	bool others = inside_others(c);
	int64_t taken;

	if (!rx_has_begun(b))
		return others ? RX_WAY_BUSY : RX_WAY_SINGLE;
	if (rx_is_void(b)) {
		rx_unoffer(b);
		return RX_WAY_LIMIT;
	}
	taken = tcp_taken(fd);
	if (taken < 0 || b->rx_cut < 0 || taken - b->rx_cut > FRAMES_AHEAD || b->rx_cut - taken > 1ll << 40)
		return RX_WAY_BROKEN;
	if (taken < b->rx_cut && others)
		return RX_WAY_BUSY;
	b->drain = taken < b->rx_cut ? (uint64_t)(b->rx_cut - taken) : 0;
	rx_set_state(b, RX_DRAIN);
	return RX_WAY_LIMIT;
}

// The ring is done up to the end of the round. If that was taken back there is more in it, which the sender sends again on TCP; until all of it
// has arrived the ring keeps it, since the next round begins later.
static bool note_back(struct rlm_bound *b)
{
	uint64_t n = ring_available_now(&b->rx);

	if (n == RLM_RING_BROKEN)
		return false;
	b->back_at = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
	b->back_to = b->back_at + n;
	b->back_base = (uint64_t)b->rx_cut + FRAMES_SIZE;
	return true;
}

// TCP has ended: the sender is gone. What it did not get to send again is taken from the ring.
static bool take_orphans(struct rlm_bound *b, int fd)
{
	int64_t arrived = tcp_arrived(fd);
	uint64_t got = arrived > (int64_t)b->back_base ? (uint64_t)arrived - b->back_base : 0;

	if (b->rx_orphaned || arrived < 0 || got >= b->back_to - b->back_at)
		return false;
	b->rx_orphaned = 1;
	b->rx_asked = 0;
	b->rx_eof = 1;
	ring_free(&b->rx, b->back_at + got);
	rx_set_state(b, RX_RING);
	return true;
}

// RING: what is there up to the end of the round, if it has ended.
static enum rx_way from_ring(struct rlm_bound *b, int fd, uint64_t *available)
{
	uint64_t tail = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
	uint32_t round = rx_peer_round(b);
	uint64_t n, end;

	if (b->rx_orphaned) {
		*available = b->back_to - tail;
		return *available ? RX_WAY_RING : RX_WAY_KERNEL;
	}
	// The order matters: `head` is looked at after tx_round, so that a round seen as ended is seen with all its bytes.
	n = ring_available_now(&b->rx);
	if (n == RLM_RING_BROKEN || b->rx_broken)
		return RX_WAY_BROKEN;
	if (round == 2 * b->rx_round) {
		if (is_withdrawn(b)) { // decided since keep_round() looked
			rx_unoffer(b);
			return RX_WAY_WAIT;
		}
		end = atomic_load_explicit(&b->rx.peer->end, memory_order_relaxed);
		if (end - tail > n || !b->rx_past) // nobody ends a round before that, and behind its end nobody would see to it any more
			return RX_WAY_BROKEN;
		n = end - tail;
		if (n == 0) {
			if (!note_back(b))
				return RX_WAY_BROKEN;
			rx_set_state(b, RX_FRAMES);
			return RX_WAY_WAIT;
		}
	} else if (round != 2 * b->rx_round - 1) {
		return RX_WAY_BROKEN;
	} else if (b->rx_asked) {
		while (b->frame_got < FRAMES_SIZE && cutover_rx_look_at_tcp(b, fd) && !b->rx_eof && !b->rx_broken)
			;
		if (b->frame_got == FRAMES_SIZE && !rx_is_decided(b)) // an END of nothing
			b->rx_broken = 1;
		if (!b->rx_eof)
			return b->rx_broken ? RX_WAY_BROKEN : RX_WAY_WAIT;
		// The sender is gone for good: what it left in the ring is ours after all. Once: rx_asked is 0 now.
		b->rx_asked = 0;
		rx_set_state(b, RX_RING);
		return from_ring(b, fd, available);
	}
	if (!n && b->rx_eof && ring_take_held(&b->rx))
		n = ring_available_now(&b->rx);
	if (n) {
		*available = n;
		return RX_WAY_RING;
	}
	return b->rx_eof ? RX_WAY_KERNEL : RX_WAY_WAIT;
}

// FRAMES: the ring is done; the rest of CUT and END is on TCP, and nothing else before it.
static enum rx_way finish_round(struct rlm_bound *b, int fd)
{
	while (b->frame_got < FRAMES_SIZE) {
		int n = rx_take_frames(b, fd);

		if (n == -EAGAIN)
			return RX_WAY_WAIT;
		if (n < 0)
			return RX_WAY_BROKEN;
		if (n == 0)
			return take_orphans(b, fd) ? RX_WAY_RING : RX_WAY_KERNEL;
	}
	if (!rx_frames_name_the_end(b))
		return RX_WAY_BROKEN;
	b->rx_framed += FRAMES_SIZE;
	b->rx_asked = 0;
	// After a round that was taken back the sender's head was beyond the end; the next one begins at the end.
	b->rx.cached = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
	rx_set_state(b, RX_PLAIN);
	return RX_WAY_PLAIN;
}

// A sender that is bound sends no urgent data. But before it was, an earlier program may have, which executed this one: then the mark is here
// by now, see offer.c.
static bool may_offer_round(const struct rlm_conn *c, const struct rlm_bound *b, int fd)
{
	return !b->rx_stop && !b->leaving && !b->rx_eof && atomic_load_explicit(&c->rx_inflight, memory_order_seq_cst) <= 1 &&
	       (b->rx_round || !tcp_mark_is_ahead(fd));
}

// DRAIN, RING: is the round still one? RX_WAY_RING, or RX_WAY_PLAIN and the state is another one, or RX_WAY_BROKEN.
static enum rx_way keep_round(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	if (is_withdrawn(b)) {
		rx_unoffer(b);
		return RX_WAY_PLAIN;
	}
	if (!b->rx_past && !pass(c, b, fd)) {
		b->rx_broken = 1;
		return RX_WAY_BROKEN;
	}
	answer_wish(b);
	return RX_WAY_RING;
}

enum rx_way cutover_rx(struct rlm_conn *c, struct rlm_bound *b, int fd, uint64_t *available)
{
	enum rx_way way;

	rx_recount(b, fd);
	*available = 0;
	for (;;) {
		if (b->rx_broken)
			return RX_WAY_BROKEN;
		switch ((enum rlm_rx_state)b->rx_state) {
		case RX_PLAIN:
			if (!may_offer_round(c, b, fd))
				return RX_WAY_PLAIN;
			b->rx_round++;
			b->rx_begun = b->rx_past = b->rx_told = b->frame_got = 0;
			atomic_store_explicit(&b->rx.mine->rx_ready, b->rx_round, memory_order_release);
			rx_set_state(b, RX_READY);
			break;
		case RX_READY:
			way = leave_ready(c, b, fd);
			if (way != RX_WAY_LIMIT)
				return way;
			break;
		case RX_DRAIN:
			way = keep_round(c, b, fd);
			if (way != RX_WAY_RING)
				break;
			if (b->drain)
				return b->rx_past || !inside_others(c) ? RX_WAY_LIMIT : RX_WAY_BUSY;
			rx_set_state(b, RX_RING);
			cutover_rx_look_at_tcp(b, fd);
			break;
		case RX_RING:
			way = keep_round(c, b, fd);
			if (way != RX_WAY_RING)
				break;
			way = from_ring(b, fd, available);
			if (way == RX_WAY_WAIT && b->rx_state != RX_RING)
				break;
			return way;
		case RX_FRAMES:
			way = finish_round(b, fd);
			if (b->rx_state == RX_FRAMES)
				return way;
			break;
		}
	}
}

bool cutover_rx_ended(struct rlm_bound *b, int fd)
{
	if (b->rx_state >= RX_DRAIN)
		return true; // another one has found the cut meanwhile
	if (b->rx_state != RX_READY || !rx_has_begun(b) || rx_is_void(b))
		return take_orphans(b, fd);
	// The sender began a round, filled the ring and closed. The ring follows only if TCP gave everything up to the cut: a reset takes what was
	// not sent yet.
	if (b->rx_cut < 0 || tcp_taken(fd) != b->rx_cut)
		return false;
	b->rx_eof = 1;
	b->drain = 0;
	rx_set_state(b, RX_RING);
	return true;
}

// Only what a sender sends before it knows that we are past the cut can be in there: frames_ahead. So nothing has to be put aside.
int64_t cutover_rx_returned(struct rlm_bound *b, int fd, int64_t n, bool peek)
{
	int64_t cut, taken, got, over;

	rx_recount(b, fd);
	if (b->rx_state == RX_PLAIN || (b->rx_state == RX_READY && !rx_has_begun(b)) || rx_is_void(b))
		return n;
	cut = b->rx_cut;
	taken = tcp_taken(fd);
	if (taken < 0 || cut < 0)
		return -ECONNRESET;
	if (peek) { // as if it had been taken. Another one may have taken some of it since
		over = taken + n - cut;
		return over <= 0 ? n : over < n ? n - over : 0;
	}
	got = taken > cut ? taken - cut : 0;
	over = got - b->frame_got;
	if (got > FRAMES_AHEAD || over < 0 || over > n)
		return -ECONNRESET;
	// With nothing beyond the cut, a round that we asked for may be void yet: leave_ready() looks again.
	if (b->rx_state != RX_READY || over) {
		b->drain = taken < cut ? (uint64_t)(cut - taken) : 0;
		b->frame_got = (uint8_t)got;
	}
	if (b->rx_state == RX_READY && over)
		rx_set_state(b, RX_DRAIN);
	return n - over;
}

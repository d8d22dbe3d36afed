// SPDX-License-Identifier: BSD-2-Clause
// The receiving half of the cut-over: TCP up to the cut, the ring up to the end, the frames, TCP again.
#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>

#include "cutover.h"
#include "inside.h"
#include "sys.h"
#include "wake.h"

#define FRAMES_SIZE (1 + RLM_FRAME_END_SIZE) // CUT and END: every round has exactly these

#define FRAMES_AHEAD 2	   // of these, what the sender may send before it knows that we are past the cut: see cutover_tx.c

static const uint8_t frames_ahead[FRAMES_AHEAD] = {RLM_FRAME_CUT, RLM_FRAME_END};

__thread struct rlm_inside *rlm_inside;

int64_t rx_take(struct rlm_bound *b, int fd, void *data, uint64_t n)
{
	b->rx_taking = 1;
	atomic_signal_fence(memory_order_seq_cst);
	return sys_recv(fd, data, n, MSG_DONTWAIT);
}

static uint32_t peer_round(const struct rlm_bound *b)
{
	const struct rlm_slot_shared *peer = b->rx.peer;

	if (atomic_load_explicit(&peer->epoch, memory_order_acquire) != b->epoch)
		return 0;
	return atomic_load_explicit(&peer->tx_round, memory_order_acquire); // pairs with begin() and end_at()
}

static bool round_is_void(const struct rlm_bound *b);

// Somebody was killed in rx_take(), or before it had counted what it got: see there. Frames lie in `frame` by then. Until we are past the cut
// pass() finds out how many there are.
static void recount(struct rlm_bound *b, int fd)
{
	int64_t taken, cut = b->rx_cut;

	if (__builtin_expect(!b->rx_taking, 1))
		return;
	b->rx_taking = 0;
	taken = b->rx_state >= RX_DRAIN && !round_is_void(b) ? tcp_taken(fd) : -1;
	if (taken < 0)
		return;
	b->drain = taken < cut ? (uint64_t)(cut - taken) : 0;
	if (b->rx_past && taken > cut)
		b->frame_got = taken - cut < FRAMES_SIZE ? (uint8_t)(taken - cut) : FRAMES_SIZE;
}

// We asked for a round that was just beginning: the sender makes it void or ends it, both at once.
static bool round_is_decided(const struct rlm_bound *b)
{
	return peer_round(b) == 2 * b->rx_round;
}

// One whose end we have reached was none of these, whatever the peer says now.
static bool round_is_void(const struct rlm_bound *b)
{
	return b->rx_state != RX_FRAMES && round_is_decided(b) &&
	       atomic_load_explicit(&b->rx.peer->end, memory_order_relaxed) == RLM_END_VOID;
}

// Once seen it stays so, and the cut is what it was then: a peer that takes it back, or writes another one, changes nothing.
static bool round_has_begun(struct rlm_bound *b)
{
	uint32_t r;
	uint64_t cut;

	if (b->rx_begun)
		return true;
	r = peer_round(b);
	if (r != 2 * b->rx_round - 1 && r != 2 * b->rx_round)
		return false;
	cut = atomic_load_explicit(&b->rx.peer->cut, memory_order_relaxed);
	b->rx_cut = cut > INT64_MAX / 2 ? -1 : (int64_t)cut;
	b->rx_begun = 1;
	return true;
}

static void set_state(struct rlm_bound *b, enum rlm_rx_state state)
{
	atomic_store_explicit(&b->rx_state, state, memory_order_relaxed);
	atomic_store_explicit(&b->rx_fast, state == RX_RING && !b->rx_asked && !b->rx_orphaned, memory_order_relaxed);
}

bool cutover_rx_is_plain(const struct rlm_bound *b)
{
	return b->rx_state == RX_PLAIN;
}

// All that was asked back.
static bool back_has_arrived(const struct rlm_bound *b, int fd)
{
	return b->back_at == b->back_to || tcp_arrived(fd) >= (int64_t)(b->back_base + (b->back_to - b->back_at));
}

bool cutover_rx_is_settled(const struct rlm_bound *b, int fd)
{
	return cutover_rx_is_plain(b) && back_has_arrived(b, fd);
}

bool cutover_rx_has_ended(const struct rlm_bound *b)
{
	return b->rx_state != RX_PLAIN && b->rx_state != RX_READY && round_is_decided(b);
}

bool cutover_rx_is_complete(struct rlm_bound *b, int fd)
{
	if (b->rx_state == RX_PLAIN)
		return true;
	if (b->rx_state == RX_READY && !round_has_begun(b))
		return false;
	return round_is_decided(b) || b->rx_eof || sys_poll_now(fd, POLLRDHUP) > 0;
}

// Beyond the cut come the frames of this round, then payload again.
int64_t cutover_rx_arrived(struct rlm_bound *b, int fd)
{
	int64_t n = tcp_arrived(fd), beyond;

	if (n >= 0 && b->rx_state != RX_PLAIN && round_has_begun(b) && b->rx_cut >= 0 && !round_is_void(b)) {
		beyond = n - b->rx_cut;
		if (beyond > 0)
			n -= beyond < FRAMES_SIZE ? beyond : FRAMES_SIZE;
	}
	return n < 0 ? n : n - (int64_t)b->rx_framed;
}

// `tail` stands still from here on; pairs with the acquire in end_if_wanted().
static void ask(struct rlm_bound *b)
{
	b->rx_asked = 1;
	atomic_store_explicit(&b->rx_fast, 0, memory_order_relaxed);
	atomic_store_explicit(&b->rx.mine->rx_ask, b->rx_round, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst); // pairs with the fence in begin()
}

// The offer is withdrawn, the round never was.
static void unoffer(struct rlm_bound *b)
{
	b->rx_asked = 0;
	set_state(b, RX_PLAIN);
}

static void tell_asked(struct rlm_bound *b)
{
	wake_all(b);
	sys_ring(b->control_peer, b->control_port);
}

void cutover_rx_ask(struct rlm_bound *b)
{
	b->rx_stop = 1;
	if (b->rx_state == RX_PLAIN || b->rx_asked)
		return;
	ask(b);
	if (b->rx_state == RX_READY && !round_has_begun(b))
		unoffer(b);
	else if (b->rx_past)
		tell_asked(b);
}

void cutover_rx_leave(struct rlm_bound *b)
{
	if (b->rx_state == RX_READY) {
		cutover_rx_ask(b); // nothing can have been taken from the ring yet
		return;
	}
	b->rx_stop = 1;
	if (b->rx_state == RX_PLAIN || b->rx_state == RX_FRAMES || b->rx_asked)
		return;
	atomic_store_explicit(&b->rx.mine->rx_leave, b->rx_round, memory_order_release); // pairs with cutover_tx_is_let_go()
	tell_asked(b);
}

// 2r-1: the sender would like to leave the ring; 2r: it must; 0.
static uint32_t peer_wish(const struct rlm_bound *b)
{
	uint32_t wish = atomic_load_explicit(&b->rx.peer->tx_wish, memory_order_acquire); // pairs with publish_wish()

	if (peer_round(b) != 2 * b->rx_round - 1)
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
		tell_asked(b);
	return true;
}

// DRAIN, RING. An offer that we withdrew just when the round began: whoever was in the kernel may have taken payload beyond its cut.
static bool is_withdrawn(const struct rlm_bound *b)
{
	return b->rx_asked && !b->frame_got && round_is_void(b);
}

static void answer_wish(struct rlm_bound *b)
{
	uint32_t wish = b->rx_past && !b->rx_asked && !b->rx_orphaned && !b->rx_eof ? peer_wish(b) : 0;

	if (!wish)
		return;
	if (wish == 2 * b->rx_round) {
		ask(b);
		tell_asked(b);
	} else if (!b->rx_told && b->rx_state == RX_RING && ring_available_now(&b->rx) == 0) {
		b->rx_told = 1; // once: what it sends from now on it need not send that way
		tell_asked(b);
	}
}

bool cutover_rx_is_on_its_way(struct rlm_bound *b, int fd)
{
	uint64_t n;

	if (b->rx_eof)
		return false;
	if (b->rx_state == RX_RING && b->rx_asked) {
		n = ring_available_now(&b->rx);
		return n && n != RLM_RING_BROKEN;
	}
	if (b->rx_state == RX_RING || b->back_at == b->back_to)
		return false;
	if (b->rx_state != RX_FRAMES && back_has_arrived(b, fd))
		b->back_to = b->back_at;
	return b->back_at != b->back_to && sys_poll_now(fd, POLLRDHUP) == 0;
}

void cutover_rx_left(struct rlm_bound *b)
{
	struct rlm_slot_shared *mine = b->rx.mine;
	uint32_t w = atomic_load_explicit(&mine->waiting, memory_order_relaxed);

	atomic_store_explicit(&mine->rx_ask, RLM_ASK_LEFT, memory_order_relaxed);
	// As if somebody slept here: a sender looks at `waiting` each time, and at nothing else.
	atomic_store_explicit(&mine->waiting, (w + RLM_WAIT_SEQUENCE) | RLM_WAIT_RX_FUTEX, memory_order_release);
}

// READY: has the sender cut? What comes before the cut is told by the kernel's count, which stands still only while nobody takes anything.
static enum rx_way leave_ready(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	bool others = inside_others(c);
	int64_t taken;

	if (!round_has_begun(b))
		return others ? RX_WAY_BUSY : RX_WAY_SINGLE;
	if (round_is_void(b)) {
		unoffer(b);
		return RX_WAY_LIMIT;
	}
	taken = tcp_taken(fd);
	if (taken < 0 || b->rx_cut < 0 || taken - b->rx_cut > FRAMES_AHEAD || b->rx_cut - taken > 1ll << 40)
		return RX_WAY_BROKEN;
	if (taken < b->rx_cut && others)
		return RX_WAY_BUSY;
	b->drain = taken < b->rx_cut ? (uint64_t)(b->rx_cut - taken) : 0;
	set_state(b, RX_DRAIN);
	return RX_WAY_LIMIT;
}

// What came so far may be the beginning of this round's frames.
static bool frames_are_plausible(const struct rlm_bound *b)
{
	return (b->frame_got < 1 || b->frame[0] == RLM_FRAME_CUT) && (b->frame_got < 2 || b->frame[1] == RLM_FRAME_END);
}

static bool frames_name_the_end(const struct rlm_bound *b)
{
	uint64_t end = 0;

	for (int i = 0; i < 8; i++)
		end |= (uint64_t)b->frame[2 + i] << (8 * i);
	return end == atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
}

// Takes frame bytes, never more than belong to this round. An error stays in the socket for the caller to ask the kernel for.
// > 0: bytes taken, 0: TCP has ended (rx_eof), -EAGAIN: nothing there, -EPROTO: these are no frames.
static int take_frames(struct rlm_bound *b, int fd)
{
	int queued = 0;
	long events;
	int64_t n;

	recount(b, fd);
	if (b->rx_eof)
		return 0;
	if (!b->rx_past)
		return -EAGAIN; // they wake whoever is in the kernel
	if (b->frame_got == FRAMES_SIZE)
		return -EPROTO;
	events = sys_poll_now(fd, POLLIN | POLLRDHUP);
	if (events <= 0)
		return -EAGAIN;
	if (events & (POLLERR | POLLHUP) && (sys_ioctl(fd, SIOCINQ, &queued) < 0 || queued == 0)) {
		b->rx_eof = 1;
		return 0;
	}
	// Payload follows a round that was made void; whoever sees it here sees that too.
	if (b->rx_asked && round_is_void(b))
		return -EAGAIN;
	n = rx_take(b, fd, b->frame + b->frame_got, FRAMES_SIZE - b->frame_got);
	if (n > 0)
		b->frame_got = (uint8_t)(b->frame_got + n);
	rx_counted(b);
	if (n == -EAGAIN || n == -EINTR || n == -EPERM) // EPERM: in repair mode for a moment
		return -EAGAIN;
	if (n <= 0) {
		cutover_keep_error(b, n);
		b->rx_eof = 1;
		return 0;
	}
	return frames_are_plausible(b) ? (int)n : -EPROTO;
}

// The frame is of no more use. If it lay in the socket when the process is killed, the kernel would answer with a reset.
bool cutover_rx_look_at_tcp(struct rlm_bound *b, int fd)
{
	bool had_eof = b->rx_eof;
	int n;

	if (b->frame_got == FRAMES_SIZE && round_is_decided(b))
		return true; // all frames are here, and the ring has an end
	n = take_frames(b, fd);
	if (n == -EPROTO)
		b->rx_broken = 1;
	return n > 0 || b->rx_eof != had_eof || b->rx_broken;
}

bool cutover_rx_has_frames(struct rlm_bound *b, int fd)
{
	if (b->rx_state == RX_DRAIN) // payload is still before them
		return tcp_arrived(fd) >= b->rx_cut + FRAMES_SIZE;
	while (b->frame_got < FRAMES_SIZE && !b->rx_eof && !b->rx_broken && cutover_rx_look_at_tcp(b, fd))
		;
	return b->frame_got == FRAMES_SIZE || b->rx_eof || b->rx_broken;
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
	set_state(b, RX_RING);
	return true;
}

// RING: what is there up to the end of the round, if it has ended.
static enum rx_way from_ring(struct rlm_bound *b, int fd, uint64_t *available)
{
	uint64_t tail = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
	uint32_t round = peer_round(b);
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
			unoffer(b);
			return RX_WAY_WAIT;
		}
		end = atomic_load_explicit(&b->rx.peer->end, memory_order_relaxed);
		if (end - tail > n || !b->rx_past) // nobody ends a round before that, and behind its end nobody would see to it any more
			return RX_WAY_BROKEN;
		n = end - tail;
		if (n == 0) {
			if (!note_back(b))
				return RX_WAY_BROKEN;
			set_state(b, RX_FRAMES);
			return RX_WAY_WAIT;
		}
	} else if (round != 2 * b->rx_round - 1) {
		return RX_WAY_BROKEN;
	} else if (b->rx_asked) {
		while (b->frame_got < FRAMES_SIZE && cutover_rx_look_at_tcp(b, fd) && !b->rx_eof && !b->rx_broken)
			;
		if (b->frame_got == FRAMES_SIZE && !round_is_decided(b)) // an END of nothing
			b->rx_broken = 1;
		if (!b->rx_eof)
			return b->rx_broken ? RX_WAY_BROKEN : RX_WAY_WAIT;
		// The sender is gone for good: what it left in the ring is ours after all. Once: rx_asked is 0 now.
		b->rx_asked = 0;
		set_state(b, RX_RING);
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
		int n = take_frames(b, fd);

		if (n == -EAGAIN)
			return RX_WAY_WAIT;
		if (n < 0)
			return RX_WAY_BROKEN;
		if (n == 0)
			return take_orphans(b, fd) ? RX_WAY_RING : RX_WAY_KERNEL;
	}
	if (!frames_name_the_end(b))
		return RX_WAY_BROKEN;
	b->rx_framed += FRAMES_SIZE;
	b->rx_asked = 0;
	// After a round that was taken back the sender's head was beyond the end; the next one begins at the end.
	b->rx.cached = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
	set_state(b, RX_PLAIN);
	return RX_WAY_PLAIN;
}

// A sender that is bound sends no urgent data. But before it was, an earlier program may have, which executed this one: then the mark is here
// by now, see offer.c.
static bool may_offer_round(const struct rlm_conn *c, const struct rlm_bound *b, int fd)
{
	return !b->rx_stop && !b->rx_eof && atomic_load_explicit(&c->rx_inflight, memory_order_seq_cst) <= 1 &&
	       (b->rx_round || !tcp_mark_is_ahead(fd));
}

// DRAIN, RING: is the round still one? RX_WAY_RING, or RX_WAY_PLAIN and the state is another one, or RX_WAY_BROKEN.
static enum rx_way keep_round(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	if (is_withdrawn(b)) {
		unoffer(b);
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

	recount(b, fd);
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
			set_state(b, RX_READY);
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
			set_state(b, RX_RING);
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

// What lies in the ring before its end, or before what is to come again.
static uint64_t ring_unread(struct rlm_bound *b)
{
	uint64_t n = ring_available_now(&b->rx), tail = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed), end;

	if (n == RLM_RING_BROKEN)
		return 0;
	if (b->rx_orphaned)
		return b->back_to - tail;
	if (!round_is_decided(b))
		return n;
	end = atomic_load_explicit(&b->rx.peer->end, memory_order_relaxed) - tail;
	return end < n ? end : n;
}

struct rx_layout cutover_rx_layout(struct rlm_bound *b)
{
	// The order matters: a round that is seen as ended is seen with all its bytes.
	bool ended = !b->rx_orphaned && round_is_decided(b);

	return (struct rx_layout){
		.tcp = b->rx_state == RX_DRAIN ? b->drain : 0,
		.ring = b->rx_state == RX_FRAMES ? 0 : ring_unread(b),
		.frames = FRAMES_SIZE - b->frame_got,
		.more = ended,
	};
}

// All that is there now, across a change of carrier: programs count down to zero what they were told and then wait for news.
uint64_t cutover_rx_unread(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available, tcp;
	struct rx_layout l;
	enum rx_way way;
	int queued;

	do {
		way = cutover_rx(c, b, fd, &available);
		if (sys_ioctl(fd, FIONREAD, &queued) < 0)
			queued = 0;
		// A round that began before this was counted, with its CUT on TCP, is seen to have begun.
	} while (way == RX_WAY_SINGLE && round_has_begun(b) && !round_is_void(b));
	tcp = (uint64_t)queued;
	if (b->rx_state < RX_DRAIN)
		return tcp;
	l = cutover_rx_layout(b);
	if (tcp < l.tcp)
		return tcp;
	tcp -= l.tcp;
	return l.tcp + l.ring + (l.more && tcp > l.frames ? tcp - l.frames : 0);
}

bool cutover_rx_at_mark(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available;
	int at = 0;

	cutover_rx(c, b, fd, &available);
	return !available && sys_ioctl(fd, SIOCATMARK, &at) == 0 && at;
}

bool cutover_rx_ended(struct rlm_bound *b, int fd)
{
	if (b->rx_state >= RX_DRAIN)
		return true; // another one has found the cut meanwhile
	if (b->rx_state != RX_READY || !round_has_begun(b) || round_is_void(b))
		return take_orphans(b, fd);
	// The sender began a round, filled the ring and closed. The ring follows only if TCP gave everything up to the cut: a reset takes what was
	// not sent yet.
	if (b->rx_cut < 0 || tcp_taken(fd) != b->rx_cut)
		return false;
	b->rx_eof = 1;
	b->drain = 0;
	set_state(b, RX_RING);
	return true;
}

// Only what a sender sends before it knows that we are past the cut can be in there: frames_ahead. So nothing has to be put aside.
int64_t cutover_rx_returned(struct rlm_bound *b, int fd, int64_t n, bool peek)
{
	int64_t cut, taken, got, over;

	recount(b, fd);
	if (b->rx_state == RX_PLAIN || (b->rx_state == RX_READY && !round_has_begun(b)) || round_is_void(b))
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
		set_state(b, RX_DRAIN);
	return n - over;
}

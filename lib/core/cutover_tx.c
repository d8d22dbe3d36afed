// SPDX-License-Identifier: BSD-2-Clause
// The sending half of the cut-over: begin a round at an exact TCP byte, end it at an exact ring byte, pay what TCP is owed.
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>

#include "cutover.h"
#include "sys.h"
#include "wake.h"

void cutover_keep_error(struct rlm_bound *b, int64_t error)
{
	if (error != -EAGAIN && error != -EINTR && error != -EPIPE && error != -ENOTCONN && error != -EFAULT && error != -ENOMEM &&
	    error != -EPERM)
		atomic_store_explicit(&b->error, (int)-error, memory_order_relaxed);
}

int cutover_take_error(struct rlm_bound *b)
{
	if (__builtin_expect(!atomic_load_explicit(&b->error, memory_order_relaxed), 1))
		return 0;
	return -atomic_exchange_explicit(&b->error, 0, memory_order_relaxed);
}

static void owe(struct rlm_bound *b, const uint8_t *frame, unsigned len)
{
	memcpy(b->owed + b->owed_len, frame, len);
	b->owed_len = (uint8_t)(b->owed_len + len);
}

bool cutover_tx_owes(const struct rlm_bound *b)
{
	return b->owed_at != b->owed_len || b->resend_at != b->resend_to;
}

// Sends from data[0..n) what TCP takes. true: all of it. A dead TCP takes everything: the caller's own send will hear why.
static bool push(struct rlm_bound *b, int fd, const uint8_t *data, uint64_t n, bool more, uint64_t *done)
{
	// An error that waits in the socket belongs to the caller of send(), not to us.
	if (*done < n && sys_poll_now(fd, 0) & (POLLERR | POLLHUP)) {
		b->tx_dead = 1;
		*done = n;
	}
	while (*done < n) {
		long r = sys_send(fd, data + *done, n - *done, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));

		if (r == -EINTR)
			continue;
		if (r == -EAGAIN)
			return false;
		if (r < 0) {
			cutover_keep_error(b, r);
			b->tx_dead = 1;
			*done = n;
			return true;
		}
		*done += (uint64_t)r;
	}
	return true;
}

// What Nagle's algorithm or TCP_CORK hold back, frames and the last bytes before a cut, would come up to 200 ms late. Setting TCP_NODELAY
// sends what is queued in any case.
static void flush(int fd)
{
	int unsent = 0, was = 1, on = 1;
	socklen_t len = sizeof(was);

	if (sys_ioctl(fd, SIOCOUTQNSD, &unsent) < 0 || !unsent)
		return;
	sys_getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &was, &len);
	sys_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (!was)
		sys_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &was, sizeof(was));
}

// What TCP takes from here on is counted only afterwards. If we are killed before, and others of the family have the connection, it must
// not be sent twice: who has the lock next asks TCP. Nobody else sends as long as something is owed.
static void begin_paying(struct rlm_bound *b, int fd)
{
	b->paid_from = tcp_accepted(fd);
	atomic_signal_fence(memory_order_seq_cst);
	b->tx_paying = b->paid_from >= 0;
	atomic_signal_fence(memory_order_seq_cst);
}

static void end_paying(struct rlm_bound *b)
{
	atomic_signal_fence(memory_order_seq_cst);
	b->tx_paying = 0;
}

static void recount(struct rlm_bound *b, int fd)
{
	int64_t now = tcp_accepted(fd);
	uint64_t paid = now > b->paid_from ? (uint64_t)(now - b->paid_from) : 0, owed = b->owed_len - b->owed_at;
	uint64_t frames = paid < owed ? paid : owed, resent = paid - frames, rest = b->resend_to - b->resend_at;

	b->owed_at = (uint8_t)(b->owed_at + frames);
	b->resend_at += resent < rest ? resent : rest;
	end_paying(b);
}

static bool pay(struct rlm_bound *b, int fd, bool more)
{
	uint64_t done;
	bool owes, all;

	if (b->tx_paying)
		recount(b, fd);
	done = b->owed_at;
	owes = cutover_tx_owes(b);
	if (owes)
		begin_paying(b, fd);
	all = push(b, fd, b->owed, b->owed_len, more || b->resend_at != b->resend_to, &done);
	b->owed_at = (uint8_t)done;
	end_paying(b);
	if (!all)
		return false;
	b->owed_at = b->owed_len = b->tx_lazy = 0;
	while (b->resend_at != b->resend_to) {
		uint64_t at = b->resend_at & (b->tx.size - 1);
		uint64_t n = b->resend_to - b->resend_at;
		uint64_t chunk = n < b->tx.size - at ? n : b->tx.size - at;

		done = 0;
		begin_paying(b, fd);
		all = push(b, fd, b->tx.bytes + at, chunk, more || chunk < n, &done);
		b->resend_at += done;
		end_paying(b);
		if (!all)
			return false;
	}
	if (owes && !more)
		flush(fd);
	return true;
}

void cutover_tx_pay(struct rlm_bound *b, int fd)
{
	pay(b, fd, false);
}

// The ring is empty, since who offers a round has taken all of the last one: the receiver sees the grain with the next byte, at the latest.
static void set_limit(struct rlm_bound *b, uint64_t limit)
{
	b->tx.cached = ring_head(&b->tx);
	ring_set_limit(&b->tx, limit);
	atomic_store_explicit(&b->tx.mine->grain, (uint32_t)b->tx.grain, memory_order_relaxed);
}

// The store of tx_round (release) publishes `cut` and `grain`, and precedes the frame: a receiver that has the frame sees the round.
static bool begin(struct rlm_bound *b, uint32_t round, uint64_t cut, uint64_t limit)
{
	struct rlm_slot_shared *mine = b->tx.mine;
	const uint8_t frame = RLM_FRAME_CUT;

	b->tx_round = round;
	b->tx_wish = b->tx_need = b->tx_probed = 0;
	// After a round that was taken back, head is beyond its end; everything up to it went over TCP.
	atomic_store_explicit(&mine->head, b->tx_end, memory_order_relaxed);
	atomic_store_explicit(&mine->held, b->tx_end, memory_order_relaxed);
	set_limit(b, limit);
	atomic_store_explicit(&mine->cut, cut, memory_order_relaxed);
	atomic_store_explicit(&mine->tx_round, 2 * b->tx_round - 1, memory_order_release);
	// The receiver may have withdrawn its offer meanwhile: it stores rx_ask, then looks at tx_round; we store tx_round, then look at
	// rx_ask. If it saw nothing of this round it is gone, and we see it here.
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&b->tx.peer->rx_ask, memory_order_relaxed) >= b->tx_round) {
		atomic_store_explicit(&mine->end, RLM_END_VOID, memory_order_relaxed);
		atomic_store_explicit(&mine->tx_round, 2 * b->tx_round, memory_order_release);
		return false;
	}
	b->tx_state = TX_RING;
	owe(b, &frame, 1);
	return true;
}

void cutover_tx_release(struct rlm_bound *b)
{
	if (b->tx_state != TX_RING || !ring_holds(&b->tx))
		return;
	ring_publish(&b->tx, ring_next(&b->tx));
	wake_receiver(b);
}

// Nothing is held back by now.
static void end_at(struct rlm_bound *b, uint64_t end)
{
	struct rlm_slot_shared *mine = b->tx.mine;
	uint8_t frame[RLM_FRAME_END_SIZE] = {RLM_FRAME_END}, sent = b->tx_probed;

	for (int i = 0; i < 8; i++)
		frame[1 + i] = (uint8_t)(end >> (8 * i));
	b->tx_end = end;
	atomic_store_explicit(&mine->end, end, memory_order_relaxed);
	atomic_store_explicit(&mine->tx_round, 2 * b->tx_round, memory_order_release);
	b->tx_state = TX_PLAIN;
	atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
	owe(b, frame + sent, sizeof(frame) - sent);
	wake_all(b);
	wake_own(b); // room is TCP's affair again
}

bool cutover_tx_peer_left(const struct rlm_bound *b)
{
	return cutover_peer_is_bound(b) && atomic_load_explicit(&b->tx.peer->rx_ask, memory_order_acquire) == RLM_ASK_LEFT;
}

static bool peer_is_gone(const struct rlm_bound *b)
{
	return !cutover_peer_is_bound(b) || cutover_tx_peer_left(b);
}

bool cutover_tx_end(struct rlm_bound *b)
{
	if (b->tx_state == TX_RING && !peer_is_gone(b) && !cutover_tx_peer_is_past(b))
		return false;
	cutover_tx_release(b);
	if (b->tx_state == TX_RING)
		end_at(b, ring_head(&b->tx));
	return true;
}

void cutover_tx_wish(struct rlm_bound *b)
{
	b->tx_wish = b->tx_state == TX_RING;
	atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
}

void cutover_tx_limit(struct rlm_bound *b, uint64_t limit)
{
	if (b->tx_state != TX_RING || b->tx.limit == (limit < b->tx.size ? limit : b->tx.size))
		return;
	if (ring_is_empty(&b->tx))
		set_limit(b, limit);
	else
		cutover_tx_wish(b);
}

// The receiver wants the round back: everything it has not taken is sent again on TCP.
static void give_back(struct rlm_bound *b)
{
	uint64_t head;

	cutover_tx_release(b); // it may have been asked back just now
	head = ring_head(&b->tx);
	if (ring_room(&b->tx, head, b->tx.size + 1) == RLM_RING_BROKEN)
		b->tx.cached = head; // nonsense: it gets nothing again
	b->resend_at = b->tx.cached;
	b->resend_to = head;
	end_at(b, b->tx.cached);
}

void cutover_tx_need(struct rlm_bound *b)
{
	b->tx_need = b->tx_state == TX_RING;
	atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
}

// A round ends when the ring is empty, so that nothing stays behind its end, where it could not follow the receiver into another program. If
// that has to be now, or does not happen because we are too busy, the receiver must ask for the rest. Until then everything goes on.
static void publish_wish(struct rlm_bound *b)
{
	uint32_t published = atomic_load_explicit(&b->tx.mine->tx_wish, memory_order_relaxed), wish;

	if (published / 2 + published % 2 != b->tx_round)
		b->tx_wish_at = ring_head(&b->tx);
	b->tx_need |= ring_head(&b->tx) - b->tx_wish_at > b->tx.size / 16;
	wish = 2 * b->tx_round - !b->tx_need;
	if (published == wish)
		return;
	atomic_store_explicit(&b->tx.mine->tx_wish, wish, memory_order_release); // pairs with peer_wish()
	sys_ring(b->control_peer, b->control_port);
}

// The peer has closed its side, and may be gone altogether: only real bytes make its kernel say so. What it read before it closed is seen
// here, after its close: if that was all, there is nothing to find out before the next send.
static void probe(struct rlm_bound *b)
{
	const uint8_t frame = RLM_FRAME_END;

	if (b->tx_probed || ring_is_empty(&b->tx))
		return;
	b->tx_probed = 1;
	owe(b, &frame, 1);
}

void cutover_tx_doubt(struct rlm_bound *b, int fd)
{
	if (b->tx_state != TX_RING || b->tx_dead)
		return;
	probe(b);
	pay(b, fd, false);
}

static bool peer_has_answered_probe(const struct rlm_bound *b, int fd)
{
	return b->tx_probed && sys_poll_now(fd, 0) & (POLLERR | POLLHUP);
}

static void end_if_wanted(struct rlm_bound *b, int fd)
{
	bool wanted = b->tx_stop || b->tx_wish || b->tx_need || cutover_tx_is_let_go(b);

	if (wanted) // then it matters whether the ring is empty
		cutover_tx_release(b);
	if (peer_is_gone(b)) {
		if (wanted || cutover_tx_peer_left(b)) {
			cutover_tx_end(b);
			b->tx_lazy = ring_is_empty(&b->tx); // it has read all: the first byte after that finds out, as on TCP
		}
	} else if (cutover_tx_is_asked(b)) {
		give_back(b);
	} else if (wanted && cutover_tx_peer_is_past(b) && ring_is_empty(&b->tx)) {
		cutover_tx_end(b);
		b->tx_lazy = 1;
	} else if (wanted) {
		publish_wish(b);
		if (sys_poll_now(fd, POLLRDHUP) > 0)
			probe(b);
	}
}

// The round that may begin now, or 0. Rounds that the receiver withdrew are skipped.
static uint32_t may_begin(const struct rlm_conn *c, const struct rlm_bound *b)
{
	uint32_t ready;

	if (b->tx_state != TX_PLAIN || b->tx_stop || b->leaving || cutover_tx_owes(b) || !cutover_peer_is_bound(b))
		return 0;
	ready = atomic_load_explicit(&b->tx.peer->rx_ready, memory_order_acquire);
	if (ready <= b->tx_round || ready > UINT32_MAX / 2 ||
	    atomic_load_explicit(&b->tx.peer->rx_ask, memory_order_relaxed) >= ready)
		return 0;
	return atomic_load_explicit(&c->tx_inflight, memory_order_seq_cst) == 0 ? ready : 0;
}

bool cutover_tx_is_plain(const struct rlm_bound *b)
{
	return b->tx_state == TX_PLAIN && !cutover_tx_owes(b);
}

// Frames that a receiver who is killed has not read make its kernel answer with a reset, as payload does. So none is sent that has no payload
// behind it, unless the receiver wants to have it.
static bool is_lazy(const struct rlm_bound *b)
{
	return b->tx_lazy && !cutover_tx_is_asked(b);
}

enum tx_way cutover_tx(struct rlm_conn *c, struct rlm_bound *b, int fd, bool more)
{
	int64_t written;
	uint32_t round;

	if (b->tx_state == TX_RING && peer_has_answered_probe(b, fd))
		b->tx_dead = 1;
	if (b->tx_dead)
		return TX_WAY_PLAIN;
	if (b->tx_state == TX_RING)
		end_if_wanted(b, fd);
	if (is_lazy(b) && !more)
		return TX_WAY_PLAIN;
	if (cutover_tx_owes(b) && !pay(b, fd, more && b->tx_state == TX_PLAIN) && b->tx_state == TX_PLAIN)
		return TX_WAY_BLOCKED;
	if (b->tx_dead)
		return TX_WAY_PLAIN;
	round = may_begin(c, b);
	if (round) {
		written = tcp_written_confirmed(fd, c->flags & RLM_CONN_ACTIVE);
		if (written >= 0 && begin(b, round, (uint64_t)written, tcp_send_limit(fd))) {
			end_if_wanted(b, fd);
			pay(b, fd, false);
			if (b->tx_dead) // the peer is gone: the kernel tells the caller, nothing was put into the ring
				return TX_WAY_PLAIN;
		}
	}
	if (cutover_tx_owes(b) && b->tx_state == TX_PLAIN)
		return TX_WAY_BLOCKED; // begun and taken back at once
	atomic_store_explicit(&b->tx_fast,
			      b->tx_state == TX_RING && !cutover_tx_owes(b) && !b->tx_stop && !b->tx_wish && !cutover_tx_is_let_go(b) &&
				      !(c->flags & RLM_CONN_CORKED) && !ring_holds(&b->tx),
			      memory_order_relaxed);
	return b->tx_state == TX_RING ? TX_WAY_RING : TX_WAY_PLAIN;
}

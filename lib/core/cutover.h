// SPDX-License-Identifier: BSD-2-Clause
// Which carrier moves the next byte of a direction, and the exact switch between them. The protocol is in ARCHITECTURE.md,
// "Cut-over"; tests/model/cutover.pml checks it. Nothing here sleeps; every function names the lock that its caller holds.
#ifndef RLM_CUTOVER_H
#define RLM_CUTOVER_H

#include "conn.h"

enum tx_way {
	TX_WAY_PLAIN,   // the next byte goes to the kernel
	TX_WAY_RING,    // the next byte goes to the ring
	TX_WAY_BLOCKED, // the kernel must take what is owed first: wait until TCP is writable
};

// tx_lock. Pays what is owed, begins or ends a round when it is time. `more`: payload for TCP follows at once.
enum tx_way cutover_tx(struct rlm_conn *c, struct rlm_bound *b, int fd, bool more);
// Whoever is in the receiver's kernel takes at most CUT and the first byte of END for payload of this round, which the receiver can tell.
static inline bool cutover_tx_peer_is_past(const struct rlm_bound *b)
{
	return atomic_load_explicit(&b->tx.peer->rx_past, memory_order_acquire) == b->tx_round; // pairs with pass()
}

// The receiver wants the round back and can have it: before it is past the cut nothing would come of the look of a sender who finds the ring
// full. Only a hint without the lock.
static inline bool cutover_tx_is_asked(const struct rlm_bound *b)
{
	return atomic_load_explicit(&b->tx.peer->rx_ask, memory_order_acquire) == b->tx_round && cutover_tx_peer_is_past(b);
}

// Or would like to end it.
static inline bool cutover_tx_is_let_go(const struct rlm_bound *b)
{
	return atomic_load_explicit(&b->tx.peer->rx_leave, memory_order_acquire) == b->tx_round;
}

// tx_lock. The current round shall end, as tx_stop says as well; but another one may begin after it. cutover_tx() sees to it, once the ring
// is empty.
void cutover_tx_wish(struct rlm_bound *b);
// tx_lock. What the program wants under way at most, see tcp_send_limit(): at once, or in the next round.
void cutover_tx_limit(struct rlm_bound *b, uint64_t limit);
// tx_lock. It must end even if nobody reads: cutover_tx() has the receiver ask back.
void cutover_tx_need(struct rlm_bound *b);
// tx_lock. Lets the receiver see what is held back.
void cutover_tx_release(struct rlm_bound *b);
// tx_lock. The receiver was told that the round must end, and does not answer. If it is dead, and its end of the stream is stuck behind what
// we have not read of it, only a byte on TCP finds out.
void cutover_tx_doubt(struct rlm_bound *b, int fd);
// tx_lock. Ends the current round (if any) at `head`, with whatever is still to be read in the ring; what is owed to TCP remains owed.
// false: not yet, the receiver is not past the cut.
bool cutover_tx_end(struct rlm_bound *b);
// tx_lock. Pays what is owed and can be paid, nothing else. cutover_tx() leaves an END that nothing follows (tx_lazy) for later, this does not.
void cutover_tx_pay(struct rlm_bound *b, int fd);
// tx_lock. true: TCP has not taken all frames or bytes that come before the next payload.
bool cutover_tx_owes(const struct rlm_bound *b);
// The receiver has closed: only TCP can answer now. wake_ring_bell() clears tx_fast then.
bool cutover_tx_peer_left(const struct rlm_bound *b);
// tx_lock. true: nothing of this direction is on the ring or owed.
bool cutover_tx_is_plain(const struct rlm_bound *b);

enum rx_way {
	RX_WAY_PLAIN,  // receive from the kernel without limit
	RX_WAY_SINGLE, // the same, but only one thread at a time, and then cutover_rx_returned()
	RX_WAY_LIMIT,  // receive from the kernel at most b->drain bytes, with rx_take()
	RX_WAY_RING,   // *available bytes are in the ring
	RX_WAY_WAIT,   // nothing yet
	RX_WAY_BUSY,   // another thread is in the kernel and must come back first
	RX_WAY_KERNEL, // the ring is empty and TCP has ended: the kernel says how
	RX_WAY_BROKEN, // cannot be continued exactly
};

// rx_lock. Finds the next source, moving through the states as far as it can.
enum rx_way cutover_rx(struct rlm_conn *c, struct rlm_bound *b, int fd, uint64_t *available);
// rx_lock, after a receive that was in the kernel while the connection was bound and that returned n > 0 bytes: how many of them are
// payload for the caller. -errno when the stream is broken. `peek`: nothing was consumed. Still counted in rx_inflight.
int64_t cutover_rx_returned(struct rlm_bound *b, int fd, int64_t n, bool peek);
// rx_lock. Such a receive said end of stream: does shared memory have more, a round that TCP heard nothing of, or bytes asked back that
// did not make it?
bool cutover_rx_ended(struct rlm_bound *b, int fd);
// rx_lock. Bytes of the TCP stream: like recv(). Never waits. The caller counts them, then it calls rx_counted().
int64_t rx_take(struct rlm_bound *b, int fd, void *data, uint64_t n);
// A process of the family that is killed in between leaves bytes taken and not counted. Who has the lock next asks the kernel.
static inline void rx_counted(struct rlm_bound *b)
{
	atomic_signal_fence(memory_order_seq_cst);
	b->rx_taking = 0;
}
// rx_lock. Asks the sender to take the round back; nothing is taken from the ring until it has.
void cutover_rx_ask(struct rlm_bound *b);
// rx_lock. Would like the round to end, when that is no trouble.
void cutover_rx_leave(struct rlm_bound *b);
// rx_lock. Bytes that have come are not to be had, for a moment: they go back to the sender, and come again.
bool cutover_rx_is_on_its_way(struct rlm_bound *b, int fd);
// rx_lock. This end closes: tells the sender, who would go on filling the ring until the news comes over TCP.
void cutover_rx_left(struct rlm_bound *b);
bool cutover_rx_is_plain(const struct rlm_bound *b);
// The same, and the slot is needed no more: what was asked back has arrived.
bool cutover_rx_is_settled(const struct rlm_bound *b, int fd);
// rx_lock. Payload bytes that TCP has brought while bound and before; -errno.
int64_t cutover_rx_arrived(struct rlm_bound *b, int fd);
// The sender has left the ring for now; what is in it is still to be read.
bool cutover_rx_has_ended(const struct rlm_bound *b);
// rx_lock. And all its frames are here, or will never come.
bool cutover_rx_has_frames(struct rlm_bound *b, int fd);
// rx_lock. The sender will put nothing more into this round: it has ended it, or is gone, or never began.
bool cutover_rx_is_complete(struct rlm_bound *b, int fd);
// What is there now, in the order of the stream: bytes of TCP up to the cut, bytes of the ring, and, behind the frames of a round that has
// ended, all that follows on TCP.
struct rx_layout {
	uint64_t tcp;
	uint64_t ring;
	uint64_t frames;
	bool more; // behind the frames
};
// rx_lock, after cutover_rx(), with DRAIN or RING.
struct rx_layout cutover_rx_layout(struct rlm_bound *b);
// What the sender has put into the ring in this binding. As long as it has not taken the slot, an earlier one's count is still there.
static inline uint64_t cutover_rx_head(const struct rlm_bound *b)
{
	// The order matters, and pairs with reset_slot().
	if (atomic_load_explicit(&b->rx.peer->epoch, memory_order_acquire) != b->epoch)
		return 0;
	return atomic_load_explicit(&b->rx.peer->head, memory_order_acquire);
}
// rx_lock. FIONREAD: bytes that receives would find now.
uint64_t cutover_rx_unread(struct rlm_conn *c, struct rlm_bound *b, int fd);
// rx_lock. SIOCATMARK: the next byte comes from TCP, which is at the mark; frames do not count.
bool cutover_rx_at_mark(struct rlm_conn *c, struct rlm_bound *b, int fd);
// rx_lock. Looks at TCP while on the ring: eats frames, notices the end. true: something changed, ask cutover_rx() again.
bool cutover_rx_look_at_tcp(struct rlm_bound *b, int fd);

// --- leaving the slot's memory while the connection lives: cutover_leave.c ---

// Both locks. Ends the round that we send, offers no other. true: nothing that is still to come needs the shared slot.
bool cutover_leave_begin(struct rlm_conn *c, struct rlm_bound *b, int fd);
// Both locks, no holders. From here on the binding has memory of its own. 0 or -ENOMEM.
int cutover_leave(struct rlm_bound *b);
// The peer has bound its half of the slot. Pairs with the release in reset_slot().
static inline bool cutover_peer_is_bound(const struct rlm_bound *b)
{
	return atomic_load_explicit(&b->rx.peer->epoch, memory_order_acquire) == b->epoch;
}
// The slot is in memory of another place and time: nothing there is ours any more.
static inline bool cutover_is_lost(const struct rlm_bound *b)
{
	return __builtin_expect(atomic_load_explicit(b->here, memory_order_relaxed) !=
					atomic_load_explicit(&b->location, memory_order_relaxed), 0);
}
// While a round is carried by the ring the peer's slot says whose it is. Memory that was lost with a move nobody announced says something
// else, for good: so bytes that were copied before this was seen to hold are what the peer wrote.
static inline bool cutover_slot_stands(const struct rlm_bound *b)
{
	atomic_thread_fence(memory_order_acquire);
	return __builtin_expect(atomic_load_explicit(&b->rx.peer->epoch, memory_order_relaxed) == b->epoch, 1);
}
// Both locks. Nothing was ever carried by the slot, and the peer has not bound its half of it.
bool cutover_is_lonely(const struct rlm_bound *b);
// Both locks, of a lonely one: gives the slot up, and shows that, so that a peer which binds later begins nothing. false: it has just bound.
bool cutover_leave_lonely(struct rlm_bound *b);
// Both locks, of a lost one. true: it can go on over TCP, at the exact byte.
bool cutover_lost_is_plain(const struct rlm_bound *b);
// Nobody uses the binding any more.
void cutover_leave_free(struct rlm_bound *b);

// Bytes the kernel was given to send on this socket since the handshake, ours included; -errno if it cannot be told.
int64_t tcp_written(int fd);
// What TCP has accepted, to tell how much it was between two calls; -errno.
int64_t tcp_accepted(int fd);
// As tcp_written(), confirmed by a second count, or -EUCLEAN: the first one is too high after segments were refused by this host's own firewall
// or device queue. active: this end called connect().
int64_t tcp_written_confirmed(int fd, bool active);
// What TCP takes of a program that has set SO_SNDBUF, as long as the peer reads nothing; UINT64_MAX: it has not.
uint64_t tcp_send_limit(int fd);
// A kernel call of ours met an error (-errno) of the connection, which the kernel tells once: kept for the application's next call.
void cutover_keep_error(struct rlm_bound *b, int64_t error);
// The same as -errno, 0: none. Whoever takes it tells it.
int cutover_take_error(struct rlm_bound *b);

// The connection stands: what the broker said of it still means this socket.
bool tcp_is_established(int fd);
// Bytes taken from the kernel on this socket since the handshake.
int64_t tcp_taken(int fd);
// Urgent data lies unread in the kernel, or its place in the stream: as long as the mark is ahead, the counts here are wrong.
bool tcp_mark_is_ahead(int fd);
// Those that wait in the kernel included.
int64_t tcp_arrived(int fd);

#endif

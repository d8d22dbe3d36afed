// SPDX-License-Identifier: BSD-2-Clause
// A connection as librlm sees it, and the memory in which a family of processes (fork) shares it.
//
// Every TCP connection has a struct rlm_conn and a struct rlm_conn_stat (stat.h) of the same index. While it is bound to
// a slot it has a struct rlm_bound too. All of it is inherited by fork at the same addresses; locks work across processes.
//
// Who may touch what:
//   rlm_conn.bound     set by the helper thread holding both locks; cleared holding both locks with users == 0
//   rlm_bound.tx_*     under tx_lock;  rlm_bound.rx_* under rx_lock
//   kernel sends       counted in tx_inflight, kernel receives in rx_inflight, so that a switch can be exclusive of them:
//                      enter: count up, then look at `bound` (seq_cst); switcher: set `bound`, then look at the count
//   users              who needs the connection to stay as it is without holding a lock: threads that wait in a call, epoll items
//                      that are armed. A connection that is closed meanwhile lives on, on `ghost`, until the last one leaves
#ifndef RLM_CONN_H
#define RLM_CONN_H

#include <sys/types.h>

#include "lock.h"
#include "ring.h"
#include "rlm/rlm.h"
#include "rlm/stat.h"

// rlm_conn.flags
#define RLM_CONN_NONBLOCK 0x1u  // O_NONBLOCK, as last set through us
#define RLM_CONN_OFFERED 0x2u   // the broker knows it
#define RLM_CONN_BARRED 0x4u    // never promote (again); why says the reason
#define RLM_CONN_CLOSING 0x8u   // last descriptor is gone
#define RLM_CONN_QUEUED 0x10u   // waits for the helper thread
#define RLM_CONN_TX_SHUT 0x20u  // shutdown(SHUT_WR) was called
#define RLM_CONN_HELD 0x40u     // demoted by order: stay plain until PROMOTE
#define RLM_CONN_ISN 0x80u      // must be named by initial sequence numbers
#define RLM_CONN_TUPLE 0x100u   // cannot be named by initial sequence numbers: the broker may not read them
#define RLM_CONN_NAMING 0x200u  // a duplicate of the socket is on its way to the broker or there
#define RLM_CONN_ACTIVE 0x400u  // this end called connect()
#define RLM_CONN_INHERITED 0x800u // from an earlier program or another process, or given to one: others may have it too
#define RLM_CONN_CORKED 0x1000u // TCP_CORK, as last set through us

struct rlm_conn {
	struct rlm_lock tx_lock;
	struct rlm_lock rx_lock;
	_Atomic uint32_t tx_inflight;
	_Atomic uint32_t rx_inflight;
	_Atomic uint32_t users;
	_Atomic uint32_t events; // event count: helper thread, state changes
	_Atomic uint32_t refs;   // descriptors in all processes of the family
	_Atomic uint32_t bound;  // index in the pool + 1, 0: not bound
	_Atomic uint32_t calls;  // sends and receives in the kernel; wraps, and begins anew when an offer has to wait
	_Atomic uint32_t flags;
	union {
		_Atomic uint32_t next;	// free list
		_Atomic uint32_t looks; // how often others have been looked for, while RLM_CONN_INHERITED
	};
	_Atomic int32_t ghost;   // descriptor + 1 that keeps the socket for `users` after the application closed it
	const _Atomic uint32_t *_Atomic bell; // of the peer, since it was bound last; for wake_conn()
};

enum rlm_tx_state {
	TX_PLAIN = 0,
	TX_RING,
};

enum rlm_rx_state {
	RX_PLAIN = 0, // payload comes from TCP without limit
	RX_READY,     // rx_ready is published; one thread at a time in the kernel
	RX_DRAIN,     // the cut is known: TCP up to it. Who was in the kernel before may still be there, see rx_past
	RX_RING,      // the ring, then, once the round has ended, the ring up to `end`
	RX_FRAMES,    // the ring is done, the rest of the frames is still to come on TCP
};

#define RLM_OWED_MAX 16

struct rlm_spin {
	_Atomic uint32_t budget; // ticks
	_Atomic uint16_t streak; // short sleeps in a row
	_Atomic uint16_t wanted; // how many of them bring the budget back
	_Atomic bool far;        // the peer is in another domain, which has processors of its own
};

#define RLM_TCP_QUIET (1ull << 32) // see rlm_bound.tcp_quiet

struct rlm_hold {
	uint64_t tail; // ours at the last wait
	uint64_t head; // ours: if it moved we have sent since, and the peer may be answering
	uint32_t ticks;
	uint32_t waits; // since the last sleep
};

struct rlm_bound {
	// constant while bound
	struct rlm_conn *conn;
	const struct rlm_region_shared *region; // mine
	uint64_t link;
	uint32_t side;
	uint32_t segment;
	uint32_t slot;
	uint32_t epoch;
	uint32_t owner;    // rlm_place.id of the process that bound it and has the session with the broker
	int doorbell_mine; // eventfd that the peer writes, or our helper thread for it
	int doorbell_peer; // what I ring, with bell_port
	uint32_t bell_port;    // not 0: the peer has another kernel, no futex reaches it
	uint32_t control_port;
	bool no_fork; // RLM_SEGMENT_NO_FORK
	int control_peer;  // the peer's control doorbell, with control_port
	int control_mine;  // the owner's
	_Atomic uint8_t returned; // not used any more: the owner has to give the slot back
	_Atomic uint32_t next;
	_Atomic int error; // the socket's, that a call of ours took from it instead of the application's: errno, 0 = none
	const _Atomic uint64_t *here; // the number of where we are now: what differs from `location` must not be touched
	_Atomic uint64_t location;

	// leaving the slot while the connection lives, see cutover_leave.c
	_Atomic uint32_t holders; // who looks at the slot's memory without a lock; those who would sleep come no more when `leaving`
	uint8_t leaving;
	uint8_t lonely; // the peer had not bound its half when the helper looked
	uint8_t vacant; // nor later: given up
	uint8_t gone; // the slot was lost: not to be touched
	uint8_t *own; // memory of ours in the slot's place
	uint64_t own_size;

	// sending
	_Alignas(RLM_CACHELINE) struct rlm_ring tx;
	_Atomic uint8_t tx_fast; // ring, and nothing else to think of
	uint8_t tx_state;        // enum rlm_tx_state
	uint8_t tx_stop;         // end the round, begin no other
	uint8_t tx_dead;         // TCP refuses to send: let the kernel tell
	uint8_t tx_wish;         // end the round, and begin another one when that is possible
	uint8_t tx_need;         // the round must end, whether the receiver reads or not
	uint8_t tx_lazy;         // END is owed, and waits for something to come after it
	uint8_t tx_probed;       // the first byte of END has been sent, to see whether the receiver is still there
	uint8_t tx_paying;       // what is owed is on its way into TCP, which had taken `paid_from` bytes before
	uint32_t tx_round;       // current or last
	uint64_t tx_end;         // ring position at which the last round ended
	uint64_t tx_wish_at;     // and at which we first wanted to end the current one
	_Atomic uint32_t tx_rung; // peer's `waiting` as of our last wake-up
	uint8_t owed[RLM_OWED_MAX]; // frame bytes that TCP has not taken yet
	uint8_t owed_at, owed_len;
	uint64_t resend_at, resend_to; // ring bytes to be sent on TCP after them
	int64_t paid_from;
	uint64_t tx_budget;            // test aid: ring bytes until the round ends by itself, 0 = never
	uint64_t tx_timeout_ns;        // SO_SNDTIMEO, 0 = none
	uint64_t idle_head;            // head at the helper's last look
	_Atomic uint32_t tx_blocked;   // sends that found too little room and did not wait
	uint8_t tx_punched;            // the idle ring's memory went back to the system
	uint8_t tx_full;               // somebody found too little room, and the helper looks whether the peer reads
	uint64_t full_tail;            // the peer's tail at its last look, what TCP had on its way, and since when both stand there
	int full_unacked;
	uint64_t full_ms;
	uint64_t held_head;            // head at the helper's last look, if bytes were held back behind it
	struct rlm_habit tx_habit;     // of tx_lock

	// receiving
	_Alignas(RLM_CACHELINE) struct rlm_ring rx;
	_Atomic uint8_t rx_fast;
	_Atomic uint8_t rx_state; // enum rlm_rx_state
	uint8_t rx_stop;          // offer no further round
	uint8_t rx_asked;         // asked for the round back, taking nothing meanwhile
	uint8_t rx_told;          // the ring is empty, and the sender, who wants to leave it, was told
	uint8_t rx_begun;         // the current round has been seen to have begun, and rx_cut is its cut
	uint8_t rx_past;          // the cut of the current round is behind us, and the sender knows
	uint8_t rx_eof;           // TCP has nothing more; the ring may
	uint8_t rx_orphaned;      // TCP ended before all of back_at..back_to was there: the ring has the rest
	uint8_t rx_broken;        // the peer did what it must not
	uint8_t rx_taking;        // bytes are on their way out of TCP that are not counted yet
	uint8_t frame_got;        // bytes of this round's frames
	uint8_t frame[RLM_OWED_MAX];
	uint32_t rx_round;   // current or last
	uint64_t rx_framed;  // bytes of frames on TCP in the rounds before
	_Atomic uint32_t rx_rung; // peer's `waiting` as of our last wake-up, for room
	int64_t rx_cut;      // TCP bytes before the current round, -1: an impossible number
	uint64_t drain;      // bytes until the cut
	uint64_t back_at, back_to; // ring bytes of a round that was taken back: they come again on TCP, and if the sender dies first, from here
	uint64_t back_base;        // TCP bytes before them
	uint64_t rx_timeout_ns; // SO_RCVTIMEO, 0 = none
	struct rlm_habit rx_habit; // of rx_lock

	// sleeping
	_Alignas(RLM_CACHELINE) struct rlm_lock wait_lock;
	uint32_t waiters[4];       // per bit of rlm_slot_shared.waiting
	_Atomic uint64_t tcp_quiet; // conn->events | RLM_TCP_QUIET when poll() last saw that TCP has nothing to tell
	struct rlm_hold rx_hold;   // see wake.h
	struct rlm_spin rx_spin;   // see wake.h
	struct rlm_spin tx_spin;
};

// Where a process counts what it holds, see family.h. id 0: it has no place.
struct rlm_share;
struct rlm_place {
	uint32_t index;
	uint32_t id;
	int fd; // its lock
	struct rlm_share *row;
};

// What one process has of a connection, see family.h.
struct rlm_share {
	_Atomic uint16_t descriptors;
	_Atomic uint16_t tx_inflight, rx_inflight, users; // its part of rlm_conn's
};

struct rlm_arena {
	struct rlm_table_shared *table; // also the broker's view
	struct rlm_conn_stat *stats;
	struct rlm_conn *conns;
	struct rlm_bound *bounds;
	struct rlm_arena_shared *shared;
	_Atomic bool *timestamps; // the family has sockets whose messages bring SO_TIMESTAMP and its like, or had
	struct rlm_family_shared *family;
	struct rlm_place place; // of this process
	uint32_t conn_capacity;
	uint32_t bound_capacity;
	int table_fd; // memfd, for HELLO
	int family_fd; // memfd with the rows of all places, -1: none
	dev_t family_device;
	ino_t family_inode;
	int tickets_fd; // these two: of this process alone, NULL until made
	struct rlm_tickets_shared *tickets;
};

// Maps everything, lazily populated. Effect of fork: shared with the child. 0 or -errno.
int arena_init(struct rlm_arena *arena, uint32_t conn_capacity, uint32_t bound_capacity);

// A sealed memfd of so many bytes, or -errno; and a part of it, of pages. NULL when it cannot be mapped.
int arena_make_memfd(const char *name, size_t size);
void *arena_map(int fd, uint64_t at, size_t size);

// The page of naming tickets. Not for the family: each process names its connections in a session of its own, and one's answer
// must not be taken for another's. 0 or -errno.
int arena_make_tickets(struct rlm_arena *arena);
// In fork's child: the page is the parent's. The caller closes tickets_fd first.
void arena_drop_tickets(struct rlm_arena *arena);

// Takes a connection entry without references, or NULL when the table is full.
struct rlm_conn *conn_new(struct rlm_arena *arena);
// Gives it back; the caller is the last who knows it. Adds its counters to the table's totals.
void conn_free(struct rlm_arena *arena, struct rlm_conn *conn);

struct rlm_bound *bound_new(struct rlm_arena *arena);
void bound_free(struct rlm_arena *arena, struct rlm_bound *bound);
// Bindings that were returned to their owner: the next one from *at on, NULL at the end.
struct rlm_bound *bound_next_returned(struct rlm_arena *arena, uint32_t *at);

static inline uint32_t conn_index(const struct rlm_arena *arena, const struct rlm_conn *conn)
{
	return (uint32_t)(conn - arena->conns);
}

static inline struct rlm_conn_stat *conn_stat(const struct rlm_arena *arena, const struct rlm_conn *conn)
{
	return &arena->stats[conn - arena->conns];
}

static inline uint32_t conn_generation(const struct rlm_arena *arena, const struct rlm_conn *conn)
{
	return atomic_load_explicit(&conn_stat(arena, conn)->generation, memory_order_acquire);
}

static inline struct rlm_bound *conn_bound(const struct rlm_arena *arena, const struct rlm_conn *conn)
{
	uint32_t i = atomic_load_explicit(&conn->bound, memory_order_acquire);

	return i ? &arena->bounds[i - 1] : NULL;
}

// A plain add by a single writer at a time; readers elsewhere see whole values.
static inline void stat_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

#endif

// SPDX-License-Identifier: BSD-2-Clause
// The inside of connections: for stream_*.c, for readiness (ready.c, poll.c, epoll*.c, bells.c), and for the helper thread.
#ifndef RLM_STREAM_INTERNAL_H
#define RLM_STREAM_INTERNAL_H

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "cutover.h"
#include "helper.h"
#include "real.h"
#include "settings.h"
#include "signals.h"
#include "stream.h"
#include "sys.h"
#include "wake.h"

#define RLM_CONNECTIONS 65536u // of a family

// bound's value while the helper holds both locks to have the socket named: no connection of ours is there yet.
#define BOUND_NAMING UINT32_MAX

// A long copy becomes visible in pieces, so that the other end can work at the same time. A bad buffer spoils one of them.
#define STREAM_PIECE (32u << 10)

// A send or a receive may take several looks at the connection. The result of one: nothing final yet.
#define GO_ON INT64_MAX

// The binding, or NULL. Caller holds one of the locks, so it does not go away.
static inline struct rlm_bound *stream_bound(const struct rlm_conn *c)
{
	uint32_t i = atomic_load_explicit(&c->bound, memory_order_acquire);

	return i && i != BOUND_NAMING ? &arena.bounds[i - 1] : NULL;
}

// Under a lock: fd still means this connection (another thread may have closed it and the entry may be somebody else's now).
static inline bool stream_is_current(const struct rlm_conn *c, int fd)
{
	return fd_conn(fd) == c;
}

// Drops a lock of the connection, which its thread may keep, see lock.h: as long as no other process of the family can take it.
void stream_drop_or_keep(const struct rlm_conn *c, const struct rlm_bound *b, struct rlm_lock *lock, struct rlm_habit *habit);

static inline void stream_drop_often(const struct rlm_conn *c, const struct rlm_bound *b, struct rlm_lock *lock, struct rlm_habit *habit)
{
	if (__builtin_expect(rlm_lock_is_kept(lock), 1))
		rlm_lock_drop_kept(lock);
	else
		stream_drop_or_keep(c, b, lock, habit);
}

// rx_lock. The caller has n bytes of the ring from `tail` on. Waking the sender is checked each time the tail passes a multiple of
// the grain, a quarter of what the sender puts into the ring or less: it waits only when that is full, so at least three such points lie ahead of it.
static inline void stream_took(struct rlm_conn *c, struct rlm_bound *b, uint64_t tail, uint64_t n)
{
	uint32_t grain = atomic_load_explicit(&b->rx.peer->grain, memory_order_relaxed);

	ring_free(&b->rx, tail + n);
	stat_add(&conn_stat(&arena, c)->rx_bytes_ring, n);
	if ((tail ^ (tail + n)) & ~((uint64_t)grain - 1)) {
		atomic_thread_fence(memory_order_seq_cst); // pairs with wake_listen()
		wake_sender(b);
	}
}

// tx_lock. What a call returns that put n bytes into the ring.
int64_t stream_sent_to_left(struct rlm_conn *c, struct rlm_bound *b, int fd, int flags, int64_t n);

static inline int64_t stream_sent(struct rlm_conn *c, struct rlm_bound *b, int fd, int flags, int64_t n)
{
	if (__builtin_expect(!atomic_load_explicit(&b->tx_fast, memory_order_relaxed) && cutover_tx_peer_left(b), 0))
		return stream_sent_to_left(c, b, fd, flags, n);
	return n;
}

// The connection of which this thread is a user because its call has more to receive. stream_recv_locked() ends that.
extern __thread struct rlm_conn *stream_kept;

// As stream_send() and stream_recv(), for one buffer, with the direction's lock, which they release.
int64_t stream_send_locked(struct rlm_conn *c, int fd, const void *data, uint64_t n, int flags);
int64_t stream_recv_locked(struct rlm_conn *c, int fd, void *data, uint64_t most, int flags);

// rx_lock, after cutover_rx() said RING or LIMIT: like recv() with MSG_PEEK, and never waits.
struct cursor;
int64_t stream_peek(struct rlm_bound *b, int fd, const struct cursor *at, uint64_t total);
int64_t stream_peek_all(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags);

// Where in an iovec array the next byte goes.
struct cursor {
	const struct iovec *iov;
	int left;      // entries, the current one included
	size_t offset; // within the current one
};

static inline uint64_t iov_total(const struct iovec *iov, int iovcnt)
{
	uint64_t n = 0;

	for (int i = 0; i < iovcnt; i++)
		n += iov[i].iov_len;
	return n;
}

// The next contiguous piece, at most `most` bytes; advances.
static inline void *cursor_next(struct cursor *c, uint64_t most, uint64_t *n)
{
	void *p;

	while (c->left && c->offset == c->iov->iov_len) {
		c->iov++;
		c->left--;
		c->offset = 0;
	}
	if (!c->left || !most) {
		*n = 0;
		return NULL;
	}
	p = (uint8_t *)c->iov->iov_base + c->offset;
	*n = c->iov->iov_len - c->offset;
	if (*n > most)
		*n = most;
	c->offset += *n;
	return p;
}

// What the cursor still covers, as an iovec array for the kernel; *first keeps the partial entry. Returns the array's length.
static inline int cursor_rest(const struct cursor *c, struct iovec *scratch, int capacity)
{
	int n = 0;

	for (int i = 0; i < c->left && n < capacity; i++) {
		scratch[n] = c->iov[i];
		if (i == 0) {
			scratch[n].iov_base = (uint8_t *)scratch[n].iov_base + c->offset;
			scratch[n].iov_len -= c->offset;
		}
		if (scratch[n].iov_len)
			n++;
	}
	return n;
}

// O_NONBLOCK counts as it is when a call begins. A call asks once, and goes by MSG_DONTWAIT then.
static inline int conn_is_nonblock(const struct rlm_conn *c)
{
	return atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_NONBLOCK ? MSG_DONTWAIT : 0;
}

struct deadline {
	bool set;
	uint32_t signals; // signals_handled when it was set
	struct timespec at;
};

// `at`: when the wait began.
static inline void deadline_set(struct deadline *d, uint64_t timeout_ns)
{
	const struct timespec timeout = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};

	d->at = rlm_time_plus(d->at, timeout);
	d->signals = signals_handled;
	d->set = true;
}

static inline void deadline_start(struct deadline *d, uint64_t timeout_ns)
{
	if (d->set || !timeout_ns)
		return;
	rlm_clock_now(&d->at);
	deadline_set(d, timeout_ns);
}

static inline bool deadline_left(const struct deadline *d, struct timespec *left)
{
	return rlm_clock_left(&d->at, left);
}

// A thread that is going to wait (or an armed epoll item) is a user: the connection stays as it is, even if the application closes the
// last descriptor meanwhile. enter: under one of the locks, or by one who has a descriptor. The last user of a closed
// connection finishes the close.
static inline void stream_enter(struct rlm_conn *c)
{
	FAMILY_ENTER(&arena, c, users);
}

// A descriptor of it gets known. false: it has too many.
bool stream_hold(struct rlm_conn *c, int fd);

static inline void stream_leave(struct rlm_conn *c)
{
	FAMILY_LEAVE(&arena, c, users);
	stream_left(c);
}

// A user goes to the kernel, counted in rx_inflight or tx_inflight: it looks at the connection anew afterwards, and sleeps there
// without keeping it bound. Unless it was closed: then the user is what keeps the socket.
static inline void stream_enter_kernel(struct rlm_conn *c, bool *user)
{
	if (!*user || atomic_load_explicit(&c->flags, memory_order_seq_cst) & RLM_CONN_CLOSING)
		return;
	*user = false;
	stream_leave(c);
}

// Both locks, fd about to be closed for the last time: does what TCP would do with what is in the ring and owed.
void stream_leave_slot(struct rlm_conn *c, struct rlm_bound *b, int fd);
// Gives the slot, or what stands for it, and the binding back.
void stream_unbind(struct rlm_bound *b);
// Nobody has a descriptor any more, and no thread is inside.
void stream_give_up(struct rlm_conn *c);

// The descriptor to use for the kernel: the caller's, or what keeps the socket after it was closed.
static inline int stream_fd(const struct rlm_conn *c, int fd)
{
	int ghost = atomic_load_explicit(&c->ghost, memory_order_acquire);

	return __builtin_expect(ghost != 0, 0) ? ghost - 1 : fd;
}

// tx_lock. The peer has closed its end, as the application knows: only bytes on TCP can find out whether it is still there to take them.
static inline void stream_stop_sending(struct rlm_bound *b)
{
	b->tx_stop = 1;
	atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
}

// The result of a call that moved `done` bytes before its last step said n: an error after some bytes is kept for the next call.
int64_t stream_partial(struct rlm_conn *c, uint64_t done, int64_t n);

// For users only. Called with the direction's lock held, which they release. 0: look again; 1: look, and at TCP too;
// -EINTR, -EAGAIN (the deadline). Cancellation points.
int stream_wait_data(struct rlm_conn *c, struct rlm_bound *b, int fd, struct deadline *d);
int stream_wait_room(struct rlm_conn *c, struct rlm_bound *b, int fd, struct deadline *d);
// Until TCP takes bytes again. Same results. c: of which the caller is a user, no lock held. NULL: no cancellation point.
int stream_wait_tcp_writable(struct rlm_conn *c, int fd, struct deadline *d);
// No lock held: until something happens to the connection (another thread leaves the kernel).
int stream_wait_event(struct rlm_conn *c, uint32_t seen, struct deadline *d);

// As sys_futex_wait_any(), and a cancellation point. abandon: if the thread is cancelled or a handler jumps out.
long stream_sleep(const struct futex_waitv *words, unsigned n, const struct timespec *deadline, void (*abandon)(void *), void *arg);
// Which words change when the peer rings the bell of b, or anything happens to its connection; at most two. Before listening, see wake.h.
unsigned stream_words(const struct rlm_conn *c, const struct rlm_bound *b, struct futex_waitv *words);

// Under tx_lock / rx_lock: make the statistics show the carrier of now.
void stream_note_tx(struct rlm_conn *c, const struct rlm_bound *b);
void stream_note_rx(struct rlm_conn *c, const struct rlm_bound *b);
void stream_note_why(struct rlm_conn *c);

// Under both locks: takes SO_RCVTIMEO and SO_SNDTIMEO over from the socket.
void stream_read_timeouts(struct rlm_bound *b, int fd);
uint64_t stream_timeout_ns(int fd, int name); // 0: none

// Waits for a lock up to 100 ms: who holds it for longer is stopped, perhaps in another process, or was interrupted by a handler of this thread.
bool stream_lock_patiently(struct rlm_lock *lock);

// Leaving a slot while the connection lives, see leaving.c. Helper thread. true: the slot's memory is not needed any more.
bool stream_retreat(struct rlm_conn *c, uint64_t link, uint32_t side);
// The same connection, later: true: everything that was left was read, it is not bound any more.
bool stream_retire(struct rlm_conn *c);
// Helper thread. A slot whose peer has not bound its half at a second look is left: stream_retire() does the rest. true: there has to be a second look.
bool stream_look_for_peer(struct rlm_conn *c);
// A descriptor of the connection is in this process, or what keeps its socket after it was closed.
bool stream_is_here(const struct rlm_conn *c);
// Under both locks, of a binding that is lost: goes on over TCP from here on, or both ends see a reset.
void stream_lost(struct rlm_conn *c, struct rlm_bound *b, int fd);
// The same without locks, for a call that found it so: look again.
void stream_find_lost(struct rlm_conn *c, int fd);
// Under a lock: this end gives up, the other one shall see a reset.
void stream_reset(struct rlm_bound *b, int fd);
// Not shared with another process: what one of them maps the others have not.
bool stream_is_alone(const struct rlm_conn *c);
// Both directions are plain: unbinds. false: somebody waits on the slot.
bool stream_detach(struct rlm_conn *c, int fd);
// Before shutdown(SHUT_RD): from then on the kernel says "end" whenever its queue is empty, and whether TCP has ended could not be told from that.
void stream_to_kernel_for_shut_rd(struct rlm_conn *c, int fd);
// Closes that have taken the descriptor's entry away and are not through with the slot.
extern _Atomic uint32_t stream_closing;

// The peer misbehaved or the stream is torn: both ends shall see a reset. Under a lock.
void stream_break(struct rlm_conn *c, struct rlm_bound *b, int fd);

#endif

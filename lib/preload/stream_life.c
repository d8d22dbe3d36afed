// SPDX-License-Identifier: BSD-2-Clause
// Connections come, are duplicated, shut down and closed.
#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "engine.h"
#include "epoll.h"
#include "stream_internal.h"

uint32_t stream_threshold_calls = 16;
uint64_t stream_threshold_bytes = 64 * 1024;

void stream_note_why(struct rlm_conn *c)
{
	struct rlm_conn_stat *s = conn_stat(&arena, c);
	struct rlm_bound *b = stream_bound(c);
	uint32_t flags = atomic_load_explicit(&c->flags, memory_order_relaxed);
	uint16_t why;

	if (!b || flags & RLM_CONN_BARRED)
		return;
	if (s->tx_carrier && s->rx_carrier)
		why = RLM_WHY_ACCELERATED;
	else if (flags & RLM_CONN_HELD)
		why = RLM_WHY_DEMOTED;
	else if (b->leaving)
		why = RLM_WHY_MIGRATING;
	else if (b->tx_dead || b->rx_eof || flags & RLM_CONN_TX_SHUT)
		why = RLM_WHY_CLOSING;
	else
		why = RLM_WHY_WAITING;
	atomic_store_explicit(&s->why, why, memory_order_relaxed);
}

static void note(struct rlm_conn *c, _Atomic uint8_t *carrier, uint8_t now)
{
	struct rlm_conn_stat *s = conn_stat(&arena, c);

	if (atomic_load_explicit(carrier, memory_order_relaxed) == now)
		return;
	if (atomic_load_explicit(&s->switches, memory_order_relaxed) == 0)
		atomic_fetch_add_explicit(&arena.table->promoted, 1, memory_order_relaxed);
	atomic_store_explicit(carrier, now, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->switches, 1, memory_order_relaxed);
	stream_note_why(c);
	wake_conn(c); // who sleeps for one carrier looks at the other
}

void stream_note_tx(struct rlm_conn *c, const struct rlm_bound *b)
{
	note(c, &conn_stat(&arena, c)->tx_carrier, b->tx_state == TX_RING ? RLM_CARRIER_RING : RLM_CARRIER_PLAIN);
}

void stream_note_rx(struct rlm_conn *c, const struct rlm_bound *b)
{
	bool ring = b->rx_state == RX_RING || b->rx_state == RX_FRAMES;

	note(c, &conn_stat(&arena, c)->rx_carrier, ring ? RLM_CARRIER_RING : RLM_CARRIER_PLAIN);
}

void stream_break(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	if (atomic_load_explicit(&conn_stat(&arena, c)->why, memory_order_relaxed) == RLM_WHY_MISBEHAVED)
		return; // once
	log_warn("fd %d: the peer wrote nonsense into shared memory, connection reset", fd);
	log_info("fd %d: receiving state %u round %u asked %u, frames %u of \"%c%c\", drain %lu, past %u, ring %lu to %lu; peer's round %u, "
		 "wish %u, end %lu, cut %lu; taken %ld",
		 fd, b->rx_state, b->rx_round, b->rx_asked, b->frame_got, b->frame_got > 0 ? b->frame[0] : '-',
		 b->frame_got > 1 ? b->frame[1] : '-', (unsigned long)b->drain, b->rx_past,
		 (unsigned long)b->rx.mine->tail, (unsigned long)b->rx.peer->head, b->rx.peer->tx_round, b->rx.peer->tx_wish,
		 (unsigned long)b->rx.peer->end, (unsigned long)b->rx.peer->cut, (long)tcp_taken(fd));
	stream_reset(b, fd);
	atomic_fetch_or_explicit(&c->flags, RLM_CONN_BARRED, memory_order_relaxed);
	atomic_store_explicit(&conn_stat(&arena, c)->why, RLM_WHY_MISBEHAVED, memory_order_relaxed);
}

// Enough has passed: worth an offer?
void stream_consider(struct rlm_conn *c, int fd)
{
	uint32_t flags = atomic_load_explicit(&c->flags, memory_order_relaxed);

	if (!settings.enabled || flags & (RLM_CONN_OFFERED | RLM_CONN_BARRED | RLM_CONN_QUEUED | RLM_CONN_HELD) ||
	    atomic_load_explicit(&c->bound, memory_order_relaxed))
		return;
	helper_offer(c);
}

#define FULL_SWEEP_MS 100 // a table that is really full is not looked through with every connection

struct rlm_conn *stream_open(int fd, bool nonblock)
{
	struct rlm_conn *c;

	if (!settings.enabled || (unsigned)fd >= FDTABLE_SIZE || !engine_start())
		return NULL;
	signals_watch();
	c = conn_new(&arena);
	if (!c) {
		stream_sweep(FULL_SWEEP_MS);
		c = conn_new(&arena);
	}
	if (!c) {
		fd_clear(fd);
		return NULL;
	}
	if (nonblock)
		atomic_store_explicit(&c->flags, RLM_CONN_NONBLOCK, memory_order_relaxed);
	stream_hold(c, fd);
	return c;
}

// Unread payload of ours: TCP would answer a close with a reset.
static bool has_unread(struct rlm_bound *b, int fd)
{
	uint64_t n;

	// What was asked back comes after a FIN that goes out now, and its reset would find the peer half closed.
	if (b->rx_broken || cutover_rx_is_on_its_way(b, fd))
		return true;
	if (b->rx_state != RX_RING && b->rx_state != RX_DRAIN)
		return false;
	n = ring_available_now(&b->rx);
	return n && n != RLM_RING_BROKEN;
}

// Frames that lie unread in the kernel's queue would make it answer the close with a reset that plain TCP would not send.
static void eat_frames(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available;
	uint8_t before;

	do {
		before = b->rx_state;
		while (b->rx_state == RX_RING && !b->rx_eof && !b->rx_broken && cutover_rx_look_at_tcp(b, fd) &&
		       !cutover_rx_has_ended(b))
			;
		if (!b->rx_broken && before != RX_PLAIN)
			cutover_rx(c, b, fd, &available);
	} while (b->rx_state != before && b->rx_state != RX_PLAIN);
}

// Bytes that a receiver asked back and TCP has not taken yet: nobody else can deliver them.
static void pay_before_close(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	struct deadline d = {0};

	if (!b->gone && !cutover_is_lost(b))
		cutover_tx_release(b);
	deadline_start(&d, 2000000000u);
	while (b->tx_state == TX_PLAIN && cutover_tx_owes(b) && cutover_tx(c, b, fd, false) == TX_WAY_BLOCKED && stream_wait_tcp_writable(NULL, fd, &d) >= 0)
		;
}

// What was sent last is in memory that the peer does not see: no orderly end.
static bool ring_is_lost(const struct rlm_bound *b)
{
	return b->tx_state == TX_RING && !b->tx_dead && (cutover_is_lost(b) || !cutover_slot_stands(b));
}

void stream_leave_slot(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};

	b->tx_stop = b->rx_stop = 1;
	if (ring_is_lost(b))
		stream_break(c, b, fd);
	pay_before_close(c, b, fd);
	if (b->rx_state == RX_READY && !b->gone)
		cutover_rx_ask(b); // the offer must not outlive us
	eat_frames(c, b, fd);
	if (has_unread(b, fd))
		sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (!b->gone)
		cutover_rx_left(b);
}

// A duplicate is under way to the broker, and must not delay what a close says to the peer: the end, or a reset when it throws bytes away or
// was told to. Not when others have the socket: then the close says nothing.
static void say_closed(int fd)
{
	const struct sockaddr none = {.sa_family = AF_UNSPEC};
	struct linger linger = {0, 0};
	socklen_t len = sizeof(linger);
	int unread = 0;

	sys_getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len);
	sys_ioctl(fd, SIOCINQ, &unread);
	if (unread > 0 || (linger.l_onoff && !linger.l_linger))
		sys_call3(SYS_connect, fd, &none, sizeof(none));
	else
		sys_call2(SYS_shutdown, fd, SHUT_RDWR);
}

// The socket is about to be closed for good: fd, -1 if it is closed already. No thread is inside.
static void let_go(struct rlm_conn *c, int fd)
{
	uint32_t index = conn_index(&arena, c), generation = conn_generation(&arena, c), flags;
	struct rlm_bound *b;

	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	log_debug("fd %d closes: %u switches, sent %lu by TCP and %lu by ring, received %lu and %lu, last reason %u", fd,
		  conn_stat(&arena, c)->switches, (unsigned long)conn_stat(&arena, c)->tx_bytes_plain,
		  (unsigned long)conn_stat(&arena, c)->tx_bytes_ring, (unsigned long)conn_stat(&arena, c)->rx_bytes_plain,
		  (unsigned long)conn_stat(&arena, c)->rx_bytes_ring, conn_stat(&arena, c)->why);
	if (b && fd >= 0)
		stream_leave_slot(c, b, fd);
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	flags = atomic_load_explicit(&c->flags, memory_order_seq_cst);
	if (!b && flags & RLM_CONN_OFFERED) {
		if (helper_offer_outstanding(c) && fd >= 0 && !(flags & RLM_CONN_INHERITED))
			say_closed(fd);
		helper_withdraw(index, generation);
	}
	stream_give_up(c);
}

_Atomic uint32_t stream_closing;

// One who was counted in and finds CLOSING set keeps the connection. false: somebody is inside, or another one does it.
static bool claim_close(struct rlm_conn *c)
{
	while (!conn_in_use(c)) {
		if (!(atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_CLOSING, memory_order_seq_cst) & RLM_CONN_CLOSING))
			return false;
		if (!conn_in_use(c))
			return true;
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_CLOSING, memory_order_seq_cst);
	}
	return false;
}

void stream_finish_close(struct rlm_conn *c)
{
	int ghost;

	atomic_fetch_add_explicit(&stream_closing, 1, memory_order_seq_cst);
	if (claim_close(c)) {
		ghost = atomic_exchange_explicit(&c->ghost, 0, memory_order_seq_cst) - 1;
		let_go(c, ghost);
		fd_close_internal(ghost);
	}
	atomic_fetch_sub_explicit(&stream_closing, 1, memory_order_seq_cst);
}

static void pass_through(struct rlm_lock *lock)
{
	if (stream_lock_patiently(lock))
		rlm_lock_drop(lock);
}

// The number is not the connection's any more, but not yet closed: whoever found under a lock that it was is done with it then.
static void wait_for_lookers(struct rlm_conn *c)
{
	if (!stream_bound(c))
		return;
	pass_through(&c->tx_lock);
	pass_through(&c->rx_lock);
}

// As in the kernel, threads that are inside a call keep the socket: the last one closes it. Only those of this process can be there,
// unless one that died was inside when another one was: then nobody knows, and the entry is lost.
static void close_last(struct rlm_conn *c, int fd)
{
	bool mine;
	long ghost;

	if (conn_in_use(c))
		stream_sweep(0); // those who are inside may be dead
	if (!conn_in_use(c)) {
		let_go(c, fd);
		return;
	}
	mine = family_is_inside(&arena, c);
	ghost = mine ? sys_fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
	if (ghost >= 0)
		ghost = fd_make_internal((int)ghost);
	rlm_lock_take(&c->rx_lock); // see settle(): who has the lock and finds no ghost may use fd
	atomic_store_explicit(&c->ghost, (int)(ghost >= 0 ? ghost + 1 : 0), memory_order_seq_cst);
	rlm_lock_drop(&c->rx_lock);
	atomic_fetch_or_explicit(&c->flags, RLM_CONN_CLOSING, memory_order_seq_cst);
	stream_finish_close(c);
}

void stream_forget(int fd)
{
	uint32_t entry = fd_entry(fd);
	struct rlm_conn *c;

	switch ((enum fd_kind)(entry >> FD_VALUE_BITS)) {
	case FD_CONN:
		c = &arena.conns[entry & FD_VALUE_MASK];
		epoll_forget_conn(fd, c);
		atomic_fetch_add_explicit(&stream_closing, 1, memory_order_seq_cst);
		stream_let_go(c);
		fd_clear(fd);
		helper_wait_unpinned(c);
		wait_for_lookers(c);
		if (stream_bound(c) && atomic_load_explicit(&c->refs, memory_order_relaxed) > 1)
			stream_sweep(0); // it is the last one if the others are dead
		if (family_release(&arena, c)) {
			if (helper_offer_outstanding(c))
				epoll_take_out(fd);
			close_last(c, fd);
		} else if (stream_bound(c)) {
			helper_note_lent();
		}
		atomic_fetch_sub_explicit(&stream_closing, 1, memory_order_seq_cst);
		break;
	case FD_EPOLL:
		fd_clear(fd);
		epoll_forget(entry & FD_VALUE_MASK);
		break;
	case FD_INTERNAL:
		break;
	default:
		fd_clear(fd);
	}
}

void stream_duplicated(int oldfd, int newfd)
{
	uint32_t entry = fd_entry(oldfd);

	if (!entry || (unsigned)newfd >= FDTABLE_SIZE)
		return;
	switch ((enum fd_kind)(entry >> FD_VALUE_BITS)) {
	case FD_CONN:
		if (!stream_hold(fd_conn(oldfd), newfd))
			stream_to_kernel(fd_conn(oldfd), oldfd, RLM_WHY_LIMIT);
		return;
	case FD_EPOLL:
		epoll_duplicated(entry & FD_VALUE_MASK);
		break;
	case FD_SOCKET:
		break;
	default:
		return;
	}
	fd_set_entry(newfd, (enum fd_kind)(entry >> FD_VALUE_BITS), entry & FD_VALUE_MASK);
}

int stream_shutdown(struct rlm_conn *c, int fd, int how)
{
	struct rlm_bound *b;
	int r;

	if (how == SHUT_RD)
		stream_to_kernel_for_shut_rd(c, fd);
	if (how != SHUT_WR && how != SHUT_RDWR)
		return REAL(shutdown)(fd, how);
	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && ring_is_lost(b))
		stream_break(c, b, fd);
	if (b)
		pay_before_close(c, b, fd);
	r = REAL(shutdown)(fd, how);
	if (r == 0 && b && !b->gone) {
		// The ring was filled before the FIN: the receiver empties it, then finds the end on TCP.
		b->tx_dead = 1;
		atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
		wake_all(b);
	}
	if (r == 0)
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_TX_SHUT, memory_order_relaxed);
	rlm_lock_drop(&c->tx_lock);
	wake_conn(c);
	return r;
}

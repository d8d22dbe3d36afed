// SPDX-License-Identifier: BSD-2-Clause
// Connections come, are duplicated, shut down, closed, inherited, and handed back to the kernel.
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#include "engine.h"
#include "epoll.h"
#include "signals.h"
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
	family_hold(&arena, &arena.place, c);
	if (nonblock)
		atomic_store_explicit(&c->flags, RLM_CONN_NONBLOCK, memory_order_relaxed);
	fd_set_entry(fd, FD_CONN, conn_index(&arena, c));
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
		if (family_hold(&arena, &arena.place, fd_conn(oldfd)))
			break;
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

void stream_set_nonblock(struct rlm_conn *c, bool nonblock)
{
	if (nonblock)
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_NONBLOCK, memory_order_relaxed);
	else
		atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_NONBLOCK, memory_order_relaxed);
}

void stream_let_go(struct rlm_conn *c)
{
	struct rlm_bound *b;

	if (!stream_bound(c))
		return;
	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && !b->gone && !cutover_is_lost(b))
		cutover_tx_release(b);
	rlm_lock_drop(&c->tx_lock);
}

void stream_set_corked(struct rlm_conn *c, bool corked)
{
	if (corked)
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_CORKED, memory_order_relaxed);
	else
		atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_CORKED, memory_order_relaxed);
}

int stream_set_pushing(struct rlm_conn *c, int fd, int name, const void *value, socklen_t len)
{
	struct rlm_bound *b;
	bool on;
	int r;

	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	r = REAL(setsockopt)(fd, IPPROTO_TCP, name, value, len);
	on = r == 0 && *(const int *)value;
	if (r == 0 && name == TCP_CORK)
		stream_set_corked(c, on);
	if (b && !b->gone && !cutover_is_lost(b)) {
		atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
		if (r == 0 && on == (name == TCP_NODELAY))
			cutover_tx_release(b);
	}
	rlm_lock_drop(&c->tx_lock);
	return r;
}

uint64_t stream_timeout_ns(int fd, int name)
{
	struct timeval tv = {0, 0};
	socklen_t len = sizeof(tv);

	if (sys_getsockopt(fd, SOL_SOCKET, name, &tv, &len) < 0)
		return 0;
	return (uint64_t)tv.tv_sec * 1000000000u + (uint64_t)tv.tv_usec * 1000u;
}

void stream_read_timeouts(struct rlm_bound *b, int fd)
{
	b->rx_timeout_ns = stream_timeout_ns(fd, SO_RCVTIMEO);
	b->tx_timeout_ns = stream_timeout_ns(fd, SO_SNDTIMEO);
}

void stream_option_set(struct rlm_conn *c, int fd, int level, int name)
{
	struct rlm_bound *b;

	if (level != SOL_SOCKET || (name != SO_RCVTIMEO && name != SO_SNDTIMEO))
		return;
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b)
		stream_read_timeouts(b, fd);
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
}

int64_t stream_partial(struct rlm_conn *c, uint64_t done, int64_t n)
{
	struct rlm_bound *b;

	if (n >= 0)
		return (int64_t)done + n;
	if (!done)
		return n;
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b)
		cutover_keep_error(b, n);
	rlm_lock_drop(&c->rx_lock);
	return (int64_t)done;
}

int stream_error(struct rlm_conn *c)
{
	struct rlm_bound *b;
	int error = 0;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b)
		error = -cutover_take_error(b);
	rlm_lock_drop(&c->rx_lock);
	return error;
}

int stream_unread(struct rlm_conn *c, int fd, int kernel)
{
	struct rlm_bound *b;
	uint64_t n;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	n = b && !cutover_is_lost(b) ? cutover_rx_unread(c, b, fd) : (uint64_t)kernel;
	rlm_lock_drop(&c->rx_lock);
	return n > INT_MAX ? INT_MAX : (int)n;
}

int stream_at_mark(struct rlm_conn *c, int fd, int kernel)
{
	struct rlm_bound *b;
	int at;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	at = b && !cutover_is_lost(b) ? cutover_rx_at_mark(c, b, fd) : kernel;
	rlm_lock_drop(&c->rx_lock);
	return at;
}

// Most of the ring stands for the peer's receive buffer, where TCP counts bytes as arrived; the rest for our send buffer.
int stream_unsent(struct rlm_conn *c, int kernel)
{
	struct rlm_bound *b;
	uint64_t queued = (uint64_t)kernel, fill;

	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && b->tx_state == TX_RING && !b->tx_dead && !cutover_is_lost(b)) {
		fill = ring_next(&b->tx) - atomic_load_explicit(&b->tx.peer->tail, memory_order_acquire);
		queued = fill <= b->tx.size && fill > b->tx.size / 4 * 3 ? fill - b->tx.size / 4 * 3 : 0;
	}
	rlm_lock_drop(&c->tx_lock);
	return (int)queued;
}

enum hurry {
	HURRY_NOT, // until the ring is empty
	HURRY_ASK, // the receiver has to ask back what is in there
	HURRY_END, // it does not: it may keep what is in there
};

// What of a round that the peer has ended may stay, for us alone to read.
enum leftover {
	LEFT_NOTHING,
	LEFT_RING,	      // what it put into the ring: all that comes on TCP is payload
	LEFT_RING_AND_FRAMES, // and what of its frames is still to come
};

static bool may_stay(struct rlm_bound *b, int fd, enum leftover leftover)
{
	if (leftover == LEFT_NOTHING || !cutover_rx_has_ended(b))
		return false;
	return leftover == LEFT_RING_AND_FRAMES || cutover_rx_has_frames(b, fd);
}

// hurry: the peer does not read what we have left in the ring.
static bool is_plain(struct rlm_conn *c, int fd, enum leftover leftover, enum hurry hurry)
{
	struct rlm_bound *b;
	uint64_t available;
	bool plain = true;

	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && !b->tx_dead && !cutover_tx_is_plain(b)) {
		b->tx_stop = 1;
		if (hurry >= HURRY_ASK)
			cutover_tx_need(b);
		if (hurry == HURRY_END)
			cutover_tx_end(b);
		cutover_tx(c, b, fd, false);
		cutover_tx_pay(b, fd);
		stream_note_tx(c, b);
		plain = cutover_tx_is_plain(b) || b->tx_dead;
	}
	rlm_lock_drop(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && !cutover_rx_is_settled(b, fd)) {
		cutover_rx_ask(b);
		if (cutover_rx(c, b, fd, &available) == RX_WAY_KERNEL)
			plain = plain && available == 0; // TCP has ended and so has the ring
		else if (!may_stay(b, fd, leftover))
			plain = plain && cutover_rx_is_settled(b, fd);
		stream_note_rx(c, b);
	}
	rlm_lock_drop(&c->rx_lock);
	wake_conn(c); // threads that sleep on a round that is over
	return plain;
}

// Both directions are plain for good: from here on every call goes straight to the kernel. Not while somebody waits on the slot.
bool stream_detach(struct rlm_conn *c, int fd)
{
	struct rlm_bound *b;

	epoll_conn_unbinds(c);
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && (atomic_load_explicit(&c->users, memory_order_seq_cst) || !cutover_rx_is_settled(b, fd) ||
		  !cutover_tx_is_plain(b)))
		b = NULL;
	if (b)
		atomic_store_explicit(&c->bound, 0, memory_order_seq_cst);
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	if (!b)
		return false;
	stream_unbind(b);
	wake_conn(c);
	return true;
}

#define LEAVE_TIMEOUT_MS 2000
#define LEAVE_ASK_MS 20
#define LEAVE_END_MS 500
#define LEAVE_TURN_MS 2 // a look counts for no more: on a crowded machine the peer gets its turns, too, before time is up

// Since `start`, after so many looks.
static int waited_ms(uint64_t start, int looks)
{
	uint64_t ms = sys_ms() - start;

	return ms < (uint64_t)looks * LEAVE_TURN_MS ? (int)ms : looks * LEAVE_TURN_MS;
}

static enum hurry hurry_after(int ms)
{
	return ms < LEAVE_ASK_MS ? HURRY_NOT : ms < LEAVE_END_MS ? HURRY_ASK : HURRY_END;
}

// What an exec that may still fail has barred here, by connection; so much of rlm_conn.flags is to be taken back then.
static uint32_t barred_for_exec[RLM_CONNECTIONS];

static uint32_t bar(struct rlm_conn *c, enum rlm_why why)
{
	uint32_t also = why == RLM_WHY_SHARED ? RLM_CONN_INHERITED : 0;

	return ~atomic_fetch_or_explicit(&c->flags, RLM_CONN_BARRED | also, memory_order_seq_cst) & (RLM_CONN_BARRED | also);
}

static int to_kernel(struct rlm_conn *c, int fd, enum rlm_why why, enum leftover leftover, uint32_t *barred)
{
	const struct timespec moment = {.tv_nsec = 200000};
	uint64_t start = sys_ms();
	struct rlm_bound *b;
	int waited;

	*barred = bar(c, why);
	if (*barred & RLM_CONN_BARRED)
		atomic_store_explicit(&conn_stat(&arena, c)->why, why, memory_order_relaxed);
	if (!atomic_load_explicit(&c->bound, memory_order_seq_cst))
		return 0;
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b) {
		b->tx_stop = b->rx_stop = 1;
		atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
	}
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	for (int i = 0; (waited = waited_ms(start, i)) < LEAVE_TIMEOUT_MS; i++) {
		if (is_plain(c, fd, leftover, hurry_after(waited))) {
			stream_detach(c, fd);
			return 0;
		}
		if (b && i % 50 == 0)
			sys_ring(b->control_peer, b->control_port);
		sys_call2(SYS_nanosleep, &moment, NULL);
	}
	log_warn("fd %d: the peer did not take the connection back to TCP in time", fd);
	return -EBUSY;
}

static int to_kernel_for_good(struct rlm_conn *c, int fd, enum rlm_why why, enum leftover leftover)
{
	uint32_t barred;

	barred_for_exec[conn_index(&arena, c)] = 0;
	return to_kernel(c, fd, why, leftover, &barred);
}

int stream_to_kernel(struct rlm_conn *c, int fd, enum rlm_why why)
{
	return to_kernel_for_good(c, fd, why, why == RLM_WHY_OPTION ? LEFT_RING_AND_FRAMES : LEFT_NOTHING);
}

int stream_shutdown(struct rlm_conn *c, int fd, int how)
{
	struct rlm_bound *b;
	int r;

	// From then on the kernel says "end" whenever its queue is empty: whether TCP has ended could not be told from that.
	if (how == SHUT_RD)
		to_kernel_for_good(c, fd, RLM_WHY_OPTION, LEFT_RING);
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

// The other end may be ours as well: what is unread here must be asked back before that one leaves the ring by itself.
static void ask_back(struct rlm_conn *c)
{
	struct rlm_bound *b;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && !cutover_is_lost(b))
		cutover_rx_ask(b);
	rlm_lock_drop(&c->rx_lock);
}

static bool is_kept(int fd)
{
	long flags = sys_fcntl(fd, F_GETFD, 0);

	return flags >= 0 && !(flags & FD_CLOEXEC);
}

// The next program would go on in the middle of what is still in the ring, or owed to TCP, and nobody would know. A standard stream is
// meant for it in any case; another descriptor is more often a copy that nobody uses, and then others of the family go on with the connection.
static void cut_off(struct rlm_conn *c, int fd)
{
	struct rlm_bound *b;

	if (fd > STDERR_FILENO && !stream_is_alone(c))
		return;
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b) {
		stream_reset(b, fd);
		log_warn("fd %d: not all of the stream can follow into another program, connection reset", fd);
	}
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	wake_conn(c);
}

void stream_all_to_kernel(enum rlm_why why, bool kept_only, bool for_good)
{
	for (int leaving = 0; leaving < 2; leaving++) {
		for (int fd = 0; fd <= fd_highest(); fd++) {
			struct rlm_conn *c = fd_conn(fd);
			uint32_t barred;

			if (!c || (kept_only && !is_kept(fd)))
				continue;
			if (!leaving)
				barred_for_exec[conn_index(&arena, c)] = 0;
			if (!leaving && stream_bound(c))
				ask_back(c);
			if (leaving && to_kernel(c, fd, why, LEFT_NOTHING, &barred) < 0 && for_good)
				cut_off(c, fd);
			if (leaving)
				barred_for_exec[conn_index(&arena, c)] |= barred;
		}
	}
}

static void unbar(struct rlm_conn *c, int fd)
{
	uint32_t index = conn_index(&arena, c), barred = barred_for_exec[index];
	struct rlm_bound *b;

	barred_for_exec[index] = 0;
	if (!barred)
		return;
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	atomic_fetch_and_explicit(&c->flags, ~barred, memory_order_seq_cst);
	if (b && barred & RLM_CONN_BARRED && !b->rx_broken) {
		b->rx_stop = 0;
		b->tx_stop = sys_poll_now(fd, POLLRDHUP) > 0; // see stream_stop_sending()
	}
	if (barred & RLM_CONN_BARRED)
		atomic_store_explicit(&conn_stat(&arena, c)->why, RLM_WHY_THRESHOLD, memory_order_relaxed);
	stream_note_why(c);
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
}

void stream_after_exec(void)
{
	for (int fd = 0; fd <= fd_highest(); fd++)
		if (fd_conn(fd))
			unbar(fd_conn(fd), fd);
}

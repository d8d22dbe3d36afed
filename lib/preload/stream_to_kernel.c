// SPDX-License-Identifier: BSD-2-Clause
// Connections go back to the kernel for good, before something is done with them that librlm does not follow: a call, or an exec.
#include <fcntl.h>
#include <unistd.h>

#include "epoll.h"
#include "stream_internal.h"

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

int stream_to_kernel_whole(struct rlm_conn *c, int fd)
{
	return to_kernel_for_good(c, fd, RLM_WHY_OPTION, LEFT_NOTHING);
}

void stream_to_kernel_for_shut_rd(struct rlm_conn *c, int fd)
{
	to_kernel_for_good(c, fd, RLM_WHY_OPTION, LEFT_RING);
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

// SPDX-License-Identifier: BSD-2-Clause
// One connection leaves its slot while it lives: the steps of leaving.c.
#include <netinet/in.h>

#include "binding.h"
#include "epoll.h"
#include "leaving.h"
#include "stream_internal.h"

bool stream_is_here(const struct rlm_conn *c)
{
	int ghost;

	// A family's table names connections of all its processes.
	if (!stream_forked || fd_of_conn(c) >= 0)
		return true;
	ghost = atomic_load_explicit(&c->ghost, memory_order_seq_cst) - 1;
	return ghost >= 0 && fd_kind(ghost) == FD_INTERNAL;
}

// The connection's descriptor, or what keeps its socket after a close; then as one more user. -1: it is being closed right now.
static int borrow(struct rlm_conn *c, bool *user)
{
	int fd = helper_pin(c);

	*user = false;
	if (fd >= 0)
		return fd;
	stream_enter(c);
	*user = true;
	if (atomic_load_explicit(&c->flags, memory_order_seq_cst) & RLM_CONN_CLOSING)
		return atomic_load_explicit(&c->ghost, memory_order_seq_cst) - 1;
	return -1;
}

static void give_back(struct rlm_conn *c, bool user)
{
	helper_unpin();
	if (user)
		stream_leave(c);
}

// Forked processes share the connection, and memory that one of them makes is not the others': there everything has to come back over TCP.
static bool is_ready_to_leave(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	bool ready = cutover_leave_begin(c, b, fd);

	if (ready && !stream_is_alone(c))
		ready = cutover_tx_is_plain(b) && cutover_rx_is_settled(b, fd);
	if (!ready && !stream_is_alone(c))
		cutover_rx_ask(b);
	return ready;
}

static void kick_sleepers(struct rlm_conn *c, int doorbell)
{
	const uint64_t one = 1;

	if (doorbell >= 0)
		sys_write(doorbell, &one, sizeof(one)); // whoever sleeps in poll
	epoll_conn_leaves(c);
	wake_conn(c);
}

static bool take_own_memory(struct rlm_conn *c)
{
	struct rlm_bound *b;
	bool done = true;

	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && !b->own) {
		done = atomic_load_explicit(&b->holders, memory_order_acquire) == 0 && cutover_leave(b) == 0;
		if (done)
			b->here = &b->location;
	}
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	return done;
}

bool stream_retreat(struct rlm_conn *c, uint64_t link, uint32_t side)
{
	bool user, ready = false, done = false;
	int fd = borrow(c, &user), doorbell = -1;
	struct rlm_bound *b;

	if (fd < 0)
		goto out;
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	done = !b || b->own || b->link != link || b->side != side;
	if (!done) {
		if (cutover_is_lost(b))
			stream_lost(c, b, fd);
		ready = b->gone || is_ready_to_leave(c, b, fd);
		b->leaving |= ready;
		doorbell = b->doorbell_mine;
		stream_note_tx(c, b);
		stream_note_rx(c, b);
		stream_note_why(c);
	}
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	if (done)
		goto out;
	if (ready)
		kick_sleepers(c, doorbell);
	else
		wake_conn(c); // who sleeps on a round that is over
	if (ready && stream_is_alone(c))
		done = take_own_memory(c);
	else if (ready)
		done = stream_detach(c, fd);
out:
	give_back(c, user);
	return done;
}

bool stream_retire(struct rlm_conn *c)
{
	struct rlm_bound *b;
	uint64_t available;
	bool user, plain = false;
	int fd = borrow(c, &user);

	if (fd < 0)
		goto out;
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b) {
		cutover_tx_pay(b, fd);
		cutover_rx(c, b, fd, &available);
		plain = cutover_tx_is_plain(b) && cutover_rx_is_settled(b, fd);
		stream_note_tx(c, b);
		stream_note_rx(c, b);
	}
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	wake_conn(c);
	if (plain)
		plain = stream_detach(c, fd);
out:
	give_back(c, user);
	return plain;
}

static bool waits_in_vain(const struct rlm_bound *b)
{
	return b && !b->own && !b->gone && !b->leaving && !cutover_is_lost(b) && cutover_is_lonely(b);
}

// Under both locks, at the second look. false: it has bound just now, and an offer that was withdrawn is made again.
static bool give_up(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available;

	if (cutover_leave_lonely(b)) {
		b->vacant = b->leaving = 1;
		return true;
	}
	cutover_rx(c, b, fd, &available);
	return false;
}

bool stream_look_for_peer(struct rlm_conn *c)
{
	int fd = helper_pin(c), doorbell = -1;
	bool again = false, left = false;
	struct rlm_bound *b = stream_bound(c);

	if (b && b->vacant) // perhaps by a process of the family that is gone
		leaving_again();
	if (fd < 0 || !waits_in_vain(b)) // or is being named: then its locks are ours
		goto out;
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (waits_in_vain(b)) {
		again = !b->lonely;
		left = b->lonely && give_up(c, b, fd);
		b->lonely = 1;
		doorbell = b->doorbell_mine;
	}
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	if (left) {
		kick_sleepers(c, doorbell);
		leaving_again();
	}
out:
	helper_unpin();
	return again;
}

// Under a lock. So that neither end takes what is left of the stream for all of it: a reset, not an orderly end.
void stream_reset(struct rlm_bound *b, int fd)
{
	const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	const struct timespec moment = {.tv_nsec = 100000};
	long r;

	b->rx_broken = 1;
	b->tx_dead = 1;
	atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
	atomic_store_explicit(&b->rx_fast, 0, memory_order_relaxed);
	for (int i = 0; i < 100; i++) {
		r = sys_call3(SYS_connect, fd, &nobody, sizeof(nobody));
		if (r != -EBUSY)
			break;
		sys_call2(SYS_shutdown, fd, SHUT_RD); // others are inside the kernel with it: out
		sys_call2(SYS_nanosleep, &moment, NULL);
	}
	if (r < 0)
		sys_call2(SYS_shutdown, fd, SHUT_RDWR);
}

void stream_lost(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	b->gone = 1;
	b->here = &b->location;
	b->tx_stop = b->rx_stop = 1;
	if (!cutover_lost_is_plain(b)) {
		stream_reset(b, fd);
		atomic_store_explicit(&conn_stat(&arena, c)->why, RLM_WHY_MIGRATING, memory_order_relaxed);
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_BARRED, memory_order_relaxed);
		log_warn("fd %d: shared memory was lost in the middle of a stream, connection reset", fd);
	}
}

void stream_find_lost(struct rlm_conn *c, int fd)
{
	struct rlm_bound *b;

	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && cutover_is_lost(b))
		stream_lost(c, b, fd);
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	wake_conn(c);
}

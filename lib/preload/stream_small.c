// SPDX-License-Identifier: BSD-2-Clause
// The way that most messages take: one buffer, the ring carries it, and there is room or data at once. Whatever else there may be is found
// by looking, under the lock, and left to stream_send.c and stream_recv.c.
#include "stream_internal.h"

static inline bool is_current(const struct rlm_conn *c, const struct rlm_bound *b, int fd)
{
	return b && stream_is_current(c, fd) && !cutover_is_lost(b);
}

// Room for n bytes at `head`.
static inline bool has_room(struct rlm_ring *r, uint64_t head, uint64_t n)
{
	uint64_t room = ring_room(r, head, n);

	return room >= n && room != RLM_RING_BROKEN;
}

void stream_drop_or_keep(const struct rlm_conn *c, const struct rlm_bound *b, struct rlm_lock *lock, struct rlm_habit *habit)
{
	if (rlm_habit_pays(habit) && stream_is_ours_alone(c, b))
		rlm_lock_keep(lock, habit);
	else
		rlm_lock_drop(lock);
}

int64_t stream_send_one(struct rlm_conn *c, int fd, const void *data, uint64_t n, int flags)
{
	struct rlm_bound *b;
	uint64_t head;

	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (n > STREAM_PIECE || flags & MSG_MORE || !is_current(c, b, fd) || !atomic_load_explicit(&b->tx_fast, memory_order_relaxed) || b->tx_budget)
		return stream_send_locked(c, fd, data, n, flags);
	head = ring_head(&b->tx);
	if (!has_room(&b->tx, head, n))
		return stream_send_locked(c, fd, data, n, flags);
	ring_prefetch(&b->tx, head, n);
	if (ring_put(&b->tx, head, data, n) < 0 || !cutover_slot_stands(b))
		return stream_send_locked(c, fd, data, n, flags); // nothing was published
	ring_publish(&b->tx, head + n);
	wake_receiver(b);
	stat_add(&conn_stat(&arena, c)->tx_bytes_ring, n);
	n = (uint64_t)stream_sent(c, b, fd, flags, (int64_t)n);
	stream_drop_often(c, b, &c->tx_lock, &b->tx_habit);
	return (int64_t)n;
}

int64_t stream_recv_one(struct rlm_conn *c, int fd, void *data, uint64_t most, int flags)
{
	uint64_t tail, n;
	struct rlm_bound *b;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	// At the end of a round more may have come on TCP: a receive does not stop in between.
	if (!is_current(c, b, fd) || !atomic_load_explicit(&b->rx_fast, memory_order_relaxed) || cutover_rx_has_ended(b) ||
	    !conn_stat(&arena, c)->rx_carrier || stream_kept)
		return stream_recv_locked(c, fd, data, most, flags);
	n = ring_available(&b->rx, most);
	if (n == 0 || n > STREAM_PIECE) // or RLM_RING_BROKEN
		return stream_recv_locked(c, fd, data, most, flags);
	n = n < most ? n : most;
	tail = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
	if (ring_copy(&b->rx, tail, data, n) < 0 || !cutover_slot_stands(b))
		return stream_recv_locked(c, fd, data, most, flags); // nothing was taken
	stream_took(c, b, tail, n);
	stream_drop_often(c, b, &c->rx_lock, &b->rx_habit);
	return (int64_t)n;
}

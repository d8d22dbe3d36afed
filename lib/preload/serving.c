// SPDX-License-Identifier: BSD-2-Clause
// How the helper thread keeps bound connections going: news of TCP, of peers and of children, rings that are idle or full.
#include <linux/sockios.h>
#include <sys/mman.h>

#include "binding_internal.h"
#include "leaving.h"

// TCP has something: the end, an error, frames, room for what it is owed. Sleepers look for themselves.
void binding_tcp_event(struct rlm_conn *c)
{
	int fd = helper_pin(c);
	struct rlm_bound *b;
	uint64_t available;

	if (fd < 0)
		goto out;
	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && sys_poll_now(fd, POLLRDHUP) > 0) {
		stream_stop_sending(b);
		// If the peer was killed with bytes unread, only something on TCP makes its kernel say so, and a sender that found the ring full
		// waits for that.
		if (b->tx_state == TX_RING && !ring_is_empty(&b->tx))
			cutover_tx(c, b, fd, false);
	}
	if (b && cutover_tx_owes(b) && !b->tx_lazy) {
		cutover_tx_pay(b, fd);
		stream_note_tx(c, b);
	}
	rlm_lock_drop(&c->tx_lock);
	// Frames that lay unread when the process ends would make its kernel answer with a reset. But the first one is left to the
	// application: it wakes a thread that sleeps in the kernel since before the connection was bound.
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && b->rx_state >= RX_DRAIN && cutover_rx(c, b, fd, &available) == RX_WAY_WAIT && b->rx_state == RX_RING)
		cutover_rx_look_at_tcp(b, fd);
	else if (b && b->rx_state == RX_RING && !b->frame_got)
		cutover_rx_look_at_tcp(b, fd);
	if (b)
		stream_note_rx(c, b);
	rlm_lock_drop(&c->rx_lock);
out:
	helper_unpin();
	wake_conn(c); // those inside a call keep it when the descriptor is closed
}

// Of this process: another one of the family may have connections whose slots are mapped there alone.
static void for_each_bound(void (*what)(struct rlm_conn *c))
{
	for (uint32_t i = 0; i < arena.table->used; i++)
		if (arena.stats[i].generation & 1 && arena.conns[i].bound && fd_of_conn(&arena.conns[i]) >= 0)
			what(&arena.conns[i]);
}

static void answer_one(struct rlm_conn *c)
{
	int fd = helper_pin(c);
	struct rlm_bound *b;
	uint64_t available;

	if (fd >= 0) {
		rlm_lock_take(&c->tx_lock);
		b = stream_bound(c);
		if (b && (b->tx_state == TX_RING || cutover_tx_owes(b))) {
			cutover_tx(c, b, fd, false);
			stream_note_tx(c, b);
		}
		rlm_lock_drop(&c->tx_lock);
		rlm_lock_take(&c->rx_lock);
		b = stream_bound(c);
		if (b && b->rx_state != RX_PLAIN) {
			cutover_rx(c, b, fd, &available);
			stream_note_rx(c, b);
		}
		rlm_lock_drop(&c->rx_lock);
		wake_conn(c); // a sender may sleep for room in a round that is over
	}
	helper_unpin();
}

// A control doorbell rang: some receiver asks for its round back, or some sender wishes to be asked.
void binding_answer_peers(void)
{
	for_each_bound(answer_one);
}

// The peer's bell tells which slots its event channel rang for. true: somebody sleeps there in poll or epoll.
static bool slot_rang(const struct link *l, struct segment *s, uint32_t slot)
{
	uint32_t bell = atomic_load_explicit(&segment_slot(s->peer, slot)->bell, memory_order_relaxed);
	const struct rlm_bound *b;
	struct rlm_conn *c;

	if (!s->slot[slot].conn || bell == s->slot[slot].bell)
		return false;
	s->slot[slot].bell = bell;
	c = &arena.conns[s->slot[slot].conn - 1];
	b = stream_bound(c);
	if (b && b->link == l->id && b->segment == s->number && b->slot == slot)
		wake_conn(c);
	// What the peer published before it rang is here. Pairs with the fence in wake_listen(): whoever listens later sees it.
	atomic_thread_fence(memory_order_seq_cst);
	return atomic_load_explicit(&segment_slot(s->mine, slot)->waiting, memory_order_relaxed) & (RLM_WAIT_RX_FD | RLM_WAIT_TX_FD);
}

// An event channel rang: its news is for the eventfd that threads poll and for those that sleep in blocking calls.
void binding_channel_rang(int channel)
{
	bool polled = false;
	struct segment *s;
	struct link *l = link_of_channel(channel, &s);

	if (!l)
		return;
	if (!s) {
		sys_ring(l->control_mine, 0);
		return;
	}
	if (*l->here != l->location) // its memory is of another place
		return;
	for (uint32_t slot = 0; slot < s->slots; slot++)
		polled |= slot_rang(l, s, slot);
	if (polled)
		sys_ring(s->doorbell_mine, 0);
}

static uint64_t lost_link;

// Nobody will take anything from our ring again. Asked for the round in the peer's name, the sender puts what is left there on TCP, and
// the kernel finds out about the peer as it does on any connection.
static void lose_one(struct rlm_conn *c)
{
	struct rlm_bound *b = stream_bound(c);
	int fd;

	if (!b) // being named perhaps, then its locks are ours
		return;
	fd = helper_pin(c);
	if (fd < 0)
		goto out;
	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && b->link == lost_link) {
		atomic_store_explicit((_Atomic uint32_t *)&b->tx.peer->rx_past, b->tx_round, memory_order_release);
		atomic_store_explicit((_Atomic uint32_t *)&b->tx.peer->rx_ask, b->tx_round, memory_order_release);
		b->tx_stop = 1;
		cutover_tx(c, b, fd, false);
		stream_note_tx(c, b);
	}
	rlm_lock_drop(&c->tx_lock);
	wake_conn(c);
out:
	helper_unpin();
}

void serving_drop(const struct rlm_msg_drop *m)
{
	if (m->lost && link_detach(m->link, m->side)) {
		lost_link = m->link;
		for_each_bound(lose_one);
	}
	link_drop(m->link, m->side, m->segment);
}

static void watch_one(struct rlm_conn *c)
{
	int fd = helper_pin(c);

	if (fd >= 0)
		helper_watch_conn(c, fd);
	helper_unpin();
}

void serving_watch_link(const struct link *l)
{
	helper_watch_control(l->control_mine);
	if (l->control_channel >= 0)
		helper_watch_channel(l->control_channel);
	for (const struct segment *s = l->segments; s; s = s->next)
		if (s->channel >= 0)
			helper_watch_channel(s->channel);
}

// After fork: what was bound before is ours to watch too.
void binding_watch_inherited(void)
{
	for (struct link *l = links; l; l = l->next)
		serving_watch_link(l);
	for_each_bound(watch_one);
	helper_note_lonely();
	leaving_again();
}

static bool is_in_another(const struct rlm_conn *c)
{
	const struct rlm_share *share = family_mine(&arena, c);

	return share && c->rx_inflight > share->rx_inflight;
}

// Connections that forked children have: alone, with slots of ours, or in a receive. Nobody tells us when these are killed.
bool binding_has_lent(void)
{
	for (uint32_t i = 0; i < arena.table->used; i++) {
		struct rlm_bound *b = arena.stats[i].generation & 1 ? stream_bound(&arena.conns[i]) : NULL;

		if (b && ((b->owner == arena.place.id && fd_of_conn(&arena.conns[i]) < 0) || is_in_another(&arena.conns[i])))
			return true;
	}
	return false;
}

static bool lonely_others;

static void look_for_peer(struct rlm_conn *c)
{
	lonely_others |= stream_look_for_peer(c);
}

bool binding_look_for_peers(uint64_t now_ms)
{
	(void)now_ms;
	lonely_others = false;
	for_each_bound(look_for_peer);
	return lonely_others;
}

static uint32_t not_idle;

static void give_back_one(struct rlm_conn *c)
{
	struct rlm_bound *b;
	uint64_t head;

	if (!rlm_lock_try(&c->tx_lock)) {
		not_idle++;
		return;
	}
	b = stream_bound(c);
	if (b && !b->tx_punched) {
		head = atomic_load_explicit(&b->tx.mine->head, memory_order_relaxed);
		if (head == b->idle_head && ring_is_empty(&b->tx) && !cutover_tx_owes(b)) {
			sys_call3(SYS_madvise, b->tx.bytes, b->tx.size, MADV_REMOVE);
			b->tx_punched = 1;
			atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
		} else {
			b->idle_head = head;
			not_idle++;
		}
	}
	rlm_lock_drop(&c->tx_lock);
}

static bool others_hold;

// Since an earlier look, which was not long ago.
static void release_one(struct rlm_conn *c)
{
	struct rlm_bound *b;

	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && b->tx_state == TX_RING && !b->gone && !cutover_is_lost(b) && ring_holds(&b->tx)) {
		if (b->held_head == ring_head(&b->tx)) {
			cutover_tx_release(b);
		} else {
			b->held_head = ring_head(&b->tx);
			others_hold = true;
		}
	}
	rlm_lock_drop(&c->tx_lock);
}

bool binding_release_held(uint64_t now_ms)
{
	(void)now_ms;
	others_hold = false;
	for_each_bound(release_one);
	return others_hold;
}

bool binding_give_back_idle(void)
{
	not_idle = 0;
	for_each_bound(give_back_one);
	return not_idle != 0;
}

static struct {
	uint64_t now_ms;
	bool others;
} full;

// Nothing was read since an earlier look, on neither carrier. TCP takes more than a ring does, and two programs that both write first may
// count on that: the receiver's helper asks for what is in the ring, and it goes over TCP, as does what comes next. The receiver offers the
// next round when it reads.
static void relieve(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	cutover_tx_need(b);
	cutover_tx(c, b, fd, false);
	stream_note_tx(c, b);
}

#define DOUBT_MS 2000u // after which a receiver that was asked to take the round back may be dead, and not only slow

// `tail`: the peer's. Before the cut it reads from TCP, where nothing more is sent during a round: what is on its way there gets less by its
// doing. TCP may take longer over that than the ring may be full, and each round would end before a byte of it is read.
static bool is_read(struct rlm_bound *b, int fd, uint64_t tail)
{
	int unacked = 0;
	bool moved;

	sys_ioctl(fd, SIOCOUTQ, &unacked);
	moved = tail != b->full_tail || unacked != b->full_unacked;
	b->full_tail = tail;
	b->full_unacked = unacked;
	return moved;
}

static void relieve_one(struct rlm_conn *c)
{
	int fd = helper_pin(c);
	bool relieved = false;
	struct rlm_bound *b;
	uint64_t tail;

	if (fd < 0)
		goto out;
	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && b->tx_full && (b->tx_state != TX_RING || b->tx_dead || b->gone || cutover_is_lost(b)))
		b->tx_full = 0;
	if (b && b->tx_full) {
		tail = atomic_load_explicit(&b->tx.peer->tail, memory_order_acquire);
		b->tx_full = ring_next(&b->tx) - tail > b->tx.limit - b->tx.grain;
		if (!b->tx_full || is_read(b, fd, tail)) {
			b->full_ms = full.now_ms;
		} else if (full.now_ms - b->full_ms >= settings.full_ms && !b->tx_need) {
			relieve(c, b, fd);
			relieved = true;
		} else if (b->tx_need && full.now_ms - b->full_ms >= settings.full_ms + DOUBT_MS) {
			cutover_tx_doubt(b, fd);
			b->tx_full = 0;
		}
		full.others |= b->tx_full;
	}
	rlm_lock_drop(&c->tx_lock);
	if (relieved)
		wake_conn(c);
out:
	helper_unpin();
}

bool binding_relieve_full(uint64_t now_ms)
{
	full.now_ms = now_ms;
	full.others = false;
	for_each_bound(relieve_one);
	return full.others;
}

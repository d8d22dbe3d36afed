// SPDX-License-Identifier: BSD-2-Clause
// Bindings: connections get their slots. Orders and all other messages of the broker.
#include "binding.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "binding_internal.h"
#include "broker_client.h"
#include "engine.h"
#include "epoll.h"
#include "leaving.h"
#include "location.h"

static void reset_slot(struct rlm_slot_shared *slot, uint32_t epoch)
{
	atomic_store_explicit(&slot->epoch, 0, memory_order_seq_cst);
	atomic_store_explicit(&slot->head, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->tail, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->waiting, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->tx_round, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->tx_wish, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->rx_ready, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->rx_ask, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->rx_past, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->rx_leave, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->grain, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->cut, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->end, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->held, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->epoch, epoch, memory_order_release); // pairs with cutover_peer_is_bound()
}

static void fill_bound(struct rlm_bound *b, struct rlm_conn *c, const struct link *l, const struct segment *s,
		       const struct rlm_msg_bind *m)
{
	struct rlm_slot_shared *mine = segment_slot(s->mine, m->slot), *peer = segment_slot(s->peer, m->slot);

	b->conn = c;
	b->region = (const struct rlm_region_shared *)s->mine;
	b->here = l->here;
	b->location = l->location;
	b->link = m->link;
	b->side = m->side;
	b->segment = m->segment;
	b->slot = m->slot;
	b->epoch = m->epoch;
	b->doorbell_mine = s->doorbell_mine;
	b->doorbell_peer = s->doorbell_peer;
	b->bell_port = s->port;
	b->no_fork = s->no_fork;
	b->control_peer = l->control_peer;
	b->control_port = l->control_port;
	b->control_mine = l->control_mine;
	b->owner = arena.place.id;
	b->tx = (struct rlm_ring){.mine = mine, .peer = peer, .bytes = segment_ring(s, s->mine, m->slot), .size = s->ring_size};
	b->rx = (struct rlm_ring){.mine = mine, .peer = peer, .bytes = segment_ring(s, s->peer, m->slot), .size = s->ring_size};
	ring_set_limit(&b->tx, UINT64_MAX);
	b->held_head = UINT64_MAX;
	wake_spin_init(&b->tx_spin, s->port);
	wake_spin_init(&b->rx_spin, s->port);
	b->tx_budget = settings.test_flap ? settings.test_flap : settings.test_demote_after;
	reset_slot(mine, m->epoch);
}

static void refuse(const struct rlm_msg_bind *m)
{
	union rlm_msg msg = {.release = rlm_release_of(m)};

	session_send(&msg, -1);
}

static void read_flags(struct rlm_conn *c, int fd)
{
	long flags = sys_fcntl(fd, F_GETFL, 0);
	int corked = 0;
	socklen_t len = sizeof(corked);

	if (flags >= 0)
		stream_set_nonblock(c, flags & O_NONBLOCK);
	if (sys_getsockopt(fd, IPPROTO_TCP, TCP_CORK, &corked, &len) == 0)
		stream_set_corked(c, corked);
}

// Makes the connection carrier-aware: from here on calls look at the slot, and the receiving side offers a round.
static void bind_conn(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available;

	bool watched = epoll_conn_binds(c, b); // first: no epoll instance may take our frames for payload
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	stream_read_timeouts(b, fd);
	read_flags(c, fd);
	atomic_store_explicit(&c->bell, &b->tx.peer->bell, memory_order_relaxed);
	atomic_store_explicit(&c->bound, (uint32_t)(b - arena.bounds) + 1, memory_order_seq_cst);
	// Whoever bars a connection sets the flag, then looks at `bound`; we set `bound`, then look at the flag.
	if (!watched || c->flags & (RLM_CONN_BARRED | RLM_CONN_HELD | RLM_CONN_CLOSING))
		b->tx_stop = b->rx_stop = 1;
	if (cutover_rx(c, b, fd, &available) == RX_WAY_BROKEN)
		stream_break(c, b, fd);
	if (c->flags & RLM_CONN_TX_SHUT)
		b->tx_dead = 1;
	stream_note_why(c);
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	epoll_conn_is_bound(c);
	helper_watch_conn(c, fd);
	helper_arm_idle();
	helper_note_lonely();
}

// As far as this process is concerned. A fork waits: the child finds the connection bound, or we find that it has it too.
static bool can_bind(const struct rlm_conn *c, int fd)
{
	return fd >= 0 && !c->bound && tcp_is_established(fd) && !(c->flags & (RLM_CONN_BARRED | RLM_CONN_HELD | RLM_CONN_CLOSING)) &&
	       stream_is_alone(c) && offer_can_be_counted(fd);
}

static bool try_bind(struct rlm_conn *c, struct link *l, struct segment *s, const struct rlm_msg_bind *m)
{
	int fd = helper_pin(c);
	struct rlm_bound *b;

	if (!can_bind(c, fd))
		return false;
	b = bound_new(&arena);
	if (!b) {
		stream_sweep(100);
		b = bound_new(&arena);
	}
	if (!b) {
		set_why(c, RLM_WHY_LIMIT);
		return false;
	}
	fill_bound(b, c, l, s, m);
	s->bound++;
	s->slot[m->slot].conn = conn_index(&arena, c) + 1;
	bind_conn(c, b, fd);
	log_debug("fd %d bound to slot %u of segment %u with %s[%u]", fd, m->slot, m->segment, l->peer_command,
		  l->peer_pid);
	return true;
}

static void on_bind(const struct rlm_msg_bind *m)
{
	struct rlm_conn *c = helper_conn(m->conn);
	struct link *l = link_find(m->link, m->side);
	struct segment *s = segment_find(l, m->segment);
	bool bound = false;

	if (c)
		clear_flags(c, RLM_CONN_OFFERED | RLM_CONN_NAMING);
	if (c && s && !l->leaving && m->slot < s->slots && m->epoch) {
		engine_lock();
		bound = try_bind(c, l, s, m);
		engine_unlock();
	}
	if (c && !bound && !c->bound && !stream_is_alone(c)) // a fork was faster
		offer_later(c);
	helper_unpin();
	if (!bound)
		refuse(m);
}

// --- orders ---

static void obey_one(struct rlm_conn *c, uint32_t order)
{
	struct rlm_bound *b;
	uint64_t available;
	int fd = helper_pin(c);

	if (order == RLM_ORDER_DEMOTE)
		set_flags(c, RLM_CONN_HELD);
	else
		clear_flags(c, RLM_CONN_HELD);
	if (fd < 0)
		goto out;
	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && order == RLM_ORDER_DEMOTE) {
		b->tx_stop = 1;
		cutover_tx(c, b, fd, false);
		cutover_rx_leave(b);
	} else if (b && !(c->flags & RLM_CONN_BARRED)) {
		b->rx_stop = 0;
		b->tx_stop = sys_poll_now(fd, POLLRDHUP) > 0; // see stream_stop_sending()
		cutover_rx(c, b, fd, &available);
	}
	if (b) {
		stream_note_tx(c, b);
		stream_note_why(c);
	}
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	wake_conn(c);
out:
	helper_unpin();
	if (order == RLM_ORDER_DEMOTE)
		set_why(c, RLM_WHY_DEMOTED);
	else if (!c->bound)
		binding_offer(c);
}

static void on_order(const struct rlm_msg_order *m)
{
	struct rlm_conn *c;

	if (m->order != RLM_ORDER_DEMOTE && m->order != RLM_ORDER_PROMOTE)
		return;
	if (m->conn.index != UINT32_MAX) {
		c = helper_conn(m->conn);
		if (c)
			obey_one(c, m->order);
		return;
	}
	for (uint32_t i = 0; i < arena.table->used; i++)
		if (arena.stats[i].generation & 1)
			obey_one(&arena.conns[i], m->order);
}

// --- what is kept ---

#define KEPT 160u

// Messages that came while a connection was being named: its locks are ours. Binding takes locks of epoll instances, and who holds one of these may
// wait for that connection.
static union rlm_msg kept[KEPT];
static unsigned kept_used;

static void keep(const union rlm_msg *msg)
{
	if (kept_used < KEPT)
		kept[kept_used++] = *msg;
	else if (msg->header.type == RLM_MSG_BIND)
		refuse(&msg->bind);
}

void binding_do_kept(void)
{
	while (!binding_naming && kept_used) {
		union rlm_msg msg = kept[0];

		memmove(kept, kept + 1, --kept_used * sizeof(*kept));
		if (msg.header.type == RLM_MSG_BIND)
			on_bind(&msg.bind);
		else
			on_order(&msg.order);
	}
}

// --- messages ---

// Nothing will be bound any more to links of an earlier session.
void binding_broker_is_back(void)
{
	for (struct link *l = links, *next; l; l = next) {
		next = l->next;
		log_debug("link to %s[%u] goes on", l->peer_command, l->peer_pid);
		link_drop(l->id, l->side, RLM_ALL_SEGMENTS);
	}
}

static void tell_of_links(void)
{
	for (const struct link *l = links; l; l = l->next) {
		union rlm_msg msg = broker_message(RLM_MSG_KEPT, kept, .link = l->id, .side = l->side);

		if (!l->lost)
			session_send(&msg, -1);
	}
}

static bool have_fds(const int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (fds[i] < 0)
			return false;
	return true;
}

static void forget_fds(int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		fds[i] = -1;
}

static void on_link(const struct rlm_msg_link *m, int *fds)
{
	struct link *l;

	if (!have_fds(fds, 2)) // out of descriptors: what is bound to it will be refused
		return;
	if (link_add(m, fds) == 0) {
		l = link_find(m->link, m->side);
		serving_watch_link(l);
	}
	forget_fds(fds, 2);
}

static void on_segment(const struct rlm_msg_segment *m, int *fds)
{
	if (!have_fds(fds, 4))
		return;
	if (segment_add(m, fds) < 0)
		log_warn("a segment of %u slots of %u bytes cannot be mapped", m->slots, m->ring_size);
	else if (m->port[0]) // an event channel
		helper_watch_channel(segment_find(link_find(m->link, m->side), m->segment)->channel);
	forget_fds(fds, 4);
}

int binding_message(const union rlm_msg *msg, int *fds)
{
	static const uint16_t sizes[] = {
		[RLM_MSG_WELCOME] = sizeof(msg->welcome), [RLM_MSG_NAMED] = sizeof(msg->named),
		[RLM_MSG_NOTE] = sizeof(msg->note),	  [RLM_MSG_LINK] = sizeof(msg->link),
		[RLM_MSG_SEGMENT] = sizeof(msg->segment), [RLM_MSG_BIND] = sizeof(msg->bind),
		[RLM_MSG_DROP] = sizeof(msg->drop),	  [RLM_MSG_ORDER] = sizeof(msg->order),
		[RLM_MSG_LEAVE] = sizeof(msg->leave),	  [RLM_MSG_RESUME] = sizeof(msg->resume),
		[RLM_MSG_MOVE] = sizeof(msg->move),
	};
	uint16_t type = msg->header.type;

	if (type >= sizeof(sizes) / sizeof(*sizes) || !sizes[type])
		return 0;
	if (msg->header.size < sizes[type])
		return -EPROTO;
	if (binding_naming && (type == RLM_MSG_BIND || type == RLM_MSG_ORDER)) {
		keep(msg);
		return 0;
	}
	switch ((enum rlm_msg_type)type) {
	case RLM_MSG_WELCOME:
		if (msg->welcome.version != RLM_PROTO_VERSION) {
			log_error("broker speaks version %u, we speak %u", msg->welcome.version, RLM_PROTO_VERSION);
			return -EPROTO;
		}
		if (fds[0] < 0 || location_map(fds[0]) < 0)
			return -EPROTO;
		leaving_lost();
		tell_of_links();
		session_welcome();
		return 0;
	case RLM_MSG_LEAVE:
		leaving_begin(&msg->leave);
		return 0;
	case RLM_MSG_RESUME:
		session_offer_queued();
		return 0;
	case RLM_MSG_MOVE:
		session_move(msg->move.socket);
		return 0;
	case RLM_MSG_NAMED:
		offer_named(&msg->named);
		return 0;
	case RLM_MSG_NOTE:
		offer_noted(&msg->note);
		return 0;
	case RLM_MSG_LINK:
		on_link(&msg->link, fds);
		return 0;
	case RLM_MSG_SEGMENT:
		on_segment(&msg->segment, fds);
		return 0;
	case RLM_MSG_BIND:
		on_bind(&msg->bind);
		return 0;
	case RLM_MSG_DROP:
		serving_drop(&msg->drop);
		return 0;
	case RLM_MSG_ORDER:
		on_order(&msg->order);
		return 0;
	default:
		return 0;
	}
}

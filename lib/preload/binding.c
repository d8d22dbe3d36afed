// SPDX-License-Identifier: BSD-2-Clause
// Offers, namings, bindings: how a connection gets its slot, and how the helper thread keeps it going.
#include "binding.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>

#include "broker_client.h"
#include "engine.h"
#include "epoll.h"
#include "inherited.h"
#include "leaving.h"
#include "links.h"
#include "location.h"
#include "stream_internal.h"

#ifndef TCP_REPAIR_OFF_NO_WP
#define TCP_REPAIR_OFF_NO_WP -1
#endif

static void set_why(struct rlm_conn *c, uint32_t why)
{
	atomic_store_explicit(&conn_stat(&arena, c)->why, (uint16_t)why, memory_order_relaxed);
}

static void set_flags(struct rlm_conn *c, uint32_t flags)
{
	atomic_fetch_or_explicit(&c->flags, flags, memory_order_seq_cst);
}

static void clear_flags(struct rlm_conn *c, uint32_t flags)
{
	atomic_fetch_and_explicit(&c->flags, ~flags, memory_order_seq_cst);
}

// --- naming ---

#define ORDERS_KEPT 32u

// Orders that came while a connection was being named: its locks are ours.
static struct rlm_msg_order orders[ORDERS_KEPT];
static unsigned orders_kept;
static bool naming;

static void obey_kept_orders(void);

static void put_address(const struct sockaddr_storage *a, uint16_t *family, uint8_t out[16], uint16_t *port)
{
	const struct sockaddr_in *in = (const void *)a;
	const struct sockaddr_in6 *in6 = (const void *)a;

	*family = a->ss_family;
	if (a->ss_family == AF_INET) {
		memcpy(out, &in->sin_addr, 4);
		*port = ntohs(in->sin_port);
	} else if (a->ss_family == AF_INET6) {
		memcpy(out, &in6->sin6_addr, 16);
		*port = ntohs(in6->sin6_port);
	}
}

static void learn_addresses(struct rlm_conn *c, int fd)
{
	struct rlm_conn_stat *s = conn_stat(&arena, c);
	struct sockaddr_storage local = {0}, remote = {0};
	socklen_t len = sizeof(local);
	uint16_t family = 0;

	if (sys_call3(SYS_getsockname, fd, &local, &len) < 0)
		return;
	len = sizeof(remote);
	if (sys_call3(SYS_getpeername, fd, &remote, &len) < 0)
		return;
	put_address(&local, &family, s->local, &s->local_port);
	put_address(&remote, &s->family, s->remote, &s->remote_port);
}

static void send_offer(struct rlm_conn *c, int fd, enum rlm_name_how how)
{
	union rlm_msg msg = broker_message(RLM_MSG_OFFER, offer, .how = how, .ticket = 0,
					   .conn = {conn_index(&arena, c), conn_generation(&arena, c)});

	set_flags(c, RLM_CONN_OFFERED | RLM_CONN_NAMING);
	set_why(c, RLM_WHY_MATCHING);
	if (helper_send(&msg, fd) < 0)
		clear_flags(c, RLM_CONN_NAMING);
}

static bool in_repair_mode(int fd)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return sys_getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &value, &len) == 0 && value;
}

static int reuse_of(int fd)
{
	int value = 0;
	socklen_t len = sizeof(value);

	sys_getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, &len);
	return value;
}

// A broker died between repair on and repair off. With the capability we switch it off; without, the next broker must. Until then the
// socket is held: nobody may use it in this state.
static void leave_repair_mode(int fd, int reuse)
{
	const int off = TCP_REPAIR_OFF_NO_WP;
	const struct timespec moment = {.tv_nsec = 20000000};
	union rlm_msg msg = broker_message(RLM_MSG_REPAIR, repair, .conn = {0, 0});

	while (in_repair_mode(fd) && sys_setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)) < 0) {
		int broker = broker_connect();

		if (broker >= 0) {
			broker_send(broker, &msg, fd);
			sys_call2(SYS_nanosleep, &moment, NULL);
			fd_close_internal(broker);
		}
		sys_call2(SYS_nanosleep, &moment, NULL);
	}
	sys_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)); // repair mode forgets it
}

#define NAMING_PATIENCE_MS 50

// Until the broker has read the numbers, refused, or gone; other messages are served meanwhile.
static void wait_for_ticket(_Atomic uint32_t *ticket, int fd, int reuse)
{
	uint32_t open = RLM_TICKET_OPEN;

	for (int i = 0; i < NAMING_PATIENCE_MS; i++) {
		struct pollfd p = {.fd = helper_broker_fd(), .events = POLLIN};
		struct timespec tick = {.tv_nsec = 1000000};

		if (atomic_load_explicit(ticket, memory_order_acquire) == RLM_TICKET_DONE || p.fd < 0)
			break;
		if (sys_call5(SYS_ppoll, &p, 1, &tick, 0, 8) > 0)
			while (atomic_load_explicit(ticket, memory_order_acquire) != RLM_TICKET_DONE &&
			       helper_read_broker())
				;
	}
	if (atomic_compare_exchange_strong(ticket, &open, RLM_TICKET_CANCELLED))
		return;
	while (atomic_load_explicit(ticket, memory_order_acquire) == RLM_TICKET_CLAIMED && helper_broker_fd() >= 0) {
		sys_call0(SYS_sched_yield); // microseconds; unless the broker dies in them
		while (helper_read_broker())
			;
	}
	if (in_repair_mode(fd))
		leave_repair_mode(fd, reuse);
}

static bool nothing_unsent(const struct rlm_conn *c, int fd)
{
	int unsent = 0;

	return !atomic_load_explicit(&c->tx_inflight, memory_order_seq_cst) &&
	       sys_ioctl(fd, SIOCOUTQNSD, &unsent) == 0 && unsent == 0;
}

// The socket stands still while the broker reads its sequence numbers: new calls find `bound` set and wait for the locks; calls
// that are in the kernel already do no harm unless they send. Receives go on until all is sent: the peer may be waiting for the same, and
// each has to read what the other has still to send.
static void offer_by_isn(struct rlm_conn *c, int fd)
{
	const struct timespec moment = {.tv_nsec = 100000};
	_Atomic uint32_t *ticket = &arena.tickets->ticket[0];
	int reuse = reuse_of(fd);
	bool still = false;

	rlm_lock_take(&c->tx_lock);
	atomic_store_explicit(&c->bound, BOUND_NAMING, memory_order_seq_cst);
	for (int i = 0; i < 150 && !(still = nothing_unsent(c, fd)); i++)
		sys_call2(SYS_nanosleep, &moment, NULL);
	rlm_lock_take(&c->rx_lock);
	if (still) {
		atomic_store_explicit(ticket, RLM_TICKET_OPEN, memory_order_seq_cst);
		send_offer(c, fd, RLM_NAME_ISN);
		naming = true;
		wait_for_ticket(ticket, fd, reuse);
		naming = false;
		atomic_store_explicit(ticket, RLM_TICKET_FREE, memory_order_seq_cst);
	}
	atomic_store_explicit(&c->bound, 0, memory_order_seq_cst);
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	if (!still) {
		set_flags(c, RLM_CONN_QUEUED);
		helper_retry(c, 10);
	}
}

// Used by stdio, perhaps, inside libc.
static bool is_stdio(const struct rlm_conn *c)
{
	return fd_conn(0) == c || fd_conn(1) == c || fd_conn(2) == c;
}

#define SHARED_RETRY_MS 1000
#define LOOKS_MAX 6

// Often the earlier program, or the one that started us, is about to close it. Later and later: a look is not cheap.
static bool is_inherited_alone(struct rlm_conn *c, int fd)
{
	unsigned wait;

	if (!(c->flags & RLM_CONN_INHERITED))
		return true;
	wait = inherited_wait_ms();
	if (wait) {
		set_flags(c, RLM_CONN_QUEUED);
		helper_retry(c, wait);
		return false;
	}
	if (!is_stdio(c) && inherited_is_alone(c, fd)) {
		clear_flags(c, RLM_CONN_INHERITED);
		return true;
	}
	set_why(c, is_stdio(c) ? RLM_WHY_STDIO : RLM_WHY_SHARED);
	if (c->looks++ < LOOKS_MAX) {
		set_flags(c, RLM_CONN_QUEUED);
		helper_retry(c, 50u << 2 * c->looks);
	} else {
		set_flags(c, RLM_CONN_BARRED);
	}
	return false;
}

static bool receives_every_byte(int fd)
{
	int low = 1;
	socklen_t len = sizeof(low);

	return sys_getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, &len) == 0 && low <= 1;
}

// A BPF program may take the socket's bytes past TCP (sockmap): then no position of the stream can be told. What TCP knows of is never less than
// what we have counted.
static bool bypasses_tcp(const struct rlm_conn *c, int fd)
{
	const struct rlm_conn_stat *s = conn_stat(&arena, c);
	uint64_t sent = s->tx_bytes_plain, received = s->rx_bytes_plain;
	int64_t written = tcp_written(fd), arrived = tcp_arrived(fd);

	return (written >= 0 && sent > (uint64_t)written) || (arrived >= 0 && received > (uint64_t)arrived);
}

// BINDs that came while a connection was being named. Binding takes locks of epoll instances, and who holds one of these may wait
// for the connection whose locks are ours.
#define BINDS_KEPT 128u
static struct rlm_msg_bind binds[BINDS_KEPT];
static unsigned binds_kept;

static void on_bind(const struct rlm_msg_bind *m);

static void do_kept_binds(void)
{
	while (!naming && binds_kept) {
		struct rlm_msg_bind bind = binds[0];

		memmove(binds, binds + 1, --binds_kept * sizeof(*binds));
		on_bind(&bind);
	}
}

void binding_offer(struct rlm_conn *c)
{
	uint32_t flags = atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_QUEUED, memory_order_seq_cst);
	int fd;

	if (flags & (RLM_CONN_BARRED | RLM_CONN_HELD | RLM_CONN_CLOSING | RLM_CONN_OFFERED) || c->bound)
		return;
	if (naming) { // a message that came meanwhile led here: one at a time, the ticket is the same
		set_flags(c, RLM_CONN_QUEUED);
		helper_retry(c, 1);
		return;
	}
	if (location->quiesce) {
		set_flags(c, RLM_CONN_QUEUED);
		set_why(c, RLM_WHY_MIGRATING);
		return;
	}
	fd = helper_pin_naming(c);
	if (fd < 0)
		goto out;
	if (!stream_is_alone(c)) { // the other process may close it, or end
		set_why(c, RLM_WHY_SHARED);
		set_flags(c, RLM_CONN_QUEUED);
		helper_retry(c, SHARED_RETRY_MS);
		goto out;
	}
	if (!receives_every_byte(fd)) {
		set_why(c, RLM_WHY_OPTION);
		goto out;
	}
	if (bypasses_tcp(c, fd)) {
		set_why(c, RLM_WHY_OPTION);
		set_flags(c, RLM_CONN_BARRED);
		goto out;
	}
	if (!is_inherited_alone(c, fd))
		goto out;
	learn_addresses(c, fd);
	if (!(flags & RLM_CONN_ISN) || flags & RLM_CONN_TUPLE || !arena.tickets)
		send_offer(c, fd, RLM_NAME_TUPLE);
	else
		offer_by_isn(c, fd);
out:
	helper_unpin_naming();
	do_kept_binds();
	obey_kept_orders();
}

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
			helper_send(&msg, -1);
	}
}

static void on_named(const struct rlm_msg_named *m)
{
	struct rlm_conn *c = helper_conn(m->conn);

	if (!c)
		return;
	clear_flags(c, RLM_CONN_NAMING);
	if (!m->why)
		return;
	clear_flags(c, RLM_CONN_OFFERED);
	if (m->why == RLM_WHY_UNNAMED && !(c->flags & RLM_CONN_TUPLE)) {
		set_flags(c, RLM_CONN_TUPLE | RLM_CONN_QUEUED);
		helper_retry(c, 0);
		return;
	}
	set_flags(c, RLM_CONN_BARRED);
	set_why(c, m->why);
}

static void on_note(const struct rlm_msg_note *m)
{
	struct rlm_conn *c = helper_conn(m->conn);

	if (!c)
		return;
	clear_flags(c, RLM_CONN_NAMING);
	set_why(c, m->why);
	if (!m->again || c->bound)
		return;
	clear_flags(c, RLM_CONN_OFFERED);
	set_flags(c, RLM_CONN_QUEUED);
	if (m->why == RLM_WHY_NO_PEER)
		set_flags(c, RLM_CONN_ISN);
	helper_retry(c, m->why == RLM_WHY_NO_PEER ? 0 : 10);
}

// --- binding ---

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
	atomic_store_explicit(&slot->cut, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->end, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->epoch, epoch, memory_order_release); // pairs with peer_is_bound(), peer_round()
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
	b->tx = (struct rlm_ring){mine, peer, segment_ring(s, s->mine, m->slot), s->ring_size, 0};
	b->rx = (struct rlm_ring){mine, peer, segment_ring(s, s->peer, m->slot), s->ring_size, 0};
	wake_spin_init(&b->tx_spin);
	wake_spin_init(&b->rx_spin);
	b->tx_budget = settings.test_flap ? settings.test_flap : settings.test_demote_after;
	reset_slot(mine, m->epoch);
}

static void refuse(const struct rlm_msg_bind *m)
{
	union rlm_msg msg = broker_message(RLM_MSG_RELEASE, release, .link = m->link, .side = m->side,
					   .segment = m->segment, .slot = m->slot, .epoch = m->epoch);

	helper_send(&msg, -1);
}

static void read_flags(struct rlm_conn *c, int fd)
{
	long flags = sys_fcntl(fd, F_GETFL, 0);

	if (flags >= 0)
		stream_set_nonblock(c, flags & O_NONBLOCK);
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
	helper_watch_conn(c, fd);
	helper_arm_idle();
}

// As far as this process is concerned. A fork waits: the child finds the connection bound, or we find that it has it too.
static bool can_bind(const struct rlm_conn *c, int fd)
{
	return fd >= 0 && !c->bound && tcp_is_established(fd) && !(c->flags & (RLM_CONN_BARRED | RLM_CONN_HELD | RLM_CONN_CLOSING)) &&
	       stream_is_alone(c) && receives_every_byte(fd);
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

	if (naming) {
		if (binds_kept < BINDS_KEPT)
			binds[binds_kept++] = *m;
		else
			refuse(m);
		return;
	}
	if (c)
		clear_flags(c, RLM_CONN_OFFERED | RLM_CONN_NAMING);
	if (c && s && !l->leaving && m->slot < s->slots && m->epoch) {
		engine_lock();
		bound = try_bind(c, l, s, m);
		engine_unlock();
	}
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

	if (naming) {
		if (orders_kept < ORDERS_KEPT)
			orders[orders_kept++] = *m;
		return;
	}

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

static void obey_kept_orders(void)
{
	while (!naming && orders_kept) {
		struct rlm_msg_order order = orders[0];

		memmove(orders, orders + 1, --orders_kept * sizeof(*orders));
		on_order(&order);
	}
}

// --- events ---

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
	wake_conn(c);
out:
	helper_unpin();
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

static struct {
	uint64_t link;
	uint32_t segment;
} rung;

static void wake_if_rung(struct rlm_conn *c)
{
	const struct rlm_bound *b = stream_bound(c);

	if (b && b->link == rung.link && b->segment == rung.segment)
		wake_conn(c);
}

// An event channel rang: its news is for the eventfd that threads poll and for those that sleep in blocking calls.
void binding_channel_rang(int channel)
{
	struct segment *s;
	struct link *l = link_of_channel(channel, &s);

	if (!l)
		return;
	sys_ring(s ? s->doorbell_mine : l->control_mine, 0);
	if (!s)
		return;
	rung.link = l->id;
	rung.segment = s->number;
	for_each_bound(wake_if_rung);
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

static void on_drop(const struct rlm_msg_drop *m)
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

static void watch_link(const struct link *l)
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
		watch_link(l);
	for_each_bound(watch_one);
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
		if (head == b->idle_head && atomic_load_explicit(&b->tx.peer->tail, memory_order_acquire) == head &&
		    !cutover_tx_owes(b)) {
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

// Nothing was read since an earlier look. TCP takes more than a ring does, and two programs that both write first may count on that: the
// receiver's helper asks for what is in the ring, and it goes over TCP, as does what comes next. The receiver offers the next round when it reads.
static void relieve(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	cutover_tx_need(b);
	cutover_tx(c, b, fd, false);
	stream_note_tx(c, b);
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
		b->tx_full = ring_head(&b->tx) - tail > b->tx.size - b->tx.size / 4;
		if (!b->tx_full || tail != b->full_tail) {
			b->full_tail = tail;
			b->full_ms = full.now_ms;
		} else if (full.now_ms - b->full_ms >= settings.full_ms) {
			relieve(c, b, fd);
			relieved = true;
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

// --- messages ---

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
		watch_link(l);
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
		helper_welcome();
		return 0;
	case RLM_MSG_LEAVE:
		leaving_begin(&msg->leave);
		return 0;
	case RLM_MSG_RESUME:
		helper_offer_queued();
		return 0;
	case RLM_MSG_MOVE:
		helper_move(msg->move.socket);
		return 0;
	case RLM_MSG_NAMED:
		on_named(&msg->named);
		return 0;
	case RLM_MSG_NOTE:
		on_note(&msg->note);
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
		on_drop(&msg->drop);
		return 0;
	case RLM_MSG_ORDER:
		on_order(&msg->order);
		return 0;
	default:
		return 0;
	}
}

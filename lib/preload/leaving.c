// SPDX-License-Identifier: BSD-2-Clause
// A link leaves in steps, one look at each of its connections at a time, for the helper thread must go on answering others meanwhile:
//
//   1. end what we send, wait until the peer has ended what we receive     cutover_leave_begin()
//   2. wake whoever sleeps on the slot; they look again, and sleep without it
//   3. give the connection memory of its own                               cutover_leave()
//   4. with nobody left on it: unmap the link, LEFT
//   5. unbind a connection when the application has read what was left     stream_retire()
#include "leaving.h"

#include "binding.h"
#include "broker_client.h"
#include "epoll.h"
#include "links.h"
#include "location.h"
#include "session.h"
#include "stream_internal.h"

#define SOON_MS 1
#define UNREAD_MS 20 // an application that has not read what it was left; or threads that have not left a slot without a peer

static bool anything; // a link leaves, a connection has memory of its own, or none has its peer's half

void leaving_begin(const struct rlm_msg_leave *m)
{
	union rlm_msg left = broker_message(RLM_MSG_LEFT, left, .link = m->link, .side = m->side);
	struct link *l = link_find(m->link, m->side);

	if (!l) {
		session_send(&left, -1); // dropped meanwhile, or never inherited
		return;
	}
	l->leaving = true;
	anything = true;
}

// What a peer that has bound all the same says of itself counts for nothing.
static bool is_vacant(struct rlm_bound *b)
{
	if (b->vacant && atomic_load_explicit(&b->tx.peer->epoch, memory_order_acquire) == b->epoch)
		b->vacant = 0;
	return b->vacant;
}

void leaving_unbind(const struct rlm_msg_unbind *m)
{
	struct segment *s = segment_find(link_find(m->link, m->side), m->segment);
	uint32_t conn = s && m->slot < s->slots ? s->slot[m->slot].conn : 0;
	struct rlm_bound *b = conn ? stream_bound(&arena.conns[conn - 1]) : NULL;

	if (!b || b->own || b->link != m->link || b->segment != m->segment || b->slot != m->slot || b->epoch != m->epoch)
		return; // closed meanwhile, or refused as well
	b->vacant = 1;
	anything = true;
}

void leaving_far(void)
{
	for (struct link *l = links; l; l = l->next)
		if (l->control_channel >= 0)
			l->leaving = anything = true;
}

static void lose(struct rlm_conn *c)
{
	int fd = helper_pin(c);
	struct rlm_bound *b;

	rlm_lock_take(&c->tx_lock);
	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && fd >= 0 && cutover_is_lost(b))
		stream_lost(c, b, fd);
	rlm_lock_drop(&c->rx_lock);
	rlm_lock_drop(&c->tx_lock);
	helper_unpin();
}

static void for_each_on(const struct link *l, void (*what)(struct rlm_conn *c))
{
	for (uint32_t i = 0; i < arena.table->used; i++) {
		struct rlm_conn *c = &arena.conns[i];
		const struct rlm_bound *b = stream_bound(c);

		if (b && !b->own && b->link == l->id && b->side == l->side && stream_is_here(c))
			what(c);
	}
}

void leaving_lost(void)
{
	for (struct link *l = links; l; l = l->next) {
		if (*l->here == l->location || l->lost)
			continue;
		log_warn("link to %s[%u] was left behind: moved without notice", l->peer_command, l->peer_pid);
		l->lost = l->leaving = anything = true;
		for_each_on(l, lose);
	}
}

static const struct link *leaving_link;
static uint32_t staying;

static void leave_one(struct rlm_conn *c)
{
	if (!stream_retreat(c, leaving_link->id, leaving_link->side))
		staying++;
}

static void link_step(struct link *l)
{
	union rlm_msg left = broker_message(RLM_MSG_LEFT, left, .link = l->id, .side = l->side);
	bool lost = l->lost;

	staying = 0;
	leaving_link = l;
	for_each_on(l, leave_one);
	if (staying || atomic_load_explicit(&stream_closing, memory_order_seq_cst))
		return;
	epoll_wait_for_lookers();
	link_end(l);
	if (!lost)
		session_send(&left, -1);
}

// A connection that goes on over TCP. false: not yet.
static bool is_back_on_tcp(struct rlm_conn *c, const struct rlm_bound *b)
{
	uint32_t flags = atomic_load_explicit(&c->flags, memory_order_relaxed);

	if (!(b->own ? stream_retire(c) : stream_retreat(c, b->link, b->side)))
		return false;
	if (!(flags & (RLM_CONN_BARRED | RLM_CONN_HELD | RLM_CONN_CLOSING)))
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_QUEUED, memory_order_relaxed);
	return true;
}

int leaving_go_on(void)
{
	bool leaving = false, unread = false;

	if (!anything)
		return -1;
	for (struct link *l = links, *next; l; l = next) {
		next = l->next;
		if (l->leaving)
			link_step(l);
	}
	for (struct link *l = links; l; l = l->next)
		leaving |= l->leaving;
	for (uint32_t i = 0; i < arena.table->used; i++) {
		struct rlm_bound *b = stream_bound(&arena.conns[i]);

		if (b && (b->own || is_vacant(b)) && stream_is_here(&arena.conns[i]))
			unread |= !is_back_on_tcp(&arena.conns[i], b);
	}
	session_offer_queued();
	anything = leaving || unread;
	return leaving ? SOON_MS : unread ? UNREAD_MS : -1;
}

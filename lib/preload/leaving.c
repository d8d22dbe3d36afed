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
#define UNREAD_MS 20 // an application that has not read what it was left

static bool anything; // a link leaves, or a connection has memory of its own or a slot without a peer

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

void leaving_far(void)
{
	for (struct link *l = links; l; l = l->next)
		if (l->control_channel >= 0)
			l->leaving = anything = true;
}

void leaving_again(void)
{
	anything = true;
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

static uint32_t unread;

static void retire_one(struct rlm_conn *c)
{
	uint32_t flags = atomic_load_explicit(&c->flags, memory_order_relaxed);

	if (!stream_retire(c)) {
		unread++;
		return;
	}
	if (!(flags & (RLM_CONN_BARRED | RLM_CONN_HELD | RLM_CONN_CLOSING)))
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_QUEUED, memory_order_relaxed);
}

int leaving_go_on(void)
{
	bool leaving = false;

	if (!anything)
		return -1;
	anything = false; // what comes while messages are read below sets it again
	for (struct link *l = links, *next; l; l = next) {
		next = l->next;
		if (l->leaving)
			link_step(l);
	}
	for (struct link *l = links; l; l = l->next)
		leaving |= l->leaving;
	unread = 0;
	for (uint32_t i = 0; i < arena.table->used; i++) {
		const struct rlm_bound *b = stream_bound(&arena.conns[i]);

		if (b && (b->own || b->vacant) && stream_is_here(&arena.conns[i]))
			retire_one(&arena.conns[i]);
	}
	session_offer_queued();
	leaving |= anything;
	anything = leaving || unread;
	return leaving ? SOON_MS : unread ? UNREAD_MS : -1;
}

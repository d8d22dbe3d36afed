// SPDX-License-Identifier: BSD-2-Clause
// Readiness of a connection from ring state and TCP state.
#include "ready.h"

#include <sys/epoll.h>

#include "stream_internal.h"

#define READABLE (EPOLLIN | EPOLLRDNORM)
#define WRITABLE (EPOLLOUT | EPOLLWRNORM)
#define ALWAYS (EPOLLERR | EPOLLHUP)

// TCP holds bytes now: what it showed before may have been frames, eaten by now. Under the lock nobody eats.
static bool tcp_is_readable(int fd, uint32_t asked, uint32_t kernel)
{
	return (kernel & READABLE || !(asked & READABLE)) && sys_poll_now(fd, READABLE) & READABLE;
}

static bool readable(struct rlm_conn *c, struct rlm_bound *b, int fd, uint32_t asked, uint32_t kernel)
{
	uint64_t available;

	for (;;) {
		switch (cutover_rx(c, b, fd, &available)) {
		case RX_WAY_RING:
		case RX_WAY_BROKEN:
			return true;
		case RX_WAY_KERNEL:
			// The end is told when the kernel's own event comes, with all that belongs to it: once.
			return kernel & (READABLE | EPOLLRDHUP | ALWAYS);
		case RX_WAY_PLAIN:
		case RX_WAY_LIMIT:
		case RX_WAY_SINGLE:
		case RX_WAY_BUSY:
			return tcp_is_readable(fd, asked, kernel);
		case RX_WAY_WAIT:
			if (cutover_rx_is_on_its_way(b, fd))
				return true;
			if (!(kernel & (READABLE | EPOLLRDHUP | ALWAYS)) || b->rx_state != RX_RING ||
			    !cutover_rx_look_at_tcp(b, fd))
				return false;
			break;
		}
	}
}

// Room that is worth waking for: a receiver rings when it passes a multiple of it.
static bool has_room(struct rlm_bound *b)
{
	uint64_t room = ring_room(&b->tx, ring_next(&b->tx), b->tx.grain);

	return room >= b->tx.grain; // RLM_RING_BROKEN too: the next send says what is wrong
}

static bool tx_on_ring(const struct rlm_bound *b)
{
	return b->tx_state == TX_RING && !b->tx_dead;
}

static uint32_t tcp_shows(int fd)
{
	long events = sys_poll_now(fd, READABLE | WRITABLE | EPOLLRDHUP | EPOLLPRI);

	return events > 0 ? (uint32_t)events : 0;
}

// What is owed goes first, and may take all the room that there is.
static void look_at_tcp_room(struct rlm_bound *b, int fd, uint32_t asked, struct ready *r)
{
	bool owes = b && !b->tx_lazy && !b->tx_dead && cutover_tx_owes(b);

	if (owes)
		cutover_tx_pay(b, fd);
	if (owes || !(asked & WRITABLE))
		r->events = (r->events & ~(uint32_t)WRITABLE) | ((uint32_t)sys_poll_now(fd, WRITABLE) & WRITABLE);
}

static void look_at_sending(struct rlm_conn *c, int fd, uint32_t asked, uint32_t kernel, struct ready *r)
{
	struct rlm_bound *b;

	rlm_lock_take(&c->tx_lock);
	b = stream_is_current(c, fd) ? stream_bound(c) : NULL;
	if (b && kernel & (EPOLLRDHUP | ALWAYS))
		stream_stop_sending(b);
	if (b && tx_on_ring(b)) {
		if (!(kernel & ALWAYS))
			r->events &= ~(uint32_t)WRITABLE;
		if (has_room(b))
			r->events |= WRITABLE;
		else
			helper_note_full(b);
	} else {
		look_at_tcp_room(b, fd, asked, r);
		r->ask_kernel = true;
	}
	r->blocked = b ? atomic_load_explicit(&b->tx_blocked, memory_order_relaxed) : 0;
	rlm_lock_drop(&c->tx_lock);
}

struct ready ready_now(struct rlm_conn *c, int fd, uint32_t wanted, uint32_t asked, uint32_t kernel)
{
	struct ready r = {.events = kernel, .ask_kernel = true};
	struct rlm_bound *b;

	rlm_lock_take(&c->rx_lock);
	if (!stream_is_current(c, fd)) {
		rlm_lock_drop(&c->rx_lock);
		return (struct ready){.stale = true, .ask_kernel = true};
	}
	b = stream_bound(c);
	if (b && cutover_is_lost(b)) {
		rlm_lock_drop(&c->rx_lock);
		stream_find_lost(c, fd);
		return ready_now(c, fd, wanted, asked, kernel);
	}
	if (!b || b->gone) {
		if (!asked)
			r.events = tcp_shows(fd);
		if (b && b->rx_broken)
			r.events |= READABLE | WRITABLE | ALWAYS;
		rlm_lock_drop(&c->rx_lock);
		return r;
	}
	r.events &= ~(uint32_t)READABLE;
	r.head = cutover_rx_head(b); // first: later data is news
	if (readable(c, b, fd, asked, kernel))
		r.events |= READABLE;
	stream_note_rx(c, b);
	r.ask_kernel = b->rx_state != RX_RING;
	rlm_lock_drop(&c->rx_lock);

	if (wanted & WRITABLE || kernel & (EPOLLRDHUP | ALWAYS))
		look_at_sending(c, fd, asked, kernel, &r);
	if (kernel & (EPOLLRDHUP | ALWAYS | EPOLLPRI))
		r.ask_kernel = true;
	return r;
}

void ready_note_kernel(struct rlm_conn *c, uint32_t events, uint32_t asked, uint32_t kernel)
{
	struct rlm_bound *b = stream_bound(c);

	if (b && asked & EPOLLIN) // nothing comes to an end without it
		atomic_store_explicit(&b->tcp_quiet, kernel & ~(uint32_t)WRITABLE ? 0 : RLM_TCP_QUIET | events, memory_order_relaxed);
}

bool ready_needs_no_kernel(const struct rlm_conn *c, uint32_t wanted)
{
	const struct rlm_bound *b = stream_bound(c);

	return b && !(wanted & ~(READABLE | WRITABLE)) && !(atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_TX_SHUT) &&
	       ready_tcp_is_quiet(b, ready_events(c)) &&
	       (!(wanted & WRITABLE) || atomic_load_explicit(&b->tx_fast, memory_order_relaxed));
}

uint64_t ready_arrived(struct rlm_conn *c, int fd)
{
	struct rlm_bound *b;
	int64_t n;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	n = b ? cutover_rx_arrived(b, fd) : tcp_arrived(fd);
	rlm_lock_drop(&c->rx_lock);
	return n < 0 ? UINT64_MAX : (uint64_t)n;
}

uint32_t ready_kernel_mask(struct rlm_conn *c, uint32_t wanted)
{
	uint32_t mask = wanted & ~(uint32_t)WRITABLE;
	struct rlm_bound *b;

	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (!b || !tx_on_ring(b))
		mask = wanted;
	rlm_lock_drop(&c->tx_lock);
	return mask;
}

bool ready_maybe(const struct rlm_bound *b, uint32_t wanted, uint64_t head)
{
	if (wanted & READABLE && cutover_rx_head(b) != head)
		return true;
	return wanted & WRITABLE && b->tx_state == TX_RING &&
	       ring_next(&b->tx) - atomic_load_explicit(&b->tx.peer->tail, memory_order_relaxed) <= b->tx.limit - b->tx.grain;
}

static void hold(struct rlm_conn *c, struct rlm_bound *b)
{
	stream_enter(c);
	atomic_fetch_add_explicit(&b->holders, 1, memory_order_relaxed);
}

struct rlm_bound *ready_hold(struct rlm_conn *c)
{
	struct rlm_bound *b;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b)
		hold(c, b);
	rlm_lock_drop(&c->rx_lock);
	return b;
}

struct rlm_bound *ready_hold_to_sleep(struct rlm_conn *c)
{
	struct rlm_bound *b;

	rlm_lock_take(&c->rx_lock);
	b = stream_bound(c);
	if (b && b->leaving && !b->own)
		b = NULL;
	if (b)
		hold(c, b);
	rlm_lock_drop(&c->rx_lock);
	return b;
}

void ready_release(struct rlm_conn *c)
{
	struct rlm_bound *b = stream_bound(c);

	if (b)
		atomic_fetch_sub_explicit(&b->holders, 1, memory_order_release);
	stream_leave(c);
}

static const struct {
	uint32_t rx, tx;
} waits[] = {
	[READY_BY_DOORBELL] = {RLM_WAIT_RX_FD, RLM_WAIT_TX_FD},
	[READY_BY_BELL] = {RLM_WAIT_RX_FUTEX, RLM_WAIT_TX_FUTEX},
};

void ready_listen(struct rlm_bound *b, uint32_t wanted, enum ready_by by)
{
	if (wanted & (READABLE | EPOLLRDHUP))
		wake_listen(b, waits[by].rx);
	if (wanted & WRITABLE)
		wake_listen(b, waits[by].tx);
}

void ready_unlisten(struct rlm_bound *b, uint32_t wanted, enum ready_by by)
{
	if (wanted & (READABLE | EPOLLRDHUP))
		wake_unlisten(b, waits[by].rx);
	if (wanted & WRITABLE)
		wake_unlisten(b, waits[by].tx);
}

bool ready_watch_doorbell(int epoll_fd, int doorbell, uint64_t data)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u64 = data};

	long r = sys_call4(SYS_epoll_ctl, epoll_fd, EPOLL_CTL_ADD, doorbell, &e);

	return r == 0 || r == -EEXIST;
}

// SPDX-License-Identifier: BSD-2-Clause
// What a program asks and tells a socket beside its data: O_NONBLOCK, TCP_CORK and TCP_NODELAY, time-outs, SO_ERROR, and how many bytes are where.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include "stream_internal.h"

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

static void send_buffer_set(struct rlm_conn *c, int fd)
{
	struct rlm_bound *b;

	rlm_lock_take(&c->tx_lock);
	b = stream_bound(c);
	if (b && !b->gone && stream_is_current(c, fd) && !cutover_is_lost(b))
		cutover_tx_limit(b, tcp_send_limit(fd)); // the next send sees to it, if the round has to end for it
	rlm_lock_drop(&c->tx_lock);
}

void stream_option_set(struct rlm_conn *c, int fd, int level, int name)
{
	struct rlm_bound *b;

	if (level == SOL_SOCKET && (name == SO_SNDBUF || name == SO_SNDBUFFORCE))
		send_buffer_set(c, fd);
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
		queued = fill <= b->tx.size && fill > b->tx.limit / 4 * 3 ? fill - b->tx.limit / 4 * 3 : 0;
	}
	rlm_lock_drop(&c->tx_lock);
	return (int)queued;
}

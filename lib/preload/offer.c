// SPDX-License-Identifier: BSD-2-Clause
// How a connection finds its peer: it is offered to the broker by its addresses, or, where these are not the same at both ends, by its initial
// sequence numbers, and the broker answers with a binding or with the reason why not.
#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "binding_internal.h"
#include "broker_client.h"
#include "inherited.h"
#include "location.h"

#ifndef TCP_REPAIR_OFF_NO_WP
#define TCP_REPAIR_OFF_NO_WP -1
#endif

bool binding_naming;

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
	if (session_send(&msg, fd) < 0)
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
		struct pollfd p = {.fd = session_fd(), .events = POLLIN};
		struct timespec tick = {.tv_nsec = 1000000};

		if (atomic_load_explicit(ticket, memory_order_acquire) == RLM_TICKET_DONE || p.fd < 0)
			break;
		if (sys_call5(SYS_ppoll, &p, 1, &tick, 0, 8) > 0)
			while (atomic_load_explicit(ticket, memory_order_acquire) != RLM_TICKET_DONE &&
			       session_read())
				;
	}
	if (atomic_compare_exchange_strong(ticket, &open, RLM_TICKET_CANCELLED))
		return;
	while (atomic_load_explicit(ticket, memory_order_acquire) == RLM_TICKET_CLAIMED && session_fd() >= 0) {
		sys_call0(SYS_sched_yield); // microseconds; unless the broker dies in them
		while (session_read())
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
		binding_naming = true;
		wait_for_ticket(ticket, fd, reuse);
		binding_naming = false;
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

#define SHARED_RETRY_MS 10
#define SHARED_RETRY_MOST_MS 1000
#define LOOKS_MAX 12

// What an earlier program sent may have urgent data in it. When all of it is acknowledged the other end finds the mark before it offers a round.
// The position is read before what of it is unacknowledged: so it is never too far.
static bool all_has_arrived(int fd)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	int64_t written = tcp_written(fd), now = written;
	int unacked;

	for (int i = 0; i < 50 && now >= 0; i++) {
		if (sys_ioctl(fd, SIOCOUTQ, &unacked) == 0 && now - unacked >= written)
			return true;
		sys_call2(SYS_nanosleep, &moment, NULL);
		now = tcp_written(fd);
	}
	return false;
}

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
	if (!is_stdio(c) && inherited_is_alone(c, fd) && all_has_arrived(fd)) {
		clear_flags(c, RLM_CONN_INHERITED);
		return true;
	}
	set_why(c, is_stdio(c) ? RLM_WHY_STDIO : RLM_WHY_SHARED);
	if (c->looks++ < LOOKS_MAX) {
		set_flags(c, RLM_CONN_QUEUED);
		helper_retry(c, 50u << c->looks);
	} else {
		set_flags(c, RLM_CONN_BARRED);
	}
	return false;
}

bool offer_can_be_counted(int fd)
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

void offer_later(struct rlm_conn *c)
{
	set_why(c, RLM_WHY_SHARED);
	set_flags(c, RLM_CONN_QUEUED);
	helper_retry_later(c, SHARED_RETRY_MS, SHARED_RETRY_MOST_MS);
}

void binding_offer(struct rlm_conn *c)
{
	uint32_t flags = atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_QUEUED, memory_order_seq_cst);
	int fd;

	if (flags & (RLM_CONN_BARRED | RLM_CONN_HELD | RLM_CONN_CLOSING | RLM_CONN_OFFERED) || c->bound)
		return;
	if (binding_naming) { // a message that came meanwhile led here: one at a time, the ticket is the same
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
	if (!stream_is_alone(c)) {
		offer_later(c);
		goto out;
	}
	if (!offer_can_be_counted(fd)) {
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
	binding_do_kept();
}

// --- answers ---

void offer_named(const struct rlm_msg_named *m)
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

void offer_noted(const struct rlm_msg_note *m)
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

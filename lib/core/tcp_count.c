// SPDX-License-Identifier: BSD-2-Clause
// The kernel's own counts of what passed a TCP socket. It is the source of truth: stdio, a forked sibling or an earlier owner
// may have used the socket without us. tests/unit/test_tcp_count.c checks these formulas on the running kernel.
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>

#include "cutover.h"
#include "sys.h"

// linux/tcp.h has no names for the states, netinet/tcp.h clashes with it.
enum { ESTABLISHED = 1, FIN_WAIT1 = 4, FIN_WAIT2 = 5, CLOSED = 7, CLOSE_WAIT = 8 };

static int get_info(int fd, struct tcp_info *info)
{
	socklen_t len = sizeof(*info);
	long r;

	memset(info, 0, sizeof(*info));
	r = sys_getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len);
	if (r < 0)
		return (int)r;
	// tcpi_bytes_sent and tcpi_bytes_retrans came with Linux 4.19.
	return len >= offsetof(struct tcp_info, tcpi_bytes_retrans) + sizeof(info->tcpi_bytes_retrans) ? 0 : -ENOSYS;
}

bool tcp_is_established(int fd)
{
	struct tcp_info info;

	return get_info(fd, &info) == 0 && info.tcpi_state == ESTABLISHED;
}

int64_t tcp_written(int fd)
{
	struct tcp_info info;
	int r = get_info(fd, &info);

	if (r < 0)
		return r;
	if (info.tcpi_state != ESTABLISHED && info.tcpi_state != CLOSE_WAIT)
		return -ENOTCONN;
	return (int64_t)(info.tcpi_bytes_sent - info.tcpi_bytes_retrans + info.tcpi_notsent_bytes);
}

// tcpi_bytes_received counts a FIN as one byte. For state CLOSE see closed_by_fin().
static bool fin_received(int state)
{
	return state != ESTABLISHED && state != FIN_WAIT1 && state != FIN_WAIT2;
}

// What is acknowledged, our SYN among it, and what is not.
static int64_t accepted(int fd, struct tcp_info *info)
{
	struct tcp_info again;
	int unacked, r;

	do {
		r = get_info(fd, info);
		if (r == 0)
			r = (int)sys_ioctl(fd, SIOCOUTQ, &unacked);
		if (r == 0)
			r = get_info(fd, &again);
		if (r < 0)
			return r;
	} while (info->tcpi_bytes_acked != again.tcpi_bytes_acked);
	return (int64_t)info->tcpi_bytes_acked + unacked;
}

int64_t tcp_accepted(int fd)
{
	struct tcp_info info;

	return accepted(fd, &info);
}

int64_t tcp_written_confirmed(int fd, bool active)
{
	struct tcp_info info;
	int64_t n = accepted(fd, &info);

	if (n < 0)
		return n;
	if (info.tcpi_state != ESTABLISHED && info.tcpi_state != CLOSE_WAIT)
		return -ENOTCONN;
	n -= active; // the SYN
	return info.tcpi_bytes_sent - info.tcpi_bytes_retrans + info.tcpi_notsent_bytes == (uint64_t)n ? n : -EUCLEAN;
}

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#define SOCK_SNDBUF_LOCK 1
#endif

// The kernel doubles what was set, for what it needs beside the bytes.
uint64_t tcp_send_limit(int fd)
{
	struct tcp_info info;
	int locked = 0, buffer;
	socklen_t len = sizeof(locked);

	if (sys_getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &locked, &len) < 0 || !(locked & SOCK_SNDBUF_LOCK) ||
	    sys_getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, &len) < 0 || buffer <= 0 || get_info(fd, &info) < 0)
		return UINT64_MAX;
	return (uint64_t)buffer / 2 + info.tcpi_snd_wnd;
}

// What TCP_INQ says is unread, behind a mark of urgent data too, and a FIN as one byte. -1: nothing is there to be read, or it cannot be told.
static int unread_hint(int fd)
{
	uint8_t byte;
	int on = 1, before = 0, hint = -1;
	socklen_t len = sizeof(before);
	union {
		struct cmsghdr header;
		uint8_t space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	long r;

	if (sys_getsockopt(fd, IPPROTO_TCP, TCP_INQ, &before, &len) < 0 ||
	    sys_setsockopt(fd, IPPROTO_TCP, TCP_INQ, &on, sizeof(on)) < 0)
		return -1;
	r = sys_call3(SYS_recvmsg, fd, &msg, MSG_PEEK | MSG_DONTWAIT);
	sys_setsockopt(fd, IPPROTO_TCP, TCP_INQ, &before, sizeof(before));
	for (struct cmsghdr *c = r < 0 ? NULL : CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == IPPROTO_TCP && c->cmsg_type == TCP_CM_INQ)
			memcpy(&hint, CMSG_DATA(c), sizeof(hint));
	return hint;
}

// A socket in state CLOSE came there by FINs or by a reset, whose error somebody may have read. TCP_INQ counts a FIN among what is unread,
// SIOCINQ does not. -ENOTCONN: nothing is unread and an error waits, which a look would take.
static int closed_by_fin(int fd, int queued)
{
	int hint = queued == 0 && sys_poll_now(fd, 0) & POLLERR ? -1 : unread_hint(fd);

	return hint < queued || hint > queued + 1 ? -ENOTCONN : hint - queued;
}

// SIOCINQ ends at a mark, TCP_INQ does not.
bool tcp_mark_is_ahead(int fd)
{
	int at = 0, queued = 0;

	if (sys_ioctl(fd, SIOCATMARK, &at) < 0 || at)
		return true;
	return sys_ioctl(fd, SIOCINQ, &queued) < 0 || (queued && unread_hint(fd) > queued + 1);
}

static int64_t received(int fd, int *queued)
{
	int fin;

	struct tcp_info info, again;
	int r;

	do {
		r = get_info(fd, &info);
		if (r == 0)
			r = (int)sys_ioctl(fd, SIOCINQ, queued);
		if (r == 0)
			r = get_info(fd, &again);
		if (r < 0)
			return r;
	} while (info.tcpi_bytes_received != again.tcpi_bytes_received || info.tcpi_state != again.tcpi_state);
	fin = info.tcpi_state == CLOSED ? closed_by_fin(fd, *queued) : fin_received(info.tcpi_state);
	return fin < 0 ? fin : (int64_t)info.tcpi_bytes_received - fin;
}

int64_t tcp_arrived(int fd)
{
	int queued;

	return received(fd, &queued);
}

int64_t tcp_taken(int fd)
{
	int queued;
	int64_t n = received(fd, &queued);

	return n < 0 ? n : n - queued;
}

// SPDX-License-Identifier: BSD-2-Clause
#include "naming.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef SIOCOUTQNSD
#define SIOCOUTQNSD 0x894B
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef IPV6_TRANSPARENT
#define IPV6_TRANSPARENT 75
#endif
#define SO_ORIGINAL_DST	  80 // the same number for IPv4 and IPv6
#define OPT_SYN_DATA	  32
#define REPAIR_OFF_NO_WP  (-1)
#define QUEUE_NONE	  0
#define QUEUE_RECV	  1
#define QUEUE_SEND	  2
#define STILL_TRIES	  100

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

int rlmd_option_int(int sock, int level, int option)
{
	int value = 0;
	socklen_t length = sizeof(value);

	return getsockopt(sock, level, option, &value, &length) ? -errno : value;
}

uint64_t rlmd_socket_cookie(int sock)
{
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);

	return getsockopt(sock, SOL_SOCKET, SO_COOKIE, &cookie, &length) ? 0 : cookie;
}

static bool option_set(int sock, int level, int option, int value)
{
	return setsockopt(sock, level, option, &value, sizeof(value)) == 0;
}

bool rlmd_tcp_info(int sock, struct tcp_info *info)
{
	socklen_t length = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return getsockopt(sock, IPPROTO_TCP, TCP_INFO, info, &length) == 0 &&
	       length >= offsetof(struct tcp_info, tcpi_bytes_retrans) + sizeof(info->tcpi_bytes_retrans);
}

static bool endpoint_set(struct rlmd_endpoint *endpoint, const union address *address)
{
	memset(endpoint, 0, sizeof(*endpoint));
	if (address->any.sa_family == AF_INET) {
		endpoint->family = AF_INET;
		endpoint->port = ntohs(address->v4.sin_port);
		memcpy(endpoint->address, &address->v4.sin_addr, 4);
		return true;
	}
	if (address->any.sa_family != AF_INET6)
		return false;
	endpoint->port = ntohs(address->v6.sin6_port);
	endpoint->family = AF_INET6;
	if (IN6_IS_ADDR_V4MAPPED(&address->v6.sin6_addr)) {
		endpoint->family = AF_INET;
		memcpy(endpoint->address, address->v6.sin6_addr.s6_addr + 12, 4);
	} else {
		memcpy(endpoint->address, &address->v6.sin6_addr, 16);
	}
	return true;
}

static bool link_local(const struct rlmd_endpoint *endpoint)
{
	if (endpoint->family == AF_INET)
		return endpoint->address[0] == 169 && endpoint->address[1] == 254;
	return endpoint->address[0] == 0xfe && (endpoint->address[1] & 0xc0) == 0x80;
}

// What connection tracking thinks this connection was addressed to. False: not tracked, nothing is translated.
static bool original_destination(int sock, const struct rlmd_tuple *tuple, struct rlmd_endpoint *original)
{
	union address address;
	socklen_t length = sizeof(address.v4);
	int level = IPPROTO_IP;

	if (tuple->local.family == AF_INET6) {
		level = IPPROTO_IPV6;
		length = sizeof(address.v6);
	}
	memset(&address, 0, sizeof(address));
	return getsockopt(sock, level, SO_ORIGINAL_DST, &address, &length) == 0 && endpoint_set(original, &address);
}

static bool same(const struct rlmd_endpoint *a, const struct rlmd_endpoint *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static bool tuple_exact(int sock, const struct rlmd_tuple *tuple, bool isn_possible)
{
	struct rlmd_endpoint original;

	if (rlmd_option_int(sock, SOL_SOCKET, SO_BINDTOIFINDEX) > 0 || link_local(&tuple->local) ||
	    link_local(&tuple->remote))
		return false;
	if (rlmd_option_int(sock, IPPROTO_IP, IP_TRANSPARENT) > 0 || rlmd_option_int(sock, IPPROTO_IPV6, IPV6_TRANSPARENT) > 0)
		return false;
	if (!original_destination(sock, tuple, &original))
		return true;
	// A changed destination shows here, a changed source does not. So a tracked connection is trusted only where
	// nothing better is to be had.
	if (isn_possible)
		return false;
	return same(&original, &tuple->local) || same(&original, &tuple->remote);
}

static enum rlmd_naming refuse(enum rlm_why *why, enum rlm_why reason)
{
	*why = reason;
	return RLMD_NAMING_REFUSED;
}

static enum rlmd_naming kind_check(int sock, enum rlm_why *why)
{
	int domain = rlmd_option_int(sock, SOL_SOCKET, SO_DOMAIN);
	int protocol = rlmd_option_int(sock, SOL_SOCKET, SO_PROTOCOL);
	struct tcp_info info;

	if (protocol == IPPROTO_MPTCP)
		return refuse(why, RLM_WHY_OPTION);
	if ((domain != AF_INET && domain != AF_INET6) || protocol != IPPROTO_TCP ||
	    rlmd_option_int(sock, SOL_SOCKET, SO_TYPE) != SOCK_STREAM)
		return refuse(why, RLM_WHY_NOT_TCP);
	if (rlmd_option_int(sock, IPPROTO_TCP, TCP_REPAIR) != 0)
		return refuse(why, RLM_WHY_OPTION);
	if (!rlmd_tcp_info(sock, &info))
		return refuse(why, RLM_WHY_KERNEL);
	if (info.tcpi_state != STATE_ESTABLISHED)
		return refuse(why, RLM_WHY_CLOSING);
	return RLMD_NAMING_OK;
}

enum rlmd_naming rlmd_naming_tuple(int sock, bool isn_possible, struct rlmd_tuple *tuple, bool *exact,
				   enum rlm_why *why)
{
	union address local, remote;
	socklen_t local_length = sizeof(local), remote_length = sizeof(remote);
	enum rlmd_naming result = kind_check(sock, why);

	if (result != RLMD_NAMING_OK)
		return result;
	if (getsockname(sock, &local.any, &local_length) || getpeername(sock, &remote.any, &remote_length) ||
	    !endpoint_set(&tuple->local, &local) || !endpoint_set(&tuple->remote, &remote))
		return refuse(why, RLM_WHY_CLOSING);
	if (same(&tuple->local, &tuple->remote))
		return refuse(why, RLM_WHY_UNNAMED); // connected to itself: one socket is both ends
	*exact = tuple_exact(sock, tuple, isn_possible);
	return RLMD_NAMING_OK;
}

static bool queue_sequence(int sock, int queue, uint32_t *sequence)
{
	int value;
	socklen_t length = sizeof(value);

	if (!option_set(sock, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue) ||
	    getsockopt(sock, IPPROTO_TCP, TCP_QUEUE_SEQ, &value, &length))
		return false;
	*sequence = (uint32_t)value;
	return true;
}

// In repair mode. The peer sends on all the time: what we read counts only if nothing arrived meanwhile.
static enum rlmd_naming sequences_read(int sock, struct rlmd_isn *isn)
{
	struct tcp_info before, after;
	uint32_t written, received;

	for (int i = 0; i < STILL_TRIES; i++) {
		if (!rlmd_tcp_info(sock, &before) || before.tcpi_state != STATE_ESTABLISHED || before.tcpi_notsent_bytes)
			return RLMD_NAMING_AGAIN;
		// Unsent bytes, were there any, would be taken for sent while the send queue is selected: leave it at
		// once.
		if (!queue_sequence(sock, QUEUE_SEND, &written) || !queue_sequence(sock, QUEUE_RECV, &received) ||
		    !option_set(sock, IPPROTO_TCP, TCP_REPAIR_QUEUE, QUEUE_NONE) || !rlmd_tcp_info(sock, &after))
			return RLMD_NAMING_AGAIN;
		if (after.tcpi_state != STATE_ESTABLISHED || after.tcpi_notsent_bytes)
			return RLMD_NAMING_AGAIN;
		if (after.tcpi_bytes_received != before.tcpi_bytes_received ||
		    after.tcpi_bytes_sent - after.tcpi_bytes_retrans !=
			before.tcpi_bytes_sent - before.tcpi_bytes_retrans)
			continue;
		isn->own = written - (uint32_t)(after.tcpi_bytes_sent - after.tcpi_bytes_retrans) - 1;
		isn->peer = received - (uint32_t)after.tcpi_bytes_received - 1;
		return RLMD_NAMING_OK;
	}
	return RLMD_NAMING_AGAIN;
}

enum rlmd_naming rlmd_naming_isn(int sock, struct rlmd_isn *isn, enum rlm_why *why)
{
	struct tcp_info info;
	int unsent = 0, reuse;
	enum rlmd_naming result = kind_check(sock, why);

	if (result != RLMD_NAMING_OK)
		return result;
	// Bytes that rode on the SYN are counted apart.
	if (!rlmd_tcp_info(sock, &info) || info.tcpi_options & OPT_SYN_DATA)
		return refuse(why, RLM_WHY_OPTION);
	if (ioctl(sock, SIOCOUTQNSD, &unsent) || unsent)
		return RLMD_NAMING_AGAIN;
	reuse = rlmd_option_int(sock, SOL_SOCKET, SO_REUSEADDR);
	if (reuse < 0)
		return refuse(why, RLM_WHY_UNNAMED);
	if (!option_set(sock, IPPROTO_TCP, TCP_REPAIR, 1))
		return refuse(why, RLM_WHY_UNNAMED);
	result = sequences_read(sock, isn);
	option_set(sock, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_NO_WP);
	option_set(sock, SOL_SOCKET, SO_REUSEADDR, reuse); // repair mode forgets it
	return result;
}

bool rlmd_ticket_claim(struct rlm_tickets_shared *tickets, unsigned ticket)
{
	uint32_t open = RLM_TICKET_OPEN;

	// Acquire: pairs with the process's release of OPEN, after it took both directions' locks.
	return tickets && atomic_compare_exchange_strong_explicit(&tickets->ticket[ticket], &open, RLM_TICKET_CLAIMED,
								  memory_order_acquire, memory_order_relaxed);
}

void rlmd_ticket_done(struct rlm_tickets_shared *tickets, unsigned ticket)
{
	// Release: pairs with the process's acquire of DONE, before it lets the directions go.
	atomic_store_explicit(&tickets->ticket[ticket], RLM_TICKET_DONE, memory_order_release);
}

int rlmd_naming_repair(int sock)
{
	int repair = rlmd_option_int(sock, IPPROTO_TCP, TCP_REPAIR);

	if (repair <= 0)
		return repair;
	return option_set(sock, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_NO_WP) ? 0 : -errno;
}

bool rlmd_naming_isn_possible(void)
{
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool possible;

	if (sock < 0)
		return false;
	possible = option_set(sock, IPPROTO_TCP, TCP_REPAIR, 1);
	close(sock);
	return possible;
}

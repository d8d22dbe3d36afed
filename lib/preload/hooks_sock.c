// SPDX-License-Identifier: BSD-2-Clause
// Sockets: made, connected, accepted, shut down, their options, send() and recv(). Messages are in hooks_msg.c.
#include "hooks.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/time.h>

#include "cutover.h"
#include "engine.h"
#include "settings.h"
#include "sys.h"

ssize_t __recv_chk(int fd, void *buf, size_t len, size_t size, int flags);
ssize_t __recvfrom_chk(int fd, void *restrict buf, size_t len, size_t size, int flags, __SOCKADDR_ARG addr,
		       socklen_t *restrict addrlen);

// Not everywhere in <linux/tcp.h> and <sys/socket.h>.
#define OPT_TCP_INQ		36
#define OPT_TCP_TX_DELAY	37
#define OPT_TCP_AO_ADD_KEY	38
#define OPT_TCP_AO_REPAIR	42
#define OPT_SO_TIMESTAMPING_NEW 65

static _Atomic bool all_barred;

// --- life ---

static bool is_tcp(int fd)
{
	int value = 0;
	socklen_t len = sizeof(value);

	if (sys_getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &len) < 0 || value != IPPROTO_TCP)
		return false;
	len = sizeof(value);
	return sys_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &len) == 0 && (value == AF_INET || value == AF_INET6);
}

static uint32_t nonblock_value(int fd)
{
	long flags = sys_fcntl(fd, F_GETFL, 0);

	return flags >= 0 && flags & O_NONBLOCK ? SOCKET_NONBLOCK : 0;
}

#define OPT_SO_TIMESTAMP_NEW	63
#define OPT_SO_TIMESTAMPNS_NEW	64

static const int timestamps[] = {SO_TIMESTAMP, SO_TIMESTAMPNS, OPT_SO_TIMESTAMP_NEW, OPT_SO_TIMESTAMPNS_NEW};
#define TIMESTAMPS (sizeof(timestamps) / sizeof(*timestamps))

bool hook_brings_timestamps(int fd)
{
	for (unsigned i = 0; i < TIMESTAMPS; i++) {
		int value = 0;
		socklen_t len = sizeof(value);

		if (sys_getsockopt(fd, SOL_SOCKET, timestamps[i], &value, &len) == 0 && value)
			return true;
	}
	return false;
}

static bool is_timestamps(int name)
{
	for (unsigned i = 0; i < TIMESTAMPS; i++)
		if (timestamps[i] == name)
			return true;
	return false;
}

static void note_timestamps(void)
{
	atomic_store_explicit(arena.timestamps, true, memory_order_relaxed);
}

void hook_foreign(int fd)
{
	if (fd_conn(fd) && hook_brings_timestamps(fd))
		note_timestamps();
}

// fd is a TCP connection, or will be one soon. value: as of a FD_SOCKET entry.
static void adopt(int fd, uint32_t value, bool active)
{
	int saved = errno;
	struct rlm_conn *c = stream_open(fd, value & SOCKET_NONBLOCK);

	if (c && active)
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_ACTIVE, memory_order_relaxed);
	if (c && fd <= 2)
		stream_to_kernel(c, fd, RLM_WHY_STDIO); // stdio may be using it, inside libc
	else if (c && (value & SOCKET_BARRED || atomic_load_explicit(&all_barred, memory_order_relaxed)))
		stream_to_kernel(c, fd, RLM_WHY_OPTION);
	errno = saved;
}

void hook_received(int fd)
{
	struct rlm_conn *c;

	hook_fresh(fd);
	if (!settings.enabled || !tcp_is_established(fd))
		return;
	adopt(fd, nonblock_value(fd), false);
	hook_foreign(fd);
	c = fd_conn(fd);
	if (c)
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_INHERITED, memory_order_relaxed);
}

void hook_bar_all(void)
{
	atomic_store_explicit(&all_barred, true, memory_order_relaxed);
	stream_all_to_kernel(RLM_WHY_OPTION, false, false);
}

RLM_EXPORT int socket(int domain, int type, int protocol)
{
	int fd = REAL(socket)(domain, type, protocol);

	if (fd < 0)
		return fd;
	if ((domain == AF_INET || domain == AF_INET6) && (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) == SOCK_STREAM &&
	    (protocol == 0 || protocol == IPPROTO_TCP) && engine_start())
		fd_set_entry(fd, FD_SOCKET, type & SOCK_NONBLOCK ? SOCKET_NONBLOCK : 0);
	else
		hook_fresh(fd);
	return fd;
}

void hook_connected(int fd, const struct sockaddr *addr)
{
	uint32_t entry = fd_entry(fd);

	if (!settings.enabled)
		return;
	switch ((enum fd_kind)(entry >> FD_VALUE_BITS)) {
	case FD_SOCKET:
		if (!(entry & SOCKET_OTHER) && addr->sa_family != AF_UNSPEC)
			adopt(fd, entry & FD_VALUE_MASK, true);
		break;
	case FD_UNKNOWN:
		if ((addr->sa_family == AF_INET || addr->sa_family == AF_INET6) && is_tcp(fd)) {
			adopt(fd, nonblock_value(fd), true);
			hook_foreign(fd);
		}
		break;
	default:
		break;
	}
}

// connect() with AF_UNSPEC: the socket is as new. One that others refer to, too, stays what it is, for all of them.
static int disconnect(struct rlm_conn *c, int fd, const struct sockaddr *addr, socklen_t addrlen)
{
	uint32_t value;

	if (stream_to_kernel(c, fd, RLM_WHY_OPTION) < 0)
		return (int)rlm_result(-EBUSY);
	if (REAL(connect)(fd, addr, addrlen) < 0)
		return -1;
	if (atomic_load_explicit(&c->refs, memory_order_relaxed) == 1) {
		value = nonblock_value(fd);
		stream_forget(fd);
		fd_set_entry(fd, FD_SOCKET, value);
	}
	return 0;
}

RLM_EXPORT int connect(int fd, __CONST_SOCKADDR_ARG addr, socklen_t addrlen)
{
	struct rlm_conn *c = fd_conn(fd);
	const struct sockaddr *to = addr.__sockaddr__;
	int r;

	if (c && !hook_is_bad(to) && addrlen >= sizeof(to->sa_family) && to->sa_family == AF_UNSPEC)
		return disconnect(c, fd, to, addrlen);
	r = REAL(connect)(fd, to, addrlen);
	if (!c && (r == 0 || errno == EINPROGRESS || errno == EINTR))
		hook_connected(fd, to);
	return r;
}

// Asked after a successful accept(), and answered from the table from then on.
static bool listener_is_tcp(int fd)
{
	uint32_t entry = fd_entry(fd);
	int saved = errno;
	bool tcp;

	switch ((enum fd_kind)(entry >> FD_VALUE_BITS)) {
	case FD_SOCKET:
		return !(entry & SOCKET_OTHER);
	case FD_CONN:
		return true; // was disconnected and made to listen
	case FD_UNKNOWN:
		tcp = is_tcp(fd);
		fd_set_entry(fd, FD_SOCKET, (tcp ? 0 : SOCKET_OTHER) | nonblock_value(fd));
		errno = saved;
		return tcp;
	default:
		return false;
	}
}

static void accepted(int listener, int fd, int flags)
{
	uint32_t value = flags & SOCK_NONBLOCK ? SOCKET_NONBLOCK : 0;
	bool foreign = fd_kind(listener) == FD_UNKNOWN;

	hook_fresh(fd);
	if (!settings.enabled || !listener_is_tcp(listener))
		return;
	if (fd_kind(listener) == FD_SOCKET)
		value |= fd_entry(listener) & SOCKET_BARRED; // such options are inherited
	adopt(fd, value, false);
	if (foreign)
		hook_foreign(fd);
}

RLM_EXPORT int accept(int fd, __SOCKADDR_ARG addr, socklen_t *restrict addrlen)
{
	int r = REAL(accept)(fd, addr.__sockaddr__, addrlen);

	if (r >= 0)
		accepted(fd, r, 0);
	return r;
}

RLM_EXPORT int accept4(int fd, __SOCKADDR_ARG addr, socklen_t *restrict addrlen, int flags)
{
	int r = REAL(accept4)(fd, addr.__sockaddr__, addrlen, flags);

	if (r >= 0)
		accepted(fd, r, flags);
	return r;
}

RLM_EXPORT int shutdown(int fd, int how)
{
	struct rlm_conn *c = fd_conn(fd);

	return c ? stream_shutdown(c, fd, how) : REAL(shutdown)(fd, how);
}

// --- options ---

// Such a time-out is "not at all", and reads back as "for ever". Fractions that the kernel refuses set nothing.
static bool is_negative(const struct timeval *t)
{
	return t->tv_sec < 0 && t->tv_usec >= 0 && t->tv_usec < 1000000;
}

#define SMALL_SNDBUF 1024

// Options whose effect a receive or send through shared memory would not show, or that change what the kernel does with
// the bytes.
static bool option_bars(int level, int name, const void *value, socklen_t len)
{
	int first = len >= sizeof(int) && !hook_is_bad(value) ? *(const int *)value : 0;

	if (level == IPPROTO_TCP)
		return name == TCP_ULP || name == TCP_REPAIR || name == TCP_MD5SIG || name == TCP_MD5SIG_EXT ||
		       name == OPT_TCP_INQ || name == OPT_TCP_TX_DELAY ||
		       (name >= OPT_TCP_AO_ADD_KEY && name <= OPT_TCP_AO_REPAIR);
	if (level != SOL_SOCKET)
		return false;
	switch (name) {
	case SO_RCVLOWAT:
		return first > 1 || first < 0;
	case SO_SNDBUF: // nothing but the least is to be under way
		return first >= 0 && first < SMALL_SNDBUF;
	case SO_RCVTIMEO:
	case SO_SNDTIMEO:
		return len >= sizeof(struct timeval) && !hook_is_bad(value) && is_negative(value);
	case SO_ATTACH_FILTER:
	case SO_ATTACH_BPF:
	case SO_ZEROCOPY:
	case SO_OOBINLINE:
	case SO_PEEK_OFF:
	case SO_MAX_PACING_RATE:
	case SO_TIMESTAMPING: // the others: see recv_message()
	case OPT_SO_TIMESTAMPING_NEW:
		return true;
	default:
		return false;
	}
}

RLM_EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	struct rlm_conn *c = fd_conn(fd);
	int r;

	if (c && option_bars(level, name, value, len) && stream_to_kernel(c, fd, RLM_WHY_OPTION) < 0)
		return (int)rlm_result(-ENOBUFS);
	// A change of carrier may set this one for a moment, and set it back.
	if (c && level == IPPROTO_TCP && (name == TCP_NODELAY || name == TCP_CORK))
		r = stream_set_pushing(c, fd, name, value, len);
	else
		r = REAL(setsockopt)(fd, level, name, value, len);
	if (r == 0 && level == SOL_SOCKET && is_timestamps(name) && (c || fd_kind(fd) == FD_SOCKET))
		note_timestamps();
	if (r == 0 && c)
		stream_option_set(c, fd, level, name);
	else if (r == 0 && fd_kind(fd) == FD_SOCKET && option_bars(level, name, value, len))
		fd_set_entry(fd, FD_SOCKET, (fd_entry(fd) & FD_VALUE_MASK) | SOCKET_BARRED);
	return r;
}

// One option receives: it maps the stream's pages.
RLM_EXPORT int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict len)
{
	struct rlm_conn *c = level == IPPROTO_TCP && name == TCP_ZEROCOPY_RECEIVE ? fd_conn(fd) : NULL;
	int r;

	if (c && (stream_to_kernel(c, fd, RLM_WHY_OPTION) < 0 || !hook_is_kernels(c, fd)))
		return (int)rlm_result(-ENOBUFS);
	r = REAL(getsockopt)(fd, level, name, value, len);
	if (__builtin_expect(r == 0 && level == SOL_SOCKET && name == SO_ERROR && *len == sizeof(int) && !*(int *)value, 0) && (c = fd_conn(fd)))
		*(int *)value = stream_error(c);
	return r;
}

// --- data ---

static __attribute__((noinline)) ssize_t send_unbound(struct rlm_conn *c, int fd, const void *buf, size_t len, int flags)
{
	struct hook_call call;

	if (hook_send_begin(&call, c, fd, flags))
		return hook_send_end(&call, REAL(send)(fd, buf, len, flags));
	return rlm_result(hook_send_one(c, fd, buf, len, flags));
}

RLM_EXPORT ssize_t send(int fd, const void *buf, size_t len, int flags)
{
	struct rlm_conn *c = fd_conn(fd);

	if (!c)
		return REAL(send)(fd, buf, len, flags);
	if (!hook_is_bound(c))
		return send_unbound(c, fd, buf, len, flags);
	return rlm_result(hook_send_one(c, fd, buf, len, flags));
}

// TCP checks an address and ignores it.
RLM_EXPORT ssize_t sendto(int fd, const void *buf, size_t len, int flags, __CONST_SOCKADDR_ARG addr, socklen_t addrlen)
{
	struct rlm_conn *c = fd_conn(fd);
	struct hook_call call;
	ssize_t n;

	if (!c) {
		n = REAL(sendto)(fd, buf, len, flags, addr.__sockaddr__, addrlen);
		if (flags & MSG_FASTOPEN && (n >= 0 || errno == EINPROGRESS) && addr.__sockaddr__)
			hook_connected(fd, addr.__sockaddr__);
		return n;
	}
	if (hook_send_begin(&call, c, fd, flags))
		return hook_send_end(&call, REAL(sendto)(fd, buf, len, flags, addr.__sockaddr__, addrlen));
	if (addr.__sockaddr__ && REAL(sendto)(fd, NULL, 0, flags & ~HOOK_SEND_FLAGS, addr.__sockaddr__, addrlen) < 0)
		return -1;
	return rlm_result(hook_send_one(c, fd, buf, len, flags));
}

RLM_EXPORT ssize_t recv(int fd, void *buf, size_t len, int flags)
{
	struct rlm_conn *c = fd_conn(fd);
	struct iovec iov = {buf, len};
	struct hook_call call;
	ssize_t n;

	if (!c)
		return REAL(recv)(fd, buf, len, flags);
	if (hook_recv_begin(&call, c, fd, flags)) {
		n = REAL(recv)(fd, buf, len, flags);
		if (hook_recv_end(&call, &iov, 1, &n))
			return n;
	}
	return rlm_result(hook_recv_one(c, fd, buf, len, flags));
}

RLM_EXPORT ssize_t __recv_chk(int fd, void *buf, size_t len, size_t size, int flags)
{
	if (len > size || !fd_conn(fd))
		return REAL(__recv_chk)(fd, buf, len, size, flags);
	return recv(fd, buf, len, flags);
}

// TCP has no address to tell; the bytes are gone even if the length cannot be said.
static int64_t tell_no_address(int64_t n, const struct sockaddr *addr, socklen_t *addrlen)
{
	if (n < 0 || !addr)
		return n;
	if (hook_is_bad(addrlen))
		return -EFAULT;
	if ((int)*addrlen < 0)
		return -EINVAL;
	*addrlen = 0;
	return n;
}

RLM_EXPORT ssize_t recvfrom(int fd, void *restrict buf, size_t len, int flags, __SOCKADDR_ARG addr,
			    socklen_t *restrict addrlen)
{
	struct rlm_conn *c = fd_conn(fd);
	struct iovec iov = {buf, len};
	struct hook_call call;
	ssize_t n;

	if (!c || flags & MSG_ERRQUEUE)
		return REAL(recvfrom)(fd, buf, len, flags, addr.__sockaddr__, addrlen);
	if (hook_recv_begin(&call, c, fd, flags)) {
		n = REAL(recvfrom)(fd, buf, len, flags, addr.__sockaddr__, addrlen);
		if (hook_recv_end(&call, &iov, 1, &n))
			return n;
	}
	return rlm_result(tell_no_address(hook_recv_one(c, fd, buf, len, flags), addr.__sockaddr__, addrlen));
}

RLM_EXPORT ssize_t __recvfrom_chk(int fd, void *restrict buf, size_t len, size_t size, int flags, __SOCKADDR_ARG addr,
				  socklen_t *restrict addrlen)
{
	if (len > size || !fd_conn(fd))
		return REAL(__recvfrom_chk)(fd, buf, len, size, flags, addr.__sockaddr__, addrlen);
	return recvfrom(fd, buf, len, flags, addr, addrlen);
}

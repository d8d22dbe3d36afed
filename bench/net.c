// SPDX-License-Identifier: BSD-2-Clause
// Sockets: TCP over IPv4 and IPv6, and UNIX stream sockets.
#include "net.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024

static int unix_address(const char *path, struct net_peer *peer, const char **wrong)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&peer->address;

	*wrong = "socket path";
	if (strlen(path) >= sizeof(un->sun_path))
		return -ENAMETOOLONG;
	memset(un, 0, sizeof(*un));
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, path);
	peer->length = sizeof(*un);
	return 0;
}

static int tcp_address(const struct net_address *a, int flags, struct net_peer *peer, const char **wrong)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
	struct addrinfo *found;
	int e;

	// Without a host a server listens on everything, IPv4 included, and a client goes to the IPv4 loopback.
	if (!a->host)
		hints.ai_family = (flags & AI_PASSIVE) ? AF_INET6 : AF_INET;
	e = getaddrinfo(a->host, a->port, &hints, &found);
	if (e) {
		*wrong = gai_strerror(e);
		return e == EAI_SYSTEM ? -errno : -EADDRNOTAVAIL;
	}
	memcpy(&peer->address, found->ai_addr, found->ai_addrlen);
	peer->length = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

// A socket that a server left behind by dying; anything else is not ours to remove.
static void remove_stale(const struct net_peer *peer)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&peer->address;
	struct stat st;
	int fd;

	if (lstat(un->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = net_connect(peer);
	if (fd >= 0)
		close(fd);
	else if (fd == -ECONNREFUSED)
		unlink(un->sun_path);
}

static int listen_on(const struct net_peer *peer, const char **wrong)
{
	int fd = socket(peer->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int off = 0, on = 1, e;

	*wrong = "socket";
	if (fd < 0)
		return -errno;
	if (peer->address.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (peer->address.ss_family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	*wrong = "bind";
	if (bind(fd, (const struct sockaddr *)&peer->address, peer->length) < 0)
		goto err_fd;
	*wrong = "listen";
	if (listen(fd, BACKLOG) < 0)
		goto err_fd;
	return fd;

err_fd:
	e = errno;
	close(fd);
	return -e;
}

int net_listen(const struct net_address *a, const char **wrong)
{
	struct net_peer peer;
	struct net_address any = {.host = "0.0.0.0", .port = a->port};
	int r = a->path ? unix_address(a->path, &peer, wrong) : tcp_address(a, AI_PASSIVE, &peer, wrong);

	if (r < 0)
		return r;
	if (a->path)
		remove_stale(&peer);
	r = listen_on(&peer, wrong);
	if (r != -EAFNOSUPPORT || a->path || a->host)
		return r;
	r = tcp_address(&any, AI_PASSIVE, &peer, wrong); // no IPv6 here
	return r < 0 ? r : listen_on(&peer, wrong);
}

int net_resolve(const struct net_address *a, struct net_peer *peer, const char **wrong)
{
	return a->path ? unix_address(a->path, peer, wrong) : tcp_address(a, 0, peer, wrong);
}

int net_connect(const struct net_peer *peer)
{
	int fd = socket(peer->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int e;

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&peer->address, peer->length) == 0)
		return fd;
	e = errno;
	close(fd);
	return -e;
}

unsigned net_port(int fd)
{
	struct sockaddr_storage s;
	socklen_t len = sizeof(s);

	if (getsockname(fd, (struct sockaddr *)&s, &len) < 0)
		return 0;
	if (s.ss_family == AF_INET)
		return ntohs(((struct sockaddr_in *)&s)->sin_port);
	if (s.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&s)->sin6_port);
	return 0;
}

void net_receive_timeout(int fd, unsigned seconds)
{
	struct timeval t = {.tv_sec = seconds};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

void net_nodelay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); // a UNIX socket has none to set
}

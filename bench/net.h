// SPDX-License-Identifier: BSD-2-Clause
// Sockets: TCP over IPv4 and IPv6, and UNIX stream sockets.
#ifndef BENCH_NET_H
#define BENCH_NET_H

#include <sys/socket.h>

struct net_address {
	const char *host; // NULL: any (server), loopback (client)
	const char *port;
	const char *path; // not NULL: a UNIX socket instead
};

// An address once resolved, so that connecting costs nothing but connecting.
struct net_peer {
	struct sockaddr_storage address;
	socklen_t length;
};

// Each returns a descriptor or 0, or -errno with *wrong set to what failed.
int net_listen(const struct net_address *a, const char **wrong);
int net_resolve(const struct net_address *a, struct net_peer *peer, const char **wrong);
int net_connect(const struct net_peer *peer); // -errno
// The port a listener got; 0 for a UNIX socket.
unsigned net_port(int fd);
// Limits the time of a receive; 0: no limit.
void net_receive_timeout(int fd, unsigned seconds);
void net_nodelay(int fd);

#endif

// SPDX-License-Identifier: BSD-2-Clause
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t address_set(union address *a, int family, const char *text, uint16_t port)
{
	memset(a, 0, sizeof(*a));
	a->any.sa_family = (sa_family_t)family;
	if (family == AF_INET) {
		a->v4.sin_port = htons(port);
		assert_int_equal(inet_pton(AF_INET, text, &a->v4.sin_addr), 1);
		return sizeof(a->v4);
	}
	a->v6.sin6_port = htons(port);
	assert_int_equal(inet_pton(AF_INET6, text, &a->v6.sin6_addr), 1);
	return sizeof(a->v6);
}

static int tcp_bound(int family, const char *address, uint16_t port)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	int sock = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	union address a;
	socklen_t length = address_set(&a, family, address, port);

	assert_int_equal(setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	// A broker that was asked to name the port's last connection may have a copy of its socket for a moment.
	for (int i = 0; bind(sock, &a.any, length); i++) {
		if (errno != EADDRINUSE || i == 2000)
			fail_msg("bind %s %u: %s", address, port, strerror(errno));
		nanosleep(&moment, NULL);
	}
	return sock;
}

int tcp_listen(int family, const char *address, uint16_t port)
{
	int sock = tcp_bound(family, address, port);

	assert_int_equal(listen(sock, 128), 0);
	return sock;
}

int tcp_connect(int family, const char *from, uint16_t from_port, const char *to, uint16_t port)
{
	int sock = from ? tcp_bound(family, from, from_port) : socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	union address a;
	socklen_t length = address_set(&a, family, to, port);

	if (connect(sock, &a.any, length))
		fail_msg("connect %s %u: %s", to, port, strerror(errno));
	return sock;
}

uint16_t tcp_port(int sock)
{
	union address a;
	socklen_t length = sizeof(a);

	assert_int_equal(getsockname(sock, &a.any, &length), 0);
	return ntohs(a.any.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
}

static void tcp_pair_from(int family, const char *from, uint16_t from_port, const char *address, uint16_t port, int tcp[2])
{
	int listener = tcp_listen(family, address, port);

	tcp[0] = tcp_connect(family, from, from_port, address, tcp_port(listener));
	tcp[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(tcp[1] >= 0);
	close(listener);
}

void tcp_pair_at(int family, const char *address, uint16_t port, uint16_t client_port, int tcp[2])
{
	tcp_pair_from(family, address, client_port, address, port, tcp);
}

void tcp_pair(int family, const char *address, int tcp[2])
{
	tcp_pair_from(family, NULL, 0, address, 0, tcp);
}

void close_pair(int tcp[2])
{
	for (int i = 0; i < 2; i++) {
		if (tcp[i] >= 0)
			close(tcp[i]);
		tcp[i] = -1;
	}
}

void tcp_await(int sock, short events)
{
	struct pollfd poller = {.fd = sock, .events = events};

	assert_int_equal(poll(&poller, 1, PATIENCE), 1);
	assert_true(poller.revents & events);
}

// --- namespaces ---

static int home = -1;

static bool home_keep(void)
{
	if (home < 0)
		home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	return home >= 0;
}

bool netns_new(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int sock, err;

	if (!home_keep() || unshare(CLONE_NEWNET))
		return false;
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	err = ioctl(sock, SIOCSIFFLAGS, &request);
	close(sock);
	return err == 0;
}

bool netns_enter(const char *name)
{
	char path[128];
	int fd, err;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (!home_keep() || fd < 0)
		return false;
	err = setns(fd, CLONE_NEWNET);
	close(fd);
	return err == 0;
}

void netns_back(void)
{
	assert_int_equal(setns(home, CLONE_NEWNET), 0);
}

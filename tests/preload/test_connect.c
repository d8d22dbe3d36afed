// SPDX-License-Identifier: BSD-2-Clause
// How connections begin: non-blocking, refused, twice, to oneself, from both sides, and taken apart again.
#include "pair.h"

#include <sys/epoll.h>

static socklen_t address_of(int fd, struct sockaddr_storage *address)
{
	socklen_t size = sizeof(*address);

	assert_returns(getsockname(fd, (struct sockaddr *)address, &size), 0);
	return size;
}

static void exercise(struct pair *p)
{
	pair_settle(p);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	send_text(p->b, "def");
	recv_text(p->a, "def");
}

static void nonblocking(void **state)
{
	int listener = listener_open(*(int *)*state);
	struct sockaddr_storage address;
	socklen_t size = address_of(listener, &address);
	struct pair p = {.family = *(int *)*state};
	int result;

	p.a = socket(p.family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	result = connect(p.a, (struct sockaddr *)&address, size);
	assert_that(result == -1 && errno == EINPROGRESS);
	assert_that(wait_for(p.a, POLLOUT, DEADLINE_MS));
	assert_returns(socket_error(p.a), 0);
	p.b = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_that(p.b >= 0);
	assert_that(fcntl(p.b, F_GETFL) & O_NONBLOCK);
	assert_that(fcntl(p.b, F_GETFD) & FD_CLOEXEC);
	set_nonblocking(p.a, false);
	set_nonblocking(p.b, false);
	exercise(&p);
	pair_close(&p);
	close(listener);
}

static void nonblocking_by_epoll(void **state)
{
	int listener = listener_open(*(int *)*state), ep = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
	struct sockaddr_storage address;
	socklen_t size = address_of(listener, &address);
	struct pair p = {.family = *(int *)*state};

	// Added before it is connected: a hang-up until then.
	p.a = socket(p.family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_returns(epoll_ctl(ep, EPOLL_CTL_ADD, p.a, &event), 0);
	assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
	assert_returns(event.events, EPOLLOUT | EPOLLHUP);
	assert_fails(connect(p.a, (struct sockaddr *)&address, size), EINPROGRESS);
	assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
	assert_returns(event.events, EPOLLOUT);
	p.b = accept(listener, NULL, NULL);
	send_text(p.b, "x");
	assert_returns(epoll_wait(ep, &event, 1, DEADLINE_MS), 1);
	assert_returns(event.events, EPOLLIN | EPOLLOUT);
	recv_text(p.a, "x");
	set_nonblocking(p.a, false);
	exercise(&p);
	pair_close(&p);
	close(ep);
	close(listener);
}

static void refused(void **state)
{
	int listener = listener_open(*(int *)*state), fd = tcp_socket(*(int *)*state);
	struct sockaddr_storage address;
	socklen_t size = address_of(listener, &address);
	struct pollfd item = {.events = POLLIN | POLLOUT};
	char byte;

	close(listener);
	assert_fails(connect(fd, (struct sockaddr *)&address, size), ECONNREFUSED);
	assert_fails(recv(fd, &byte, 1, 0), ENOTCONN);
	assert_fails(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
	close(fd);

	fd = socket(*(int *)*state, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_fails(connect(fd, (struct sockaddr *)&address, size), EINPROGRESS);
	item.fd = fd;
	assert_returns(poll(&item, 1, DEADLINE_MS), 1);
	assert_returns(item.revents, POLLIN | POLLOUT | POLLERR | POLLHUP);
	assert_returns(socket_error(fd), ECONNREFUSED);
	assert_returns(socket_error(fd), 0);
	close(fd);
}

// A socket whose first try was refused connects on the second.
static void refused_then_connected(void **state)
{
	int listener = listener_open(*(int *)*state);
	struct sockaddr_storage address;
	socklen_t size = address_of(listener, &address);
	struct pair p = {.a = tcp_socket(*(int *)*state), .family = *(int *)*state};

	close(listener);
	assert_fails(connect(p.a, (struct sockaddr *)&address, size), ECONNREFUSED);
	listener = listener_open(*(int *)*state);
	size = address_of(listener, &address);
	assert_returns(connect(p.a, (struct sockaddr *)&address, size), 0);
	p.b = accept(listener, NULL, NULL);
	exercise(&p);
	pair_close(&p);
	close(listener);
}

static void connect_twice(void **state)
{
	struct pair *p = *state;
	struct sockaddr_storage address;
	socklen_t size = address_of(p->b, &address);

	assert_fails(connect(p->a, (struct sockaddr *)&address, size), EISCONN);
	assert_fails(listen(p->a, 1), EINVAL);
	assert_fails(bind(p->a, (struct sockaddr *)&address, size), EINVAL);
	assert_fails(accept(p->a, NULL, NULL), EINVAL);
	exercise(p);
	pair_check_ring(p);
}

// A socket connected to itself.
static void to_itself(void **state)
{
	int fd = tcp_socket(*(int *)*state), listener = listener_open(*(int *)*state);
	struct sockaddr_storage address;
	socklen_t size = address_of(listener, &address);

	// The listener's port, which is free now.
	close(listener);
	assert_returns(bind(fd, (struct sockaddr *)&address, size), 0);
	assert_returns(connect(fd, (struct sockaddr *)&address, size), 0);
	for (int i = 0; i < 50; i++) {
		send_text(fd, "to myself");
		recv_text(fd, "to myself");
	}
	send_pattern(fd, 1, 0, 50000);
	recv_pattern(fd, 1, 0, 50000);
	assert_returns(shutdown(fd, SHUT_WR), 0);
	recv_end(fd);
	close(fd);
}

struct other_side {
	int fd;
	struct sockaddr_storage address;
	socklen_t size;
	_Atomic int *go;
};

static void *connect_on_go(void *arg)
{
	struct other_side *o = arg;

	(*o->go)++;
	while (*o->go < 2)
		;
	return (void *)(long)(connect(o->fd, (struct sockaddr *)&o->address, o->size) ? errno : 0);
}

// Both sides connect and nobody listens. It is a matter of luck whether they meet.
static void from_both_sides(void **state)
{
	int met = 0;

	for (int i = 0; i < 200 && met < 3; i++) {
		struct other_side side[2];
		_Atomic int go = 0;
		pthread_t threads[2];
		void *result[2];

		for (int n = 0; n < 2; n++) {
			int listener = listener_open(*(int *)*state);

			side[n] = (struct other_side){.fd = tcp_socket(*(int *)*state), .go = &go};
			set_int(side[n].fd, SOL_SOCKET, SO_REUSEADDR, 1);
			side[n].size = address_of(listener, &side[n].address);
			close(listener);
			assert_returns(bind(side[n].fd, (struct sockaddr *)&side[n].address, side[n].size), 0);
		}
		struct sockaddr_storage first = side[0].address;
		side[0].address = side[1].address;
		side[1].address = first;
		for (int n = 0; n < 2; n++)
			assert_returns(pthread_create(&threads[n], NULL, connect_on_go, &side[n]), 0);
		for (int n = 0; n < 2; n++)
			assert_returns(pthread_join(threads[n], &result[n]), 0);
		if (!result[0] && !result[1]) {
			struct pair p = {side[0].fd, side[1].fd, *(int *)*state};

			met++;
			pair_talk(&p, 20);
		}
		close(side[0].fd);
		close(side[1].fd);
	}
}

// connect() with AF_UNSPEC takes the connection apart; the socket can be used for another one.
static void disconnect(void **state)
{
	struct pair *p = *state, q;
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	struct sockaddr_storage address;
	int listener = listener_open(p->family);
	socklen_t size = address_of(listener, &address);
	char byte;

	assert_returns(connect(p->a, &none, sizeof(none)), 0);
	assert_fails(recv(p->b, &byte, 1, 0), ECONNRESET);
	// The one who did it is told, too, and once.
	assert_fails(recv(p->a, &byte, 1, 0), ECONNRESET);
	assert_fails(recv(p->a, &byte, 1, 0), ENOTCONN);
	assert_returns(connect(p->a, (struct sockaddr *)&address, size), 0);
	q = (struct pair){p->a, accept(listener, NULL, NULL), p->family};
	exercise(&q);
	close(q.b);
	close(listener);
}

// A disconnected socket becomes a listener.
static void disconnect_then_listen(void **state)
{
	struct pair *p = *state, q = {.family = p->family};
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	assert_returns(connect(p->a, &none, sizeof(none)), 0);
	assert_returns(listen(p->a, 5), 0);
	struct sockaddr_storage address;
	socklen_t size = address_of(p->a, &address);
	if (p->family == AF_INET)
		((struct sockaddr_in *)&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		((struct sockaddr_in6 *)&address)->sin6_addr = in6addr_loopback;
	q.a = tcp_socket(p->family);
	assert_returns(connect(q.a, (struct sockaddr *)&address, size), 0);
	q.b = accept(p->a, NULL, NULL);
	assert_that(q.b >= 0);
	exercise(&q);
	pair_close(&q);
}

static void accept_reports_peer(void **state)
{
	int listener = listener_open(*(int *)*state), fd;
	struct sockaddr_storage peer, own;
	socklen_t size = sizeof(peer);
	struct pair p = {.a = listener_connect(listener), .family = *(int *)*state};

	fd = accept(listener, (struct sockaddr *)&peer, &size);
	p.b = fd;
	assert_returns(address_of(p.a, &own), size);
	assert_bytes(&own, &peer, size);
	set_nonblocking(listener, true);
	assert_fails(accept(listener, NULL, NULL), EAGAIN);
	assert_fails(accept4(listener, NULL, NULL, 0x1234), EINVAL);
	exercise(&p);
	pair_close(&p);
	close(listener);
}

// Data that waits before the accept.
static void data_before_accept(void **state)
{
	int listener = listener_open(*(int *)*state);
	struct pair p = {.a = listener_connect(listener), .family = *(int *)*state};

	for (int i = 0; i < 30; i++)
		send_text(p.a, "early ");
	p.b = accept(listener, NULL, NULL);
	for (int i = 0; i < 30; i++)
		recv_text(p.b, "early ");
	exercise(&p);
	pair_close(&p);
	close(listener);
}

// Sent, closed, and only then accepted.
static void closed_before_accept(void **state)
{
	int listener = listener_open(*(int *)*state), a = listener_connect(listener), b;

	send_text(a, "gone");
	close(a);
	b = accept(listener, NULL, NULL);
	assert_that(b >= 0);
	recv_text(b, "gone");
	recv_end(b);
	close(b);
	close(listener);
}

// An IPv4 client of a socket that listens on both.
static void mapped_addresses(void **state)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct pair p = {.family = AF_INET};
	int listener = socket(AF_INET6, SOCK_STREAM, 0), off = 0;
	socklen_t size = sizeof(any);

	if (listener < 0 || setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0)
		skip();
	assert_returns(bind(listener, (struct sockaddr *)&any, sizeof(any)), 0);
	assert_returns(listen(listener, 5), 0);
	assert_returns(getsockname(listener, (struct sockaddr *)&any, &size), 0);
	to.sin_port = any.sin6_port;
	p.a = tcp_socket(AF_INET);
	assert_returns(connect(p.a, (struct sockaddr *)&to, sizeof(to)), 0);
	p.b = accept(listener, NULL, NULL);
	exercise(&p);
	pair_check_ring(&p);
	pair_close(&p);
	close(listener);
}

static int accept_one(void *arg)
{
	return accept(*(int *)arg, NULL, NULL);
}

static void blocked_accept(void **state)
{
	int listener = listener_open(*(int *)*state);
	struct sleeper sleeper;
	struct pair p = {.family = *(int *)*state};

	sleeper_start(&sleeper, accept_one, &listener);
	p.a = listener_connect(listener);
	p.b = sleeper_join(&sleeper);
	assert_that(p.b >= 0);
	exercise(&p);
	pair_close(&p);
	sleeper_start(&sleeper, accept_one, &listener);
	assert_returns(shutdown(listener, SHUT_RDWR), 0);
	assert_fails(sleeper_join(&sleeper), EINVAL);
	close(listener);
}

// Short connections, as an HTTP/1.0 client makes them.
static void many_short(void **state)
{
	int listener = listener_open(*(int *)*state);

	for (int i = 0; i < 500; i++) {
		int a = listener_connect(listener), b = accept(listener, NULL, NULL);

		send_text(a, "GET /");
		recv_text(b, "GET /");
		send_text(b, "200 OK");
		close(b);
		recv_text(a, "200 OK");
		recv_end(a);
		close(a);
	}
	close(listener);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(nonblocking),
    TEST_FAMILY(nonblocking_by_epoll),
    TEST_FAMILY(refused),
    TEST_FAMILY(refused_then_connected),
    TEST_SETTLED(connect_twice),
    TEST_FAMILY(to_itself),
    TEST_FAMILY(from_both_sides),
    TEST_SETTLED(disconnect),
    TEST_SETTLED(disconnect_then_listen),
    TEST_FAMILY(accept_reports_peer),
    TEST_FAMILY(data_before_accept),
    TEST_FAMILY(closed_before_accept),
    {"mapped_addresses", mapped_addresses, NULL, NULL, NULL},
    TEST_FAMILY(blocked_accept),
    TEST_FAMILY(many_short),
};
// clang-format on

SUITE_MAIN(tests)

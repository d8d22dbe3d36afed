// SPDX-License-Identifier: BSD-2-Clause
// Connected TCP pairs in every carrier state.
#include "pair.h"

#include <rlm/rlm.h>

static unsigned pairs_made;

static socklen_t loopback(struct sockaddr_storage *address, int family, int port)
{
	memset(address, 0, sizeof(*address));
	if (family == AF_INET6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
		*in6 = (struct sockaddr_in6){
		    .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
		return sizeof(*in6);
	}
	struct sockaddr_in *in = (struct sockaddr_in *)address;
	*in = (struct sockaddr_in){
	    .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	return sizeof(*in);
}

int tcp_socket(int family)
{
	int fd = socket(family, SOCK_STREAM, 0);

	assert_that(fd >= 0);
	return fd;
}

int listener_open(int family)
{
	struct sockaddr_storage address;
	socklen_t size = loopback(&address, family, 0);
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 128) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int listener_port(int listener)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof(address);

	assert_returns(getsockname(listener, (struct sockaddr *)&address, &size), 0);
	return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

int listener_connect(int listener)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof(address);
	int fd;

	assert_returns(getsockname(listener, (struct sockaddr *)&address, &size), 0);
	fd = tcp_socket(address.ss_family);
	assert_returns(connect(fd, (struct sockaddr *)&address, size), 0);
	return fd;
}

int socket_error(int fd)
{
	int error = -1;
	socklen_t size = sizeof(error);

	assert_returns(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
	return error;
}

void set_nonblocking(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	assert_that(flags >= 0);
	assert_returns(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 0);
}

void set_int(int fd, int level, int option, int value)
{
	assert_returns(setsockopt(fd, level, option, &value, sizeof(value)), 0);
}

void set_timeout(int fd, int option, int ms)
{
	struct timeval time = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	assert_returns(setsockopt(fd, SOL_SOCKET, option, &time, sizeof(time)), 0);
}

void set_linger(int fd, int seconds)
{
	struct linger linger = {.l_onoff = 1, .l_linger = seconds};

	assert_returns(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
}

// -- both ends in this process --

void close_end(int *fd)
{
	assert_returns(close(*fd), 0);
	*fd = -1;
}

void pair_open(struct pair *pair, int family)
{
	int listener = listener_open(family);

	assert_that(listener >= 0);
	pair->family = family;
	pair->a = listener_connect(listener);
	pair->b = accept(listener, NULL, NULL);
	assert_that(pair->b >= 0);
	assert_returns(close(listener), 0);
}

void pair_talk(struct pair *p, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		send_text(p->a, "question");
		recv_text(p->b, "question");
		send_text(p->b, "answer");
		recv_text(p->a, "answer");
	}
}

void pair_close(struct pair *pair)
{
	if (pair->a >= 0)
		close(pair->a);
	if (pair->b >= 0)
		close(pair->b);
	pair->a = pair->b = -1;
}

// Ring states: both directions are on the ring now; the others: both have been.
static bool on_ring(int fd)
{
	struct rlm_info info;

	assert_returns(rlm_socket_info(fd, &info), 0);
	if (carrier_is_ring())
		return info.tx_carrier == RLM_CARRIER_RING && info.rx_carrier == RLM_CARRIER_RING;
	return info.tx_bytes_ring && info.rx_bytes_ring;
}

static void describe(int fd, const char *end)
{
	struct rlm_info info;

	if (rlm_socket_info(fd, &info) < 0)
		return;
	fprintf(stderr,
		"  end %s: tx %s, rx %s, %s; ring bytes %llu out %llu in, plain %llu out %llu in, %u switches\n", end,
		info.tx_carrier ? "ring" : "plain", info.rx_carrier ? "ring" : "plain", rlm_why_words(info.why),
		(unsigned long long)info.tx_bytes_ring, (unsigned long long)info.rx_bytes_ring,
		(unsigned long long)info.tx_bytes_plain, (unsigned long long)info.rx_bytes_plain, info.switches);
}

static void exchange(int from, int to)
{
	char byte = 's', got = 0;

	assert_returns(send(from, &byte, 1, 0), 1);
	assert_returns(recv(to, &got, 1, 0), 1);
	assert_that(got == byte);
}

void pair_wait_bound(struct pair *pair)
{
	int64_t deadline = now_ms() + 1000;
	struct rlm_info a, b;

	if (!carrier_accelerates())
		return;
	do {
		assert_returns(rlm_socket_info(pair->a, &a), 0);
		assert_returns(rlm_socket_info(pair->b, &b), 0);
		if ((a.why == RLM_WHY_WAITING || a.why == RLM_WHY_ACCELERATED) &&
		    (b.why == RLM_WHY_WAITING || b.why == RLM_WHY_ACCELERATED))
			return;
		nap_ms(1);
	} while (now_ms() < deadline);
}

void pair_touch(struct pair *pair)
{
	exchange(pair->a, pair->b);
	exchange(pair->b, pair->a);
}

// In promote-mid every third pair goes at once, every third waits until its first send will switch, and every third has
// switched one direction already, so that the cut falls on different places of the tests.
static void settle_partly(struct pair *pair)
{
	switch ((pairs_made++ + getpid()) % 3) {
	case 0:
		return;
	case 1:
		pair_touch(pair);
		pair_wait_bound(pair);
		return;
	default:
		pair_touch(pair);
		pair_wait_bound(pair);
		exchange(pair->a, pair->b);
		return;
	}
}

static void touch_until_used(struct pair *pair)
{
	int64_t deadline = now_ms() + DEADLINE_MS;

	while (!on_ring(pair->a) || !on_ring(pair->b)) {
		if (now_ms() > deadline) {
			describe(pair->a, "a");
			describe(pair->b, "b");
			check_failed(__FILE__, __LINE__, "not promoted after %d ms", DEADLINE_MS);
		}
		pair_touch(pair);
		nap_ms(1);
	}
}

void pair_settle(struct pair *pair)
{
	if (carrier() == CARRIER_PROMOTE_MID)
		settle_partly(pair);
	else if (carrier_accelerates())
		touch_until_used(pair);
}

void pair_check_ring(struct pair *pair)
{
	if (!carrier_is_ring())
		return;
	if (on_ring(pair->a) && on_ring(pair->b))
		return;
	describe(pair->a, "a");
	describe(pair->b, "b");
	check_failed(__FILE__, __LINE__, "left the ring");
}

void pair_check_used(struct pair *pair, uint64_t bytes)
{
	struct rlm_info info;
	int fds[] = {pair->a, pair->b};

	if (!carrier_accelerates())
		return;
	// The transfer may have been over before its promotion came; then that comes now.
	if (carrier() == CARRIER_PROMOTE_MID) {
		set_nonblocking(pair->a, false);
		set_nonblocking(pair->b, false);
		touch_until_used(pair);
	}
	for (int i = 0; i < 2; i++) {
		assert_returns(rlm_socket_info(fds[i], &info), 0);
		if (carrier_is_ring() && (info.tx_bytes_ring < bytes || info.rx_bytes_ring < bytes)) {
			describe(fds[i], i ? "b" : "a");
			check_failed(__FILE__, __LINE__, "%llu bytes did not all take the ring",
				     (unsigned long long)bytes);
		}
		if (!info.tx_bytes_ring || !info.rx_bytes_ring) {
			describe(fds[i], i ? "b" : "a");
			check_failed(__FILE__, __LINE__, "nothing took the ring");
		}
	}
}

// -- one end in another process --

// The leader sends 's'; the other answers 'y' when it has both directions on the ring, else 'n'. The leader ends it
// with 'g'.
void peer_settle(int fd, bool leads)
{
	int64_t deadline = now_ms() + DEADLINE_MS;
	char byte;

	if (!carrier_accelerates() || carrier() == CARRIER_PROMOTE_MID)
		return;
	if (!leads) {
		for (;;) {
			assert_returns(recv(fd, &byte, 1, 0), 1);
			if (byte == 'g')
				return;
			byte = on_ring(fd) ? 'y' : 'n';
			assert_returns(send(fd, &byte, 1, 0), 1);
		}
	}
	do {
		if (now_ms() > deadline) {
			describe(fd, "leader");
			check_failed(__FILE__, __LINE__, "not promoted after %d ms", DEADLINE_MS);
		}
		nap_ms(1);
		assert_returns(send(fd, "s", 1, 0), 1);
		assert_returns(recv(fd, &byte, 1, 0), 1);
	} while (byte != 'y' || !on_ring(fd));
	assert_returns(send(fd, "g", 1, 0), 1);
}

void peer_start(struct peer *peer, int family, void (*fn)(int fd, void *arg), void *arg)
{
	int listener = listener_open(family);

	assert_that(listener >= 0);
	fflush(NULL);
	peer->pid = fork();
	assert_that(peer->pid >= 0);
	if (peer->pid == 0) {
		int fd = listener_connect(listener);
		close(listener);
		peer_settle(fd, false);
		fn(fd, arg);
		_exit(0);
	}
	peer->fd = accept(listener, NULL, NULL);
	assert_that(peer->fd >= 0);
	close(listener);
	peer_settle(peer->fd, true);
}

void peer_finish(struct peer *peer)
{
	if (peer->fd >= 0)
		close(peer->fd);
	peer->fd = -1;
	child_finish(peer->pid);
}

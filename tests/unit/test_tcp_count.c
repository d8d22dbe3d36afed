// SPDX-License-Identifier: BSD-2-Clause
// Does the running kernel count as tcp_count.c believes? The cut-over is exact only if these numbers are.
#include "unit.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "ends.h"
#include "sys.h"

static uint8_t scratch[1 << 20];

// a is the side under test, b its peer.
struct link {
	int a, b;
};

static void put(int fd, uint64_t n)
{
	while (n) {
		long r = sys_send(fd, scratch, n < sizeof(scratch) ? n : sizeof(scratch), MSG_NOSIGNAL);

		must(r > 0);
		n -= (uint64_t)r;
	}
}

static void take(int fd, uint64_t n)
{
	while (n) {
		long r = sys_recv(fd, scratch, n < sizeof(scratch) ? n : sizeof(scratch), 0);

		must(r > 0);
		n -= (uint64_t)r;
	}
}

// Loopback delivers within the sender's call, except when the other side's lock was held just then.
static void await_queued(int fd, int n)
{
	int queued = -1;

	for (uint64_t start = now_ms(); queued < n; sched_yield()) {
		must(ioctl(fd, FIONREAD, &queued) == 0);
		must(now_ms() - start < 5000);
	}
	must(queued == n);
}

static void await_event(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	must(poll(&p, 1, 5000) == 1 && p.revents & (events | POLLERR));
}

// After our own FIN the count may be refused, but not be wrong; the same for what was taken once the connection was
// reset.
static void expect_exact_or_refused(int64_t count, int64_t exact)
{
	if (count != -ENOTCONN)
		assert_int_equal(count, exact);
}

static void test_nothing(struct link l)
{
	assert_int_equal(tcp_written(l.a), 0);
	assert_int_equal(tcp_taken(l.a), 0);
}

static void test_unread(struct link l)
{
	uint64_t total = 0, random = 1;

	for (int i = 0; i < 20; i++) {
		uint64_t n = 1 + random_below(&random, 1000);

		put(l.b, n);
		total += n;
		assert_int_equal(tcp_written(l.b), total);
		assert_int_equal(tcp_taken(l.a), 0);
	}
	await_queued(l.a, (int)total);
	assert_int_equal(sys_recv(l.a, scratch, 100, MSG_PEEK), 100);
	assert_int_equal(tcp_taken(l.a), 0);
	for (uint64_t taken = 0; taken < total;) {
		uint64_t n = 1 + random_below(&random, 700);

		if (n > total - taken)
			n = total - taken;
		take(l.a, n);
		taken += n;
		assert_int_equal(tcp_taken(l.a), taken);
	}
	assert_int_equal(tcp_written(l.a), 0);
	assert_int_equal(tcp_taken(l.b), 0);
}

// More than both buffers hold: some was sent, some waits here, the window closes.
static void test_unsent(struct link l)
{
	uint64_t total = 0, taken = 0;
	long r;

	tcp_set_buffers(l.a, 1);
	tcp_set_buffers(l.b, 1);
	for (int turn = 0; turn < 12; turn++) {
		while ((r = sys_send(l.a, scratch, 777, MSG_DONTWAIT)) > 0) {
			total += (uint64_t)r;
			assert_int_equal(tcp_written(l.a), total);
		}
		assert_int_equal(r, -EAGAIN);
		r = sys_recv(l.b, scratch, 500 + 400 * (unsigned)turn, MSG_DONTWAIT);
		if (r > 0)
			taken += (uint64_t)r;
		assert_int_equal(tcp_taken(l.b), taken);
		assert_int_equal(tcp_written(l.a), total);
	}
	assert_true(total > taken);
	take(l.b, total - taken);
	assert_int_equal(tcp_taken(l.b), total);
	assert_int_equal(tcp_written(l.a), total);
}

static void test_peer_ends_first(struct link l)
{
	put(l.b, 3000);
	put(l.a, 500);
	shutdown(l.b, SHUT_WR);
	await_event(l.a, POLLRDHUP);
	assert_int_equal(tcp_taken(l.a), 0);
	take(l.a, 1000);
	assert_int_equal(tcp_taken(l.a), 1000);
	take(l.a, 2000);
	assert_int_equal(tcp_taken(l.a), 3000);
	assert_int_equal(sys_recv(l.a, scratch, 1, 0), 0);
	assert_int_equal(tcp_taken(l.a), 3000);
	put(l.a, 700);
	assert_int_equal(tcp_written(l.a), 1200);
	expect_exact_or_refused(tcp_written(l.b), 3000);
	assert_int_equal(tcp_taken(l.b), 0);
	shutdown(l.a, SHUT_WR);
	await_event(l.b, POLLRDHUP);
	assert_int_equal(tcp_taken(l.b), 0);
	take(l.b, 1200);
	assert_int_equal(sys_recv(l.b, scratch, 1, 0), 0);
	assert_int_equal(tcp_taken(l.b), 1200);
	assert_int_equal(tcp_taken(l.a), 3000);
	expect_exact_or_refused(tcp_written(l.a), 1200);
}

static void test_peer_ends_with_unread(struct link l)
{
	put(l.b, 3000);
	shutdown(l.b, SHUT_WR);
	shutdown(l.a, SHUT_WR);
	await_event(l.a, POLLHUP);
	for (uint64_t taken = 0; taken < 3000; taken += 750) {
		assert_int_equal(tcp_taken(l.a), taken);
		take(l.a, 750);
	}
	assert_int_equal(tcp_taken(l.a), 3000);
	assert_int_equal(sys_recv(l.a, scratch, 1, 0), 0);
	assert_int_equal(tcp_taken(l.a), 3000);
}

static void test_own_end_first(struct link l)
{
	put(l.a, 100);
	shutdown(l.a, SHUT_WR);
	await_event(l.b, POLLRDHUP);
	expect_exact_or_refused(tcp_written(l.a), 100);
	put(l.b, 2000); // FIN_WAIT2
	await_queued(l.a, 2000);
	assert_int_equal(tcp_taken(l.a), 0);
	take(l.a, 300);
	assert_int_equal(tcp_taken(l.a), 300);
	shutdown(l.b, SHUT_WR); // closed, as far as the socket is concerned
	await_event(l.a, POLLHUP);
	assert_int_equal(tcp_taken(l.a), 300);
	take(l.a, 1700);
	assert_int_equal(tcp_taken(l.a), 2000);
	assert_int_equal(sys_recv(l.a, scratch, 1, 0), 0);
	assert_int_equal(tcp_taken(l.a), 2000);
	expect_exact_or_refused(tcp_written(l.a), 100);
	assert_int_equal(tcp_taken(l.b), 0);
	take(l.b, 100);
	assert_int_equal(tcp_taken(l.b), 100);
	expect_exact_or_refused(tcp_written(l.b), 2000);
}

static void read_error(int fd)
{
	int error = 0;
	socklen_t len = sizeof(error);

	must(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error != 0);
}

// The peer closes while bytes of ours are unread there. What had arrived can still be counted, and read.
static void test_peer_resets(struct link l)
{
	put(l.b, 1000);
	await_queued(l.a, 1000);
	put(l.a, 10);
	take(l.a, 400);
	await_queued(l.b, 10);
	must(dup2(l.a, l.b) == l.b); // closes the peer's socket
	await_event(l.a, POLLHUP);
	assert_int_equal(tcp_taken(l.a), 400);
	expect_exact_or_refused(tcp_written(l.a), 10);
	read_error(l.a);
	assert_int_equal(tcp_taken(l.a), 400);
	take(l.a, 600);
	assert_int_equal(tcp_taken(l.a), 1000);
}

// An end, then a reset: the peer closed, and something was sent to it.
static void test_reset_after_end(struct link l)
{
	put(l.b, 1000);
	await_queued(l.a, 1000);
	take(l.a, 400);
	must(dup2(l.a, l.b) == l.b);
	await_event(l.a, POLLRDHUP);
	put(l.a, 10);
	await_event(l.a, POLLHUP);
	assert_int_equal(tcp_taken(l.a), 400);
	read_error(l.a);
	assert_int_equal(tcp_taken(l.a), 400);
	take(l.a, 600);
	assert_int_equal(tcp_taken(l.a), 1000);
}

static void test_self_shut_for_reading(struct link l)
{
	put(l.b, 1000);
	await_queued(l.a, 1000);
	shutdown(l.a, SHUT_RD);
	assert_int_equal(tcp_taken(l.a), 0);
	take(l.a, 1000);
	assert_int_equal(tcp_taken(l.a), 1000);
}

struct load {
	int fd;
	uint64_t total;
};

static void *write_all(void *arg)
{
	struct load *l = arg;
	uint64_t random = 3, sent = 0;

	while (sent < l->total) {
		uint64_t n = 1 + random_below(&random, random & 1 ? 100 : 100000);
		long r = sys_send(l->fd, scratch, n < l->total - sent ? n : l->total - sent, 0);

		must(r > 0);
		sent += (uint64_t)r;
		must(tcp_written(l->fd) == (int64_t)sent);
	}
	shutdown(l->fd, SHUT_WR);
	return NULL;
}

// The counts are right while another thread fills the queue, and when the end of the stream arrives.
static void read_all(int fd, uint64_t total)
{
	static uint8_t data[100000];
	uint64_t random = 4, taken = 0;
	long r;

	do {
		r = sys_recv(fd, data, 1 + random_below(&random, random & 1 ? 100 : sizeof(data)), MSG_DONTWAIT);
		must(r >= 0 || r == -EAGAIN);
		if (r > 0)
			taken += (uint64_t)r;
		for (int i = 0; i < 3; i++)
			must(tcp_taken(fd) == (int64_t)taken);
		if (r == -EAGAIN)
			sched_yield();
	} while (r);
	must(taken == total);
}

static void transfer(struct link l, uint64_t total)
{
	struct load load = {.fd = l.b, .total = total};
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, write_all, &load), 0);
	read_all(l.a, total);
	pthread_join(thread, NULL);
	expect_exact_or_refused(tcp_written(l.b), (int64_t)total);
	assert_int_equal(tcp_taken(l.a), total);
}

static void test_large(struct link l)
{
	transfer(l, (UNIT_SANITIZED ? 5u : 30u) << 20);
}

static void test_large_with_small_buffers(struct link l)
{
	tcp_set_buffers(l.a, 40000);
	tcp_set_buffers(l.b, 40000);
	transfer(l, 300000);
}

static void *write_in_the_background(void *arg)
{
	struct load *l = arg;

	put(l->fd, l->total);
	return NULL;
}

// Both directions at once do not disturb each other.
static void test_both_directions(struct link l)
{
	struct load back = {.fd = l.a, .total = 20 << 20};
	pthread_t writer;

	assert_int_equal(pthread_create(&writer, NULL, write_in_the_background, &back), 0);
	put(l.b, 5000);
	take(l.b, 10 << 20);
	assert_int_equal(tcp_taken(l.b), 10 << 20);
	assert_int_equal(tcp_written(l.b), 5000);
	take(l.b, 10 << 20);
	pthread_join(writer, NULL);
	assert_int_equal(tcp_taken(l.b), 20 << 20);
	assert_int_equal(tcp_written(l.a), 20 << 20);
	assert_int_equal(tcp_taken(l.a), 0);
}

static void test_no_socket(void **state)
{
	int fd[2];

	assert_int_equal(tcp_written(-1), -EBADF);
	assert_int_equal(tcp_taken(-1), -EBADF);
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(tcp_written(fd[0]), -ENOTSOCK);
	assert_int_equal(tcp_taken(fd[0]), -ENOTSOCK);
	close(fd[0]);
	close(fd[1]);
}

// Every case over IPv4 and IPv6, seen from the connecting and from the accepting side.
static void each_way(void (*test)(struct link))
{
	static const int families[] = {AF_INET, AF_INET6};
	int fd[2];

	for (int i = 0; i < 4; i++) {
		if (!tcp_pair(families[i / 2], fd)) {
			print_message("no loopback for family %d\n", families[i / 2]);
			continue;
		}
		test((struct link){fd[i % 2], fd[!(i % 2)]});
		close(fd[0]);
		close(fd[1]);
	}
}

#define CASES(X)                                                                                                       \
	X(nothing)                                                                                                     \
	X(unread)                                                                                                      \
	X(unsent)                                                                                                      \
	X(peer_ends_first)                                                                                             \
	X(peer_ends_with_unread)                                                                                       \
	X(own_end_first)                                                                                               \
	X(reset_after_end)                                                                                             \
	X(peer_resets)                                                                                                 \
	X(self_shut_for_reading)                                                                                       \
	X(large)                                                                                                       \
	X(large_with_small_buffers)                                                                                    \
	X(both_directions)

#define DEFINE(name)                                                                                                   \
	static void each_##name(void **state)                                                                          \
	{                                                                                                              \
		each_way(test_##name);                                                                                 \
	}
CASES(DEFINE)

int main(void)
{
#define ENTRY(name) cmocka_unit_test(each_##name),
	const struct CMUnitTest tests[] = {CASES(ENTRY) cmocka_unit_test(test_no_socket)};

	watchdog(55);
	return cmocka_run_group_tests_name("tcp_count", tests, NULL, NULL);
}

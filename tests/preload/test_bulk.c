// SPDX-License-Identifier: BSD-2-Clause
// Megabytes in both directions at once through every pair of call families; every byte is checked. Built a second time
// with _FORTIFY_SOURCE=2, so lengths are not constant and buffers have a size that the compiler knows.
#include "pair.h"

#include <limits.h>
#include <sys/socket.h>

#define TOTAL (3u << 20)

typedef ssize_t put_fn(int fd, unsigned char *data, size_t size, unsigned *seed);
typedef ssize_t get_fn(int fd, unsigned char *data, size_t size, unsigned *seed);

// Cuts a buffer into up to four pieces, some of them empty.
static int cut(struct iovec *parts, unsigned char *data, size_t size, unsigned *seed)
{
	size_t at = 0;

	for (int i = 0; i < 3; i++) {
		size_t part = next_random(seed) % 4 ? next_random(seed) % (size - at + 1) : 0;
		parts[i] = (struct iovec){data + at, part};
		at += part;
	}
	parts[3] = (struct iovec){data + at, size - at};
	return 4;
}

static ssize_t put_send(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return send(fd, data, size, MSG_NOSIGNAL);
}

static ssize_t get_recv(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	unsigned char buffer[70000];
	ssize_t got = recv(fd, buffer, size, 0);

	if (got > 0)
		memcpy(data, buffer, got);
	return got;
}

static ssize_t put_sendto(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return sendto(fd, data, size, 0, NULL, 0);
}

static ssize_t get_recvfrom(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	unsigned char buffer[70000];
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);
	ssize_t got = recvfrom(fd, buffer, size, 0, (struct sockaddr *)&name, &length);

	if (got > 0)
		memcpy(data, buffer, got);
	return got;
}

static ssize_t put_write(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return write(fd, data, size);
}

static ssize_t get_read(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	unsigned char buffer[70000];
	ssize_t got = read(fd, buffer, size);

	if (got > 0)
		memcpy(data, buffer, got);
	return got;
}

static ssize_t put_writev(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	return writev(fd, parts, cut(parts, data, size, seed));
}

static ssize_t get_readv(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	return readv(fd, parts, cut(parts, data, size, seed));
}

static ssize_t put_sendmsg(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = cut(parts, data, size, seed)};
	return sendmsg(fd, &message, MSG_NOSIGNAL);
}

static ssize_t get_recvmsg(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = cut(parts, data, size, seed)};
	return recvmsg(fd, &message, 0);
}

static void split(struct mmsghdr *messages, struct iovec *parts, unsigned char *data, size_t size)
{
	memset(messages, 0, 3 * sizeof(*messages));
	for (int i = 0; i < 3; i++) {
		size_t from = size * i / 3, to = size * (i + 1) / 3;
		parts[i] = (struct iovec){data + from, to - from};
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
}

// A message that was taken in part is followed by none in this call.
static ssize_t put_sendmmsg(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[3];
	struct mmsghdr messages[3];
	ssize_t total = 0;
	int count;

	split(messages, parts, data, size);
	count = sendmmsg(fd, messages, 3, MSG_NOSIGNAL);
	for (int i = 0; i < count; i++) {
		total += messages[i].msg_len;
		if (messages[i].msg_len < parts[i].iov_len) {
			assert_returns(count, i + 1);
			break;
		}
	}
	return count < 0 ? count : total;
}

// Messages may be filled in part; what they hold is put together.
static ssize_t get_recvmmsg(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[3];
	struct mmsghdr messages[3];
	ssize_t total = 0;
	int count;

	split(messages, parts, data, size);
	count = recvmmsg(fd, messages, 3, MSG_WAITFORONE, NULL);
	for (int i = 0; i < count; i++) {
		memmove(data + total, parts[i].iov_base, messages[i].msg_len);
		total += messages[i].msg_len;
	}
	return count < 0 ? count : total;
}

static ssize_t put_pwritev2(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	return pwritev2(fd, parts, cut(parts, data, size, seed), -1, 0);
}

static ssize_t get_preadv2(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	return preadv2(fd, parts, cut(parts, data, size, seed), -1, 0);
}

static ssize_t put_syscall_write(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return syscall(SYS_write, fd, data, size);
}

static ssize_t get_syscall_read(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return syscall(SYS_read, fd, data, size);
}

static ssize_t put_syscall_sendto(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return syscall(SYS_sendto, fd, data, size, MSG_NOSIGNAL, NULL, 0);
}

static ssize_t get_syscall_recvfrom(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return syscall(SYS_recvfrom, fd, data, size, 0, NULL, NULL);
}

static ssize_t put_syscall_sendmsg(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = cut(parts, data, size, seed)};
	return syscall(SYS_sendmsg, fd, &message, MSG_NOSIGNAL);
}

static ssize_t get_syscall_recvmsg(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = cut(parts, data, size, seed)};
	return syscall(SYS_recvmsg, fd, &message, 0);
}

static ssize_t put_syscall_writev(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	return syscall(SYS_writev, fd, parts, (long)cut(parts, data, size, seed));
}

static ssize_t get_syscall_readv(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	struct iovec parts[4];
	return syscall(SYS_readv, fd, parts, (long)cut(parts, data, size, seed));
}

// Receives that look first.
static ssize_t get_peek_then_read(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	ssize_t seen = recv(fd, data, size, MSG_PEEK), got;
	unsigned char buffer[70000];

	if (seen <= 0)
		return seen;
	got = recv(fd, buffer, seen, MSG_WAITALL);
	if (got > 0)
		assert_that(got == seen && !memcmp(buffer, data, got));
	return got;
}

static ssize_t get_waitall(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return recv(fd, data, size, MSG_WAITALL);
}

static ssize_t put_words(int fd, unsigned char *data, size_t size, unsigned *seed)
{
	return send(fd, data, size < 64 ? size : 64, MSG_NOSIGNAL);
}

struct mover {
	int fd;
	uint32_t stream;
	put_fn *put;
	get_fn *get;
	size_t total;
};

static void *put_all(void *arg)
{
	struct mover *m = arg;
	unsigned char buffer[70000];
	unsigned seed = m->stream;

	for (uint64_t at = 0; at < m->total;) {
		size_t size = next_random(&seed) % (next_random(&seed) % 8 ? 3000 : sizeof(buffer)) + 1;
		ssize_t sent;

		if (size > m->total - at)
			size = m->total - at;
		pattern_fill(buffer, m->stream, at, size);
		sent = m->put(m->fd, buffer, size, &seed);
		if (sent < 0 && errno == EAGAIN) {
			assert_that(wait_for(m->fd, POLLOUT, DEADLINE_MS));
			continue;
		}
		assert_that(sent > 0 && (size_t)sent <= size);
		at += sent;
	}
	return NULL;
}

static void *get_all(void *arg)
{
	struct mover *m = arg;
	unsigned char buffer[70000];
	unsigned seed = m->stream + 1;

	for (uint64_t at = 0; at < m->total;) {
		size_t size = next_random(&seed) % (next_random(&seed) % 8 ? 5000 : sizeof(buffer)) + 1;
		ssize_t got;

		// Only a receive that waits for all must not ask for more than comes.
		if (m->get == get_waitall && size > m->total - at)
			size = m->total - at;
		got = m->get(m->fd, buffer, size, &seed);
		if (got < 0 && errno == EAGAIN) {
			assert_that(wait_for(m->fd, POLLIN, DEADLINE_MS));
			continue;
		}
		assert_that(got > 0 && (size_t)got <= size);
		pattern_check(buffer, m->stream, at, got);
		at += got;
	}
	return NULL;
}

static void move_both_ways(struct pair *p, put_fn *put, get_fn *get, size_t total)
{
	struct mover movers[] = {
	    {p->a, 100, put, get, total},
	    {p->b, 100, put, get, total},
	    {p->b, 200, put, get, total},
	    {p->a, 200, put, get, total},
	};
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		assert_returns(pthread_create(&threads[i], NULL, i % 2 ? get_all : put_all, &movers[i]), 0);
	for (int i = 0; i < 4; i++)
		assert_returns(pthread_join(threads[i], NULL), 0);
	assert_that(!wait_for(p->a, POLLIN, 0));
	assert_that(!wait_for(p->b, POLLIN, 0));
	pair_check_ring(p);
	pair_check_used(p, total);
}

#define BULK_TEST(name, put, get)                                                                                      \
	static void name(void **state)                                                                                 \
	{                                                                                                              \
		move_both_ways(*state, put, get, TOTAL);                                                               \
	}                                                                                                              \
	static void name##_nonblocking(void **state)                                                                   \
	{                                                                                                              \
		struct pair *p = *state;                                                                               \
		set_nonblocking(p->a, true);                                                                           \
		set_nonblocking(p->b, true);                                                                           \
		move_both_ways(p, put, get, TOTAL);                                                                    \
	}

BULK_TEST(send_recv, put_send, get_recv)
BULK_TEST(sendto_recvfrom, put_sendto, get_recvfrom)
BULK_TEST(write_read, put_write, get_read)
BULK_TEST(writev_readv, put_writev, get_readv)
BULK_TEST(sendmsg_recvmsg, put_sendmsg, get_recvmsg)
BULK_TEST(sendmmsg_recvmmsg, put_sendmmsg, get_recvmmsg)
BULK_TEST(pwritev2_preadv2, put_pwritev2, get_preadv2)
BULK_TEST(syscall_write_read, put_syscall_write, get_syscall_read)
BULK_TEST(syscall_sendto_recvfrom, put_syscall_sendto, get_syscall_recvfrom)
BULK_TEST(syscall_sendmsg_recvmsg, put_syscall_sendmsg, get_syscall_recvmsg)
BULK_TEST(syscall_writev_readv, put_syscall_writev, get_syscall_readv)

static void words_waitall(void **state)
{
	move_both_ways(*state, put_words, get_waitall, 1u << 20);
}

static void send_peek(void **state)
{
	move_both_ways(*state, put_send, get_peek_then_read, TOTAL);
}

static void large_blocking_write(void **state)
{
	struct pair *p = *state;
	size_t total = 8u << 20;
	struct mover get = {p->b, 7, NULL, get_read, total};
	unsigned char *data = malloc(total);
	pthread_t thread;

	assert_that(data);
	pattern_fill(data, 7, 0, total);
	assert_returns(pthread_create(&thread, NULL, get_all, &get), 0);
	// One blocking call takes it all.
	assert_returns(write(p->a, data, total), total);
	assert_returns(pthread_join(thread, NULL), 0);
	free(data);
}

// The same in many parts, which the carrier may change in the midst of.
static void large_blocking_vector(void **state)
{
	struct pair *p = *state;
	static struct iovec parts[IOV_MAX];
	size_t total = IOV_MAX * 1000;
	struct mover get = {p->b, 7, NULL, get_read, total};
	unsigned char *data = malloc(total);
	pthread_t thread;

	assert_that(data);
	pattern_fill(data, 7, 0, total);
	for (int i = 0; i < IOV_MAX; i++)
		parts[i] = (struct iovec){data + i * 1000, 1000};
	assert_returns(pthread_create(&thread, NULL, get_all, &get), 0);
	assert_returns(writev(p->a, parts, IOV_MAX), total);
	assert_returns(pthread_join(thread, NULL), 0);
	free(data);
}

static void peer_body(int fd, void *arg)
{
	struct mover m = {fd, 3, put_send, get_recv, *(size_t *)arg};

	get_all(&m);
	m.stream = 4;
	put_all(&m);
	recv_end(fd);
}

static void two_processes(void **state)
{
	size_t total = 8u << 20;
	struct peer peer;
	struct mover m;

	peer_start(&peer, *(int *)*state, peer_body, &total);
	m = (struct mover){peer.fd, 3, put_send, get_recv, total};
	put_all(&m);
	m.stream = 4;
	get_all(&m);
	peer_finish(&peer);
}

// Buffers that the program made small: nothing gets lost, nothing hangs.
static void small_buffers(void **state)
{
	struct pair *p = *state;

	set_int(p->a, SOL_SOCKET, SO_SNDBUF, 4096);
	set_int(p->b, SOL_SOCKET, SO_RCVBUF, 20000);
	move_both_ways(p, put_send, get_recv, 128u << 10);
}

#define BOTH(name) TEST_SETTLED(name), TEST_SETTLED(name##_nonblocking)

// clang-format off
static const struct CMUnitTest tests[] = {
    BOTH(send_recv),
    BOTH(sendto_recvfrom),
    BOTH(write_read),
    BOTH(writev_readv),
    BOTH(sendmsg_recvmsg),
    BOTH(sendmmsg_recvmmsg),
    BOTH(pwritev2_preadv2),
    BOTH(syscall_write_read),
    BOTH(syscall_sendto_recvfrom),
    BOTH(syscall_sendmsg_recvmsg),
    BOTH(syscall_writev_readv),
    TEST_SETTLED(words_waitall),
    TEST_SETTLED(send_peek),
    TEST_SETTLED(large_blocking_write),
    TEST_SETTLED(large_blocking_vector),
    TEST_FAMILY(two_processes),
    TEST_SETTLED(small_buffers),
};
// clang-format on

SUITE_MAIN(tests)

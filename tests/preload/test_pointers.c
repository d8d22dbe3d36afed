// SPDX-License-Identifier: BSD-2-Clause
// Bad pointers, vector limits, bad descriptors and bad lengths.
#include "pair.h"

#include <limits.h>

// Volatile, so that the compiler does not see what is wrong with them.
static void *volatile bad = (void *)16;
static volatile int minus_one = -1;

static void send_from_nowhere(void **state)
{
	struct pair *p = *state;
	struct iovec part = {bad, 5};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	assert_fails(send(p->a, bad, 5, 0), EFAULT);
	assert_fails(send(p->a, NULL, 5, 0), EFAULT);
	assert_fails(write(p->a, bad, 5), EFAULT);
	assert_fails(writev(p->a, &part, 1), EFAULT);
	assert_fails(sendmsg(p->a, &message, 0), EFAULT);
	assert_fails(writev(p->a, bad, 1), EFAULT);
	assert_fails(sendmsg(p->a, bad, 0), EFAULT);
	message.msg_iov = bad;
	assert_fails(sendmsg(p->a, &message, 0), EFAULT);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
}

static void recv_to_nowhere(void **state)
{
	struct pair *p = *state;
	struct iovec part = {bad, 5};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	send_text(p->a, "abcdefgh");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_fails(recv(p->b, bad, 5, 0), EFAULT);
	assert_fails(recv(p->b, NULL, 5, 0), EFAULT);
	assert_fails(recv(p->b, bad, 5, MSG_PEEK), EFAULT);
	assert_fails(read(p->b, bad, 5), EFAULT);
	assert_fails(readv(p->b, &part, 1), EFAULT);
	assert_fails(recvmsg(p->b, &message, 0), EFAULT);
	assert_fails(readv(p->b, bad, 1), EFAULT);
	assert_fails(recvmsg(p->b, bad, 0), EFAULT);
	// Nothing was taken.
	recv_text(p->b, "abcdefgh");
}

// Without data there is nothing to copy, so a bad pointer is not met.
static void recv_to_nowhere_without_data(void **state)
{
	struct pair *p = *state;

	assert_fails(recv(p->b, bad, 5, MSG_DONTWAIT), EAGAIN);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_end(p->b);
	assert_returns(recv(p->b, bad, 5, 0), 0);
	assert_returns(read(p->b, bad, 5), 0);
}

// A buffer that ends before the bytes do: whatever the call says, the stream stays whole.
static void recv_over_the_edge(void **state)
{
	struct pair *p = *state;
	char *edge = edge_open(4096);
	char rest[16];
	ssize_t got;

	send_text(p->a, "abcdefgh");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	got = recv(p->b, edge - 3, 8, 0);
	assert_that((got == -1 && errno == EFAULT) || got == 3);
	if (got == 3)
		assert_bytes(edge - 3, "abc", 3);
	if (got < 0)
		got = 0;
	assert_returns(recv(p->b, rest, sizeof(rest), 0), 8 - got);
	assert_bytes(rest, &"abcdefgh"[got], 8 - got);
	edge_close(edge, 4096);
}

static void send_over_the_edge(void **state)
{
	struct pair *p = *state;
	char *edge = edge_open(4096);
	ssize_t sent;

	memcpy(edge - 3, "abc", 3);
	sent = send(p->a, edge - 3, 8, 0);
	assert_that((sent == -1 && errno == EFAULT) || sent == 3);
	send_text(p->a, "xyz");
	recv_text(p->b, sent == 3 ? "abcxyz" : "xyz");
	edge_close(edge, 4096);
}

// The second part of a vector is bad: the first may or may not get through, and it is said which.
static void vectors_half_bad(void **state)
{
	struct pair *p = *state;
	char good[8];
	struct iovec out[] = {{"abc", 3}, {bad, 4}}, in[] = {{good, 3}, {bad, 4}};
	ssize_t moved = writev(p->a, out, 2);

	assert_that((moved == -1 && errno == EFAULT) || moved == 3);
	if (moved == 3)
		recv_text(p->b, "abc");
	send_text(p->a, "12345678");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	moved = readv(p->b, in, 2);
	assert_that((moved == -1 && errno == EFAULT) || moved == 3);
	recv_text(p->b, moved == 3 ? "45678" : "12345678");
}

static void vector_limits(void **state)
{
	struct pair *p = *state;
	static struct iovec parts[IOV_MAX + 1];
	static char bytes[IOV_MAX + 1], got[IOV_MAX + 1];
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = IOV_MAX + 1};

	pattern_fill(bytes, 1, 0, sizeof(bytes));
	for (int i = 0; i <= IOV_MAX; i++)
		parts[i] = (struct iovec){bytes + i, 1};
	assert_fails(writev(p->a, parts, IOV_MAX + 1), EINVAL);
	assert_fails(writev(p->a, parts, minus_one), EINVAL);
	assert_fails(sendmsg(p->a, &message, 0), EMSGSIZE);
	assert_returns(writev(p->a, parts, IOV_MAX), IOV_MAX);
	message.msg_iovlen = 1;
	assert_returns(sendmsg(p->a, &message, 0), 1);
	for (int i = 0; i <= IOV_MAX; i++)
		parts[i] = (struct iovec){got + i, 1};
	assert_fails(readv(p->b, parts, IOV_MAX + 1), EINVAL);
	assert_fails(readv(p->b, parts, minus_one), EINVAL);
	message.msg_iovlen = IOV_MAX + 1;
	assert_fails(recvmsg(p->b, &message, 0), EMSGSIZE);
	message.msg_iovlen = IOV_MAX;
	assert_returns(recvmsg(p->b, &message, MSG_WAITALL), IOV_MAX);
	pattern_check(got, 1, 0, IOV_MAX);
	assert_returns(recv(p->b, got, 1, 0), 1);
	pair_check_ring(p);
}

static void vectors_of_nothing(void **state)
{
	struct pair *p = *state;
	char buffer[4];
	struct iovec parts[] = {{NULL, 0}, {buffer, 0}, {buffer, 3}, {NULL, 0}};

	assert_returns(writev(p->a, parts, 0), 0);
	assert_returns(writev(p->a, NULL, 0), 0);
	assert_returns(writev(p->a, parts, 2), 0);
	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(readv(p->b, parts, 0), 0);
	assert_returns(readv(p->b, NULL, 0), 0);
	assert_returns(readv(p->b, parts, 2), 0);
	assert_returns(readv(p->b, parts, 4), 3);
	assert_bytes(buffer, "abc", 3);
	pair_check_ring(p);
}

static void huge_lengths(void **state)
{
	struct pair *p = *state;
	char buffer[8];
	struct iovec negative = {buffer, (size_t)-1};
	struct iovec overflow[] = {{buffer, SSIZE_MAX}, {buffer, SSIZE_MAX}};

	assert_fails(writev(p->a, &negative, 1), EINVAL);
	assert_fails(readv(p->b, &negative, 1), EINVAL);
	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_fails(readv(p->b, overflow, 2), EFAULT);
	recv_text(p->b, "abc");
}

static void bad_descriptors(void **state)
{
	char buffer[4];
	int number = dup(0);

	close(number);
	assert_fails(send(number, "a", 1, 0), EBADF);
	assert_fails(recv(number, buffer, 1, 0), EBADF);
	assert_fails(write(-1, "a", 1), EBADF);
	assert_fails(read(-1, buffer, 1), EBADF);
	assert_fails(close(number), EBADF);
	assert_fails(close(-1), EBADF);
	assert_fails(shutdown(number, SHUT_WR), EBADF);
	assert_fails(dup(number), EBADF);
	assert_fails(dup2(number, 5), EBADF);
	assert_fails(send(1 << 30, "a", 1, 0), EBADF);
	assert_fails(fcntl(number, F_GETFL), EBADF);
	assert_fails(ioctl(number, FIONREAD, buffer), EBADF);
}

static void not_sockets(void **state)
{
	int fds[2];
	char buffer[4];

	assert_returns(pipe(fds), 0);
	assert_fails(send(fds[1], "a", 1, 0), ENOTSOCK);
	assert_fails(recv(fds[0], buffer, 1, 0), ENOTSOCK);
	assert_returns(write(fds[1], "a", 1), 1);
	assert_returns(read(fds[0], buffer, 4), 1);
	assert_fails(shutdown(fds[0], SHUT_RD), ENOTSOCK);
	close(fds[0]);
	close(fds[1]);
}

static void not_connected(void **state)
{
	int fd = tcp_socket(*(int *)*state);
	char buffer[4];

	assert_fails(recv(fd, buffer, 4, 0), ENOTCONN);
	assert_fails(read(fd, buffer, 4), ENOTCONN);
	assert_fails(send(fd, "a", 1, MSG_NOSIGNAL), EPIPE);
	assert_fails(shutdown(fd, SHUT_RDWR), ENOTCONN);
	close(fd);
}

static void seek_and_offsets(void **state)
{
	struct pair *p = *state;
	char buffer[4];
	struct iovec part = {buffer, 4};

	assert_fails(lseek(p->a, 0, SEEK_CUR), ESPIPE);
	assert_fails(pread(p->b, buffer, 4, 0), ESPIPE);
	assert_fails(pwrite(p->a, buffer, 4, 0), ESPIPE);
	assert_fails(preadv(p->b, &part, 1, 0), ESPIPE);
	assert_fails(pwritev(p->a, &part, 1, 0), ESPIPE);
	assert_fails(preadv2(p->b, &part, 1, 0, 0), ESPIPE);
	assert_fails(pwritev2(p->a, &part, 1, 0, 0), ESPIPE);
	assert_fails(pread(p->b, buffer, 4, -1), EINVAL);
	assert_fails(preadv2(p->b, &part, 1, -1, RWF_NOWAIT), EAGAIN);
	send_text(p->a, "abcd");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(preadv2(p->b, &part, 1, -1, RWF_NOWAIT), 4);
	assert_bytes(buffer, "abcd", 4);
	assert_fails(preadv2(p->b, &part, 1, -1, 0x40000000), EOPNOTSUPP);
}

static void bad_calls(void **state)
{
	struct pair *p = *state;
	int value;
	socklen_t size = sizeof(value);

	assert_fails(shutdown(p->a, 7), EINVAL);
	assert_fails(shutdown(p->a, -1), EINVAL);
	assert_fails(ioctl(p->a, 0xdead), ENOTTY);
	assert_fails(ioctl(p->a, FIONREAD, bad), EFAULT);
	assert_fails(ioctl(p->a, FIONBIO, bad), EFAULT);
	assert_fails(fcntl(p->a, 0x7777), EINVAL);
	assert_fails(getsockopt(p->a, SOL_SOCKET, 0x7777, &value, &size), ENOPROTOOPT);
	assert_fails(setsockopt(p->a, SOL_SOCKET, SO_RCVTIMEO, &value, 1), EINVAL);
	assert_fails(poll(bad, 1, 0), EFAULT);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(send_from_nowhere),
    TEST_SETTLED(recv_to_nowhere),
    TEST_SETTLED(recv_to_nowhere_without_data),
    TEST_SETTLED(recv_over_the_edge),
    TEST_SETTLED(send_over_the_edge),
    TEST_SETTLED(vectors_half_bad),
    TEST_SETTLED(vector_limits),
    TEST_SETTLED(vectors_of_nothing),
    TEST_SETTLED(huge_lengths),
    TEST_FAMILY(bad_descriptors),
    TEST_FAMILY(not_sockets),
    TEST_FAMILY(not_connected),
    TEST_SETTLED(seek_and_offsets),
    TEST_SETTLED(bad_calls),
};
// clang-format on

SUITE_MAIN(tests)

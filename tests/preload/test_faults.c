// SPDX-License-Identifier: BSD-2-Clause
// Buffers that the process cannot touch are EFAULT.
#include "pair.h"

#include <sys/mman.h>
#include <sys/select.h>
#include <sys/uio.h>

#define GOOD (300u << 10)

static void *volatile nowhere = (void *)16;

// What a call that met the edge after `good` bytes may say: a part of them, or, if they are few, EFAULT.
static size_t moved(ssize_t result, size_t good)
{
	int error = errno;

	if (result < 0) {
		assert_returns(error, EFAULT);
		assert_that(good < 100000);
		return 0;
	}
	assert_that(result > 0 && (size_t)result <= good);
	return (size_t)result;
}

static void send_what_is_there(void **state)
{
	struct pair *p = *state;
	static const size_t sizes[] = {1, 7, 8, 15, 16, 17, 40, 63, 64, 65, 127, 200, 4096, 40000, GOOD};
	char *edge = edge_open(GOOD);
	uint64_t at = 0;

	set_nonblocking(p->a, true);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		size_t n = sizes[i], sent;

		pattern_fill(edge - n, 1, at, n);
		sent = moved(send(p->a, edge - n, n + 1, 0), n);
		recv_pattern(p->b, 1, at, sent);
		at += sent;
		send_pattern(p->a, 1, at, 100);
		recv_pattern(p->b, 1, at, 100);
		at += 100;
	}
	edge_close(edge, GOOD);
}

static void receive_what_fits(void **state)
{
	struct pair *p = *state;
	static const size_t sizes[] = {1, 7, 8, 15, 16, 17, 40, 63, 64, 65, 127, 200, 2000};
	char *edge = edge_open(4096);
	uint64_t at = 0;

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		size_t n = sizes[i], got;

		send_pattern(p->a, 1, at, n + 1);
		assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
		moved(recv(p->b, edge - n, n + 1, MSG_PEEK), n);
		got = moved(recv(p->b, edge - n, n + 1, 0), n);
		recv_pattern(p->b, 1, at + got, n + 1 - got);
		at += n + 1;
	}
	edge_close(edge, 4096);
}

// Every byte arrives once, whatever is left over by a receive that found its buffer too short.
static void receive_much(void **state)
{
	struct pair *p = *state;
	char *edge = edge_open(147456);
	size_t got;

	set_nonblocking(p->a, true);
	got = fill_socket(p->a, 1);
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	for (size_t left = got; left;) {
		size_t good = left > 147456 ? 147456 : 20000;
		ssize_t n = recv(p->b, edge - good, good + 4096, MSG_DONTWAIT);

		int error = errno;

		if (n < 0 && error == EAGAIN) {
			assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
			continue;
		}
		if (n < 0) {
			assert_returns(error, EFAULT);
			good = left < 20000 ? left : 20000;
			recv_pattern(p->b, 1, got - left, good);
			left -= good;
			continue;
		}
		assert_that(n > 0);
		pattern_check(edge - good, 1, got - left, (size_t)n);
		left -= (size_t)n;
	}
	edge_close(edge, 147456);
}

static void vectors(void **state)
{
	struct pair *p = *state;
	char *edge = edge_open(4096), rest[16];
	struct iovec out[] = {{"abc", 3}, {edge, 4}, {"def", 3}}, in[] = {{edge - 2, 2}, {nowhere, 3}};
	struct msghdr message = {.msg_iov = out, .msg_iovlen = 3};

	assert_fails(writev(p->a, out, 3), EFAULT);
	assert_fails(sendmsg(p->a, &message, 0), EFAULT);
	send_text(p->a, "12345678");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_fails(readv(p->b, in, 2), EFAULT);
	message = (struct msghdr){.msg_iov = in, .msg_iovlen = 2};
	assert_fails(recvmsg(p->b, &message, 0), EFAULT);
	assert_returns(readv(p->b, in, 1), 2);
	assert_bytes(edge - 2, "12", 2);
	assert_returns(recv(p->b, rest, sizeof(rest), 0), 6);
	assert_bytes(rest, "345678", 6);
	edge_close(edge, 4096);
}

// Not the buffers, but what tells of them.
static void arguments(void **state)
{
	struct pair *p = *state;
	char *edge = edge_open(4096), byte;
	struct iovec *parts = (void *)(edge - sizeof(struct iovec));
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	fd_set *set = (void *)edge;

	parts[0] = (struct iovec){&byte, 1};
	assert_fails(writev(p->a, (void *)edge, 1), EFAULT);
	assert_fails(writev(p->a, parts, 2), EFAULT);
	assert_fails(sendmsg(p->a, (void *)edge, 0), EFAULT);
	assert_fails(sendmsg(p->a, (void *)(edge - 8), 0), EFAULT);
	assert_fails(sendmsg(p->a, &message, 0), EFAULT);
	assert_fails(sendmmsg(p->a, (void *)edge, 1, 0), EFAULT);
	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_fails(readv(p->b, (void *)edge, 1), EFAULT);
	assert_fails(readv(p->b, parts, 2), EFAULT);
	assert_fails(recvmsg(p->b, (void *)edge, 0), EFAULT);
	assert_fails(recvmsg(p->b, &message, 0), EFAULT);
	assert_fails(recvmmsg(p->b, (void *)edge, 1, 0, NULL), EFAULT);
	assert_fails(poll((void *)edge, 1, 0), EFAULT);
	assert_fails(ppoll((void *)edge, 1, NULL, NULL), EFAULT);
	assert_fails(select(p->b + 1, set, NULL, NULL, NULL), EFAULT);
	assert_fails(setsockopt(p->b, SOL_SOCKET, SO_RCVLOWAT, edge, sizeof(int)), EFAULT);
	assert_fails(setsockopt(p->b, SOL_SOCKET, SO_RCVTIMEO, edge, sizeof(struct timeval)), EFAULT);
	recv_text(p->b, "abc");
	edge_close(edge, 4096);
}

static void read_only_memory(void **state)
{
	struct pair *p = *state;
	char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_fails(read(p->b, page, 3), EFAULT);
	assert_returns(write(p->b, page, 3), 3);
	recv_text(p->b, "abc");
	munmap(page, 4096);
}

// A file that became shorter than its mapping: SIGBUS.
static void file_cut_short(void **state)
{
	struct pair *p = *state;
	FILE *file = tmpfile();
	char *page;

	assert_that(file != NULL);
	assert_returns(ftruncate(fileno(file), 8192), 0);
	page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
	assert_that(page != MAP_FAILED);
	assert_returns(ftruncate(fileno(file), 4096), 0);
	assert_fails(send(p->a, page + 4096, 10, 0), EFAULT);
	assert_fails(send(p->a, page + 4090, 10, 0), EFAULT);
	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_fails(recv(p->b, page + 4096, 10, 0), EFAULT);
	recv_text(p->b, "abc");
	munmap(page, 8192);
	fclose(file);
}

struct reader {
	struct pair *p;
	char *edge;
};

static void *fault_again_and_again(void *arg)
{
	struct reader *r = arg;

	for (int i = 0; i < 2000; i++)
		assert_fails(send(r->p->a, r->edge - i % 100, 100, 0), EFAULT);
	return NULL;
}

// Many threads meet the edge while others are at work.
static void in_many_threads(void **state)
{
	struct pair *p = *state;
	struct reader r = {p, edge_open(4096)};
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		assert_returns(pthread_create(&threads[i], NULL, fault_again_and_again, &r), 0);
	for (uint64_t at = 0; at < 100000; at += 1000) {
		send_pattern(p->a, 1, at, 1000);
		recv_pattern(p->b, 1, at, 1000);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	edge_close(r.edge, 4096);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(send_what_is_there),
    TEST_SETTLED(receive_what_fits),
    TEST_SETTLED(receive_much),
    TEST_SETTLED(vectors),
    TEST_SETTLED(arguments),
    TEST_SETTLED(read_only_memory),
    TEST_SETTLED(file_cut_short),
    TEST_SETTLED(in_many_threads),
};
// clang-format on

SUITE_MAIN(tests)

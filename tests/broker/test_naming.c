// SPDX-License-Identifier: BSD-2-Clause
// Initial sequence numbers, read while the peer sends as fast as it can, are always the same, and no byte suffers.
// Needs root.
#include "harness.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "naming.h"

#define WANTED 2000 // names read; how many tries that takes is up to the scheduler

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool over;
static int tcp[2];

static unsigned char byte_at(uint64_t position)
{
	return (unsigned char)(position * 2654435761u >> 13);
}

// The peer, which nobody holds still.
static void *sender(void *arg)
{
	static unsigned char block[65536], taken[100];
	uint64_t position = 0;

	while (!over) {
		size_t size = 1 + position % sizeof(block), done = 0;

		for (size_t i = 0; i < size; i++)
			block[i] = byte_at(position + i);
		while (done < size) {
			ssize_t n = send(tcp[1], block + done, size - done, MSG_NOSIGNAL);

			if (n <= 0)
				return NULL;
			done += (size_t)n;
		}
		position += size;
		recv(tcp[1], taken, sizeof(taken), MSG_DONTWAIT);
	}
	shutdown(tcp[1], SHUT_WR);
	return NULL;
}

// The process whose socket is named: it receives, but not while it is held still.
static void *receiver(void *arg)
{
	static unsigned char block[65536];
	uint64_t position = 0;
	ssize_t n;

	for (;;) {
		pthread_mutex_lock(&lock);
		n = recv(tcp[0], block, sizeof(block), MSG_DONTWAIT);
		pthread_mutex_unlock(&lock);
		if (n == 0)
			return NULL;
		for (ssize_t i = 0; i < n; i++)
			if (block[i] != byte_at(position + (uint64_t)i))
				return "wrong byte";
		position += n > 0 ? (uint64_t)n : 0;
	}
}

static void test_under_load(void **state)
{
	pthread_t sending, receiving;
	struct rlmd_isn first, isn;
	enum rlm_why why;
	unsigned named = 0, tries;
	void *wrong;

	if (geteuid() != 0)
		skip();
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	assert_int_equal(rlmd_naming_isn(tcp[0], &first, &why), RLMD_NAMING_OK);
	pthread_create(&sending, NULL, sender, NULL);
	pthread_create(&receiving, NULL, receiver, NULL);
	for (tries = 0; named < WANTED; tries++) {
		pthread_mutex_lock(&lock);
		if (rlmd_naming_isn(tcp[0], &isn, &why) == RLMD_NAMING_OK) {
			named++;
			if (isn.own != first.own || isn.peer != first.peer)
				fail_msg("try %u: %x %x, not %x %x", tries, isn.own, isn.peer, first.own, first.peer);
		}
		if (tries % 50 == 0)
			send(tcp[0], "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL); // its own count grows too
		pthread_mutex_unlock(&lock);
		if (tries % 50 == 0)
			usleep(100);
	}
	over = true;
	pthread_join(sending, NULL);
	pthread_join(receiving, &wrong);
	assert_null(wrong);
	print_message("%u tries for %u names\n", tries, named);
	close_pair(tcp);
}

// Both ends read the same pair, from opposite sides, in IPv4 and IPv6, after any traffic.
static void test_same_pair(void **state)
{
	static char block[100000];
	struct rlmd_isn here, there;
	enum rlm_why why;
	size_t size, got;

	if (geteuid() != 0)
		skip();
	for (int i = 0; i < 200; i++) {
		tcp_pair(i & 1 ? AF_INET6 : AF_INET, i & 1 ? "::1" : "127.0.0.1", tcp);
		size = (size_t)(i * 499 % 90000);
		got = 0;
		if (size)
			assert_int_equal(send(tcp[i >> 1 & 1], block, size, 0), size);
		while (got < size) {
			ssize_t n = recv(tcp[!(i >> 1 & 1)], block, sizeof(block), 0);

			assert_true(n > 0);
			got += (size_t)n;
		}
		assert_int_equal(rlmd_naming_isn(tcp[0], &here, &why), RLMD_NAMING_OK);
		assert_int_equal(rlmd_naming_isn(tcp[1], &there, &why), RLMD_NAMING_OK);
		assert_int_equal(here.own, there.peer);
		assert_int_equal(here.peer, there.own);
		close_pair(tcp);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_same_pair),
	    cmocka_unit_test(test_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

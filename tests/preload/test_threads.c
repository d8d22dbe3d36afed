// SPDX-License-Identifier: BSD-2-Clause
// Many threads on one socket.
#include "pair.h"

#include <sys/epoll.h>

#define RECORD 64

struct record_sender {
	int fd;
	int id;
	int count;
};

// Records carry their sender and a number in every word.
static void *send_records(void *arg)
{
	struct record_sender *s = arg;

	for (uint32_t i = 0; i < (uint32_t)s->count; i++) {
		uint32_t words[RECORD / 4];

		for (int w = 0; w < RECORD / 4; w++)
			words[w] = (uint32_t)s->id << 24 | i;
		assert_returns(send(s->fd, words, RECORD, MSG_NOSIGNAL), RECORD);
	}
	return NULL;
}

// A small send is never torn apart by another thread's.
static void many_senders(void **state)
{
	enum { SENDERS = 6, COUNT = 3000 };
	struct pair *p = *state;
	struct record_sender s[SENDERS];
	pthread_t threads[SENDERS];
	uint32_t next[SENDERS] = {0};

	for (int i = 0; i < SENDERS; i++) {
		s[i] = (struct record_sender){p->a, i, COUNT};
		assert_returns(pthread_create(&threads[i], NULL, send_records, &s[i]), 0);
	}
	for (int i = 0; i < SENDERS * COUNT; i++) {
		uint32_t words[RECORD / 4];
		int id;

		assert_returns(recv(p->b, words, RECORD, MSG_WAITALL), RECORD);
		id = words[0] >> 24;
		assert_that(id < SENDERS);
		assert_returns(words[0] & 0xffffff, next[id]);
		next[id]++;
		for (int w = 1; w < RECORD / 4; w++)
			assert_that(words[w] == words[0]);
	}
	for (int i = 0; i < SENDERS; i++)
		assert_returns(pthread_join(threads[i], NULL), 0);
	assert_that(!wait_for(p->b, POLLIN, 0));
	pair_check_ring(p);
}

struct byte_counter {
	int fd;
	bool waits;
	_Atomic uint64_t *sum;
	_Atomic uint64_t *count;
};

static void *count_bytes(void *arg)
{
	struct byte_counter *c = arg;
	unsigned char buffer[100];
	ssize_t got;

	for (;;) {
		if (c->waits && !wait_for(c->fd, POLLIN, DEADLINE_MS))
			abort();
		got = recv(c->fd, buffer, sizeof(buffer), c->waits ? MSG_DONTWAIT : 0);
		if (got < 0 && errno == EAGAIN)
			continue;
		if (got <= 0)
			break;
		*c->count += got;
		for (int i = 0; i < got; i++)
			*c->sum += buffer[i];
	}
	assert_returns(got, 0);
	return NULL;
}

// Every byte is received by exactly one thread, blocked in recv or woken by poll.
static void many_receivers(void **state)
{
	enum { RECEIVERS = 5 };
	struct pair *p = *state;
	_Atomic uint64_t sum = 0, count = 0;
	uint64_t want = 0, total = 500000;
	struct byte_counter c[RECEIVERS];
	pthread_t threads[RECEIVERS];
	unsigned char buffer[1000];

	for (int i = 0; i < RECEIVERS; i++) {
		c[i] = (struct byte_counter){p->b, i % 2, &sum, &count};
		assert_returns(pthread_create(&threads[i], NULL, count_bytes, &c[i]), 0);
	}
	for (uint64_t at = 0; at < total; at += sizeof(buffer)) {
		pattern_fill(buffer, 1, at, sizeof(buffer));
		for (size_t i = 0; i < sizeof(buffer); i++)
			want += buffer[i];
		assert_returns(send(p->a, buffer, sizeof(buffer), 0), sizeof(buffer));
	}
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	for (int i = 0; i < RECEIVERS; i++)
		assert_returns(pthread_join(threads[i], NULL), 0);
	assert_that(count == total);
	assert_that(sum == want);
}

struct echo {
	int fd;
	int rounds;
};

static void *echo_main(void *arg)
{
	struct echo *e = arg;
	char buffer[256];
	ssize_t got;

	while ((got = recv(e->fd, buffer, sizeof(buffer), 0)) > 0)
		assert_returns(send(e->fd, buffer, got, MSG_NOSIGNAL), got);
	assert_returns(got, 0);
	return NULL;
}

static void *caller_main(void *arg)
{
	struct echo *e = arg;

	for (int i = 0; i < e->rounds; i++) {
		char text[32];

		snprintf(text, sizeof(text), "round %d of %d", i, e->fd);
		send_text(e->fd, text);
		recv_text(e->fd, text);
	}
	shutdown(e->fd, SHUT_WR);
	return NULL;
}

// More busy pairs than processors.
static void many_pairs(void **state)
{
	enum { COUNT = 8 };
	struct pair pairs[COUNT];
	struct echo callers[COUNT], echoes[COUNT];
	pthread_t threads[2 * COUNT];

	for (int i = 0; i < COUNT; i++) {
		pair_open(&pairs[i], *(int *)*state);
		pair_settle(&pairs[i]);
		callers[i] = (struct echo){pairs[i].a, 500};
		echoes[i] = (struct echo){pairs[i].b, 0};
		assert_returns(pthread_create(&threads[2 * i], NULL, caller_main, &callers[i]), 0);
		assert_returns(pthread_create(&threads[2 * i + 1], NULL, echo_main, &echoes[i]), 0);
	}
	for (int i = 0; i < 2 * COUNT; i++)
		assert_returns(pthread_join(threads[i], NULL), 0);
	for (int i = 0; i < COUNT; i++)
		pair_close(&pairs[i]);
}

static void *peek_and_ask(void *arg)
{
	struct byte_counter *c = arg;
	char buffer[32];
	int value;

	while (!*c->count) {
		recv(c->fd, buffer, sizeof(buffer), MSG_PEEK | MSG_DONTWAIT);
		ioctl(c->fd, FIONREAD, &value);
		wait_for(c->fd, POLLIN | POLLOUT, 0);
	}
	return NULL;
}

// Others that only look do not disturb the stream.
static void onlookers(void **state)
{
	struct pair *p = *state;
	_Atomic uint64_t stop = 0;
	struct byte_counter c[2] = {{.fd = p->b, .count = &stop}, {.fd = p->a, .count = &stop}};
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		assert_returns(pthread_create(&threads[i], NULL, peek_and_ask, &c[i]), 0);
	for (uint64_t at = 0; at < 300000; at += 1000) {
		send_pattern(p->a, 1, at, 1000);
		recv_pattern(p->b, 1, at, 1000);
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	pair_check_ring(p);
}

static void *recv_exact(void *arg)
{
	struct record_sender *s = arg;

	for (int i = 0; i < s->count; i++) {
		char buffer[RECORD];
		assert_returns(recv(s->fd, buffer, RECORD, MSG_WAITALL), RECORD);
	}
	return NULL;
}

// Senders and receivers on both ends at once.
static void all_at_once(void **state)
{
	struct pair *p = *state;
	struct record_sender s[] = {
	    {p->a, 1, 2000}, {p->a, 2, 2000}, {p->b, 3, 2000}, {p->b, 4, 2000}, {p->a, 0, 4000}, {p->b, 0, 4000},
	};
	pthread_t threads[6];

	for (int i = 0; i < 6; i++)
		assert_returns(pthread_create(&threads[i], NULL, i < 4 ? send_records : recv_exact, &s[i]), 0);
	for (int i = 0; i < 6; i++)
		assert_returns(pthread_join(threads[i], NULL), 0);
	assert_that(!wait_for(p->a, POLLIN, 0));
	assert_that(!wait_for(p->b, POLLIN, 0));
	pair_check_ring(p);
}

// Several threads asleep in recv; as many bytes wake them all.
static void many_sleepers(void **state)
{
	enum { COUNT = 5 };
	struct pair *p = *state;
	struct sleeper sleepers[COUNT];

	for (int i = 0; i < COUNT; i++)
		sleeper_start(&sleepers[i], call_recv, &p->b);
	send_text(p->a, "12");
	send_text(p->a, "345");
	for (int i = 0; i < COUNT; i++)
		assert_returns(sleeper_join(&sleepers[i]), 1);
	for (int i = 0; i < COUNT; i++)
		sleeper_start(&sleepers[i], call_recv, &p->b);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	for (int i = 0; i < COUNT; i++)
		assert_returns(sleeper_join(&sleepers[i]), 0);
}

static void *short_life(void *arg)
{
	struct pair p;

	pair_open(&p, *(int *)arg);
	pair_talk(&p, 20);
	pair_close(&p);
	return NULL;
}

// Threads come and go, each with its own connection.
static void threads_come_and_go(void **state)
{
	for (int i = 0; i < 30; i++) {
		pthread_t threads[4];

		for (int n = 0; n < 4; n++)
			assert_returns(pthread_create(&threads[n], NULL, short_life, *state), 0);
		for (int n = 0; n < 4; n++)
			assert_returns(pthread_join(threads[n], NULL), 0);
	}
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(many_senders),
    TEST_SETTLED(many_receivers),
    TEST_FAMILY(many_pairs),
    TEST_SETTLED(onlookers),
    TEST_SETTLED(all_at_once),
    TEST_SETTLED(many_sleepers),
    TEST_FAMILY(threads_come_and_go),
};
// clang-format on

SUITE_MAIN(tests)

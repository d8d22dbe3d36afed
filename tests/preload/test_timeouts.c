// SPDX-License-Identifier: BSD-2-Clause
// SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVLOWAT. Times are checked from below exactly, from above only coarsely.
#include "pair.h"

#define WAIT_MS	 120
#define SLACK_MS 3000

static void check_took(int64_t start, int ms)
{
	int64_t took = now_ms() - start;

	// The kernel counts in ticks; it may be a tick early by our clock.
	if (took < ms - 12 || took > ms + SLACK_MS)
		check_failed(__FILE__, __LINE__, "took %lld ms, not %d", (long long)took, ms);
}

static void receive_times_out(void **state)
{
	struct pair *p = *state;
	char buffer[4];
	struct iovec part = {buffer, 4};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	struct mmsghdr many = {.msg_hdr = message};
	int64_t start;

	set_timeout(p->b, SO_RCVTIMEO, WAIT_MS);
	start = now_ms();
	assert_fails(recv(p->b, buffer, 4, 0), EAGAIN);
	check_took(start, WAIT_MS);
	start = now_ms();
	assert_fails(read(p->b, buffer, 4), EAGAIN);
	check_took(start, WAIT_MS);
	start = now_ms();
	assert_fails(recvmsg(p->b, &message, 0), EAGAIN);
	check_took(start, WAIT_MS);
	start = now_ms();
	assert_fails(readv(p->b, &part, 1), EAGAIN);
	check_took(start, WAIT_MS);
	start = now_ms();
	assert_fails(recv(p->b, buffer, 4, MSG_PEEK), EAGAIN);
	check_took(start, WAIT_MS);
	start = now_ms();
	assert_fails(recvmmsg(p->b, &many, 1, 0, NULL), EAGAIN);
	check_took(start, WAIT_MS);
	// Data that is there is not waited for.
	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recv(p->b, buffer, 4, 0), 3);
	pair_check_ring(p);
}

static void waitall_times_out(void **state)
{
	struct pair *p = *state;
	char buffer[10];
	int64_t start;

	set_timeout(p->b, SO_RCVTIMEO, WAIT_MS);
	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	start = now_ms();
	assert_returns(recv(p->b, buffer, 10, MSG_WAITALL), 3);
	check_took(start, WAIT_MS);
	assert_bytes(buffer, "abc", 3);
}

struct drip {
	int fd;
	_Atomic int sent;
	_Atomic bool enough;
};

static void *drip(void *arg)
{
	struct drip *d = arg;

	while (!d->enough) {
		nap_ms(20);
		send_text(d->fd, "x");
		d->sent++;
	}
	return NULL;
}

// The time-out is that of the whole call, however many pieces come in the meantime.
static void waitall_times_out_in_pieces(void **state)
{
	struct pair *p = *state;
	struct drip d = {.fd = p->a};
	char buffer[150];
	pthread_t thread;
	int64_t start;

	set_timeout(p->b, SO_RCVTIMEO, WAIT_MS);
	send_text(p->a, "x");
	d.sent++;
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(pthread_create(&thread, NULL, drip, &d), 0);
	start = now_ms();
	long got = recv(p->b, buffer, sizeof(buffer), MSG_WAITALL);
	assert_that(got >= 1 && got < (long)sizeof(buffer));
	check_took(start, WAIT_MS);
	d.enough = true;
	pthread_join(thread, NULL);
	for (; got < d.sent; got++)
		recv_text(p->b, "x");
}

static void receive_in_time(void **state)
{
	struct pair *p = *state;

	set_timeout(p->b, SO_RCVTIMEO, 5000);
	for (int i = 0; i < 20; i++) {
		send_text(p->a, "abc");
		recv_text(p->b, "abc");
	}
	set_timeout(p->b, SO_RCVTIMEO, 0);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	pair_check_ring(p);
}

// The option counts from the next call on.
static void set_while_blocked(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, call_recv, &p->b);
	set_timeout(p->b, SO_RCVTIMEO, 30);
	assert_that(!sleeper_done(&sleeper, 200));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 1);
	assert_fails(call_recv(&p->b), EAGAIN);
}

static void option_reads_back(void **state)
{
	struct pair *p = *state;
	struct timeval time;
	socklen_t size = sizeof(time);

	set_timeout(p->b, SO_RCVTIMEO, 1500);
	set_timeout(p->b, SO_SNDTIMEO, 2000);
	assert_returns(getsockopt(p->b, SOL_SOCKET, SO_RCVTIMEO, &time, &size), 0);
	assert_returns(time.tv_sec, 1);
	assert_returns(time.tv_usec, 500000);
	assert_returns(getsockopt(p->b, SOL_SOCKET, SO_SNDTIMEO, &time, &size), 0);
	assert_returns(time.tv_sec, 2);
	time = (struct timeval){0, 1000000};
	assert_fails(setsockopt(p->b, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)), EDOM);
	time = (struct timeval){-1, 0};
	assert_returns(setsockopt(p->b, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)), 0);
	assert_fails(call_recv(&p->b), EAGAIN);
}

static void send_times_out(void **state)
{
	struct pair *p = *state;
	size_t queued = fill_socket(p->a, 4);
	unsigned char buffer[4096];
	int64_t start;
	ssize_t sent;

	set_timeout(p->a, SO_SNDTIMEO, WAIT_MS);
	start = now_ms();
	pattern_fill(buffer, 4, queued, sizeof(buffer));
	// A few bytes may still fit.
	while ((sent = send(p->a, buffer, sizeof(buffer), 0)) > 0) {
		queued += sent;
		pattern_fill(buffer, 4, queued, sizeof(buffer));
		start = now_ms();
	}
	assert_that(sent == -1 && errno == EAGAIN);
	check_took(start, WAIT_MS);
	drain_socket(p->b, 4, 0, queued);
}

// Part of a large send gets through before the time is over: the part is returned.
static void send_in_part(void **state)
{
	struct pair *p = *state;
	size_t size = 32u << 20;
	unsigned char *data = malloc(size);
	int64_t start;
	ssize_t sent;

	assert_that(data);
	pattern_fill(data, 4, 0, size);
	set_timeout(p->a, SO_SNDTIMEO, WAIT_MS);
	start = now_ms();
	sent = send(p->a, data, size, 0);
	check_took(start, WAIT_MS);
	assert_that(sent > 0 && (size_t)sent < size);
	drain_socket(p->b, 4, 0, sent);
	free(data);
}

static void accept_times_out(void **state)
{
	int listener = listener_open(*(int *)*state);
	int64_t start;

	set_timeout(listener, SO_RCVTIMEO, WAIT_MS);
	start = now_ms();
	assert_fails(accept(listener, NULL, NULL), EAGAIN);
	check_took(start, WAIT_MS);
	close(listener);
}

// An accepted socket has the listener's time-outs.
static void accepted_inherits(void **state)
{
	int listener = listener_open(*(int *)*state);
	struct pair p;

	set_timeout(listener, SO_RCVTIMEO, WAIT_MS);
	p.a = listener_connect(listener);
	p.b = accept(listener, NULL, NULL);
	close(listener);
	pair_touch(&p);
	pair_wait_bound(&p);
	assert_fails(call_recv(&p.b), EAGAIN);
	send_text(p.a, "abc");
	recv_text(p.b, "abc");
	assert_fails(call_recv(&p.b), EAGAIN);
	pair_close(&p);
}

static int recv_hundred(void *arg)
{
	char buffer[100];
	return recv(*(int *)arg, buffer, sizeof(buffer), 0);
}

static void low_water_blocks(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	set_int(p->b, SOL_SOCKET, SO_RCVLOWAT, 10);
	send_text(p->a, "abc");
	sleeper_start(&sleeper, recv_hundred, &p->b);
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "defghijklm");
	assert_returns(sleeper_join(&sleeper), 13);
}

static void low_water_poll(void **state)
{
	struct pair *p = *state;
	char buffer[100];

	set_int(p->b, SOL_SOCKET, SO_RCVLOWAT, 10);
	send_text(p->a, "abc");
	assert_that(!wait_for(p->b, POLLIN, QUIET_MS));
	send_text(p->a, "defghijklm");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recv(p->b, buffer, sizeof(buffer), 0), 13);
	send_text(p->a, "abc");
	assert_that(!wait_for(p->b, POLLIN, QUIET_MS));
	set_int(p->b, SOL_SOCKET, SO_RCVLOWAT, 1);
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	recv_text(p->b, "abc");
}

static void low_water_short(void **state)
{
	struct pair *p = *state;
	char buffer[100];

	set_int(p->b, SOL_SOCKET, SO_RCVLOWAT, 10);
	send_text(p->a, "abc");
	assert_that(!wait_for(p->b, POLLIN, QUIET_MS));
	// Without waiting, what is there is given; asking for less than the mark waits for no more than asked.
	assert_returns(recv(p->b, buffer, 2, 0), 2);
	assert_returns(recv(p->b, buffer, 100, MSG_DONTWAIT), 1);
	send_text(p->a, "abc");
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recv_hundred(&p->b), 3);
	recv_end(p->b);
}

// One that peeks and waits for all of it gives up as well.
static void peek_for_all_times_out(void **state)
{
	struct pair *p = *state;
	char buffer[10];

	set_timeout(p->b, SO_RCVTIMEO, 100);
	send_text(p->a, "abc");
	assert_returns(recv(p->b, buffer, sizeof(buffer), MSG_PEEK | MSG_WAITALL), 3);
	recv_text(p->b, "abc");
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(peek_for_all_times_out),
    TEST_SETTLED(receive_times_out),
    TEST_SETTLED(waitall_times_out),
    TEST_SETTLED(waitall_times_out_in_pieces),
    TEST_SETTLED(receive_in_time),
    TEST_SETTLED(set_while_blocked),
    TEST_SETTLED(option_reads_back),
    TEST_SETTLED(send_times_out),
    TEST_SETTLED(send_in_part),
    TEST_FAMILY(accept_times_out),
    TEST_FAMILY(accepted_inherits),
    TEST_SETTLED(low_water_blocks),
    TEST_SETTLED(low_water_poll),
    TEST_SETTLED(low_water_short),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// TCP_CORK and MSG_MORE: what is held back, when it is let go, and that it is never lost.
#include "pair.h"

#include <sys/sendfile.h>

static void send_flagged(int fd, const char *text, int flags)
{
	assert_returns(send(fd, text, strlen(text), flags), strlen(text));
}

// A change of carrier lets go of what is held back.
static bool stays(void)
{
	return carrier() < CARRIER_PROMOTE_MID;
}

#define HELD_MS 100 // at least; TCP holds back for 200

static int64_t held_since; // or a little before

static void begin_hold(void)
{
	held_since = now_ms();
}

static bool may_be_out(void)
{
	return !stays() || now_ms() - held_since >= HELD_MS; // a crowded machine stands still for longer at times
}

static void recv_at_once(int fd, const char *text)
{
	char buffer[64] = "";
	ssize_t n = recv(fd, buffer, sizeof(buffer), 0);

	assert_that(n > 0 && (n == (ssize_t)strlen(text) || may_be_out()));
	assert_bytes(buffer, text, (size_t)n);
	recv_text(fd, text + n);
}

static void check_quiet(int fd)
{
	assert_that(!wait_for(fd, POLLIN, 10) || may_be_out());
}

static void corked(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 5; i++) {
		begin_hold();
		set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
		send_text(p->a, "head");
		check_quiet(p->b);
		send_text(p->a, "body");
		set_int(p->a, IPPROTO_TCP, TCP_CORK, 0);
		recv_at_once(p->b, "headbody");
	}
	pair_check_ring(p);
}

static void corked_before_connect(void **state)
{
	int listener = listener_open(*(int *)*state);
	struct pair pair = {.a = tcp_socket(*(int *)*state), .b = -1, .family = *(int *)*state};
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);

	assert_returns(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	set_int(pair.a, IPPROTO_TCP, TCP_CORK, 1);
	assert_returns(connect(pair.a, (struct sockaddr *)&address, len), 0);
	pair.b = accept(listener, NULL, NULL);
	pair_settle(&pair);
	begin_hold();
	send_text(pair.a, "head");
	check_quiet(pair.b);
	send_text(pair.a, "body");
	set_int(pair.a, IPPROTO_TCP, TCP_CORK, 0);
	recv_at_once(pair.b, "headbody");
	pair_close(&pair);
	close(listener);
}

static void more(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 5; i++) {
		begin_hold();
		send_flagged(p->a, "head", MSG_MORE);
		check_quiet(p->b);
		send_flagged(p->a, "and", MSG_MORE);
		send_flagged(p->a, "body", 0);
		recv_at_once(p->b, "headandbody");
	}
	pair_check_ring(p);
}

static void let_go_in_time(void **state)
{
	struct pair *p = *state;

	set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
	for (int i = 0; i < 3; i++) {
		send_text(p->a, "late");
		recv_text(p->b, "late");
	}
	send_flagged(p->a, "later", MSG_MORE);
	recv_text(p->b, "later");
}

static void nodelay_pushes(void **state)
{
	struct pair *p = *state;

	set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
	send_text(p->a, "push");
	set_int(p->a, IPPROTO_TCP, TCP_NODELAY, 1);
	recv_text(p->b, "push");
}

static void answer_while_corked(void **state)
{
	struct pair *p = *state;

	set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
	send_text(p->a, "question");
	send_text(p->b, "not asked");
	recv_text(p->a, "not asked");
	recv_text(p->b, "question");
}

static void corked_sendfile(void **state)
{
	struct pair *p = *state;
	FILE *file = tmpfile();

	assert_that(file && fputs("body", file) >= 0 && fflush(file) == 0);
	for (int i = 0; i < 5; i++) {
		off_t offset = 0;

		begin_hold();
		set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
		send_text(p->a, "head");
		assert_returns(sendfile(p->a, fileno(file), &offset, 4), 4);
		set_int(p->a, IPPROTO_TCP, TCP_CORK, 0);
		recv_at_once(p->b, "headbody");
	}
	fclose(file);
}

static void shut_while_corked(void **state)
{
	struct pair *p = *state;

	set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
	send_text(p->a, "last");
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_text(p->b, "last");
	recv_end(p->b);
}

static void closed_while_corked(void **state)
{
	struct pair *p = *state;

	set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
	send_text(p->a, "last");
	close_end(&p->a);
	recv_text(p->b, "last");
	recv_end(p->b);
}

static void full_while_corked(void **state)
{
	struct pair *p = *state;
	size_t filled;

	set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
	set_nonblocking(p->a, true);
	filled = fill_socket(p->a, 1);
	drain_socket(p->b, 1, 0, filled);
	send_pattern(p->a, 2, 0, 100);
	recv_pattern(p->b, 2, 0, 100);
}

static void corked_over_fork(void **state)
{
	struct pair *p = *state;
	pid_t child;

	set_int(p->a, IPPROTO_TCP, TCP_CORK, 1);
	send_text(p->a, "parent");
	child = fork();
	if (child == 0) {
		send_text(p->a, "child");
		set_int(p->a, IPPROTO_TCP, TCP_CORK, 0);
		_exit(0);
	}
	child_finish(child);
	recv_text(p->b, "parentchild");
}

enum end { END_EXIT, END_KILL, END_EXEC };

static void ending_peer(int fd, void *arg)
{
	set_int(fd, IPPROTO_TCP, TCP_CORK, 1);
	send_text(fd, "the last");
	send_flagged(fd, " words", MSG_MORE);
	switch (*(enum end *)arg) {
	case END_EXIT:
		_exit(0);
	case END_KILL:
		kill(getpid(), SIGKILL);
		break;
	case END_EXEC:
		execl("/bin/sh", "sh", "-c", ":", NULL);
		break;
	}
	check_failed(__FILE__, __LINE__, "still here");
}

static void ended_while_corked(void **state)
{
	for (enum end end = END_EXIT; end <= END_EXEC; end++) {
		struct peer peer;
		int status;

		peer_start(&peer, *(int *)*state, ending_peer, &end);
		assert_returns(waitpid(peer.pid, &status, 0), peer.pid);
		recv_text(peer.fd, "the last words");
		recv_end(peer.fd);
		close(peer.fd);
	}
}

#define STREAM_BYTES 2000000u

static int call_stream(void *arg)
{
	unsigned char buffer[40000];
	unsigned seed = 7;

	for (uint64_t at = 0; at < STREAM_BYTES;) {
		size_t n = next_random(&seed) % 20 ? next_random(&seed) % 300 + 1 : next_random(&seed) % sizeof(buffer) + 1;

		n = n < STREAM_BYTES - at ? n : STREAM_BYTES - at;
		if (next_random(&seed) % 8 == 0)
			set_int(*(int *)arg, IPPROTO_TCP, TCP_CORK, next_random(&seed) % 2);
		pattern_fill(buffer, 3, at, n);
		assert_returns(send(*(int *)arg, buffer, n, next_random(&seed) % 3 ? 0 : MSG_MORE), n);
		at += n;
	}
	return 0;
}

static void streams(void **state)
{
	struct pair *p = *state;
	struct sleeper sender;

	sleeper_start(&sender, call_stream, &p->a);
	recv_pattern(p->b, 3, 0, STREAM_BYTES);
	assert_returns(sleeper_join(&sender), 0);
	pair_check_ring(p);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(corked),
    TEST_FAMILY(corked_before_connect),
    TEST_SETTLED(more),
    TEST_SETTLED(let_go_in_time),
    TEST_SETTLED(nodelay_pushes),
    TEST_SETTLED(answer_while_corked),
    TEST_SETTLED(corked_sendfile),
    TEST_SETTLED(shut_while_corked),
    TEST_SETTLED(closed_while_corked),
    TEST_SETTLED(full_while_corked),
    TEST_SETTLED(corked_over_fork),
    TEST_FAMILY(ended_while_corked),
    TEST_SETTLED(streams),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
// Whatever a client does, the broker goes on for the others.
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

// Ends the session, and only that.
static void bad(const void *msg, size_t size, unsigned fd_count, bool after_hello)
{
	int fds[8] = {0, 0, 0, 0, 0, 0, 0, 0};
	struct peer peer;
	int sock;

	if (after_hello) {
		peer_open(&peer, &rlmd, "bad");
		message_send(peer.sock, msg, size, fds, fd_count);
		end_expect(peer.sock);
		peer_close(&peer);
	} else {
		sock = broker_connect(&rlmd);
		message_send(sock, msg, size, fds, fd_count);
		end_expect(sock);
		close(sock);
	}
}

static void test_malformed(void **state)
{
	struct rlm_msg_header short_header = {.type = RLM_MSG_OFFER, .size = sizeof(short_header)};
	struct rlm_msg_header wrong_size = {.type = RLM_MSG_WITHDRAW, .size = 100};
	struct rlm_msg_offer offer_msg = {.header = {.type = RLM_MSG_OFFER, .size = sizeof(offer_msg)}, .conn = {0, 1}};
	struct rlm_msg_withdraw withdraw_msg = {.header = {.type = RLM_MSG_WITHDRAW, .size = sizeof(withdraw_msg)}};
	struct rlm_msg_release release_msg = {.header = {.type = RLM_MSG_RELEASE, .size = sizeof(release_msg)},
					      .side = 2};
	struct rlm_msg_welcome welcome = {.header = {.type = RLM_MSG_WELCOME, .size = sizeof(welcome)}};
	struct rlm_msg_hello hello = {.header = {.type = RLM_MSG_HELLO, .size = sizeof(hello)}, .version = 1};
	struct rlm_msg_text text = {.header = {.type = RLM_MSG_REQUEST, .size = sizeof(text)}, .length = 9999};
	char huge[2000] = {RLM_MSG_HELLO};

	bad(&short_header, 3, 0, true);
	bad(&short_header, sizeof(short_header), 0, true);
	bad(&wrong_size, sizeof(wrong_size), 0, true);
	bad(&withdraw_msg, sizeof(withdraw_msg), 0, false); // before HELLO
	bad(&withdraw_msg, sizeof(withdraw_msg), 1, true);
	bad(&offer_msg, sizeof(offer_msg), 0, true);
	bad(&offer_msg, sizeof(offer_msg), 2, true);
	bad(&offer_msg, sizeof(offer_msg), 8, true);
	offer_msg.how = 2;
	bad(&offer_msg, sizeof(offer_msg), 1, true);
	offer_msg.how = RLM_NAME_ISN;
	offer_msg.ticket = RLM_TICKETS;
	bad(&offer_msg, sizeof(offer_msg), 1, true);
	offer_msg.ticket = 0;
	offer_msg.conn.index = CAPACITY;
	bad(&offer_msg, sizeof(offer_msg), 1, true);
	bad(&release_msg, sizeof(release_msg), 0, true);
	bad(&welcome, sizeof(welcome), 0, true);
	bad(&hello, sizeof(hello), 1, false); // its table is no table
	bad(&hello, sizeof(hello), 1, true);  // the second one
	bad(&hello, sizeof(hello), 0, false);
	bad(&text, sizeof(text), 0, false);
	bad(huge, sizeof(huge), 0, true);
	broker_works(&rlmd);
}

static void test_unknown_type(void **state)
{
	struct rlm_msg_withdraw msg = {.header = {.type = 999, .size = sizeof(msg)}};
	int zero = 0;
	struct peer peer;

	peer_open(&peer, &rlmd, "a");
	message_send(peer.sock, &msg, sizeof(msg), &zero, 1);
	silence_expect(&peer);
	peer_close(&peer);
}

static void test_garbage(void **state)
{
	unsigned seed = 12345;
	struct peer peer;

	for (int i = 0; i < 300; i++) {
		unsigned char noise[RLM_MSG_MAX];
		size_t size = (size_t)(rand_r(&seed) % (int)sizeof(noise)) + 1;
		int zero = 0;

		for (size_t j = 0; j < size; j++)
			noise[j] = (unsigned char)rand_r(&seed);
		if (size >= sizeof(struct rlm_msg_header)) {
			struct rlm_msg_header header = {.type = (uint16_t)(rand_r(&seed) % 24), .size = (uint16_t)size};

			memcpy(noise, &header, sizeof(header));
		}
		peer_open(&peer, &rlmd, "noise");
		message_send(peer.sock, noise, size, &zero, (unsigned)(i & 1));
		peer_close(&peer);
	}
	broker_works(&rlmd);
}

// Tables that lie: a file that is no memfd, one that shrinks later, impossible numbers.
static void test_tables(void **state)
{
	struct peer good;
	int sock, pipes[2], fd;
	char *text;

	assert_int_equal(pipe(pipes), 0);
	fd = open("/dev/zero", O_RDWR);
	for (int i = 0; i < 2; i++) {
		sock = broker_connect(&rlmd);
		hello_send(sock, i ? fd : pipes[0], -1, "liar");
		end_expect(sock);
		close(sock);
	}
	close(fd);
	close_pair(pipes);
	peer_open(&good, &rlmd, "shrinks");
	good.table->used = UINT32_MAX;
	memset(good.entries, 0xff, 100 * sizeof(good.entries[0]));
	text = output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "connections", NULL);
	free(text);
	assert_int_equal(ftruncate(good.table_fd, 100), 0);
	text = output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "connections", "--json", NULL);
	free(text);
	text = output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "stats", NULL);
	free(text);
	silence_expect(&good);
	close(good.sock);
	close(good.table_fd);
	broker_works(&rlmd);
}

// The tickets' page cannot be taken away under the broker.
static void test_tickets(void **state)
{
	struct rlm_msg_offer msg = {
	    .header = {.type = RLM_MSG_OFFER, .size = sizeof(msg)}, .conn = {0, 1}, .how = RLM_NAME_ISN};
	int tcp[2], fds[RLM_MSG_FDS_MAX], sock, table, tickets = memfd_create("t", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	struct rlm_table_shared header = {.magic = RLM_TABLE_MAGIC,
					  .version = RLM_TABLE_VERSION,
					  .capacity = CAPACITY,
					  .entry_size = sizeof(struct rlm_conn_stat)};
	union rlm_msg answer;

	table = memfd_create("x", MFD_CLOEXEC);
	assert_int_equal(ftruncate(table, RLM_TABLE_OFFSET + CAPACITY * sizeof(struct rlm_conn_stat)), 0);
	assert_int_equal(pwrite(table, &header, sizeof(header), 0), sizeof(header));
	assert_int_equal(ftruncate(tickets, 4096), 0);
	sock = broker_connect(&rlmd);
	hello_send(sock, table, tickets, "shrinks");
	assert_true(message_receive(sock, &answer, fds, 5000) > 0);
	close(fds[0]);
	assert_int_equal(ftruncate(tickets, 0), -1);
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	message_send(sock, &msg, sizeof(msg), tcp, 1);
	assert_true(message_receive(sock, &answer, fds, 5000) > 0);
	close_pair(tcp);
	close(sock);
	close(table);
	close(tickets);
	broker_works(&rlmd);
}

// Too many offers of one process: the rest is told so, others are not hindered.
static void test_flood(void **state)
{
	struct peer a;
	union rlm_msg msg;
	int tcp[2], fds[RLM_MSG_FDS_MAX];
	unsigned limited = 0, named = 0, sent = 0;

	peer_open(&a, &rlmd, "flood");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	while (sent < 20000) {
		offer(&a, sent++, RLM_NAME_TUPLE, tcp[0]);
		while (message_receive(a.sock, &msg, fds, sent < 20000 ? 0 : 200) > 0) {
			named += msg.header.type == RLM_MSG_NAMED;
			limited += msg.header.type == RLM_MSG_NAMED && msg.named.why == RLM_WHY_LIMIT;
		}
	}
	assert_int_equal(named, 20000);
	assert_int_equal(limited, 20000 - 16384);
	broker_works(&rlmd);
	close_pair(tcp);
	peer_close(&a);
	broker_works(&rlmd);
}

// Who does not take answers is not listened to any more.
static void test_deaf(void **state)
{
	struct peer a;
	int tcp[2];

	peer_open(&a, &rlmd, "deaf");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	fcntl(a.sock, F_SETFL, O_NONBLOCK);
	for (unsigned i = 0; i < 5000; i++)
		offer(&a, i & 7, RLM_NAME_TUPLE, tcp[0]);
	broker_works(&rlmd);
	close_pair(tcp);
	peer_close(&a);
}

// Put out when others have too much to tell it. Nobody waits for it.
static void test_deaf_to_others(void **state)
{
	enum { COUNT = 1600 };
	static int tcp[COUNT][2];
	struct peer a, b;
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX], listener = tcp_listen(AF_INET, "127.0.0.1", 0);

	peer_open(&a, &rlmd, "deaf");
	peer_open(&b, &rlmd, "b");
	for (unsigned i = 0; i < COUNT; i++) {
		tcp[i][0] = tcp_connect(AF_INET, NULL, 0, "127.0.0.1", tcp_port(listener));
		tcp[i][1] = accept(listener, NULL, NULL);
		offer_named(&a, i, RLM_NAME_TUPLE, tcp[i][0], 0);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		offer(&b, i, RLM_NAME_TUPLE, tcp[i][1]);
		while (message_receive(b.sock, &msg, fds, 0) > 0)
			fds_close(fds);
	}
	broker_works(&rlmd);
	end_expect(a.sock);
	for (unsigned i = 0; i < COUNT; i++)
		close_pair(tcp[i]);
	close(listener);
	peer_close(&a);
	peer_close(&b);
}

// The survivor is told that nothing more will be bound.
static void test_peer_dies(void **state)
{
	struct couple c;
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	couple_open(&c, &rlmd);
	couple_bind(&c);
	peer_close(&c.b);
	message_expect(&c.a, RLM_MSG_DROP, &msg, fds);
	assert_true(msg.drop.link == c.at_a.bind.link);
	assert_int_equal(msg.drop.side, c.at_a.bind.side);
	assert_int_equal(msg.drop.segment, RLM_ALL_SEGMENTS);
	release(&c.a, &c.at_a);
	silence_expect(&c.a);
	couple_close(&c);
}

static void announce(int steps)
{
	if (write(steps, "", 1) != 1)
		_exit(1);
}

// Two sessions, and more and more offers, each of them announced.
static _Noreturn void busy(int steps)
{
	struct peer a, b;
	int tcp[2];

	announce(steps);
	peer_open(&a, &rlmd, "a");
	announce(steps);
	peer_open(&b, &rlmd, "b");
	for (unsigned i = 0;; i++) {
		tcp_pair(AF_INET, "127.0.0.1", tcp);
		announce(steps);
		offer(&a, i, (enum rlm_name_how)(i & 1), tcp[0]);
		announce(steps);
		offer(&b, i, RLM_NAME_TUPLE, tcp[1]);
		close_pair(tcp);
	}
}

// Killed in the middle of anything.
static void test_killed(void **state)
{
	unsigned before, seed = 1;

	broker_works(&rlmd);
	before = broker_files_at_rest(&rlmd);
	for (int i = 0; i < 60; i++) {
		int steps[2];
		char step;
		pid_t pid;

		assert_int_equal(pipe(steps), 0);
		pid = fork();
		if (pid == 0)
			busy(steps[1]);
		close(steps[1]);
		for (int left = rand_r(&seed) % 100; left; left--)
			assert_int_equal(read(steps[0], &step, 1), 1);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		close(steps[0]);
	}
	broker_works(&rlmd);
	eventually(broker_open_files(&rlmd) == before);
}

static void test_many_sessions(void **state)
{
	enum { COUNT = 2000 };
	static int socks[COUNT];
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < COUNT + 100)
		skip();
	for (int i = 0; i < COUNT; i++) {
		socks[i] = broker_connect(&rlmd);
		assert_true(socks[i] >= 0);
	}
	broker_works(&rlmd);
	for (int i = 0; i < COUNT; i++)
		close(socks[i]);
	broker_works(&rlmd);
}

// A second broker does not take a living one's place, a new one takes a dead one's.
static void test_restart(void **state)
{
	struct peer peer;
	char *text;

	text = output_of(1, RLMD_PATH, "--socket", rlmd.socket, "--config", rlmd.config, NULL);
	assert_non_null(strstr(text, "another rlmd is running there"));
	free(text);
	broker_works(&rlmd);
	peer_open(&peer, &rlmd, "a");
	broker_kill(&rlmd);
	end_expect(peer.sock);
	peer_close(&peer);
	assert_int_equal(access(rlmd.socket, F_OK), 0);
	broker_again(&rlmd);
	broker_works(&rlmd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_malformed), cmocka_unit_test(test_unknown_type),   cmocka_unit_test(test_garbage),
	    cmocka_unit_test(test_tables),    cmocka_unit_test(test_tickets),	     cmocka_unit_test(test_flood),
	    cmocka_unit_test(test_deaf),      cmocka_unit_test(test_deaf_to_others), cmocka_unit_test(test_peer_dies),
	    cmocka_unit_test(test_killed),    cmocka_unit_test(test_many_sessions),  cmocka_unit_test(test_restart),
	};

	return cmocka_run_group_tests(tests, broker_setup, broker_teardown);
}

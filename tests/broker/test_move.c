// SPDX-License-Identifier: BSD-2-Clause
// A domain moves between two brokers that stand for two hosts: who is told what, and when.
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <unistd.h>

static struct broker here, there;

static int brokers_start(void **state)
{
	broker_start(&here, NULL);
	broker_start(&there, NULL);
	return 0;
}

static int brokers_stop(void **state)
{
	broker_stop(&here);
	broker_stop(&there);
	return 0;
}

struct ctl {
	pid_t pid;
	FILE *out;
};

static struct ctl domain_move_start(const char *domain, const struct broker *from, const struct broker *to, const char *timeout)
{
	struct ctl ctl;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	ctl.pid = fork();
	if (ctl.pid == 0) {
		dup2(fds[1], 1);
		dup2(fds[1], 2);
		close(fds[0]);
		close(fds[1]);
		execl(RLMCTL_PATH, "rlmctl", "--socket", from->socket, "--timeout", timeout, "move", domain, to->socket, NULL);
		_exit(127);
	}
	close(fds[1]);
	ctl.out = fdopen(fds[0], "r");
	return ctl;
}

static struct ctl move_start(const struct broker *from, const struct broker *to, const char *timeout)
{
	return domain_move_start("host", from, to, timeout);
}

// Its last line.
static void move_ended(struct ctl *ctl, int status, char line[256])
{
	int ended;

	line[0] = 0;
	while (fgets(line, 256, ctl->out))
		;
	fclose(ctl->out);
	assert_int_equal(waitpid(ctl->pid, &ended, 0), ctl->pid);
	assert_true(WIFEXITED(ended));
	assert_int_equal(WEXITSTATUS(ended), status);
}

static void scene_bind(struct couple *s)
{
	couple_bind(s);
	assert_true(s->at_a.link.location == s->a.location->location);
}

static void scene_open(struct couple *s, const struct broker *broker)
{
	couple_open(s, broker);
	scene_bind(s);
}

static void sent_on(struct peer *peer, const struct broker *to)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	message_expect(peer, RLM_MSG_MOVE, &msg, fds);
	assert_string_equal(msg.move.socket, to->socket);
	end_expect(peer->sock);
}

// Another process of the domain comes to a broker that it has left.
static void newcomer_sent_on(const struct broker *from, const struct broker *to)
{
	struct peer peer = {.sock = broker_connect(from), .table_fd = memfd_create("table", 0)};
	struct rlm_table_shared header = {.magic = RLM_TABLE_MAGIC,
					  .version = RLM_TABLE_VERSION,
					  .capacity = CAPACITY,
					  .entry_size = sizeof(struct rlm_conn_stat)};

	assert_int_equal(ftruncate(peer.table_fd, RLM_TABLE_OFFSET + CAPACITY * sizeof(struct rlm_conn_stat)), 0);
	assert_int_equal(pwrite(peer.table_fd, &header, sizeof(header), 0), sizeof(header));
	hello_send(peer.sock, peer.table_fd, -1, "newcomer");
	sent_on(&peer, to);
	close(peer.sock);
	close(peer.table_fd);
}

static uint64_t location_at(const struct broker *broker)
{
	struct peer peer;
	uint64_t number;

	peer_open(&peer, broker, "asks");
	number = peer.location->location;
	peer_close(&peer);
	return number;
}

static void move_all(const struct broker *from, const struct broker *to)
{
	struct ctl ctl = move_start(from, to, "5");
	char line[256];

	move_ended(&ctl, 0, line);
}

// Both ends are told to leave, both answer, and nothing happens before; then they are sent on.
static void test_both_leave(void **state)
{
	struct couple s;
	struct ctl ctl;
	char line[256];
	uint64_t before;

	scene_open(&s, &here);
	before = s.a.location->location;
	ctl = move_start(&here, &there, "10");
	leave_expect(&s.a, &s.at_a);
	leave_expect(&s.b, &s.at_b);
	assert_int_equal(s.a.location->quiesce, 1);
	// Quiet is quiet: an offer waits.
	offer_named(&s.a, 1, RLM_NAME_TUPLE, s.tcp[0], 0);
	offer_named(&s.b, 1, RLM_NAME_TUPLE, s.tcp[1], 0);
	note_expect(&s.b, 1, RLM_WHY_MIGRATING, false);
	note_expect(&s.a, 1, RLM_WHY_MIGRATING, false);
	left(&s.a, &s.at_a);
	silence_expect(&s.b);
	left(&s.b, &s.at_b);
	sent_on(&s.a, &there);
	sent_on(&s.b, &there);
	move_ended(&ctl, 0, line);
	assert_non_null(strstr(line, "departed"));
	couple_close(&s);
	newcomer_sent_on(&here, &there);
	// There it has another number, and after its way back again another one.
	assert_true(location_at(&there) != before);
	scene_open(&s, &there);
	couple_close(&s);
	move_all(&there, &here);
	newcomer_sent_on(&there, &here);
	assert_true(location_at(&here) != before);
}

static void test_refused(void **state)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];
	struct couple s;
	struct ctl ctl;
	char line[256];

	scene_open(&s, &here);
	ctl = move_start(&here, &there, "0.3");
	leave_expect(&s.a, &s.at_a);
	leave_expect(&s.b, &s.at_b);
	left(&s.a, &s.at_a);
	message_expect(&s.a, RLM_MSG_RESUME, &msg, fds);
	move_ended(&ctl, 1, line);
	assert_non_null(strstr(line, "no answer from b["));
	assert_null(strstr(line, "a["));
	assert_int_equal(s.a.location->quiesce, 0);
	// Everything goes on; who answers late has left the old link all the same.
	message_expect(&s.b, RLM_MSG_RESUME, &msg, fds);
	left(&s.b, &s.at_b);
	bound_close(&s.at_a);
	bound_close(&s.at_b);
	scene_bind(&s);
	couple_close(&s);
}

static void test_given_up(void **state)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];
	struct couple s;
	struct ctl ctl;

	scene_open(&s, &here);
	ctl = move_start(&here, &there, "10");
	leave_expect(&s.a, &s.at_a);
	leave_expect(&s.b, &s.at_b);
	kill(ctl.pid, SIGKILL);
	waitpid(ctl.pid, NULL, 0);
	fclose(ctl.out);
	message_expect(&s.a, RLM_MSG_RESUME, &msg, fds);
	assert_int_equal(s.a.location->quiesce, 0);
	couple_close(&s);
}

// A process that dies instead of answering has nothing mapped any more.
static void test_death_is_an_answer(void **state)
{
	struct couple s;
	struct ctl ctl;
	char line[256];

	scene_open(&s, &here);
	ctl = move_start(&here, &there, "10");
	leave_expect(&s.a, &s.at_a);
	left(&s.a, &s.at_a);
	shutdown(s.b.sock, SHUT_RDWR);
	sent_on(&s.a, &there);
	move_ended(&ctl, 0, line);
	couple_close(&s);
	move_all(&there, &here);
}

static void test_other_broker_missing(void **state)
{
	struct broker nobody = {.socket = "/nowhere/rlmd.sock"};
	struct ctl ctl = move_start(&here, &nobody, "1");
	char line[256];

	move_ended(&ctl, 1, line);
	assert_non_null(strstr(line, "no broker is running there"));
	ctl = move_start(&here, &here, "1");
	move_ended(&ctl, 1, line);
	assert_non_null(strstr(line, "already"));
}

// Where a domain is, and its number, outlive the brokers.
static void test_restart(void **state)
{
	uint64_t number;

	move_all(&here, &there);
	move_all(&there, &here);
	number = location_at(&here);
	broker_kill(&here);
	broker_again(&here);
	assert_true(location_at(&here) == number);
	newcomer_sent_on(&there, &here);
	broker_kill(&there);
	broker_again(&there);
	newcomer_sent_on(&there, &here);
}

static void kept(struct peer *peer, const struct bound *bound)
{
	struct rlm_msg_kept msg = {.header = {.type = RLM_MSG_KEPT, .size = sizeof(msg)},
				   .link = bound->bind.link,
				   .side = bound->bind.side};

	message_send(peer->sock, &msg, sizeof(msg), NULL, 0);
}

// A link made before the broker was restarted is left like any other, and nothing is quiet before all had the time to come back.
static void test_kept(void **state)
{
	struct couple s;
	struct ctl ctl;
	char line[256];
	double start;

	scene_open(&s, &here);
	broker_kill(&here);
	start = seconds();
	broker_again(&here);
	peer_close(&s.a);
	peer_close(&s.b);
	peer_open(&s.a, &here, "a");
	kept(&s.a, &s.at_a);
	silence_expect(&s.a);
	ctl = move_start(&here, &there, "0.5");
	leave_expect(&s.a, &s.at_a);
	left(&s.a, &s.at_a);
	move_ended(&ctl, 1, line);
	assert_non_null(strstr(line, "may not have come back"));
	ctl = move_start(&here, &there, "10");
	peer_open(&s.b, &here, "b");
	kept(&s.b, &s.at_b);
	leave_expect(&s.b, &s.at_b);
	left(&s.b, &s.at_b);
	move_ended(&ctl, 0, line);
	assert_true(seconds() - start >= 4);
	sent_on(&s.b, &there);
	couple_close(&s);
	move_all(&there, &here);
}

// Both ends of a link move at a time: each waits for its answers.
static void test_two_wait(void **state)
{
	struct peer a, b;
	struct bound at_a, at_b;
	struct ctl ctl, other;
	struct stat st;
	char line[256], name[64];
	int tcp[2];

	if (!netns_new())
		skip();
	assert_int_equal(stat("/proc/self/ns/net", &st), 0);
	snprintf(name, sizeof(name), "netns:[%lu]", (unsigned long)st.st_ino);
	peer_open(&b, &here, "b");
	netns_back();
	peer_open(&a, &here, "a");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	both_offer(&a, &b, 0, tcp);
	both_bound(&a, &b, &at_a, &at_b);
	ctl = move_start(&here, &there, "10");
	leave_expect(&a, &at_a);
	leave_expect(&b, &at_b);
	other = domain_move_start(name, &here, &there, "0.3");
	move_ended(&other, 1, line);
	assert_non_null(strstr(line, "no answer from"));
	left(&a, &at_a);
	left(&b, &at_b);
	sent_on(&a, &there);
	move_ended(&ctl, 0, line);
	bound_close(&at_a);
	bound_close(&at_b);
	peer_close(&a);
	peer_close(&b);
	close_pair(tcp);
	move_all(&there, &here);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_both_leave),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_given_up),
	    cmocka_unit_test(test_death_is_an_answer),
	    cmocka_unit_test(test_other_broker_missing),
	    cmocka_unit_test(test_restart),
	    cmocka_unit_test(test_kept),
	    cmocka_unit_test(test_two_wait),
	};

	return cmocka_run_group_tests(tests, brokers_start, brokers_stop);
}

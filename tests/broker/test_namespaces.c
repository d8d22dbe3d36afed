// SPDX-License-Identifier: BSD-2-Clause
// Equal addresses in several namespaces, address translation, shared ports: the right ends are joined, or none. Needs
// root.
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_TRANSPARENT
#define IP_TRANSPARENT 19
#endif

// Takes what comes for the offers of a connection's ends; re-offers by ISN when asked. True: both were bound, to one
// another.
static bool joined(struct peer *a, int tcp_a, struct peer *b, int tcp_b, enum rlm_name_how how)
{
	struct peer *peers[2] = {a, b};
	int tcp[2] = {tcp_a, tcp_b}, fds[RLM_MSG_FDS_MAX];
	struct rlm_msg_bind bind[2] = {{.link = 0}, {.link = 0}};
	union rlm_msg msg;

	offer(a, 0, how, tcp_a);
	offer(b, 0, how, tcp_b);
	for (int turn = 0; turn < 110 && !(bind[0].link && bind[1].link); turn++) {
		int i = turn & 1;
		int size = message_receive(peers[i]->sock, &msg, fds, 20);

		assert_true(size >= 0);
		fds_close(fds);
		if (size && msg.header.type == RLM_MSG_NOTE && msg.note.again)
			offer(peers[i], 0, RLM_NAME_ISN, tcp[i]);
		if (size && msg.header.type == RLM_MSG_BIND)
			bind[i] = msg.bind;
	}
	if (!bind[0].link)
		assert_false(bind[1].link);
	return bind[0].link && bind[0].link == bind[1].link && bind[0].slot == bind[1].slot &&
	       bind[0].segment == bind[1].segment && bind[0].epoch == bind[1].epoch;
}

static bool sessions_join(int tcp_a, int tcp_b, enum rlm_name_how how)
{
	struct peer a, b;
	bool result;

	peer_open(&a, &rlmd, "a");
	peer_open(&b, &rlmd, "b");
	result = joined(&a, tcp_a, &b, tcp_b, how);
	peer_close(&a);
	peer_close(&b);
	return result;
}

// The same addresses and ports in two namespaces.
static void test_equal_addresses(void **state)
{
	int one[2], two[2];

	if (!netns_new())
		skip();
	tcp_pair_at(AF_INET, "127.0.0.1", 7001, 7002, one);
	assert_true(netns_new());
	tcp_pair_at(AF_INET, "127.0.0.1", 7001, 7002, two);
	netns_back();
	for (enum rlm_name_how how = RLM_NAME_TUPLE; how <= RLM_NAME_ISN; how++) {
		assert_false(sessions_join(one[0], two[1], how));
		assert_false(sessions_join(two[0], one[1], how));
		assert_true(sessions_join(one[0], one[1], how));
		assert_true(sessions_join(two[0], two[1], how));
	}
	close_pair(one);
	close_pair(two);
}

// All four ends at once.
static void test_equal_addresses_together(void **state)
{
	struct peer peers[4];
	struct bound bound[4];
	int one[2], two[2];

	if (!netns_new())
		skip();
	tcp_pair_at(AF_INET, "127.0.0.1", 7001, 7002, one);
	assert_true(netns_new());
	tcp_pair_at(AF_INET, "127.0.0.1", 7001, 7002, two);
	netns_back();
	for (int i = 0; i < 4; i++) {
		peer_open(&peers[i], &rlmd, "p");
		offer_named(&peers[i], 0, RLM_NAME_TUPLE, i < 2 ? one[i] : two[3 - i], 0);
	}
	for (int i = 0; i < 4; i++)
		bound_expect(&peers[i], &bound[i]);
	assert_true(bound[0].bind.link == bound[1].bind.link);
	assert_true(bound[2].bind.link == bound[3].bind.link);
	assert_true(bound[0].bind.link != bound[2].bind.link);
	for (int i = 0; i < 4; i++) {
		bound_close(&bound[i]);
		peer_close(&peers[i]);
	}
	close_pair(one);
	close_pair(two);
}

static void veth_down(void)
{
	shell("ip netns del rlmt-a 2>/dev/null; ip netns del rlmt-b 2>/dev/null");
}

// rlmt-a has 10.77.0.1, rlmt-b has 10.77.0.2.
static bool veth_up(void)
{
	veth_down();
	return shell("ip netns add rlmt-a && ip netns add rlmt-b &&"
		     "ip link add rlmt0 netns rlmt-a type veth peer name rlmt0 netns rlmt-b &&"
		     "ip -n rlmt-a addr add 10.77.0.1/24 dev rlmt0 && ip -n rlmt-b addr add 10.77.0.2/24 dev rlmt0 &&"
		     "ip -n rlmt-a link set rlmt0 up && ip -n rlmt-b link set rlmt0 up &&"
		     "ip -n rlmt-a link set lo up && ip -n rlmt-b link set lo up");
}

static void across(const char *to, uint16_t port, int tcp[2])
{
	int listener;

	assert_true(netns_enter("rlmt-b"));
	listener = tcp_listen(AF_INET, "10.77.0.2", 8080);
	assert_true(netns_enter("rlmt-a"));
	tcp[0] = tcp_connect(AF_INET, NULL, 0, to, port);
	tcp[1] = accept(listener, NULL, NULL);
	netns_back();
	close(listener);
}

static void test_veth(void **state)
{
	int tcp[2];

	if (geteuid() != 0 || !veth_up())
		skip();
	across("10.77.0.2", 8080, tcp);
	assert_true(sessions_join(tcp[0], tcp[1], RLM_NAME_TUPLE));
	assert_true(sessions_join(tcp[0], tcp[1], RLM_NAME_ISN));
	close_pair(tcp);
	veth_down();
}

static void test_dnat(void **state)
{
	int tcp[2];

	if (geteuid() != 0 || !veth_up())
		skip();
	if (!shell("ip netns exec rlmt-b nft 'table ip t { chain p { type nat hook prerouting priority -100;"
		   " ip daddr 10.77.0.9 tcp dport 80 dnat to 10.77.0.2:8080; }; }' 2>/dev/null"
		   " && ip -n rlmt-b addr add 10.77.0.9/24 dev rlmt0")) {
		veth_down();
		skip();
	}
	across("10.77.0.9", 80, tcp);
	assert_true(sessions_join(tcp[0], tcp[1], RLM_NAME_TUPLE));
	assert_true(sessions_join(tcp[0], tcp[1], RLM_NAME_ISN));
	close_pair(tcp);
	veth_down();
}

static void groups_configure(const char *config)
{
	broker_config(&rlmd, config);
	kill(rlmd.pid, SIGHUP);
}

static bool group_is_known(const char *name)
{
	char *groups = output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "groups", NULL);
	bool known = strstr(groups, name);

	free(groups);
	return known;
}

// Other group by the namespace's name; the group changes while the ends wait.
static void test_groups(void **state)
{
	struct peer a, b;
	struct bound at_a, at_b;
	int tcp[2];

	if (geteuid() != 0 || !veth_up())
		skip();
	groups_configure("group red { domain = {\"netns:rlmt-a\"} }\n");
	eventually(group_is_known("red"));
	across("10.77.0.2", 8080, tcp);
	peer_open(&a, &rlmd, "a");
	peer_open(&b, &rlmd, "b");
	offer_named(&a, 0, RLM_NAME_ISN, tcp[0], 0);
	offer_named(&b, 0, RLM_NAME_ISN, tcp[1], 0);
	note_expect(&b, 0, RLM_WHY_OTHER_GROUP, false);
	note_expect(&a, 0, RLM_WHY_OTHER_GROUP, false);
	groups_configure("group red { domain = {\"netns:rlmt-*\"} }\n");
	both_bound(&a, &b, &at_a, &at_b);
	assert_true(at_a.bind.link == at_b.bind.link);
	// Apart again: what is bound goes back to TCP.
	groups_configure("group red { domain = {\"netns:rlmt-a\"} }\n");
	leave_expect(&a, &at_a);
	leave_expect(&b, &at_b);
	left(&a, &at_a);
	left(&b, &at_b);
	offer_named(&a, 0, RLM_NAME_ISN, tcp[0], 0);
	offer_named(&b, 0, RLM_NAME_ISN, tcp[1], 0);
	note_expect(&b, 0, RLM_WHY_OTHER_GROUP, false);
	note_expect(&a, 0, RLM_WHY_OTHER_GROUP, false);
	bound_close(&at_a);
	bound_close(&at_b);
	// And together.
	groups_configure("");
	both_bound(&a, &b, &at_a, &at_b);
	bound_close(&at_a);
	bound_close(&at_b);
	peer_close(&a);
	peer_close(&b);
	close_pair(tcp);
	veth_down();
}

struct translated {
	int x[2]; // 10.9.9.1:5000 -> 10.9.9.2:80, which is 10.9.9.1:8080 in truth
	int y[2]; // 10.9.9.1:5000 -> 10.9.9.1:8080, for which the kernel has to change the source port
};

// Two connections in one namespace such that the client's end of one and the server's end of the other have reversed
// 4-tuples.
static bool translated_make(struct translated *t)
{
	int listener;

	if (!netns_new())
		return false;
	if (!shell("ip addr add 10.9.9.1/24 dev lo && ip addr add 10.9.9.2/24 dev lo &&"
		   "nft 'table ip t { chain o { type nat hook output priority -100;"
		   " ip daddr 10.9.9.2 tcp dport 80 dnat to 10.9.9.1:8080; }; }' 2>/dev/null")) {
		netns_back();
		return false;
	}
	listener = tcp_listen(AF_INET, "10.9.9.1", 8080);
	t->x[0] = tcp_connect(AF_INET, "10.9.9.1", 5000, "10.9.9.2", 80);
	t->x[1] = accept(listener, NULL, NULL);
	t->y[0] = tcp_connect(AF_INET, "10.9.9.1", 5000, "10.9.9.1", 8080);
	t->y[1] = accept(listener, NULL, NULL);
	close(listener);
	netns_back();
	return true;
}

static void test_translated_twins(void **state)
{
	struct translated t;

	if (!translated_make(&t))
		skip();
	assert_false(sessions_join(t.y[0], t.x[1], RLM_NAME_TUPLE));
	assert_false(sessions_join(t.y[0], t.x[1], RLM_NAME_ISN));
	assert_true(sessions_join(t.x[0], t.x[1], RLM_NAME_TUPLE));
	assert_true(sessions_join(t.y[0], t.y[1], RLM_NAME_TUPLE));
	close_pair(t.x);
	close_pair(t.y);
}

// Without CAP_NET_ADMIN the same must at least not be joined wrongly.
static void test_translated_unprivileged(void **state)
{
	struct broker privileged = rlmd;
	struct translated t;
	struct peer a;

	if (!translated_make(&t))
		skip();
	broker_start_unprivileged(&rlmd, NULL);
	assert_false(sessions_join(t.y[0], t.x[1], RLM_NAME_TUPLE));
	peer_open(&a, &rlmd, "a");
	offer_named(&a, 0, RLM_NAME_TUPLE, t.x[1], RLM_WHY_UNNAMED);
	peer_close(&a);
	broker_stop(&rlmd);
	rlmd = privileged;
	close_pair(t.x);
	close_pair(t.y);
}

static void test_unprivileged(void **state)
{
	struct broker privileged = rlmd;
	struct peer a;
	int tcp[2];

	if (geteuid() != 0)
		skip();
	broker_start_unprivileged(&rlmd, NULL);
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	assert_true(sessions_join(tcp[0], tcp[1], RLM_NAME_TUPLE));
	assert_true(sessions_join(tcp[0], tcp[1], RLM_NAME_ISN));
	peer_open(&a, &rlmd, "a");
	offer_named(&a, 0, RLM_NAME_TUPLE, tcp[0], 0);
	note_expect(&a, 0, RLM_WHY_NO_PEER, false);
	peer_close(&a);
	broker_stop(&rlmd);
	rlmd = privileged;
	close_pair(tcp);
}

// A transparent proxy's two sockets have reversed tuples of each other and are not peers: such a tuple is no name.
static void test_transparent(void **state)
{
	struct peer a;
	int tcp[2], on = 1;

	if (geteuid() != 0)
		skip();
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	if (setsockopt(tcp[0], IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on)))
		skip();
	peer_open(&a, &rlmd, "a");
	if (a.broker_looks_up) {
		offer_named(&a, 0, RLM_NAME_TUPLE, tcp[0], 0);
	} else {
		offer(&a, 0, RLM_NAME_TUPLE, tcp[0]);
		note_expect(&a, 0, RLM_WHY_NO_PEER, true);
	}
	peer_close(&a);
	assert_true(sessions_join(tcp[0], tcp[1], RLM_NAME_TUPLE));
	close_pair(tcp);
}

static void test_bound_to_device(void **state)
{
	struct peer a;
	int tcp[2], index = 1;

	if (geteuid() != 0)
		skip();
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	if (setsockopt(tcp[0], SOL_SOCKET, SO_BINDTOIFINDEX, &index, sizeof(index)))
		skip();
	peer_open(&a, &rlmd, "a");
	offer(&a, 0, RLM_NAME_TUPLE, tcp[0]);
	note_expect(&a, 0, RLM_WHY_NO_PEER, true);
	peer_close(&a);
	close_pair(tcp);
}

// Where processes of several namespaces have sessions nobody waits a second to be asked for sequence numbers.
static void test_asked_soon(void **state)
{
	struct peer here, there;
	union rlm_msg msg;
	int tcp[2], fds[RLM_MSG_FDS_MAX];

	if (!netns_new())
		skip();
	peer_open(&there, &rlmd, "there");
	netns_back();
	peer_open(&here, &rlmd, "here");
	if (here.broker_looks_up)
		skip(); // there is nothing to ask for
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	offer_named(&here, 0, RLM_NAME_TUPLE, tcp[0], 0);
	assert_true(message_receive(here.sock, &msg, fds, 500) > 0);
	assert_int_equal(msg.header.type, RLM_MSG_NOTE);
	assert_int_equal(msg.note.why, RLM_WHY_NO_PEER);
	assert_int_equal(msg.note.again, 1);
	close_pair(tcp);
	peer_close(&here);
	peer_close(&there);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_equal_addresses),
	    cmocka_unit_test(test_equal_addresses_together),
	    cmocka_unit_test(test_veth),
	    cmocka_unit_test(test_dnat),
	    cmocka_unit_test(test_groups),
	    cmocka_unit_test(test_translated_twins),
	    cmocka_unit_test(test_translated_unprivileged),
	    cmocka_unit_test(test_unprivileged),
	    cmocka_unit_test(test_transparent),
	    cmocka_unit_test(test_bound_to_device),
	    cmocka_unit_test(test_asked_soon),
	};

	return cmocka_run_group_tests(tests, broker_setup, broker_teardown);
}

// SPDX-License-Identifier: BSD-2-Clause
// Two ends are offered, matched and bound; what they get is what the layout promises.
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static void same_binding(const struct bound *a, const struct bound *b)
{
	assert_true(a->bind.link == b->bind.link);
	assert_int_equal(a->bind.segment, b->bind.segment);
	assert_int_equal(a->bind.slot, b->bind.slot);
	assert_int_equal(a->bind.epoch, b->bind.epoch);
	assert_int_equal(a->bind.side, !b->bind.side);
}

static void match(int family, const char *address, enum rlm_name_how how_a, enum rlm_name_how how_b)
{
	struct couple c;

	couple_open(&c, &rlmd);
	close_pair(c.tcp);
	tcp_pair(family, address, c.tcp);
	assert_int_equal(send(c.tcp[0], "12345", 5, 0), 5);
	assert_int_equal(send(c.tcp[1], "1234567", 7, 0), 7);
	tcp_await(c.tcp[0], POLLIN);
	tcp_await(c.tcp[1], POLLIN);
	offer_named(&c.a, 3, how_a, c.tcp[0], 0);
	offer_named(&c.b, 7, how_b, c.tcp[1], 0);
	both_bound(&c.a, &c.b, &c.at_a, &c.at_b);
	same_binding(&c.at_a, &c.at_b);
	assert_int_equal(c.at_a.bind.conn.index, 3);
	assert_int_equal(c.at_b.bind.conn.index, 7);
	assert_true(c.at_a.link.link == c.at_a.bind.link && c.at_b.link.link == c.at_a.bind.link);
	assert_string_equal(c.at_a.link.peer_command, "b");
	assert_int_equal(c.at_a.link.peer_pid, getpid());
	couple_close(&c);
}

static void test_tuple(void **state)
{
	match(AF_INET, "127.0.0.1", RLM_NAME_TUPLE, RLM_NAME_TUPLE);
	match(AF_INET6, "::1", RLM_NAME_TUPLE, RLM_NAME_TUPLE);
}

static void test_isn(void **state)
{
	if (geteuid() != 0)
		skip();
	match(AF_INET, "127.0.0.1", RLM_NAME_ISN, RLM_NAME_ISN);
	match(AF_INET6, "::1", RLM_NAME_ISN, RLM_NAME_ISN);
	match(AF_INET, "127.0.0.1", RLM_NAME_ISN, RLM_NAME_TUPLE);
	match(AF_INET, "127.0.0.1", RLM_NAME_TUPLE, RLM_NAME_ISN);
}

// One end is an IPv6 socket that speaks IPv4.
static void test_mapped(void **state)
{
	struct couple c;
	int listener = tcp_listen(AF_INET6, "::", 0);

	couple_open(&c, &rlmd);
	close_pair(c.tcp);
	c.tcp[0] = tcp_connect(AF_INET, NULL, 0, "127.0.0.1", tcp_port(listener));
	c.tcp[1] = accept(listener, NULL, NULL);
	couple_bind(&c);
	same_binding(&c.at_a, &c.at_b);
	close(listener);
	couple_close(&c);
}

static void region_check(const struct bound *mine, const struct bound *theirs)
{
	size_t size = rlm_region_size(mine->segment.slots, mine->segment.ring_size);
	char *rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, mine->fds[FD_RW], 0);
	char *ro = mmap(NULL, size, PROT_READ, MAP_SHARED, theirs->fds[FD_RO], 0);
	const struct rlm_region_shared *header = (const struct rlm_region_shared *)ro;
	char path[64];

	assert_ptr_not_equal(rw, MAP_FAILED);
	assert_ptr_not_equal(ro, MAP_FAILED);
	assert_int_equal(header->magic, RLM_LAYOUT_MAGIC);
	assert_int_equal(header->version, RLM_LAYOUT_VERSION);
	assert_int_equal(header->slots, mine->segment.slots);
	assert_int_equal(header->ring_size, mine->segment.ring_size);
	assert_int_equal(header->data_offset, rlm_data_offset(mine->segment.slots));
	assert_int_equal(header->size, size);
	strcpy(rw + header->data_offset, "seen");
	assert_string_equal(ro + header->data_offset, "seen");
	// Not writable by the other side, in no way; not resizable by anyone; holes may be punched by the owner.
	assert_ptr_equal(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, theirs->fds[FD_RO], 0), MAP_FAILED);
	assert_int_equal(mprotect(ro, size, PROT_READ | PROT_WRITE), -1);
	assert_int_equal(ftruncate(mine->fds[FD_RW], 4096), -1);
	assert_int_equal(ftruncate(mine->fds[FD_RW], (off_t)size * 2), -1);
	assert_int_equal(
	    fallocate(mine->fds[FD_RW], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)header->data_offset, 4096),
	    0);
	assert_string_equal(ro + header->data_offset, "");
	if (geteuid() != 0) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", theirs->fds[FD_RO]);
		assert_int_equal(open(path, O_RDWR), -1);
	}
	munmap(rw, size);
	munmap(ro, size);
}

static bool rings(int bell)
{
	struct pollfd poller = {.fd = bell, .events = POLLIN};

	return poll(&poller, 1, 0) == 1;
}

static void bell_check(int mine, int at_peer)
{
	uint64_t one = 1;

	assert_false(rings(mine));
	assert_int_equal(write(at_peer, &one, sizeof(one)), sizeof(one));
	assert_true(rings(mine));
	assert_true(fcntl(mine, F_GETFL) & O_NONBLOCK);
}

static void test_memory(void **state)
{
	struct couple c;

	couple_open(&c, &rlmd);
	couple_bind(&c);
	assert_int_equal(c.at_a.segment.ring_size, 256 << 10);
	assert_int_equal(c.at_a.segment.slots, 8);
	region_check(&c.at_a, &c.at_b);
	region_check(&c.at_b, &c.at_a);
	bell_check(c.at_a.fds[FD_MINE], c.at_b.fds[FD_PEER]);
	bell_check(c.at_b.fds[FD_MINE], c.at_a.fds[FD_PEER]);
	bell_check(c.at_a.link_fds[0], c.at_b.link_fds[1]);
	bell_check(c.at_b.link_fds[0], c.at_a.link_fds[1]);
	couple_close(&c);
}

// More connections of the same pair go to the same link, a full segment gets a second one.
static void test_many(void **state)
{
	enum { COUNT = 20 };
	struct peer a, b;
	struct bound at_a[COUNT], at_b[COUNT];
	int tcp[COUNT][2];

	peer_open(&a, &rlmd, "a");
	peer_open(&b, &rlmd, "b");
	for (uint32_t i = 0; i < COUNT; i++) {
		tcp_pair(AF_INET, "127.0.0.1", tcp[i]);
		// Either end of a connection may be in either process.
		offer_named(&a, i, RLM_NAME_TUPLE, tcp[i][i & 1], 0);
		offer_named(&b, i, RLM_NAME_TUPLE, tcp[i][!(i & 1)], 0);
		both_bound(&a, &b, &at_a[i], &at_b[i]);
		same_binding(&at_a[i], &at_b[i]);
		assert_true(at_a[i].bind.link == at_a[0].bind.link);
		assert_int_equal(at_a[i].bind.side, at_a[0].bind.side);
		assert_int_equal(at_a[i].bind.segment, i / 8);
		assert_int_equal(at_a[i].segment.link != 0, i % 8 == 0);
		for (uint32_t j = 0; j < i; j++)
			assert_false(at_a[j].bind.segment == at_a[i].bind.segment &&
				     at_a[j].bind.slot == at_a[i].bind.slot);
	}
	for (uint32_t i = 0; i < COUNT; i++) {
		bound_close(&at_a[i]);
		bound_close(&at_b[i]);
		close_pair(tcp[i]);
	}
	peer_close(&a);
	peer_close(&b);
}

// A slot is used again when both sides have released it, not before, and with another epoch.
static void test_release(void **state)
{
	struct peer a, b;
	struct bound a1, b1, a2, b2;
	int first[2], second[2];

	peer_open(&a, &rlmd, "a");
	peer_open(&b, &rlmd, "b");
	tcp_pair(AF_INET, "127.0.0.1", first);
	tcp_pair(AF_INET, "127.0.0.1", second);
	both_offer(&a, &b, 0, first);
	both_bound(&a, &b, &a1, &b1);
	release(&a, &a1);
	release(&a, &a1); // has no effect
	both_offer(&a, &b, 1, second);
	both_bound(&a, &b, &a2, &b2);
	assert_int_not_equal(a2.bind.slot, a1.bind.slot);
	release(&b, &b1);
	bound_close(&a2);
	bound_close(&b2);
	both_offer(&a, &b, 2, first);
	both_bound(&a, &b, &a2, &b2);
	assert_int_equal(a2.bind.slot, a1.bind.slot);
	assert_int_not_equal(a2.bind.epoch, a1.bind.epoch);
	bound_close(&a1);
	bound_close(&b1);
	close_pair(first);
	close_pair(second);
	peer_close(&a);
	peer_close(&b);
}

// One process is both ends: it gets everything twice, told apart by side.
static void test_both_ends(void **state)
{
	struct peer a;
	struct bound one, other;
	union rlm_msg msg[6];
	int tcp[2], fds[6][RLM_MSG_FDS_MAX];

	peer_open(&a, &rlmd, "a");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	offer_named(&a, 0, RLM_NAME_TUPLE, tcp[0], 0);
	offer_named(&a, 1, RLM_NAME_TUPLE, tcp[1], 0);
	for (int i = 0; i < 6; i++)
		message_expect(&a, (uint16_t)(RLM_MSG_LINK + i / 2), &msg[i], fds[i]);
	for (int i = 0; i < 6; i++)
		fds_close(fds[i]);
	assert_true(msg[0].link.link == msg[1].link.link && msg[4].bind.link == msg[0].link.link);
	assert_int_equal(msg[0].link.side, 0);
	assert_int_equal(msg[1].link.side, 1);
	assert_int_not_equal(msg[4].bind.side, msg[5].bind.side);
	assert_int_not_equal(msg[4].bind.conn.index, msg[5].bind.conn.index);
	assert_int_equal(msg[4].bind.epoch, msg[5].bind.epoch);
	one.bind = msg[4].bind;
	other.bind = msg[5].bind;
	release(&a, &one);
	release(&a, &other);
	silence_expect(&a);
	close_pair(tcp);
	peer_close(&a);
}

// A socket that is connected to itself is one end, not two.
static void test_self(void **state)
{
	struct peer a;
	int sock = tcp_connect(AF_INET, "127.0.0.1", 27011, "127.0.0.1", 27011);

	peer_open(&a, &rlmd, "a");
	offer_named(&a, 0, RLM_NAME_TUPLE, sock, RLM_WHY_UNNAMED);
	offer_named(&a, 1, RLM_NAME_TUPLE, sock, RLM_WHY_UNNAMED);
	if (geteuid() == 0)
		offer_named(&a, 1, RLM_NAME_ISN, sock, RLM_WHY_UNNAMED);
	silence_expect(&a);
	close(sock);
	peer_close(&a);
}

static void test_refused(void **state)
{
	struct peer a;
	int tcp[2], udp = socket(AF_INET, SOCK_DGRAM, 0), pair[2], listener = tcp_listen(AF_INET, "127.0.0.1", 0);

	peer_open(&a, &rlmd, "a");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	offer_named(&a, 0, RLM_NAME_TUPLE, udp, RLM_WHY_NOT_TCP);
	offer_named(&a, 0, RLM_NAME_TUPLE, pair[0], RLM_WHY_NOT_TCP);
	offer_named(&a, 0, RLM_NAME_TUPLE, 0, RLM_WHY_NOT_TCP);
	offer_named(&a, 0, RLM_NAME_TUPLE, listener, RLM_WHY_CLOSING);
	close(tcp[1]);
	tcp_await(tcp[0], POLLRDHUP);
	offer_named(&a, 0, RLM_NAME_TUPLE, tcp[0], RLM_WHY_CLOSING);
	close(tcp[0]);
	close(udp);
	close(listener);
	close_pair(pair);
	peer_close(&a);
}

// The broker keeps no duplicate: the peer sees the end of the stream when the process closes.
static void test_no_duplicate(void **state)
{
	struct peer a;
	int tcp[2];
	char byte;

	peer_open(&a, &rlmd, "a");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	offer_named(&a, 0, RLM_NAME_TUPLE, tcp[0], 0);
	close(tcp[0]);
	assert_int_equal(recv(tcp[1], &byte, 1, 0), 0);
	close(tcp[1]);
	peer_close(&a);
}

static void test_withdraw(void **state)
{
	struct couple c;

	couple_open(&c, &rlmd);
	offer_named(&c.a, 0, RLM_NAME_TUPLE, c.tcp[0], 0);
	withdraw(&c.a, 0);
	silence_expect(&c.a);
	offer_named(&c.b, 0, RLM_NAME_TUPLE, c.tcp[1], 0);
	silence_expect(&c.b);
	offer_named(&c.a, 0, RLM_NAME_TUPLE, c.tcp[0], 0);
	bound_expect(&c.b, &c.at_b);
	bound_expect(&c.a, &c.at_a);
	couple_close(&c);
}

// Alone for a second: told so, and asked for sequence numbers if that may help.
static void test_no_peer(void **state)
{
	bool root = geteuid() == 0;
	struct couple c;

	couple_open(&c, &rlmd);
	offer_named(&c.a, 0, RLM_NAME_TUPLE, c.tcp[0], 0);
	note_expect(&c.a, 0, RLM_WHY_NO_PEER, root && !c.a.broker_looks_up);
	if (root) {
		offer_named(&c.a, 0, RLM_NAME_ISN, c.tcp[0], 0);
		note_expect(&c.a, 0, RLM_WHY_NO_PEER, false);
	}
	// The offer stands all the same.
	offer_named(&c.b, 0, RLM_NAME_TUPLE, c.tcp[1], 0);
	both_bound(&c.a, &c.b, &c.at_a, &c.at_b);
	couple_close(&c);
}

// Two processes claim the same end: nobody is joined until one takes its claim back.
static void test_ambiguous(void **state)
{
	struct peer a, b, c;
	struct bound at_a, at_c;
	int tcp[2];

	peer_open(&a, &rlmd, "a");
	peer_open(&b, &rlmd, "b");
	peer_open(&c, &rlmd, "c");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	offer_named(&a, 0, RLM_NAME_TUPLE, tcp[0], 0);
	offer_named(&b, 0, RLM_NAME_TUPLE, tcp[0], 0);
	note_expect(&a, 0, RLM_WHY_UNNAMED, false);
	note_expect(&b, 0, RLM_WHY_UNNAMED, false);
	offer_named(&c, 0, RLM_NAME_TUPLE, tcp[1], 0);
	note_expect(&c, 0, RLM_WHY_UNNAMED, false);
	silence_expect(&a);
	withdraw(&b, 0);
	bound_expect(&a, &at_a);
	bound_expect(&c, &at_c);
	same_binding(&at_a, &at_c);
	bound_close(&at_a);
	bound_close(&at_c);
	close_pair(tcp);
	peer_close(&a);
	peer_close(&b);
	peer_close(&c);
}

static void reset(int tcp[2])
{
	const struct linger linger = {.l_onoff = 1};

	setsockopt(tcp[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close_pair(tcp);
}

// An offer outlives its socket, and another connection gets the addresses: its ends are joined, and nobody is joined with the old one.
static void test_outlived(void **state)
{
	// An address of its own: on 127.0.0.1 an earlier connection in TIME_WAIT may have had the same port.
	static const char address[] = "127.0.0.44";
	struct peer old, b, c;
	struct bound at_b, at_c;
	union rlm_msg msg;
	int first[2], second[2], fds[RLM_MSG_FDS_MAX];
	uint16_t port, client_port;

	peer_open(&old, &rlmd, "old");
	peer_open(&b, &rlmd, "b");
	peer_open(&c, &rlmd, "c");
	tcp_pair_at(AF_INET, address, 0, 0, first);
	client_port = tcp_port(first[0]);
	port = tcp_port(first[1]);
	offer_named(&old, 0, RLM_NAME_TUPLE, first[0], 0);
	reset(first);
	tcp_pair_at(AF_INET, address, port, client_port, second);
	offer_named(&b, 0, RLM_NAME_TUPLE, second[1], 0);
	silence_expect(&b);
	offer_named(&c, 0, RLM_NAME_TUPLE, second[0], 0);
	bound_expect(&b, &at_b);
	bound_expect(&c, &at_c);
	same_binding(&at_b, &at_c);
	while (message_receive(old.sock, &msg, fds, 50) > 0)
		assert_int_equal(msg.header.type, RLM_MSG_NOTE);
	bound_close(&at_b);
	bound_close(&at_c);
	reset(second);
	peer_close(&old);
	peer_close(&b);
	peer_close(&c);
}

// The ticket decides: one that the process has taken back is not used. SO_REUSEADDR stays as it was.
static void test_ticket(void **state)
{
	struct peer a;
	struct rlm_msg_offer msg = {
	    .header = {.type = RLM_MSG_OFFER, .size = sizeof(msg)}, .conn = {0, 1}, .how = RLM_NAME_ISN, .ticket = 5};
	int tcp[2], reuse = -1, on = 1;
	socklen_t length = sizeof(reuse);

	if (geteuid() != 0)
		skip();
	peer_open(&a, &rlmd, "a");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	atomic_store(&a.tickets->ticket[5], RLM_TICKET_CANCELLED);
	message_send(a.sock, &msg, sizeof(msg), tcp, 1);
	note_expect(&a, 0, RLM_WHY_MATCHING, true);
	assert_int_equal(atomic_load(&a.tickets->ticket[5]), RLM_TICKET_CANCELLED);
	offer_named(&a, 0, RLM_NAME_ISN, tcp[0], 0);
	assert_int_equal(getsockopt(tcp[0], SOL_SOCKET, SO_REUSEADDR, &reuse, &length), 0);
	assert_int_equal(reuse, 0);
	assert_int_equal(setsockopt(tcp[1], SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	offer_named(&a, 1, RLM_NAME_ISN, tcp[1], 0);
	assert_int_equal(getsockopt(tcp[1], SOL_SOCKET, SO_REUSEADDR, &reuse, &length), 0);
	assert_int_equal(reuse, 1);
	close_pair(tcp);
	peer_close(&a);
}

static int unsent(int sock)
{
	int bytes = -1;

	assert_int_equal(ioctl(sock, SIOCOUTQNSD, &bytes), 0);
	return bytes;
}

// Bytes that the kernel could not send yet would be lost sight of: not now.
static void test_unsent(void **state)
{
	static char block[1 << 20];
	struct peer a;
	int tcp[2];

	if (geteuid() != 0)
		skip();
	peer_open(&a, &rlmd, "a");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	while (send(tcp[0], block, sizeof(block), MSG_DONTWAIT) > 0)
		;
	offer(&a, 0, RLM_NAME_ISN, tcp[0]);
	note_expect(&a, 0, RLM_WHY_MATCHING, true);
	assert_int_equal(atomic_load(&a.tickets->ticket[0]), RLM_TICKET_DONE);
	while (unsent(tcp[0])) {
		tcp_await(tcp[1], POLLIN);
		assert_true(recv(tcp[1], block, sizeof(block), 0) > 0);
	}
	offer_named(&a, 0, RLM_NAME_ISN, tcp[0], 0);
	close_pair(tcp);
	peer_close(&a);
}

static void test_repair(void **state)
{
	struct rlm_msg_repair msg = {.header = {.type = RLM_MSG_REPAIR, .size = sizeof(msg)}, .conn = {0, 1}};
	struct peer a;
	union rlm_msg answer;
	int tcp[2], on = 1, fds[RLM_MSG_FDS_MAX];

	if (geteuid() != 0)
		skip();
	peer_open(&a, &rlmd, "a");
	tcp_pair(AF_INET, "127.0.0.1", tcp);
	assert_int_equal(setsockopt(tcp[0], IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
	offer_named(&a, 0, RLM_NAME_TUPLE, tcp[0], RLM_WHY_OPTION);
	assert_int_equal(send(tcp[0], "x", 1, 0), -1);
	message_send(a.sock, &msg, sizeof(msg), tcp, 1);
	message_expect(&a, RLM_MSG_NAMED, &answer, fds);
	assert_int_equal(answer.named.why, 0);
	assert_int_equal(send(tcp[0], "x", 1, 0), 1);
	close_pair(tcp);
	peer_close(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tuple),	 cmocka_unit_test(test_isn),	  cmocka_unit_test(test_mapped),
	    cmocka_unit_test(test_memory),	 cmocka_unit_test(test_many),	  cmocka_unit_test(test_release),
	    cmocka_unit_test(test_both_ends),	 cmocka_unit_test(test_self),	  cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_no_duplicate), cmocka_unit_test(test_withdraw), cmocka_unit_test(test_no_peer),
	    cmocka_unit_test(test_ambiguous),	 cmocka_unit_test(test_ticket),	  cmocka_unit_test(test_unsent),
	    cmocka_unit_test(test_repair),	 cmocka_unit_test(test_outlived),
	};

	return cmocka_run_group_tests(tests, broker_setup, broker_teardown);
}

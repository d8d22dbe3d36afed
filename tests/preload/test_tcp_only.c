// SPDX-License-Identifier: BSD-2-Clause
// What only TCP has: zero copy, sockmaps, kernel TLS, timestamps, filters, repair mode, data in the handshake.
#include "pair.h"

#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/tls.h>

#ifndef TCP_ULP
#define TCP_ULP 31
#endif

static void zero_copy(void **state)
{
	struct pair *p = *state;
	const int one = 1;
	static char block[20000];
	char control[128];
	struct msghdr message = {.msg_control = control, .msg_controllen = sizeof(control)};

	if (setsockopt(p->a, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) < 0)
		skip();
	pattern_fill(block, 1, 0, sizeof(block));
	send_text(p->a, "before");
	assert_returns(send(p->a, block, sizeof(block), MSG_ZEROCOPY), sizeof(block));
	send_text(p->a, "after");
	recv_text(p->b, "before");
	recv_pattern(p->b, 1, 0, sizeof(block));
	recv_text(p->b, "after");
	// The completion is in the error queue, and poll says so.
	assert_that(wait_for(p->a, POLLERR, DEADLINE_MS));
	assert_returns(recvmsg(p->a, &message, MSG_ERRQUEUE), 0);
	assert_that(message.msg_flags & MSG_ERRQUEUE);
	assert_that(CMSG_FIRSTHDR(&message));
}

// Two sockets in a map, whose program hands what is sent to the second one, past TCP. -1: not allowed here.
static int sockmap_open(void)
{
	union bpf_attr map = {.map_type = BPF_MAP_TYPE_SOCKMAP, .key_size = 4, .value_size = 4, .max_entries = 2};
	int fd = syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof(map)), program;
	const struct bpf_insn code[] = {
	    {.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 2, .src_reg = BPF_PSEUDO_MAP_FD, .imm = fd},
	    {.imm = 0},
	    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = 1},
	    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 4, .imm = BPF_F_INGRESS},
	    {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_msg_redirect_map},
	    {.code = BPF_JMP | BPF_EXIT},
	};
	union bpf_attr load = {.prog_type = BPF_PROG_TYPE_SK_MSG,
			       .insns = (uintptr_t)code,
			       .insn_cnt = sizeof(code) / sizeof(*code),
			       .license = (uintptr_t)"GPL"};
	union bpf_attr attach = {.target_fd = fd, .attach_type = BPF_SK_MSG_VERDICT};

	if (fd < 0)
		return -1;
	program = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
	attach.attach_bpf_fd = program;
	if (program < 0 || syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof(attach)) < 0) {
		close(fd);
		fd = -1;
	}
	if (program >= 0)
		close(program);
	return fd;
}

static void sockmap_put(int map, uint32_t key, int fd)
{
	union bpf_attr put = {.map_fd = map, .key = (uintptr_t)&key, .value = (uintptr_t)&fd};

	assert_returns(syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &put, sizeof(put)), 0);
}

static void sockmap(void **state)
{
	struct pair *p = *state;
	int map = sockmap_open();

	if (map < 0)
		skip();
	sockmap_put(map, 0, p->a);
	sockmap_put(map, 1, p->b);
	for (int i = 0; i < 300; i++) {
		send_text(p->a, "past TCP");
		recv_text(p->b, "past TCP");
		if (i == 100)
			nap_ms(2 * QUIET_MS); // it must not be promoted now
	}
	close(map);
}

static void kernel_tls(void **state)
{
	struct pair *p = *state;
	struct tls12_crypto_info_aes_gcm_128 keys = {
	    .info = {.version = TLS_1_2_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128}};

	send_text(p->a, "plain");
	recv_text(p->b, "plain");
	if (setsockopt(p->a, IPPROTO_TCP, TCP_ULP, "tls", 4) < 0)
		skip();
	assert_returns(setsockopt(p->b, IPPROTO_TCP, TCP_ULP, "tls", 4), 0);
	assert_returns(setsockopt(p->a, SOL_TLS, TLS_TX, &keys, sizeof(keys)), 0);
	assert_returns(setsockopt(p->b, SOL_TLS, TLS_RX, &keys, sizeof(keys)), 0);
	for (int i = 0; i < 20; i++) {
		send_text(p->a, "secret");
		recv_text(p->b, "secret");
		send_text(p->b, "plain");
		recv_text(p->a, "plain");
	}
}

// The kernel begins to stamp a moment after the option was set.
// Whoever sets the option and never looks for its answer keeps what carries the bytes.
static void timestamps_unread(void **state)
{
	struct pair *p = *state;

	set_int(p->b, SOL_SOCKET, SO_TIMESTAMP, 1);
	for (int i = 0; i < 10; i++) {
		send_text(p->a, "stamped");
		recv_text(p->b, "stamped");
	}
	pair_check_ring(p);
}

static void timestamps(void **state)
{
	struct pair *p = *state;
	char buffer[8], control[256];
	struct iovec part = {buffer, 8};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
	int64_t deadline = now_ms() + DEADLINE_MS;

	set_int(p->b, SOL_SOCKET, SO_TIMESTAMP, 1);
	do {
		message.msg_controllen = sizeof(control);
		send_text(p->a, "abc");
		assert_returns(recvmsg(p->b, &message, 0), 3);
	} while (!CMSG_FIRSTHDR(&message) && now_ms() < deadline);
	assert_that(CMSG_FIRSTHDR(&message));
	assert_returns(CMSG_FIRSTHDR(&message)->cmsg_type, SCM_TIMESTAMP);
}

static void queue_length_message(void **state)
{
	struct pair *p = *state;
	char buffer[4], control[64];
	struct iovec part = {buffer, 2};
	struct msghdr message = {
	    .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	int left, one = 1;

	if (setsockopt(p->b, IPPROTO_TCP, TCP_INQ, &one, sizeof(one)) < 0)
		skip();
	send_text(p->a, "abcdef");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recvmsg(p->b, &message, 0), 2);
	assert_that(CMSG_FIRSTHDR(&message));
	assert_returns(CMSG_FIRSTHDR(&message)->cmsg_type, TCP_CM_INQ);
	memcpy(&left, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(left));
	assert_returns(left, 4);
	recv_text(p->b, "cdef");
}

// A filter that cuts every packet: set and taken away, the stream goes on.
static void socket_filter(void **state)
{
	struct pair *p = *state;
	struct sock_filter all[] = {{0x06, 0, 0, 0xffffffff}};
	struct sock_fprog program = {1, all};

	send_text(p->a, "before");
	assert_returns(setsockopt(p->b, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), 0);
	send_text(p->a, "during");
	recv_text(p->b, "beforeduring");
	set_int(p->b, SOL_SOCKET, SO_DETACH_FILTER, 0);
	send_text(p->a, "after");
	recv_text(p->b, "after");
}

static void repair_mode(void **state)
{
	struct pair *p = *state;
	const int one = 1;

	send_text(p->a, "before");
	if (setsockopt(p->a, IPPROTO_TCP, TCP_REPAIR, &one, sizeof(one)) < 0)
		skip();
	set_int(p->a, IPPROTO_TCP, TCP_REPAIR, 0);
	send_text(p->a, "after");
	recv_text(p->b, "beforeafter");
	send_text(p->b, "back");
	recv_text(p->a, "back");
}

static void answer_and_close(struct pair *p)
{
	pair_settle(p);
	send_text(p->b, "abc");
	recv_text(p->a, "abc");
	pair_close(p);
}

// A listener that takes data with the handshake, and its address.
static int fast_listener(int family, struct sockaddr_storage *address, socklen_t *size)
{
	int listener = listener_open(family), queue = 5;

	if (setsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN, &queue, sizeof(queue)) < 0)
		skip();
	*size = sizeof(*address);
	assert_returns(getsockname(listener, (struct sockaddr *)address, size), 0);
	return listener;
}

static void fast_open(void **state)
{
	struct pair p = {.family = *(int *)*state};
	struct sockaddr_storage address;
	socklen_t size;
	int listener = fast_listener(p.family, &address, &size);

	for (int i = 0; i < 3; i++) {
		p.a = tcp_socket(p.family);
		assert_returns(sendto(p.a, "in the handshake", 16, MSG_FASTOPEN, (struct sockaddr *)&address, size),
			       16);
		p.b = accept(listener, NULL, NULL);
		recv_text(p.b, "in the handshake");
		answer_and_close(&p);
	}
	close(listener);
}

static void fast_open_connect(void **state)
{
	struct pair p = {.family = *(int *)*state};
	struct sockaddr_storage address;
	socklen_t size;
	int listener = fast_listener(p.family, &address, &size);

	p.a = tcp_socket(p.family);
	set_int(p.a, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
	assert_returns(connect(p.a, (struct sockaddr *)&address, size), 0);
	assert_returns(send(p.a, "in the handshake", 16, 0), 16);
	p.b = accept(listener, NULL, NULL);
	recv_text(p.b, "in the handshake");
	answer_and_close(&p);
	close(listener);
}

// The bytes of a deferred accept.
static void deferred_accept(void **state)
{
	int listener = listener_open(*(int *)*state);
	struct pair p = {.family = *(int *)*state};

	set_int(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
	p.a = listener_connect(listener);
	send_text(p.a, "first");
	p.b = accept(listener, NULL, NULL);
	recv_text(p.b, "first");
	answer_and_close(&p);
	close(listener);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(zero_copy),
    {"sockmap_from_the_start/4", sockmap, setup_fresh, teardown_pair, &pair_family_4},
    {"sockmap_later/4", sockmap, setup_settled, teardown_pair, &pair_family_4},
    TEST_SETTLED(kernel_tls),
    TEST_SETTLED(timestamps),
    TEST_SETTLED(timestamps_unread),
    TEST_SETTLED(queue_length_message),
    TEST_SETTLED(socket_filter),
    TEST_SETTLED(repair_mode),
    TEST_FAMILY(fast_open),
    TEST_FAMILY(fast_open_connect),
    TEST_FAMILY(deferred_accept),
};
// clang-format on

SUITE_MAIN(tests)

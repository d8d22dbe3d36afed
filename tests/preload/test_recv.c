// SPDX-License-Identifier: BSD-2-Clause
// Receive flags: peek, wait for all, do not wait, truncate; zero lengths; control messages.
#include "pair.h"

static void peek_leaves_bytes(void **state)
{
	struct pair *p = *state;
	char buffer[16];

	send_text(p->a, "abcdef");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recv(p->b, buffer, 3, MSG_PEEK), 3);
	assert_bytes(buffer, "abc", 3);
	assert_returns(recv(p->b, buffer, sizeof(buffer), MSG_PEEK), 6);
	assert_bytes(buffer, "abcdef", 6);
	assert_returns(recv(p->b, buffer, 2, 0), 2);
	assert_returns(recv(p->b, buffer, sizeof(buffer), MSG_PEEK), 4);
	assert_bytes(buffer, "cdef", 4);
	recv_text(p->b, "cdef");
	assert_fails(recv(p->b, buffer, 1, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
	pair_check_ring(p);
}

static int peek_one(void *arg)
{
	char byte = 0;
	int got = recv(*(int *)arg, &byte, 1, MSG_PEEK);
	return got == 1 ? byte : got;
}

static void peek_blocks(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, peek_one, &p->b);
	send_text(p->a, "xy");
	assert_returns(sleeper_join(&sleeper), 'x');
	recv_text(p->b, "xy");
}

// Peeks of every length while the stream moves on by odd steps: with small rings each wrap is met several times.
static void peek_across_wrap(void **state)
{
	struct pair *p = *state;
	unsigned char buffer[3000];
	uint64_t sent = 0, taken = 0;
	unsigned seed = 1;

	while (taken < 60000) {
		size_t add = next_random(&seed) % 1400 + 1, have, want;
		ssize_t got;

		send_pattern(p->a, 5, sent, add);
		sent += add;
		while (sent - taken > 1500) {
			have = sent - taken;
			want = next_random(&seed) % sizeof(buffer) + 1;
			got = recv(p->b, buffer, want, MSG_PEEK | MSG_WAITALL * (want <= have));
			assert_that(got > 0 && (size_t)got <= want && (size_t)got <= have);
			if (want <= have)
				assert_returns(got, want);
			pattern_check(buffer, 5, taken, got);
			want = next_random(&seed) % 1400 + 1;
			got = recv(p->b, buffer, want, 0);
			assert_that(got > 0 && (size_t)got <= want);
			pattern_check(buffer, 5, taken, got);
			taken += got;
		}
	}
	drain_socket(p->b, 5, taken, sent - taken);
	pair_check_ring(p);
}

struct waitall {
	int fd;
	size_t size;
	int flags;
	unsigned char buffer[300000];
};

static int recv_waitall(void *arg)
{
	struct waitall *w = arg;
	return recv(w->fd, w->buffer, w->size, MSG_WAITALL | w->flags);
}

static void waitall_collects(void **state)
{
	struct pair *p = *state;
	static struct waitall w;
	struct sleeper sleeper;

	w = (struct waitall){.fd = p->b, .size = 10};
	sleeper_start(&sleeper, recv_waitall, &w);
	send_text(p->a, "abc");
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "defg");
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "hijkl");
	assert_returns(sleeper_join(&sleeper), 10);
	assert_bytes(w.buffer, "abcdefghij", 10);
	recv_text(p->b, "kl");
}

// More than any buffer in between holds.
static void waitall_large(void **state)
{
	struct pair *p = *state;
	static struct waitall w;
	struct sleeper sleeper;

	w = (struct waitall){.fd = p->b, .size = sizeof(w.buffer)};
	sleeper_start(&sleeper, recv_waitall, &w);
	send_pattern(p->a, 9, 0, sizeof(w.buffer) + 7);
	assert_returns(sleeper_join(&sleeper), sizeof(w.buffer));
	pattern_check(w.buffer, 9, 0, sizeof(w.buffer));
	drain_socket(p->b, 9, sizeof(w.buffer), 7);
}

static void waitall_ends_with_stream(void **state)
{
	struct pair *p = *state;
	static struct waitall w;
	struct sleeper sleeper;

	w = (struct waitall){.fd = p->b, .size = 10};
	sleeper_start(&sleeper, recv_waitall, &w);
	send_text(p->a, "abc");
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_returns(sleeper_join(&sleeper), 3);
	assert_bytes(w.buffer, "abc", 3);
	recv_end(p->b);
}

static void waitall_nonblocking(void **state)
{
	struct pair *p = *state;
	char buffer[16];

	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recv(p->b, buffer, 10, MSG_WAITALL | MSG_DONTWAIT), 3);
	assert_fails(recv(p->b, buffer, 10, MSG_WAITALL | MSG_DONTWAIT), EAGAIN);
	set_nonblocking(p->b, true);
	assert_fails(recv(p->b, buffer, 10, MSG_WAITALL), EAGAIN);
}

static void waitall_over_iovec(void **state)
{
	struct pair *p = *state;
	char one[3], two[4];
	struct iovec parts[] = {{one, 3}, {NULL, 0}, {two, 4}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};

	send_text(p->a, "abcdefghi");
	assert_returns(recvmsg(p->b, &message, MSG_WAITALL), 7);
	assert_bytes(one, "abc", 3);
	assert_bytes(two, "defg", 4);
	assert_returns(message.msg_flags, 0);
	recv_text(p->b, "hi");
}

static void dontwait(void **state)
{
	struct pair *p = *state;
	char buffer[4];

	assert_fails(recv(p->b, buffer, 4, MSG_DONTWAIT), EAGAIN);
	assert_fails(recv(p->a, buffer, 4, MSG_DONTWAIT), EAGAIN);
	send_text(p->a, "abcdef");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recv(p->b, buffer, 4, MSG_DONTWAIT), 4);
	assert_returns(recv(p->b, buffer, 4, MSG_DONTWAIT), 2);
	assert_fails(recv(p->b, buffer, 4, MSG_DONTWAIT), EAGAIN);
	pair_check_ring(p);
}

// On TCP, MSG_TRUNC as a flag throws the bytes away without touching the buffer.
static void trunc_discards(void **state)
{
	struct pair *p = *state;
	char buffer[8] = "1234567";

	send_text(p->a, "abcdef");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recv(p->b, buffer, 2, MSG_TRUNC), 2);
	assert_bytes(buffer, "1234567", 8);
	assert_returns(recv(p->b, NULL, 2, MSG_TRUNC), 2);
	recv_text(p->b, "ef");
}

static void zero_lengths(void **state)
{
	struct pair *p = *state;
	char buffer[4];
	struct iovec empty = {buffer, 0};
	struct msghdr message = {.msg_iov = &empty, .msg_iovlen = 1};
	struct msghdr no_iovec = {.msg_iovlen = 0};

	assert_returns(send(p->a, "", 0, 0), 0);
	assert_returns(send(p->a, NULL, 0, 0), 0);
	assert_returns(write(p->a, "", 0), 0);
	assert_returns(writev(p->a, &empty, 1), 0);
	assert_returns(sendmsg(p->a, &message, 0), 0);
	assert_returns(sendmsg(p->a, &no_iovec, 0), 0);
	assert_fails(recv(p->b, buffer, 1, MSG_DONTWAIT), EAGAIN);
	// read() of nothing returns at once, whatever is there.
	assert_returns(read(p->b, buffer, 0), 0);
	send_text(p->a, "ab");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(read(p->b, buffer, 0), 0);
	assert_returns(recv(p->b, buffer, 0, 0), 0);
	assert_returns(recv(p->b, NULL, 0, 0), 0);
	assert_returns(readv(p->b, &empty, 1), 0);
	assert_returns(recvmsg(p->b, &message, 0), 0);
	recv_text(p->b, "ab");
	pair_check_ring(p);
}

static void zero_length_nonblocking(void **state)
{
	struct pair *p = *state;
	char buffer[4];

	assert_fails(recv(p->b, buffer, 0, MSG_DONTWAIT), EAGAIN);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_end(p->b);
	assert_returns(recv(p->b, buffer, 0, MSG_DONTWAIT), 0);
}

static int recv_nothing(void *arg)
{
	char byte;
	return recv(*(int *)arg, &byte, 0, 0);
}

// A blocking recv() of no bytes waits for a byte or the end, though it takes nothing.
static void zero_length_waits(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, recv_nothing, &p->b);
	assert_that(!sleeper_done(&sleeper, QUIET_MS));
	send_text(p->a, "x");
	assert_returns(sleeper_join(&sleeper), 0);
	recv_text(p->b, "x");
}

static void unknown_and_error_queue(void **state)
{
	struct pair *p = *state;
	char buffer[4];

	assert_fails(recv(p->b, buffer, 4, MSG_ERRQUEUE), EAGAIN);
	assert_fails(recv(p->b, buffer, 4, MSG_OOB), EINVAL);
	send_text(p->a, "abc");
	assert_fails(recv(p->b, buffer, 4, MSG_ERRQUEUE), EAGAIN);
	recv_text(p->b, "abc");
}

static void recvmsg_fields(void **state)
{
	struct pair *p = *state;
	char buffer[8], control[64];
	struct sockaddr_storage name;
	struct iovec part = {buffer, sizeof(buffer)};
	struct msghdr message = {
	    .msg_name = &name,
	    .msg_namelen = sizeof(name),
	    .msg_iov = &part,
	    .msg_iovlen = 1,
	    .msg_control = control,
	    .msg_controllen = sizeof(control),
	    .msg_flags = 0x7f,
	};

	memset(&name, 0x55, sizeof(name));
	send_text(p->a, "abc");
	assert_returns(recvmsg(p->b, &message, 0), 3);
	assert_bytes(buffer, "abc", 3);
	assert_returns(message.msg_namelen, 0);
	assert_returns(message.msg_controllen, 0);
	assert_returns(message.msg_flags, 0);
	assert_returns(((unsigned char *)&name)[0], 0x55);
	pair_check_ring(p);
}

static void recvfrom_fields(void **state)
{
	struct pair *p = *state;
	struct sockaddr_storage name;
	socklen_t size = sizeof(name);
	char buffer[8];

	memset(&name, 0x55, sizeof(name));
	send_text(p->a, "abc");
	assert_returns(recvfrom(p->b, buffer, 8, 0, (struct sockaddr *)&name, &size), 3);
	assert_returns(size, 0);
	assert_returns(((unsigned char *)&name)[0], 0x55);
	send_text(p->b, "de");
	assert_returns(recvfrom(p->a, buffer, 8, 0, NULL, NULL), 2);
	pair_check_ring(p);
}

// The address of a send is ignored on a connected stream.
static void sendto_address(void **state)
{
	struct pair *p = *state;
	struct sockaddr_in elsewhere = {
	    .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x7f000009)};
	struct iovec part = {"def", 3};
	struct msghdr message = {
	    .msg_name = &elsewhere, .msg_namelen = sizeof(elsewhere), .msg_iov = &part, .msg_iovlen = 1};

	assert_returns(sendto(p->a, "abc", 3, 0, (struct sockaddr *)&elsewhere, sizeof(elsewhere)), 3);
	assert_returns(sendmsg(p->a, &message, 0), 3);
	recv_text(p->b, "abcdef");
	pair_check_ring(p);
}

static void send_flags(void **state)
{
	struct pair *p = *state;

	assert_returns(send(p->a, "ab", 2, MSG_MORE), 2);
	assert_returns(send(p->a, "cd", 2, MSG_DONTWAIT), 2);
	assert_returns(send(p->a, "ef", 2, MSG_EOR), 2);
	assert_returns(send(p->a, "gh", 2, MSG_DONTROUTE), 2);
	assert_returns(send(p->a, "ij", 2, MSG_CONFIRM), 2);
	recv_text(p->b, "abcdefghij");
}

// MSG_MORE holds bytes back; the next send without it pushes all out.
static void send_more(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 50; i++) {
		assert_returns(send(p->a, "ab", 2, MSG_MORE), 2);
		assert_returns(send(p->a, "c", 1, 0), 1);
		recv_text(p->b, "abc");
	}
}

// MSG_CMSG_CLOEXEC and MSG_WAITFORONE change nothing for a single receive; MSG_NOSIGNAL is accepted.
static void harmless_flags(void **state)
{
	struct pair *p = *state;
	char buffer[8];

	send_text(p->a, "abc");
	assert_returns(recv(p->b, buffer, 8, MSG_NOSIGNAL), 3);
	send_text(p->a, "abc");
	assert_returns(recv(p->b, buffer, 8, MSG_CMSG_CLOEXEC), 3);
	send_text(p->a, "abc");
	assert_returns(recv(p->b, buffer, 8, MSG_EOR), 3);
	pair_check_ring(p);
}

static void mmsg(void **state)
{
	struct pair *p = *state;
	char buffers[4][4];
	struct iovec parts[4];
	struct mmsghdr messages[4];

	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < 4; i++) {
		memcpy(buffers[i], "abcd", 4);
		parts[i] = (struct iovec){buffers[i], 4};
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	assert_returns(sendmmsg(p->a, messages, 4, 0), 4);
	for (int i = 0; i < 4; i++)
		assert_returns(messages[i].msg_len, 4);
	recv_text(p->b, "abcdabcdabcdabcd");
	assert_returns(sendmmsg(p->a, messages, 0, 0), 0);

	// What is there, then no waiting.
	send_text(p->a, "0123456789");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_returns(recvmmsg(p->b, messages, 4, MSG_WAITFORONE, NULL), 3);
	assert_returns(messages[0].msg_len, 4);
	assert_returns(messages[2].msg_len, 2);
	assert_bytes(buffers[1], "4567", 4);
	assert_fails(recvmmsg(p->b, messages, 4, MSG_DONTWAIT, NULL), EAGAIN);
	pair_check_ring(p);
}

static int recv_four(void *arg)
{
	char buffers[4][4];
	struct iovec parts[4];
	struct mmsghdr messages[4];

	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < 4; i++) {
		parts[i] = (struct iovec){buffers[i], 4};
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	return recvmmsg(*(int *)arg, messages, 4, 0, NULL);
}

static void mmsg_waits_for_all(void **state)
{
	struct pair *p = *state;
	struct sleeper sleeper;

	sleeper_start(&sleeper, recv_four, &p->b);
	for (int i = 0; i < 4; i++) {
		assert_that(!sleeper_done(&sleeper, QUIET_MS / 2));
		send_text(p->a, "abcd");
	}
	assert_returns(sleeper_join(&sleeper), 4);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(peek_leaves_bytes),
    TEST_SETTLED(peek_blocks),
    TEST_SETTLED(peek_across_wrap),
    TEST_SETTLED(waitall_collects),
    TEST_SETTLED(waitall_large),
    TEST_SETTLED(waitall_ends_with_stream),
    TEST_SETTLED(waitall_nonblocking),
    TEST_SETTLED(waitall_over_iovec),
    TEST_SETTLED(dontwait),
    TEST_SETTLED(trunc_discards),
    TEST_SETTLED(zero_lengths),
    TEST_SETTLED(zero_length_nonblocking),
    TEST_SETTLED(zero_length_waits),
    TEST_SETTLED(unknown_and_error_queue),
    TEST_SETTLED(recvmsg_fields),
    TEST_SETTLED(recvfrom_fields),
    TEST_SETTLED(sendto_address),
    TEST_SETTLED(send_flags),
    TEST_SETTLED(send_more),
    TEST_SETTLED(harmless_flags),
    TEST_SETTLED(mmsg),
    TEST_SETTLED(mmsg_waits_for_all),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
#include "harness.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "message.h"

#define OFFERED (sizeof(((struct peer *)0)->offered) / sizeof(int))

void fds_close(int fds[RLM_MSG_FDS_MAX])
{
	for (unsigned i = 0; i < RLM_MSG_FDS_MAX; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

void message_send(int sock, const void *data, size_t size, const int *fds, unsigned fd_count)
{
	// The broker may have ended the session, or not listen: that is for the caller to find out.
	if (message_put(sock, data, size, fds, fd_count, 0) < 0)
		assert_true(errno == EPIPE || errno == ECONNRESET || errno == EAGAIN);
}

void hello_send(int sock, int table_fd, int tickets_fd, const char *command)
{
	struct rlm_msg_hello hello = {.header = {.type = RLM_MSG_HELLO, .size = sizeof(hello)},
				      .version = RLM_PROTO_VERSION,
				      .pid = (uint32_t)getpid(),
				      .connections = CAPACITY};
	int fds[2] = {table_fd, tickets_fd};

	snprintf(hello.command, sizeof(hello.command), "%s", command);
	message_send(sock, &hello, sizeof(hello), fds, tickets_fd < 0 ? 1 : 2);
}

static int memory_make(const char *name, size_t size, void **address)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	*address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(*address, MAP_FAILED);
	return fd;
}

void peer_open(struct peer *peer, const struct broker *broker, const char *command)
{
	void *table, *tickets;
	union rlm_msg msg;
	int tickets_fd, fds[RLM_MSG_FDS_MAX];

	peer->table_fd = memory_make("table", RLM_TABLE_OFFSET + CAPACITY * sizeof(struct rlm_conn_stat), &table);
	tickets_fd = memory_make("tickets", 4096, &tickets);
	peer->table = table;
	peer->tickets = tickets;
	peer->entries = (struct rlm_conn_stat *)((char *)table + RLM_TABLE_OFFSET);
	peer->table->magic = RLM_TABLE_MAGIC;
	peer->table->version = RLM_TABLE_VERSION;
	peer->table->capacity = CAPACITY;
	peer->table->entry_size = sizeof(struct rlm_conn_stat);
	peer->sock = broker_connect(broker);
	assert_true(peer->sock >= 0);
	hello_send(peer->sock, peer->table_fd, tickets_fd, command);
	close(tickets_fd);
	message_expect(peer, RLM_MSG_WELCOME, &msg, fds);
	assert_int_equal(msg.welcome.version, RLM_PROTO_VERSION);
	peer->broker_looks_up = msg.welcome.flags & RLM_WELCOME_LOOKUP;
	peer->location = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fds[0], 0);
	assert_ptr_not_equal(peer->location, MAP_FAILED);
	assert_int_equal(peer->location->magic, RLM_LAYOUT_MAGIC);
	assert_true(peer->location->location != 0);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0), MAP_FAILED);
	close(fds[0]);
}

void peer_close(struct peer *peer)
{
	if (peer->sock < 0)
		return;
	close(peer->sock);
	peer->sock = -1;
	close(peer->table_fd);
	munmap(peer->table, RLM_TABLE_OFFSET + CAPACITY * sizeof(struct rlm_conn_stat));
	munmap(peer->tickets, 4096);
	munmap((void *)(uintptr_t)peer->location, 4096);
}

int message_receive(int sock, union rlm_msg *msg, int *fds, int milliseconds)
{
	char control[CMSG_SPACE(sizeof(int) * RLM_MSG_FDS_MAX)];
	struct iovec iov = {msg, sizeof(*msg)};
	struct msghdr header = {
	    .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct pollfd poller = {.fd = sock, .events = POLLIN};
	struct cmsghdr *c;
	ssize_t size;

	for (unsigned i = 0; i < RLM_MSG_FDS_MAX; i++)
		fds[i] = -1;
	if (poll(&poller, 1, milliseconds) == 0)
		return 0;
	size = recvmsg(sock, &header, MSG_CMSG_CLOEXEC);
	if (size <= 0)
		return -1;
	assert_false(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
	assert_int_equal(size, msg->header.size);
	c = CMSG_FIRSTHDR(&header);
	if (c)
		memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	return (int)size;
}

// On a busy machine a test may take longer than the second after which the broker says that there is no peer yet. Who
// waits for something else passes over that. An offer by addresses may have to be made once more.
static bool note_is_answered(struct peer *peer, const union rlm_msg *msg, unsigned *shown)
{
	uint32_t index = msg->note.conn.index;

	if (msg->header.type == RLM_MSG_NAMED && *shown) {
		--*shown;
		return true;
	}
	if (msg->header.type != RLM_MSG_NOTE)
		return false;
	if (msg->note.why == RLM_WHY_MATCHING && msg->note.again && index < OFFERED) {
		offer(peer, index, RLM_NAME_TUPLE, peer->offered[index]);
		++*shown;
		return true;
	}
	return msg->note.why == RLM_WHY_NO_PEER;
}

static int message_next(struct peer *peer, uint16_t type, union rlm_msg *msg, int *fds)
{
	unsigned shown = 0;
	int size;

	do
		size = message_receive(peer->sock, msg, fds, PATIENCE);
	while (size > 0 && type != RLM_MSG_NOTE && note_is_answered(peer, msg, &shown));
	return size;
}

void message_expect(struct peer *peer, uint16_t type, union rlm_msg *msg, int *fds)
{
	int size = message_next(peer, type, msg, fds);

	if (size <= 0)
		fail_msg("%s instead of message %u", size ? "end of session" : "silence", type);
	assert_int_equal(msg->header.type, type);
}

void silence_expect(struct peer *peer)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];
	int size = message_receive(peer->sock, &msg, fds, 50);

	if (size)
		fail_msg("message %d instead of silence", size < 0 ? -1 : (int)msg.header.type);
}

void end_expect(int sock)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX], size;

	while ((size = message_receive(sock, &msg, fds, PATIENCE)) > 0)
		fds_close(fds);
	assert_int_equal(size, -1);
}

void offer(struct peer *peer, uint32_t index, enum rlm_name_how how, int tcp)
{
	struct rlm_msg_offer msg = {
	    .header = {.type = RLM_MSG_OFFER, .size = sizeof(msg)}, .conn = {index, 1}, .how = how, .ticket = 0};

	if (how == RLM_NAME_ISN)
		atomic_store(&peer->tickets->ticket[0], RLM_TICKET_OPEN);
	if (index < OFFERED)
		peer->offered[index] = tcp;
	message_send(peer->sock, &msg, sizeof(msg), &tcp, 1);
}

void offer_named(struct peer *peer, uint32_t index, enum rlm_name_how how, int tcp, enum rlm_why why)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	offer(peer, index, how, tcp);
	message_expect(peer, RLM_MSG_NAMED, &msg, fds);
	assert_int_equal(msg.named.conn.index, index);
	assert_int_equal(msg.named.why, why);
	if (how == RLM_NAME_ISN)
		assert_int_equal(atomic_load(&peer->tickets->ticket[0]), RLM_TICKET_DONE);
}

void withdraw(struct peer *peer, uint32_t index)
{
	struct rlm_msg_withdraw msg = {.header = {.type = RLM_MSG_WITHDRAW, .size = sizeof(msg)}, .conn = {index, 1}};

	message_send(peer->sock, &msg, sizeof(msg), NULL, 0);
}

void note_expect(struct peer *peer, uint32_t index, enum rlm_why why, bool again)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	message_expect(peer, RLM_MSG_NOTE, &msg, fds);
	assert_int_equal(msg.note.conn.index, index);
	assert_int_equal(msg.note.why, why);
	assert_int_equal(msg.note.again, again);
}

static const struct bound nothing_bound = {.link_fds = {-1, -1, -1, -1}, .fds = {-1, -1, -1, -1}};

void bound_expect(struct peer *peer, struct bound *bound)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	*bound = nothing_bound;
	assert_true(message_next(peer, RLM_MSG_BIND, &msg, fds) > 0);
	if (msg.header.type == RLM_MSG_LINK) {
		bound->link = msg.link;
		memcpy(bound->link_fds, fds, sizeof(fds));
		assert_true(fds[1] >= 0 && fds[2] == -1);
		message_expect(peer, RLM_MSG_SEGMENT, &msg, fds);
	}
	if (msg.header.type == RLM_MSG_SEGMENT) {
		bound->segment = msg.segment;
		memcpy(bound->fds, fds, sizeof(fds));
		assert_true(fds[3] >= 0);
		message_expect(peer, RLM_MSG_BIND, &msg, fds);
	}
	assert_int_equal(msg.header.type, RLM_MSG_BIND);
	bound->bind = msg.bind;
	assert_int_not_equal(bound->bind.epoch, 0);
}

void bound_close(struct bound *bound)
{
	fds_close(bound->link_fds);
	fds_close(bound->fds);
}

void leave_expect(struct peer *peer, const struct bound *bound)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	message_expect(peer, RLM_MSG_LEAVE, &msg, fds);
	assert_true(msg.leave.link == bound->bind.link);
	assert_int_equal(msg.leave.side, bound->bind.side);
}

void left(struct peer *peer, const struct bound *bound)
{
	struct rlm_msg_left msg = {.header = {.type = RLM_MSG_LEFT, .size = sizeof(msg)},
				   .link = bound->bind.link,
				   .side = bound->bind.side};

	message_send(peer->sock, &msg, sizeof(msg), NULL, 0);
}

void release(struct peer *peer, const struct bound *bound)
{
	struct rlm_msg_release msg = rlm_release_of(&bound->bind);

	message_send(peer->sock, &msg, sizeof(msg), NULL, 0);
}

// --- a couple ---

void both_offer(struct peer *a, struct peer *b, uint32_t index, const int tcp[2])
{
	offer_named(a, index, RLM_NAME_TUPLE, tcp[0], 0);
	offer_named(b, index, RLM_NAME_TUPLE, tcp[1], 0);
}

void both_bound(struct peer *a, struct peer *b, struct bound *at_a, struct bound *at_b)
{
	bound_expect(a, at_a);
	bound_expect(b, at_b);
}

void couple_open(struct couple *couple, const struct broker *broker)
{
	peer_open(&couple->a, broker, "a");
	peer_open(&couple->b, broker, "b");
	tcp_pair(AF_INET, "127.0.0.1", couple->tcp);
	couple->at_a = couple->at_b = nothing_bound;
}

void couple_bind(struct couple *couple)
{
	both_offer(&couple->a, &couple->b, 0, couple->tcp);
	both_bound(&couple->a, &couple->b, &couple->at_a, &couple->at_b);
}

void couple_close(struct couple *couple)
{
	bound_close(&couple->at_a);
	bound_close(&couple->at_b);
	close_pair(couple->tcp);
	peer_close(&couple->a);
	peer_close(&couple->b);
}

void broker_works(const struct broker *broker)
{
	struct couple couple;

	couple_open(&couple, broker);
	couple_bind(&couple);
	couple_close(&couple);
}

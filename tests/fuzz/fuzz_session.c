// SPDX-License-Identifier: BSD-2-Clause
// Sessions with rlmd: what processes send comes from the input, through the real sockets, handler and matching. Messages are mostly well-formed,
// with numbers near those that mean something, and carry descriptors of all kinds. In the end nothing may be left: no descriptor, no memory.
#include <ev.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../broker/message.h"
#include "broker.h"
#include "closer.h"
#include "log.h"
#include "rlm/stat.h"

enum { SESSIONS = 4, CAPACITY = 64, LINKS = 8, FILES_MAX = 256 };

struct input {
	const uint8_t *data;
	size_t left;
};

struct session {
	int fd; // -1: closed
	int table, tickets;
};

static struct {
	struct session session[SESSIONS];
	int tcp[2], pipes[2], kinds[3], listener;
	struct rlm_msg_bind bind[LINKS]; // seen lately
	unsigned binds;
} world;

static uint8_t next(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

static int memory(size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (ftruncate(fd, (off_t)size))
		abort();
	return fd;
}

static void session_open(struct rlmd_broker *broker, struct session *session)
{
	struct rlm_table_shared header = {.magic = RLM_TABLE_MAGIC,
					  .version = RLM_TABLE_VERSION,
					  .capacity = CAPACITY,
					  .entry_size = sizeof(struct rlm_conn_stat)};
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds))
		abort();
	session->fd = fds[0];
	session->table = memory(RLM_TABLE_OFFSET + CAPACITY * sizeof(struct rlm_conn_stat));
	session->tickets = memory(4096);
	if (pwrite(session->table, &header, sizeof(header), 0) != sizeof(header))
		abort();
	rlmd_client_new(broker, fds[1]);
}

static void session_close(struct session *session)
{
	if (session->fd < 0)
		return;
	close(session->fd);
	close(session->table);
	close(session->tickets);
	session->fd = -1;
}

static void tcp_pair(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct linger reset = {.l_onoff = 1};
	socklen_t length = sizeof(address);

	world.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	world.tcp[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(world.listener, (struct sockaddr *)&address, sizeof(address)) || listen(world.listener, 4) ||
	    getsockname(world.listener, (struct sockaddr *)&address, &length) ||
	    connect(world.tcp[0], (struct sockaddr *)&address, sizeof(address)))
		abort();
	world.tcp[1] = accept4(world.listener, NULL, NULL, SOCK_CLOEXEC);
	setsockopt(world.tcp[0], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)); // no TIME_WAIT: ports are few
}

static int descriptor(struct input *in, const struct session *session)
{
	switch (next(in) % 12) {
	case 0:
	case 1:
	case 2:
		return world.tcp[0];
	case 3:
	case 4:
	case 5:
		return world.tcp[1];
	case 6:
		return session->table;
	case 7:
		return session->tickets;
	case 8:
		return world.pipes[next(in) % 2];
	case 9:
		return world.kinds[next(in) % 3];
	case 10:
		return world.listener;
	default:
		return world.session[next(in) % SESSIONS].fd;
	}
}

// What comes back; bindings are remembered, so that they can be released, left and kept by whoever.
static void answers_take(const struct session *session, bool forget)
{
	char control[CMSG_SPACE(sizeof(int) * RLM_MSG_FDS_MAX)];
	union rlm_msg msg;
	struct iovec iov = {&msg, sizeof(msg)};
	struct msghdr header;
	int fds[RLM_MSG_FDS_MAX];

	for (;;) {
		header = (struct msghdr){
		    .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
		if (recvmsg(session->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
			return;
		struct cmsghdr *c = CMSG_FIRSTHDR(&header);
		size_t count = c ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
		memcpy(fds, c ? CMSG_DATA(c) : (void *)fds, count * sizeof(int));
		for (size_t i = 0; i < count; i++)
			close(fds[i]);
		if (msg.header.type == RLM_MSG_BIND && !forget)
			world.bind[world.binds++ % LINKS] = msg.bind;
	}
}

static void hello_say(const struct session *session)
{
	const struct rlm_msg_hello hello = {.header = {.type = RLM_MSG_HELLO, .size = sizeof(hello)},
					    .version = RLM_PROTO_VERSION,
					    .connections = CAPACITY};
	const int fds[] = {session->table, session->tickets};

	message_put(session->fd, &hello, sizeof(hello), fds, 2, MSG_DONTWAIT);
}

static size_t request_make(struct input *in, union rlm_msg *msg)
{
	static const char *const requests[] = {"{\"cmd\":\"status\"}",	    "{\"cmd\":\"connections\"}",	  "{\"cmd\":\"stats\"}",
					       "{\"cmd\":\"groups\"}",	    "{\"cmd\":\"domains\"}",	  "{\"cmd\":\"demote\"}",
					       "{\"cmd\":\"events\",\"follow\":true}", "{\"cmd\":\"prepare\",\"domain\":\"host\"}",
					       "{\"cmd\":\"promote\",\"pid\":1}",   "{\"cmd\":[}",			  "{}"};
	const char *text = requests[next(in) % (sizeof(requests) / sizeof(*requests))];

	msg->text.length = (uint32_t)strlen(text);
	msg->text.more = next(in) > 250;
	memcpy(msg->text.text, text, msg->text.length);
	if (next(in) > 200)
		msg->text.text[next(in) % msg->text.length] = (char)next(in);
	return offsetof(struct rlm_msg_text, text) + msg->text.length;
}

// Returns its size, *count: how many descriptors belong to it.
static size_t message_make(struct input *in, union rlm_msg *msg, unsigned *count)
{
	const struct rlm_msg_bind *bind = &world.bind[next(in) % LINKS];
	uint32_t index = next(in) % 4;

	*count = 0;
	switch (msg->header.type) {
	case RLM_MSG_HELLO:
		*count = 2;
		msg->hello.version = RLM_PROTO_VERSION;
		msg->hello.connections = CAPACITY;
		return sizeof(msg->hello);
	case RLM_MSG_OFFER:
		*count = 1;
		msg->offer.conn = (struct rlm_conn_ref){index, 1};
		msg->offer.how = next(in) % 8 == 0;
		msg->offer.ticket = next(in) % 4;
		return sizeof(msg->offer);
	case RLM_MSG_WITHDRAW:
		msg->withdraw.conn = (struct rlm_conn_ref){index, 1};
		return sizeof(msg->withdraw);
	case RLM_MSG_RELEASE:
		msg->release.link = bind->link;
		msg->release.side = bind->side ^ (index == 0);
		msg->release.segment = bind->segment;
		msg->release.slot = bind->slot;
		msg->release.epoch = bind->epoch;
		return sizeof(msg->release);
	case RLM_MSG_REPAIR:
		*count = 1;
		return sizeof(msg->repair);
	case RLM_MSG_LEFT:
		msg->left.link = bind->link;
		msg->left.side = bind->side;
		return sizeof(msg->left);
	case RLM_MSG_KEPT:
		msg->kept.link = bind->link + (index == 0);
		msg->kept.side = bind->side;
		return sizeof(msg->kept);
	case RLM_MSG_REQUEST:
		return request_make(in, msg);
	}
	return next(in) + sizeof(msg->header);
}

static void message_step(struct input *in, const struct session *session)
{
	static const uint16_t types[] = {RLM_MSG_HELLO,	 RLM_MSG_OFFER, RLM_MSG_OFFER, RLM_MSG_OFFER, RLM_MSG_WITHDRAW, RLM_MSG_RELEASE,
					 RLM_MSG_RELEASE, RLM_MSG_REPAIR, RLM_MSG_LEFT, RLM_MSG_KEPT,	RLM_MSG_REQUEST, RLM_MSG_WELCOME,
					 999};
	uint8_t how = next(in);
	union rlm_msg msg;
	unsigned count;
	int fds[8];
	size_t size;

	memset(&msg, 0, sizeof(msg));
	msg.header.type = types[next(in) % (sizeof(types) / sizeof(*types))];
	size = message_make(in, &msg, &count);
	msg.header.size = (uint16_t)size;
	if (how > 240)
		((uint8_t *)&msg)[next(in) % size] = next(in);
	if (how > 250)
		count = next(in) % 8;
	for (unsigned i = 0; i < count; i++)
		fds[i] = descriptor(in, session);
	if (msg.header.type == RLM_MSG_HELLO && how < 200) {
		fds[0] = session->table;
		fds[1] = session->tickets;
	}
	for (unsigned i = 0; i < count; i++)
		if (fds[i] < 0)
			return;
	message_put(session->fd, &msg, size, fds, count, MSG_DONTWAIT);
}

static void step(struct input *in, struct rlmd_broker *broker)
{
	uint8_t what = next(in);
	struct session *session = &world.session[what % SESSIONS];

	if (session->fd < 0) {
		session_open(broker, session);
		if (what & 64)
			hello_say(session);
	}
	switch (what / SESSIONS % 16) {
	case 0:
		session_close(session);
		break;
	case 1: {
		_Atomic uint32_t open = RLM_TICKET_OPEN;

		if (pwrite(session->tickets, &open, sizeof(open), 0) < 0)
			return;
		break;
	}
	case 2:
		answers_take(session, next(in) & 1);
		break;
	case 3:
		rlmd_regroup(broker);
		break;
	default:
		message_step(in, session);
	}
	ev_run(broker->loop, EVRUN_NOWAIT);
}

static unsigned files_count(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < FILES_MAX; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void world_close(void)
{
	for (int i = 0; i < SESSIONS; i++)
		session_close(&world.session[i]);
	const int fds[] = {world.tcp[0],   world.tcp[1],   world.pipes[0],  world.pipes[1],
			   world.kinds[0], world.kinds[1], world.kinds[2], world.listener};
	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		close(fds[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	struct input in = {data, size};
	struct rlmd_broker broker;
	struct ev_loop *loop;
	unsigned before;

	if (!ready && (rlmd_closer_init() || rlmd_log_level("error") || setenv("RLM_TEST_LOOKUP", "off", 1)))
		abort();
	ready = true;
	before = files_count();
	memset(&world, 0, sizeof(world));
	loop = ev_loop_new(0);
	if (!loop || rlmd_broker_init(&broker, loop, &rlmd_backend_local, "fuzz"))
		abort();
	broker.config.limits.ring_size = 4096;
	broker.config.limits.slots = 2;
	broker.config.limits.memory_total = 100000;
	broker.linked = true; // nothing is written to a file
	tcp_pair();
	if (pipe2(world.pipes, O_CLOEXEC))
		abort();
	world.kinds[0] = epoll_create1(EPOLL_CLOEXEC);
	world.kinds[1] = eventfd(0, EFD_CLOEXEC);
	world.kinds[2] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (int i = 0; i < SESSIONS; i++)
		session_open(&broker, &world.session[i]);
	for (int i = 1; i < SESSIONS; i++)
		hello_say(&world.session[i]);
	while (in.left)
		step(&in, &broker);
	world_close();
	for (int i = 0; broker.clients && i < 2000; i++) { // some wait for a moment, or for descriptors that are closed by and by
		ev_run(loop, EVRUN_NOWAIT);
		usleep(1000);
	}
	if (broker.clients || broker.registry.ends || broker.links.memory || broker.links.bound || broker.users.by_uid)
		abort();
	rlmd_broker_deinit(&broker);
	ev_loop_destroy(loop);
	for (int i = 0; files_count() != before; i++) { // another thread closes some of them
		if (i == 2000)
			abort();
		usleep(1000);
	}
	return 0;
}

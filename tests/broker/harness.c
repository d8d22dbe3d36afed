// SPDX-License-Identifier: BSD-2-Clause
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE   5000 // milliseconds
#define OUTPUT_MAX (16 << 20)
#define OFFERED	   (sizeof(((struct peer *)0)->offered) / sizeof(int))

static const char *rlmd_path(void)
{
	const char *path = getenv("RLMD");

	return path ? path : RLMD_PATH;
}

static void pause_ms(long milliseconds)
{
	struct timespec ts = {milliseconds / 1000, milliseconds % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

void broker_config(struct broker *broker, const char *config)
{
	FILE *file = fopen(broker->config, "w");

	assert_non_null(file);
	fputs(config, file);
	fclose(file);
}

static void broker_exec(struct broker *broker, bool unprivileged)
{
	const char *metrics = getenv("RLM_TEST_METRICS");
	int sock;

	broker->pid = fork();
	assert_true(broker->pid >= 0);
	if (broker->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unprivileged && (setgroups(0, NULL) || setgid(65534) || setuid(65534)))
			_exit(126);
		execl(rlmd_path(), "rlmd", "--socket", broker->socket, "--config", broker->config, "--log",
		      getenv("RLMD_LOG") ? getenv("RLMD_LOG") : "error", metrics ? "--metrics" : NULL, metrics, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < PATIENCE / 10; i++) {
		sock = broker_connect(broker);
		if (sock >= 0) {
			close(sock);
			return;
		}
		assert_int_equal(waitpid(broker->pid, NULL, WNOHANG), 0);
		pause_ms(10);
	}
	fail_msg("rlmd does not answer");
}

static void broker_run(struct broker *broker, const char *config, bool unprivileged)
{
	strcpy(broker->directory, "/tmp/rlm-test-XXXXXX");
	assert_non_null(mkdtemp(broker->directory));
	chmod(broker->directory, 0777);
	snprintf(broker->socket, sizeof(broker->socket), "%s/rlmd.sock", broker->directory);
	snprintf(broker->config, sizeof(broker->config), "%s/rlmd.conf", broker->directory);
	broker_config(broker, config ? config : "");
	broker_exec(broker, unprivileged);
}

void broker_again(struct broker *broker)
{
	broker_exec(broker, false);
}

void broker_start(struct broker *broker, const char *config)
{
	broker_run(broker, config, false);
}

void broker_start_unprivileged(struct broker *broker, const char *config)
{
	broker_run(broker, config, true);
}

static int broker_end(struct broker *broker, int signal_number)
{
	int status = 0;

	kill(broker->pid, signal_number);
	assert_int_equal(waitpid(broker->pid, &status, 0), broker->pid);
	return status;
}

void broker_stop(struct broker *broker)
{
	int status = broker_end(broker, SIGTERM);

	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(access(broker->socket, F_OK), -1);
	unlink(broker->config);
	shell("rm -f %s.moves", broker->socket); // what outlives a broker
	rmdir(broker->directory);
}

void broker_kill(struct broker *broker)
{
	broker_end(broker, SIGKILL);
}

bool broker_lives(const struct broker *broker)
{
	return waitpid(broker->pid, NULL, WNOHANG) == 0;
}

bool shell(const char *format, ...)
{
	char command[1024];
	va_list ap;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	return system(command) == 0;
}

char *output_of(int status, const char *program, ...)
{
	const char *arguments[16] = {program};
	char *text = calloc(1, OUTPUT_MAX);
	size_t length = 0;
	int fds[2], ended;
	ssize_t n;
	va_list ap;
	pid_t pid;

	va_start(ap, program);
	for (int i = 1; i < 15 && (arguments[i] = va_arg(ap, const char *)); i++)
		;
	va_end(ap);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		dup2(fds[1], 1);
		dup2(fds[1], 2);
		close(fds[0]);
		close(fds[1]);
		execvp(program, (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	close(fds[1]);
	while ((n = read(fds[0], text + length, (OUTPUT_MAX)-1 - length)) > 0)
		length += (size_t)n;
	close(fds[0]);
	assert_int_equal(waitpid(pid, &ended, 0), pid);
	if (!WIFEXITED(ended) || WEXITSTATUS(ended) != status)
		fail_msg("%s: status %d, not %d: %s", program, WEXITSTATUS(ended), status, text);
	return text;
}

int broker_connect(const struct broker *broker)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, broker->socket);
	if (connect(sock, (struct sockaddr *)&address, sizeof(address)) == 0)
		return sock;
	close(sock);
	return -1;
}

void message_send(int sock, const void *data, size_t size, const int *fds, unsigned fd_count)
{
	char control[CMSG_SPACE(sizeof(int) * 64)] = {0};
	struct iovec iov = {(void *)(uintptr_t)data, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd_count) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, sizeof(int) * fd_count);
	}
	// The broker may have ended the session, or not listen: that is for the caller to find out.
	if (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
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
	close(peer->sock);
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
		for (unsigned i = 0; i < RLM_MSG_FDS_MAX && fds[i] >= 0; i++)
			close(fds[i]);
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

void bound_expect(struct peer *peer, struct bound *bound)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	memset(bound, 0, sizeof(*bound));
	memset(bound->link_fds, 0xff, sizeof(bound->link_fds));
	memset(bound->fds, 0xff, sizeof(bound->fds));
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
	for (unsigned i = 0; i < RLM_MSG_FDS_MAX; i++) {
		if (bound->link_fds[i] >= 0)
			close(bound->link_fds[i]);
		if (bound->fds[i] >= 0)
			close(bound->fds[i]);
	}
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
	struct rlm_msg_release msg = {.header = {.type = RLM_MSG_RELEASE, .size = sizeof(msg)},
				      .link = bound->bind.link,
				      .side = bound->bind.side,
				      .segment = bound->bind.segment,
				      .slot = bound->bind.slot,
				      .epoch = bound->bind.epoch};

	message_send(peer->sock, &msg, sizeof(msg), NULL, 0);
}

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t address_set(union address *a, int family, const char *text, uint16_t port)
{
	memset(a, 0, sizeof(*a));
	a->any.sa_family = (sa_family_t)family;
	if (family == AF_INET) {
		a->v4.sin_port = htons(port);
		assert_int_equal(inet_pton(AF_INET, text, &a->v4.sin_addr), 1);
		return sizeof(a->v4);
	}
	a->v6.sin6_port = htons(port);
	assert_int_equal(inet_pton(AF_INET6, text, &a->v6.sin6_addr), 1);
	return sizeof(a->v6);
}

static int tcp_bound(int family, const char *address, uint16_t port)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	int sock = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	union address a;
	socklen_t length = address_set(&a, family, address, port);

	assert_int_equal(setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	// A broker that was asked to name the port's last connection may have a copy of its socket for a moment.
	for (int i = 0; bind(sock, &a.any, length); i++) {
		if (errno != EADDRINUSE || i == 2000)
			fail_msg("bind %s %u: %s", address, port, strerror(errno));
		nanosleep(&moment, NULL);
	}
	return sock;
}

int tcp_listen(int family, const char *address, uint16_t port)
{
	int sock = tcp_bound(family, address, port);

	assert_int_equal(listen(sock, 128), 0);
	return sock;
}

int tcp_connect(int family, const char *from, uint16_t from_port, const char *to, uint16_t port)
{
	int sock = from ? tcp_bound(family, from, from_port) : socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	union address a;
	socklen_t length = address_set(&a, family, to, port);

	if (connect(sock, &a.any, length))
		fail_msg("connect %s %u: %s", to, port, strerror(errno));
	return sock;
}

uint16_t tcp_port(int sock)
{
	union address a;
	socklen_t length = sizeof(a);

	assert_int_equal(getsockname(sock, &a.any, &length), 0);
	return ntohs(a.any.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
}

static void tcp_pair_from(int family, const char *from, uint16_t from_port, const char *address, uint16_t port, int tcp[2])
{
	int listener = tcp_listen(family, address, port);

	tcp[0] = tcp_connect(family, from, from_port, address, tcp_port(listener));
	tcp[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(tcp[1] >= 0);
	close(listener);
}

void tcp_pair_at(int family, const char *address, uint16_t port, uint16_t client_port, int tcp[2])
{
	tcp_pair_from(family, address, client_port, address, port, tcp);
}

void tcp_pair(int family, const char *address, int tcp[2])
{
	tcp_pair_from(family, NULL, 0, address, 0, tcp);
}

void close_pair(int tcp[2])
{
	close(tcp[0]);
	close(tcp[1]);
}

static int home = -1;

static bool home_keep(void)
{
	if (home < 0)
		home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	return home >= 0;
}

bool netns_new(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int sock, err;

	if (!home_keep() || unshare(CLONE_NEWNET))
		return false;
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	err = ioctl(sock, SIOCSIFFLAGS, &request);
	close(sock);
	return err == 0;
}

bool netns_enter(const char *name)
{
	char path[128];
	int fd, err;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (!home_keep() || fd < 0)
		return false;
	err = setns(fd, CLONE_NEWNET);
	close(fd);
	return err == 0;
}

void netns_back(void)
{
	assert_int_equal(setns(home, CLONE_NEWNET), 0);
}

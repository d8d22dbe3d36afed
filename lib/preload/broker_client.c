// SPDX-License-Identifier: BSD-2-Clause
// Packets to and from rlmd.
#include "broker_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "fdtable.h"
#include "settings.h"
#include "sys.h"

static int send_fds(int broker, const union rlm_msg *msg, const int *fds, unsigned nfds)
{
	char control[CMSG_SPACE(sizeof(int) * RLM_MSG_FDS_MAX)] = {0};
	struct iovec iov = {(void *)(uintptr_t)msg, msg->header.size};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cmsg;
	long r;

	if (nfds) {
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		cmsg = CMSG_FIRSTHDR(&m);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * nfds);
	}
	for (int i = 0; i < 2; i++) {
		r = sys_call3(SYS_sendmsg, broker, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (r >= 0)
			return 0;
		if (r == -EAGAIN && i == 0) {
			struct pollfd p = {.fd = broker, .events = POLLOUT};
			struct timespec patience = {.tv_nsec = 200 * 1000 * 1000};

			sys_call5(SYS_ppoll, &p, 1, &patience, 0, 8);
		}
	}
	return (int)r;
}

int broker_send(int broker, const union rlm_msg *msg, int fd)
{
	return send_fds(broker, msg, &fd, fd >= 0);
}

static void read_command(char *command, size_t size)
{
	int fd = (int)sys_call4(SYS_openat, AT_FDCWD, "/proc/self/comm", O_RDONLY | O_CLOEXEC, 0);
	long n = fd < 0 ? 0 : sys_read(fd, command, size - 1);

	if (fd >= 0)
		sys_close(fd);
	if (n < 0)
		n = 0;
	if (n > 0 && command[n - 1] == '\n')
		n--;
	command[n] = 0;
}

// The table goes out read-only where /proc lets us; rlmd never writes into it anyway.
static int read_only_table(void)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", arena.table_fd);
	fd = (int)sys_call4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	return fd >= 0 ? fd : (int)sys_fcntl(arena.table_fd, F_DUPFD_CLOEXEC, 3);
}

static int say_hello(int broker)
{
	union rlm_msg msg = broker_message(RLM_MSG_HELLO, hello, .version = RLM_PROTO_VERSION,
					   .pid = (uint32_t)sys_call0(SYS_getpid), .connections = arena.conn_capacity);
	int fds[2] = {read_only_table()}, r;

	if (fds[0] < 0)
		return fds[0];
	if (!arena.tickets && arena_make_tickets(&arena) == 0)
		arena.tickets_fd = fd_make_internal(arena.tickets_fd);
	fds[1] = arena.tickets_fd;
	read_command(msg.hello.command, sizeof(msg.hello.command));
	r = send_fds(broker, &msg, fds, fds[1] < 0 ? 1 : 2);
	sys_close(fds[0]);
	return r;
}

int broker_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd, r;

	if (strlen(settings.socket) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, settings.socket);
	fd = (int)sys_call3(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fd;
	fd = fd_make_internal(fd);
	r = (int)sys_call3(SYS_connect, fd, &address, sizeof(address));
	if (r == 0)
		r = say_hello(fd);
	if (r < 0) {
		fd_close_internal(fd);
		return r;
	}
	return fd;
}

int broker_receive(int broker, union rlm_msg *msg, int *fds)
{
	char control[CMSG_SPACE(sizeof(int) * RLM_MSG_FDS_MAX)];
	struct iovec iov = {msg, sizeof(*msg)};
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	unsigned nfds = 0;
	long r;

	for (unsigned i = 0; i < RLM_MSG_FDS_MAX; i++)
		fds[i] = -1;
	memset(msg, 0, sizeof(*msg));
	r = sys_call3(SYS_recvmsg, broker, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (r == -EAGAIN || r == -EINTR)
		return 0;
	if (r <= 0)
		return r ? (int)r : -EPIPE;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) && nfds < RLM_MSG_FDS_MAX; i++)
			memcpy(&fds[nfds++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
	if ((size_t)r < sizeof(msg->header) || msg->header.size != r)
		return -EPROTO; // the caller closes the descriptors
	return (int)r;
}

// SPDX-License-Identifier: BSD-2-Clause
// What client and server say to each other.
#include "control.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONTROL_MAX	(1u << 20)
#define CONTROL_VERSION 1

static const char magic[4] = {'R', 'L', 'M', 'B'};

int send_all(int fd, const void *data, size_t n)
{
	const uint8_t *at = data;

	while (n) {
		ssize_t r = send(fd, at, n, MSG_NOSIGNAL);

		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0) {
			at += r;
			n -= (size_t)r;
		}
	}
	return 0;
}

int receive_all(int fd, void *data, size_t n)
{
	uint8_t *at = data;

	while (n) {
		ssize_t r = recv(fd, at, n, 0);

		if (r == 0)
			return -ECONNABORTED;
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0) {
			at += r;
			n -= (size_t)r;
		}
	}
	return 0;
}

struct greeting greeting_make(enum greeting_kind kind, uint64_t token, unsigned index)
{
	struct greeting g = {.kind = (uint8_t)kind, .version = CONTROL_VERSION};

	memcpy(g.magic, magic, sizeof(magic));
	g.index = htole16((uint16_t)index);
	g.token = htole64(token);
	return g;
}

union fd_control {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

int greeting_send(int fd, const struct greeting *g, int memfd)
{
	union fd_control control = {
	    .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct iovec iov = {.iov_base = (void *)g, .iov_len = sizeof(*g)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (memfd < 0)
		return send_all(fd, g, sizeof(*g));
	msg.msg_control = &control;
	msg.msg_controllen = sizeof(control);
	memcpy(CMSG_DATA(&control.header), &memfd, sizeof(memfd));
	return sendmsg(fd, &msg, MSG_NOSIGNAL) == sizeof(*g) ? 0 : -errno;
}

int greeting_receive(int fd, struct greeting *g, int *memfd)
{
	union fd_control control;
	struct iovec iov = {.iov_base = g, .iov_len = sizeof(*g)};
	struct msghdr msg = {
	    .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *c;
	ssize_t r;
	int e = 0;

	*memfd = -1;
	do
		r = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		return r < 0 ? -errno : -ECONNABORTED;
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(memfd, CMSG_DATA(c), sizeof(*memfd));
	if ((size_t)r < sizeof(*g))
		e = receive_all(fd, (uint8_t *)g + r, sizeof(*g) - (size_t)r);
	if (e == 0 && (memcmp(g->magic, magic, sizeof(magic)) != 0 || g->version != CONTROL_VERSION))
		e = -EPROTO;
	if (e < 0 && *memfd >= 0) {
		close(*memfd);
		*memfd = -1;
	}
	g->index = le16toh(g->index);
	g->token = le64toh(g->token);
	return e;
}

int control_send(int fd, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	uint32_t length;
	int r = -ENOMEM;

	if (text) {
		length = htole32((uint32_t)strlen(text));
		r = send_all(fd, &length, sizeof(length));
		if (r == 0)
			r = send_all(fd, text, strlen(text));
	}
	free(text);
	json_decref(json);
	return r;
}

json_t *control_receive(int fd)
{
	uint32_t length;
	char *text;
	json_t *json = NULL;

	if (receive_all(fd, &length, sizeof(length)) < 0)
		return NULL;
	length = le32toh(length);
	if (length > CONTROL_MAX)
		return NULL;
	text = malloc(length + 1u);
	if (text && receive_all(fd, text, length) == 0)
		json = json_loadb(text, length, 0, NULL);
	free(text);
	return json;
}

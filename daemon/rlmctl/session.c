// SPDX-License-Identifier: BSD-2-Clause
#include "session.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "rlm/proto.h"

int session_open(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int err, fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

int session_ask(int session, const json_t *request)
{
	char *text = json_dumps(request, JSON_COMPACT);
	size_t length = text ? strlen(text) : 0, sent = 0;
	struct rlm_msg_text msg = {.header = {.type = RLM_MSG_REQUEST}};
	int err = text ? 0 : -ENOMEM;

	while (!err && sent < length) {
		size_t now = length - sent < RLM_TEXT_CHUNK ? length - sent : RLM_TEXT_CHUNK;

		memcpy(msg.text, text + sent, now);
		sent += now;
		msg.length = (uint32_t)now;
		msg.more = sent < length;
		msg.header.size = (uint16_t)(offsetof(struct rlm_msg_text, text) + now);
		if (send(session, &msg, msg.header.size, MSG_NOSIGNAL) < 0)
			err = -errno;
	}
	free(text);
	return err;
}

// Answers may have megabytes, in small chunks: doubled, so that they are not copied for each.
static bool text_grow(char **text, size_t *room)
{
	size_t larger = *room ? 2 * *room : 4096;
	char *grown = realloc(*text, larger);

	if (!grown)
		return false;
	*text = grown;
	*room = larger;
	return true;
}

json_t *session_reply(int session)
{
	char *text = NULL;
	size_t length = 0, room = 0;
	struct rlm_msg_text msg;
	json_t *reply = NULL;

	do {
		ssize_t size = recv(session, &msg, sizeof(msg), 0);

		if (size < 0 && errno == EINTR) {
			msg.more = 1;
			continue;
		}
		if (size < (ssize_t)offsetof(struct rlm_msg_text, text) || msg.header.type != RLM_MSG_REPLY ||
		    msg.length > (size_t)size - offsetof(struct rlm_msg_text, text))
			goto out;
		if (length + msg.length > room && !text_grow(&text, &room))
			goto out;
		memcpy(text + length, msg.text, msg.length);
		length += msg.length;
	} while (msg.more);
	reply = json_loadb(text, length, 0, NULL);
out:
	free(text);
	return reply;
}

json_t *session_request(int session, const char *command, json_t *request)
{
	json_t *reply = request && session_ask(session, request) == 0 ? session_reply(session) : NULL;
	const char *error = json_string_value(json_object_get(reply, "error"));

	json_decref(request);
	if (reply && !error)
		return reply;
	fprintf(stderr, "rlmctl: %s: %s\n", command, error ? error : "a broker ended the session");
	json_decref(reply);
	return NULL;
}

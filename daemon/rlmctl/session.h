// SPDX-License-Identifier: BSD-2-Clause
// A conversation with the broker: one JSON object out, one or more in.
#ifndef RLMCTL_SESSION_H
#define RLMCTL_SESSION_H

#include <jansson.h>

// The descriptor, or -errno.
int session_open(const char *path);
// 0 or -errno.
int session_ask(int session, const json_t *request);
// The next reply, NULL when the session is over or the reply is no JSON.
json_t *session_reply(int session);
// The answer, or NULL after a complaint that names the command. Takes the request.
json_t *session_request(int session, const char *command, json_t *request);

#endif

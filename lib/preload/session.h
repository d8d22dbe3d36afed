// SPDX-License-Identifier: BSD-2-Clause
// The helper thread's session with the broker. Helper thread only, unless said otherwise.
#ifndef RLM_SESSION_H
#define RLM_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "conn.h"
#include "rlm/proto.h"

// Its socket is there; looked up now and then. Any thread.
bool session_broker_exists(void);

// The broker's path names something else from here on: the session that exists is the last. Any thread.
void session_path_ends(void);

// -1: there is none.
int session_fd(void);
// true: there is one now.
bool session_connect_if_due(void);
// When to try again, in sys_ms() time; UINT64_MAX: there is a session, or will be none.
uint64_t session_next_try_ms(void);
void session_over(int error);
// In fork's child: it is the parent's.
void session_forget(void);

int session_send(const union rlm_msg *msg, int fd);
// One packet. false: nothing more to read now.
bool session_read(void);
// Offers it, and reads what the broker answers meanwhile.
void session_offer(struct rlm_conn *c);
// Offers what waits for it. Not while the domain is about to move.
void session_offer_queued(void);
// The broker took us.
void session_welcome(void);
// Another broker is ours from now on, and of all children.
void session_move(const char *socket);

#endif

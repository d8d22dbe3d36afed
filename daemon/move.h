// SPDX-License-Identifier: BSD-2-Clause
// A domain moves between two brokers that stand for two hosts of the local role, rlmctl(1) "move". rlmctl is the tool stack: it asks one
// broker to make the domain quiet, tells the other one that it arrives, and the first one to let it go. Brokers do not talk to one another.
#ifndef RLMD_MOVE_H
#define RLMD_MOVE_H

#include <jansson.h>
#include <stdbool.h>

struct rlmd_broker;
struct rlmd_client;
struct rlmd_domain;

// Answers, or NULL when the answer comes later.
json_t *rlmd_move_prepare(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request);
json_t *rlmd_move_arrive(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request);
json_t *rlmd_move_depart(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request);
// Whoever prepared a move is gone: nothing comes of it.
void rlmd_move_forget(struct rlmd_client *asking);

// A process of a domain that is elsewhere: sends it on. False: the domain is here.
bool rlmd_move_redirect(struct rlmd_client *client);

// What outlives rlmd: who is where, how often they came, and that links were made. Beside the socket.
void rlmd_move_load(struct rlmd_broker *broker, const char *socket);
// The first link was made.
void rlmd_move_linked(struct rlmd_broker *broker);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// What the helper thread does with connections: offers, namings, bindings, answers to peers. Helper thread only.
#ifndef RLM_BINDING_H
#define RLM_BINDING_H

#include <stdbool.h>

#include "conn.h"
#include "rlm/proto.h"

#define IDLE_LOOK_MS 3000u
#define FULL_LOOK_MS 50u
#define HELD_LOOK_MS 100u // TCP holds back for 200 ms

void binding_offer(struct rlm_conn *c);
// One message from the broker; takes descriptors it keeps out of fds (sets -1). < 0: the broker makes no sense.
int binding_message(const union rlm_msg *msg, int *fds);
void binding_tcp_event(struct rlm_conn *c);
void binding_answer_peers(void);
void binding_channel_rang(int channel);
void binding_watch_inherited(void);
void binding_broker_is_back(void);
bool binding_has_lent(void);
// Returns the memory of rings that nobody used since the last look. true: there are rings left to look after.
bool binding_give_back_idle(void);
// Shows receivers what senders have held back for long enough. true: there is more.
bool binding_release_held(uint64_t now_ms);
// Takes full rings that nobody reads from back to TCP. true: there are others to look after.
bool binding_relieve_full(uint64_t now_ms);

// From helper_pin.c
int helper_pin(const struct rlm_conn *c); // a descriptor, -1: closed meanwhile; unpin in both cases
void helper_unpin(void);
int helper_pin_naming(const struct rlm_conn *c); // a second pin, so that other connections can be served while one is named
void helper_unpin_naming(void);

// From helper.c
struct rlm_conn *helper_conn(struct rlm_conn_ref ref);
void helper_retry(struct rlm_conn *c, unsigned ms);
void helper_watch_conn(struct rlm_conn *c, int fd);
void helper_watch_broker(int fd);
void helper_watch_control(int fd);
void helper_watch_channel(int fd);
void helper_arm_idle(void);

#endif

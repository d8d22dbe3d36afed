// SPDX-License-Identifier: BSD-2-Clause
// What the helper thread does with connections: offers, namings, bindings, answers to peers. Helper thread only.
#ifndef RLM_BINDING_H
#define RLM_BINDING_H

#include <stdbool.h>

#include "conn.h"
#include "rlm/proto.h"

// How often the helper thread looks after what is idle or lent to children, full, held back.
#define IDLE_LOOK_MS 3000u
#define FULL_LOOK_MS 50u
#define LONELY_LOOK_MS 1000u
#define HELD_LOOK_MS 100u // TCP holds back for 200 ms

// Offers it to the broker now, or later by helper_retry(), or not at all and says why.
void binding_offer(struct rlm_conn *c);
// One message from the broker; takes descriptors it keeps out of fds (sets -1). < 0: the broker makes no sense.
int binding_message(const union rlm_msg *msg, int *fds);
// TCP of a bound connection has news.
void binding_tcp_event(struct rlm_conn *c);
// A control doorbell rang: peers ask for something.
void binding_answer_peers(void);
void binding_channel_rang(int channel);
// A helper thread has started: in fork's child what was bound before is to be watched.
void binding_watch_inherited(void);
// A session has begun; links of an earlier one are only kept.
void binding_broker_is_back(void);
// Forked children have connections that take room of ours, and may die without a word.
bool binding_has_lent(void);
// Returns the memory of rings that nobody used since the last look. true: there are rings left to look after.
bool binding_give_back_idle(void);
// Whether all peers have bound their halves by now; what waits in vain is offered again. true: look once more.
bool binding_look_for_peers(uint64_t now_ms);
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
// NULL: it is gone, and its entry another one's.
struct rlm_conn *helper_conn(struct rlm_conn_ref ref);
// binding_offer() again after so long, if it is still not bound.
void helper_retry(struct rlm_conn *c, unsigned ms);
// The same, each time after twice as long as the last time.
void helper_retry_later(struct rlm_conn *c, unsigned first_ms, unsigned most_ms);
// Have the helper's loop call back: binding_tcp_event(), session_read(), binding_answer_peers(), binding_channel_rang().
void helper_watch_conn(struct rlm_conn *c, int fd);
void helper_watch_broker(int fd);
void helper_watch_control(int fd);
void helper_watch_channel(int fd);
// And binding_give_back_idle(), in a while.
void helper_arm_idle(void);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Between offer.c, binding.c and serving.c. Helper thread only.
#ifndef RLM_BINDING_INTERNAL_H
#define RLM_BINDING_INTERNAL_H

#include "binding.h"
#include "links.h"
#include "session.h"
#include "stream_internal.h"

static inline void set_why(struct rlm_conn *c, uint32_t why)
{
	atomic_store_explicit(&conn_stat(&arena, c)->why, (uint16_t)why, memory_order_relaxed);
}

static inline void set_flags(struct rlm_conn *c, uint32_t flags)
{
	atomic_fetch_or_explicit(&c->flags, flags, memory_order_seq_cst);
}

static inline void clear_flags(struct rlm_conn *c, uint32_t flags)
{
	atomic_fetch_and_explicit(&c->flags, ~flags, memory_order_seq_cst);
}

// --- offer.c ---

// A connection stands still, its locks held, while the broker reads its sequence numbers; messages are read meanwhile.
extern bool binding_naming;

// The broker's answers to an offer.
void offer_named(const struct rlm_msg_named *m);
void offer_noted(const struct rlm_msg_note *m);
// Another process has the connection too, and may close it, or end.
void offer_later(struct rlm_conn *c);
// No option keeps bytes that have come from being received.
bool offer_can_be_counted(int fd);

// --- binding.c ---

void binding_do_kept(void);

// --- serving.c ---

void serving_drop(const struct rlm_msg_drop *m);
void serving_watch_link(const struct link *l);

#endif

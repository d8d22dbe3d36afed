// SPDX-License-Identifier: BSD-2-Clause
// What poll(), select() and epoll would show for a connection that may be bound to a ring.
#ifndef RLM_READY_H
#define RLM_READY_H

#include "fdtable.h"
#include "helper.h"

// Events are EPOLL* bits, which have poll()'s values for those that poll() has.

struct ready {
	uint32_t events;    // what is true now
	uint64_t head;      // of the peer's ring, to tell new data from old (edge-triggered)
	uint32_t blocked;   // sends that found too little room so far, to tell regained room from old (edge-triggered)
	bool ask_kernel;    // the answer depends on TCP: look at it again next time
	bool stale;	    // nothing of this: the descriptor is not the connection's any more
};

// What TCP has to tell: the helper thread counts it in conn->events, a moment later.
static inline uint32_t ready_events(const struct rlm_conn *c)
{
	return atomic_load_explicit(&c->events, memory_order_acquire);
}

// The kernel was asked for `asked` of a connection; events: as ready_events() said before.
void ready_note_kernel(struct rlm_conn *c, uint32_t events, uint32_t asked, uint32_t kernel);
// TCP had nothing to tell then, and nothing was counted until `events`. Something may have come: the helper thread counts it a moment later.
static inline bool ready_tcp_is_quiet(const struct rlm_bound *b, uint32_t events)
{
	return atomic_load_explicit(&b->tcp_quiet, memory_order_relaxed) == (RLM_TCP_QUIET | events) &&
	       atomic_load_explicit(&helper_running, memory_order_relaxed);
}
// TCP is quiet, and `wanted` is all on rings: ready_now() can do with nothing in `kernel`.
bool ready_needs_no_kernel(const struct rlm_conn *c, uint32_t wanted);

// kernel: what TCP shows of the events in `asked`; what else is needed of it is asked for here. Looks at the rings, eats frames. c need not be
// bound. Room for sending is looked for only if it is wanted.
struct ready ready_now(struct rlm_conn *c, int fd, uint32_t wanted, uint32_t asked, uint32_t kernel);
// Bytes of the application's that TCP has brought so far, frames excluded. For telling news from none.
uint64_t ready_arrived(struct rlm_conn *c, int fd);
// Which events of TCP matter while `wanted` is wanted of the connection.
uint32_t ready_kernel_mask(struct rlm_conn *c, uint32_t wanted);
// Cheap, no lock, for spinning: may data or room have come since? Binding must be held by the caller (c->users).
bool ready_maybe(const struct rlm_bound *b, uint32_t wanted, uint64_t head);

// Keeps the binding's memory in place; NULL when the connection is not bound. Undone by ready_release().
struct rlm_bound *ready_hold(struct rlm_conn *c);
// The same for longer; NULL also when the connection is leaving its slot: then only TCP has news.
struct rlm_bound *ready_hold_to_sleep(struct rlm_conn *c);
void ready_release(struct rlm_conn *c);
// Somebody is going to sleep for `wanted`: in poll or epoll, where the doorbell will ring, or on the bell. The binding is held.
enum ready_by { READY_BY_DOORBELL, READY_BY_BELL };
void ready_listen(struct rlm_bound *b, uint32_t wanted, enum ready_by by);
void ready_unlisten(struct rlm_bound *b, uint32_t wanted, enum ready_by by);

// Edge-triggered on a descriptor: makes `epoll_fd` readable when the doorbell rings. Known ones are remembered by the caller. false: it cannot.
bool ready_watch_doorbell(int epoll_fd, int doorbell, uint64_t data);

#endif

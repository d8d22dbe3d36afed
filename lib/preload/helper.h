// SPDX-License-Identifier: BSD-2-Clause
// The helper thread of a process: talks to the broker, watches TCP of promoted connections, answers peers while the
// application computes or sleeps. Started late, all signals blocked; gone in fork's child, where it starts again when needed.
#ifndef RLM_HELPER_H
#define RLM_HELPER_H

#include "fdtable.h"
#include "rlm/proto.h"

// From any thread; never waits for the broker.
void helper_offer(struct rlm_conn *c);
void helper_withdraw(uint32_t index, uint32_t generation);
void helper_release(const struct rlm_bound *b);
extern _Atomic int helper_running;
void helper_start(void);
// Something is going to rely on the helper in this process (after fork it has to be started again).
static inline void helper_ensure(void)
{
	if (__builtin_expect(!atomic_load_explicit(&helper_running, memory_order_acquire), 0))
		helper_start();
}
// Returns when there is a session with the broker, or none can be had at once.
void helper_meet_broker(void);
#define HELPER_ASK_MAX 64
// Has the helper thread, if there is one, call fn with a copy of the argument. Returns what it returned, 0 without a helper thread.
long helper_ask(long (*fn)(void *arg), const void *arg, size_t size);
// Somebody used a connection whose idle ring was given back to the system.
void helper_note_activity(void);
// A send, or who waits for room, found its ring full. tx_lock held.
void helper_note_full(struct rlm_bound *b);
// A send held bytes back, see TCP_CORK. tx_lock held.
void helper_note_held(void);
// A connection was bound; its peer may not be.
void helper_note_lonely(void);
// The last descriptor of a promoted connection in this process was closed, others of the family have it.
void helper_note_lent(void);
// Call after the descriptor's entry was cleared and before it is closed: waits (microseconds) until the helper does not use it.
void helper_wait_unpinned(const struct rlm_conn *c);
// The helper is at work on it right now.
bool helper_has_pinned(const struct rlm_conn *c);
// An offer of this connection may be on its way to the broker with a duplicate of the socket inside.
bool helper_offer_outstanding(const struct rlm_conn *c);

// The main thread calls pthread_exit(): the process has to end with its last own thread, not with ours.
void helper_main_thread_ends(void);
// For good; the thread has gone when it returns. No connection may be promoted any more.
void helper_stop(void);
// The same, but it starts again when something needs it. Connections go on as when the broker is gone.
void helper_pause(void);
void helper_fork_child(void);

#endif

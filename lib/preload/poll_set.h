// SPDX-License-Identifier: BSD-2-Clause
// The inside of a poll: what its descriptors are, and what it sleeps by. See poll.c.
#ifndef RLM_POLL_SET_H
#define RLM_POLL_SET_H

#include "poll.h"
#include "ready.h"

enum entry_kind {
	ENTRY_KERNEL = 0, // the kernel knows all of it
	ENTRY_PLAIN,	  // a connection that is not bound
	ENTRY_BOUND,	  // its rings are to be looked at
	ENTRY_EPOLL,	  // an instance, which may hold bound connections
};

struct entry {
	struct rlm_conn *conn;
	struct rlm_bound *listening;
	uint64_t head;
	struct rlm_inside inside; // while `sleeping`: conn is told that we are in the kernel
	uint32_t events;	  // conn's event count before the kernel was asked
	uint8_t kind;		  // enum entry_kind
	bool sleeping;
};

struct polling {
	struct _pthread_cleanup_buffer cleanup;
	struct pollfd *fds;
	nfds_t n;
	struct pollfd *shadow; // n + 1
	struct entry *entries;
	struct futex_waitv *words; // those that news of the set changes
	unsigned words_max;
	void *memory;		  // what of these is not on the stack
	uint64_t timeout_ns;      // 0 and not forever: do not wait
	struct deadline deadline; // from the first sleep on
	uint32_t signals;	  // signals_handled when the call began
	bool forever;
	bool stale; // a number is not that connection's any more: all have to be looked up again
	bool listening; // the entries' `listening` are to wake us,
	enum ready_by by;
	const sigset_t *mask;
};

static inline enum entry_kind entry_look_up(int fd, struct entry *e)
{
	uint32_t entry = fd < 0 ? 0 : fd_entry(fd);

	e->kind = ENTRY_KERNEL;
	e->conn = NULL;
	if (entry >> FD_VALUE_BITS == FD_CONN) {
		e->conn = &arena.conns[entry & FD_VALUE_MASK];
		e->kind = atomic_load_explicit(&e->conn->bound, memory_order_acquire) ? ENTRY_BOUND : ENTRY_PLAIN;
	} else if (entry >> FD_VALUE_BITS == FD_EPOLL) {
		e->kind = ENTRY_EPOLL;
	}
	return (enum entry_kind)e->kind;
}

// --- poll_set.c ---

// What each descriptor is now. true: something in it is ours.
bool polling_look_up(struct polling *p);
// What to ask the kernel for.
void polling_make_shadow(struct polling *p);
// Kernel's answer in shadow, ours in fds. Number of descriptors with events.
int polling_evaluate(struct polling *p);
// All of the set is on rings, and TCP had nothing to tell. What it has to tell since, the helper thread counts a moment later: so this is
// for calls that would wait, or have something.
bool polling_needs_no_kernel(const struct polling *p);
// What there is without the kernel, as polling_evaluate().
int polling_evaluate_ours(struct polling *p);

// --- poll_sleep.c ---

// Nothing of ours is in the set yet: the kernel's poll. false: there is now; the answer, if there was one, is not to be trusted.
bool polling_in_kernel(struct polling *p, const struct timespec *timeout, int *result);
// What is bound stays so, until release.
void polling_hold(struct polling *p);
void polling_release(struct polling *p);
// Held. Looks at all rings of the set for as long as that has paid lately. true: one of them has news.
bool polling_spin(struct polling *p);
// Held. One sleep. > 0: count of events, 0: look again, < 0: -errno.
int polling_sleep(struct polling *p, bool *timed_out);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// What librlm knows of an epoll instance of the application: its registrations, and which of them are looked at here. See epoll.c.
// All functions: ep->lock is held, unless they say otherwise.
#ifndef RLM_EPOLL_SET_H
#define RLM_EPOLL_SET_H

#include <sys/epoll.h>

#include "epoll_order.h"
#include "ready.h"
#include "stream_internal.h"

#define EPOLL_READABLE (EPOLLIN | EPOLLRDNORM)
#define EPOLL_WRITABLE (EPOLLOUT | EPOLLWRNORM)
#define EPOLL_ENDS (EPOLLRDHUP | EPOLLERR | EPOLLHUP)

enum item_kind {
	ITEM_FREE = 0,
	ITEM_KERNEL, // in E; no connection
	ITEM_PLAIN,  // in E; a connection, or a socket that may become one
	ITEM_MOVED,  // in I; a bound connection
	ITEM_PARKED, // in I, but removed by the application: shown to nobody
	ITEM_NESTED, // in E; an epoll instance
};

// A registration. One of a connection that has not moved costs no more than this.
struct item {
	uint64_t data;	 // this and
	uint32_t events; // this as the application registered it
	uint32_t conn;	 // index, UINT32_MAX: none yet
	int fd;		 // -1: this number was closed, another one keeps the socket open. Of a free one: next free, index + 1
	uint8_t kind;	 // enum item_kind
	bool disabled;	 // one-shot has fired
	bool moving;	 // into I, and not looked at since it was bound
	struct watch *w; // of what is in I or nested, else NULL
};

// What is looked at here: an item in I, or a nested instance.
struct watch {
	bool hot;
	bool armed;
	bool ask_kernel;    // TCP may have something
	bool news;	    // edge: report, whatever else is as it was
	bool tcp_event;	    // edge: TCP has brought something, maybe payload
	bool unwritable;    // edge: it was, since the last report
	bool told_news;	    // `news` is counted in the instance's edges
	uint8_t idle;	    // looks in a row without anything
	uint32_t serial;    // of this use of the item
	uint32_t listening; // what was listened for, while armed
	uint32_t calls;	    // of the connection when it moved
	uint32_t conn_events; // the connection's event count at the last look
	uint32_t reported;    // round of the instance in which it was last reported
	uint32_t blocked;     // sends that found no room, as of the last report
	uint32_t told_blocked;
	uint32_t told_ends;   // EPOLL_ENDS as of the last report
	uint32_t inner_edges; // ITEM_NESTED: the inner instance's edges as of the last report
	int bell;	      // doorbell, -1
	int next_hot;	      // index + 1 of an item, as are these three
	int prev_hot;
	int next_bell;	      // items of one doorbell
	int next_nested;
	uint64_t head;	    // peer's head at the last report
	uint64_t told_head; // and when the edge was counted
	uint64_t tcp;	    // payload bytes that TCP had brought
	struct watch *next_free;
};

struct instance {
	struct rlm_lock lock; // of this process alone, so it may be kept
	struct rlm_habit habit;
	_Atomic uint32_t refs;	// descriptors in this process
	_Atomic uint32_t sleepers;
	// These are all zero while it is nobody's. Changed under the lock, which never goes: whoever has found an instance and waits for its
	// lock finds it empty, or another one by then.
	uint32_t moved;	// items in I
	struct rlm_spin spin;
	int fd;		    // a descriptor of it, to be confirmed
	_Atomic int inner;  // I, -1
	int more;	    // eventfd in I, level-triggered: something of ours is ready and somebody sleeps
	bool more_set;
	bool inherited;	    // over fork: the kernel's instances are the parent's too
	bool shared;	    // with a parent or children
	bool outer;	    // somebody may sleep on it through another instance or poll
	uint32_t round;	    // of epoll_wait()
	uint32_t moves;	    // items that moved in, ever
	uint32_t edges;	    // grows with whatever becomes ready
	uint32_t others;    // items in E
	uint32_t armed;	    // items
	uint32_t orphans;   // items whose number is closed
	uint32_t serial;
	int hot, hot_end;   // the first and the last hot item, index + 1
	int nested;	    // index + 1
	int free;	    // index + 1
	uint32_t used;	    // entries of `items` ever used
	uint32_t items_size;
	uint32_t by_fd_size;
	struct item *items;
	struct watch *watches;	   // free ones
	struct watch_block *blocks; // all
	int *by_fd;	    // index + 1 of a descriptor's item; of the first item of a doorbell
	struct epoll_event *stash; // taken from the kernel, not yet by the application
	uint32_t stash_used, stash_size;
};

// --- instances; no lock ---

struct instance *instance_of(int epfd);
struct instance *instance_at(uint32_t index);
uint32_t instances_end(void);
// NULL when there are too many.
struct instance *instance_new(int epfd);
void instance_free(struct instance *ep);
// Its lock. A descriptor of it in this process, which is not closed before the lock is dropped; -1: none.
int instance_fd(struct instance *ep, uint32_t index);
void instances_lock_all(void);
void instances_unlock_all(void);
void instances_unlock_child(void);

// Identifies I's events in E: no application data equals it but with probability 2^-64.
extern uint64_t inner_tag;

// --- items ---

static inline struct rlm_conn *conn_of(const struct item *it)
{
	return &arena.conns[it->conn];
}

static inline int item_index(const struct instance *ep, const struct item *it)
{
	return (int)(it - ep->items) + 1;
}

struct item *item_of(struct instance *ep, int fd);
// A descriptor of its socket, -1: this process has none any more.
int item_fd(const struct item *it);
// NULL: no memory.
struct item *item_new(struct instance *ep, int fd, const struct epoll_event *e, enum item_kind kind);
void item_free(struct instance *ep, struct item *it);
// Its number is closed, but not the socket.
void item_orphan(struct instance *ep, struct item *it);

// Before it moves in: everything as new. false: no memory.
bool item_watch(struct instance *ep, struct item *it);
void item_unwatch(struct instance *ep, struct item *it);
// PLAIN -> MOVED and back, in our tables alone. doorbell: -1 while the connection leaves its slot.
bool item_take(struct instance *ep, struct item *it, int doorbell);
void item_give_back(struct instance *ep, struct item *it);
static inline bool item_is_in_inner(const struct item *it)
{
	return it->kind == ITEM_MOVED || it->kind == ITEM_PARKED;
}

// Its connection leaves the slot: nothing there is listened for any more.
void item_leaves(struct instance *ep, struct item *it);
void item_disarm(struct instance *ep, struct item *it);
// Makes it hot, as the last one. What is hot stays where it is.
void item_heat(struct instance *ep, struct item *it);
// It is hot: as the last one.
void item_to_end(struct instance *ep, struct item *it);
// Has the doorbell rung for it.
void item_arm(struct instance *ep, struct item *it);
// The first item of a doorbell; the others by next_bell.
struct item *item_of_bell(struct instance *ep, int doorbell);

// --- I's events ---

#define BELL_MARK (1ull << 63) // a doorbell; else an item

static inline uint64_t item_tag(const struct instance *ep, const struct item *it)
{
	return (uint64_t)it->w->serial << 32 | (uint32_t)item_index(ep, it);
}

struct item *item_of_tag(struct instance *ep, uint64_t tag);

long epoll_kernel_ctl(int epfd, int op, int fd, uint32_t events, uint64_t data);

// --- the stash ---

void stash_put(struct instance *ep, const struct epoll_event *e);
int stash_get(struct instance *ep, struct epoll_event *out, int max);
// Is there an event with this data? take: it is for the caller to tell.
bool stash_has(struct instance *ep, uint64_t data, bool take);

// --- epoll_move.c ---

// E -> I, of an item that is PLAIN. b: the binding, which the connection may not have yet. fresh: just added, so that what is true is news.
// false: it cannot be.
bool item_move_in(struct instance *ep, int epfd, struct item *it, struct rlm_bound *b, bool fresh);

// --- epoll.c ---

// Something of ours is, was or is about to be in it, or in an instance in it. No lock; NULL: no.
bool set_has_moved(struct instance *ep);
// Is there anything to report of an item? Something new is an edge for those who watch the instance.
bool item_is_ready(struct instance *ep, struct item *it);
// Takes what is ready on rings, as reported in this round. First are ends.
struct part set_collect(struct instance *ep, struct epoll_event *out, int max);
// I has something, maybe.
void set_harvest(struct instance *ep);
// Of what the kernel said, without what it said of nested instances for our own reasons.
int set_strip_nested(struct instance *ep, struct epoll_event *out, int n);
// For instances that hold it: is something of it ready?
bool set_is_ready(struct instance *ep, int epfd);
// After a change: if somebody sleeps, everything is armed and who must know is woken.
void set_changed(struct instance *ep);
// A thread goes to sleep in E, as one more of its `sleepers`, and everything is armed. false: it must not, something is ready.
bool set_sleep(struct instance *ep);
// A thread has looked, or slept, and goes back to the application: the same as a change, and what has been idle for a while is armed.
void set_leave(struct instance *ep);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Links that end while their connections live, and domains that come to rest so that they can move.
//
// A link is left by both its processes, and by those forked from them, who may have inherited it: each is told LEAVE and answers LEFT when
// it has nothing of it mapped or open any more. Its connections go on over TCP and may be offered again at once.
//
// Quiescing a domain: its location page says so, its processes offer nothing, offers of its connections are not matched, and every link to
// or from it is left. Then it is quiet. Links that an earlier broker made are known only as far as processes tell of them, and not whose they
// are: these are all left, and nobody is quiet before processes had the time to come back. Who does not answer in time is told by name. Links that were left are made again afterwards, wherever both
// ends are then. Knows nothing of how memory is made, nor of who wants to move the domain and how.
#ifndef RLMD_LEAVE_H
#define RLMD_LEAVE_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rlm/proto.h"

struct rlmd_broker;
struct rlmd_client;
struct rlmd_domain;
struct rlmd_link;

struct rlmd_quiesce {
	struct rlmd_broker *broker;
	struct rlmd_domain *domain; // reference; NULL: all there are
	// Called once, from the event loop. culprits: NULL when the domain is quiet, else who did not answer in time. Either way it stays
	// as it is until rlmd_quiesce_end().
	void (*done)(struct rlmd_quiesce *quiesce, const char *culprits);
	void *data;
	ev_timer timer; // the time it has
	ev_timer back;	// until all processes are back from the broker before us
	double started;
	unsigned pending; // answers
	unsigned links, connections;
	struct rlmd_quiesce *prev, *next; // rlmd_broker.quiesces
};

// domain NULL: every domain of this broker. NULL: out of memory, or it is being quiesced already.
struct rlmd_quiesce *rlmd_quiesce_start(struct rlmd_broker *broker, struct rlmd_domain *domain, double seconds,
					void (*done)(struct rlmd_quiesce *quiesce, const char *culprits), void *data);
// At any time: processes may offer again, unless they are gone. Frees it; `done` is not called any more.
void rlmd_quiesce_end(struct rlmd_quiesce *quiesce);
bool rlmd_quiesce_covers(const struct rlmd_broker *broker, const struct rlmd_domain *domain);

// The link's processes go back to TCP.
void rlmd_link_leave(struct rlmd_broker *broker, struct rlmd_link *link, struct rlmd_quiesce *quiesce);
void rlmd_left(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_left *msg);
// As in /proc/PID/stat; 0: unknown.
char rlmd_state_of(pid_t pid);
// Somebody has not answered yet.
bool rlmd_link_is_awaited(const struct rlmd_broker *broker, uint64_t link);
// A link that an earlier broker made. False: it cannot be remembered.
bool rlmd_kept(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_kept *msg);
// All of these are left: who may be joined has changed.
void rlmd_kept_leave(struct rlmd_broker *broker);
void rlmd_kept_forget(struct rlmd_client *client);
// The client is gone, and what it had mapped with it.
void rlmd_leaves_forget(struct rlmd_client *client);

#endif

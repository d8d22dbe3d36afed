// SPDX-License-Identifier: BSD-2-Clause
// The broker: everything there is one of, and what its parts call of one another.
//
//   server.c   listens, accepts                 handler.c   carries out what processes ask
//   client.c   one session, with outbox.c       codec.c     whether a message is well-formed
//   naming.c   reads a socket's name            lookup.c    the same by BPF, not disturbing it
//   join.c     offers, matches, bindings        registry.c  which ends belong together
//   domain.c, group.c, user.c  who may be joined with whom, and have how much
//   link.c     what two processes share         backend*.c  of what it is made
//   leave.c    ends links, quiesces domains     move.c      domains go to another host
//   report*.c  answers rlmctl, from table.c     order.c     what rlmctl tells processes to do
//   timer.c    what happens by time alone       closer.c    closing that may take long
//   isolate.c, sandbox.c  what rlmd gives up    xen*.c      other Xen domains
#ifndef RLMD_BROKER_H
#define RLMD_BROKER_H

#include <ev.h>
#include <jansson.h>

#include "backend.h"
#include "client.h"
#include "config.h"
#include "domain.h"
#include "event.h"
#include "leave.h"
#include "link.h"
#include "lookup.h"
#include "registry.h"
#include "table.h"
#include "user.h"

// Where an offer without a match stands.
enum rlmd_wait {
	RLMD_WAIT_NONE,
	RLMD_WAIT_SHORT, // soon asked for its sequence numbers, if the other end may be in another namespace
	RLMD_WAIT_LONG,	 // then told that there is no peer
	RLMD_WAITS,
};
#define RLMD_WAIT_SHORT_TIME 0.1
#define RLMD_WAIT_LONG_TIME  0.9

// A connection that looks for its peer.
struct rlmd_offer {
	struct rlmd_end end;
	struct rlmd_client *client;
	struct rlm_conn_ref conn;
	struct rlmd_domain *domain; // reference
	uint32_t how;
	uint32_t noted; // the last RLM_WHY_* sent, RLM_WHY_MATCHING: none
	bool asked;	// to be shown once more
	bool upwards;	// guest role: the broker has it too
	bool limited;	// on rlmd_broker.limited
	enum rlmd_wait wait;
	double deadline;
	struct rlmd_offer *wait_prev, *wait_next;	// rlmd_broker.waiting[wait]
	struct rlmd_offer *limited_prev, *limited_next; // rlmd_broker.limited
	UT_hash_handle hh;				// rlmd_client.offers, by conn.index
};

struct rlmd_counters {
	uint64_t clients;
	uint64_t offers;
	uint64_t matches;
	uint64_t refused_group;
	uint64_t refused_limit;
	uint64_t ambiguous;
	uint64_t misbehaved;
	uint64_t refused_sessions;
};

struct rlmd_broker {
	struct ev_loop *loop;
	const struct rlmd_backend *backend;
	const char *config_path;
	bool config_required; // named on the command line
	struct rlmd_config config;
	struct rlmd_registry registry;
	struct rlmd_links links;
	struct rlmd_domains domains;
	struct rlmd_tables tables;
	struct rlmd_users users;
	struct rlmd_events events;
	struct rlmd_client *clients;
	struct rlmd_client *doomed; // to be freed when nobody is in the middle of using one
	struct rlmd_quiesce *quiesces;
	unsigned client_count;
	unsigned domain_count; // domains that have clients
	uint64_t next_client;
	uint64_t shown; // sockets, so far
	struct rlmd_offer *waiting[RLMD_WAITS];
	struct rlmd_offer *limited;
	unsigned followers; // clients that want to be told events
	bool freed;	    // memory or a slot became free: try the limited offers
	unsigned limited_left; // of them, to be tried yet
	bool failed;	    // the loop was ended because we cannot go on
	struct rlmd_counters counters;
	struct rlmd_sums gone; // of processes that are gone
	char moves_path[128]; // see move.c
	bool linked;	      // links were made, by us or a broker before us
	bool succeeds;	      // a broker that made links
	char host[RLMD_NAME_MAX];
	uint64_t id;
	double started;
	struct rlmd_lookup lookup;
	bool isn; // may read sequence numbers in repair mode
	struct rlmd_xen *xen; // NULL: local role
	ev_timer timer;
	ev_prepare prepare;
};

// join.c
void rlmd_offer_add(struct rlmd_broker *broker, struct rlmd_offer *offer);
void rlmd_offer_free(struct rlmd_broker *broker, struct rlmd_offer *offer);
void rlmd_offer_note(struct rlmd_offer *offer, enum rlm_why why, bool again);
void rlmd_offer_try(struct rlmd_broker *broker, struct rlmd_offer *offer);
void rlmd_segment_drop(struct rlmd_broker *broker, struct rlmd_segment *segment);
void rlmd_release(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *msg);
// Nobody has it mapped any more.
void rlmd_link_end(struct rlmd_broker *broker, struct rlmd_link *link);
// The same, for a slot of one of our own links.
void rlmd_release_own(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *msg);
// The link is of no use: it could not be made.
void rlmd_link_abandon(struct rlmd_broker *broker, struct rlmd_link *link);
void rlmd_links_close(struct rlmd_broker *broker, struct rlmd_client *client);
// Groups changed: links across groups end, offers get another chance.
void rlmd_regroup(struct rlmd_broker *broker);
// Something changed: all offers get another chance.
void rlmd_offers_retry(struct rlmd_broker *broker);

// handler.c
void rlmd_handle(struct rlmd_broker *broker, struct rlmd_client *client, const union rlm_msg *msg, size_t size,
		 int *fds, unsigned fd_count);

// report.c
void rlmd_request(struct rlmd_broker *broker, struct rlmd_client *client, const char *text, size_t length);
void rlmd_events_tell(struct rlmd_broker *broker);

// Appends live connections, as far as the client may see them, to a JSON array.
void rlmd_report_connections(struct rlmd_broker *broker, struct rlmd_client *asking, json_t *list);
// asking NULL: everything.
bool rlmd_report_may_see(const struct rlmd_client *asking, const struct rlmd_client *client);

// order.c
json_t *rlmd_order(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request, enum rlm_order order);

// timer.c
void rlmd_timer_init(struct rlmd_broker *broker);
void rlmd_timer_deinit(struct rlmd_broker *broker);

// broker.c
// host: what location numbers tell us from other brokers by; lives as long as the broker.
int rlmd_broker_init(struct rlmd_broker *broker, struct ev_loop *loop, const struct rlmd_backend *backend, const char *host);
void rlmd_broker_deinit(struct rlmd_broker *broker);
uint64_t rlmd_random(void);

#endif

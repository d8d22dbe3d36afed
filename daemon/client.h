// SPDX-License-Identifier: BSD-2-Clause
// One session: a process, or rlmctl; or a process of another Xen domain, whose session is with the rlmd there (no socket, no table).
// Whatever goes wrong with it dooms it; it is taken apart later, when nobody is in
// the middle of using it.
#ifndef RLMD_CLIENT_H
#define RLMD_CLIENT_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "link.h"
#include "outbox.h"
#include "rlm/proto.h"
#include "rlm/rlm.h"

struct rlmd_broker;
struct rlmd_departure;
struct rlmd_domain;
struct rlmd_guest;
struct rlmd_question;
struct rlmd_kept;
struct rlmd_leave;
struct rlmd_offer;
struct rlmd_quiesce;
struct rlmd_table;
struct rlmd_user;
struct rlm_tickets_shared;

struct rlmd_client {
	struct rlmd_party party;
	struct rlmd_broker *broker;
	struct rlmd_client *prev, *next; // rlmd_broker.clients
	struct rlmd_client *doomed_next; // rlmd_broker.doomed
	struct rlmd_guest *guest;	 // the other domain's rlmd; NULL: a session of our own
	uint32_t number;		 // what guest and broker call it
	UT_hash_handle hh_guest;	 // rlmd_guest.clients, by number
	int fd;				 // -1: none
	ev_io readable, writable;
	ev_timer later;
	pid_t pid; // as we see it
	uid_t uid;
	struct rlmd_user *user; // NULL: a process of another domain
	bool paused;		// its user has had more than its share of our time
	char command[32];
	char state; // of another domain's process, when it was last told to leave a link
	bool hello;
	bool doomed;
	struct rlmd_domain *domain; // of the session's socket; reference
	struct rlmd_table *table;
	struct rlm_tickets_shared *tickets; // NULL: sequence numbers cannot be read
	struct rlmd_kept *kept;	   // links of an earlier broker
	struct rlmd_leave *leaves; // links that it was told to leave and has not left yet
	struct rlmd_offer *offers;
	unsigned offer_count;
	struct rlmd_outbox outbox;
	struct {
		char *text;
		size_t length;
	} request;
	struct {
		char *text; // owned; length bytes, the first sent of them are on their way
		size_t length;
		size_t sent;
	} reply;
	struct rlmd_quiesce *quiesce; // that this rlmctl asked for
	struct rlmd_departure *departure; // the same, of a Xen domain
	struct rlmd_question *question; // that waits for other domains' answers
	bool follow; // rlmctl events --follow
	uint64_t follow_next;
};

// Owns fd. NULL: out of memory, fd is closed.
struct rlmd_client *rlmd_client_new(struct rlmd_broker *broker, int fd);
// A process of another domain. The caller fills in who it is. NULL: out of memory.
struct rlmd_client *rlmd_client_new_far(struct rlmd_broker *broker, struct rlmd_domain *domain);
void rlmd_client_free(struct rlmd_client *client);
void rlmd_client_doom(struct rlmd_client *client, const char *reason);
void rlmd_client_send(struct rlmd_client *client, const void *msg, const int *fds, unsigned fd_count);
void rlmd_client_note(struct rlmd_client *client, struct rlm_conn_ref conn, enum rlm_why why, bool again);
void rlmd_client_named(struct rlmd_client *client, struct rlm_conn_ref conn, enum rlm_why why);
// Takes text, allocated with malloc. False: a reply is still on its way.
bool rlmd_client_reply(struct rlmd_client *client, char *text);
bool rlmd_client_is_admin(const struct rlmd_client *client);

#endif

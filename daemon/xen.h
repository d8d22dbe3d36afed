// SPDX-License-Identifier: BSD-2-Clause
// The two roles on Xen. broker: in dom0, knows the domains of the host and matches connections between them. guest: in any other domain,
// serves its processes as the local role does, and what finds no peer there it offers to the broker. A build without Xen has the same
// functions, which do nothing (xen_none.c).
#ifndef RLMD_XEN_H
#define RLMD_XEN_H

#include <jansson.h>
#include <stdbool.h>

#include "link.h"
#include "rlm/proto.h"
#include "rlm/rlm.h"

struct rlmd_broker;
struct rlmd_client;
struct rlmd_domain;
struct rlmd_offer;
struct rlmd_xen;

enum rlmd_role {
	RLMD_ROLE_AUTO,
	RLMD_ROLE_LOCAL,
	RLMD_ROLE_BROKER,
	RLMD_ROLE_GUEST,
};

// What this kernel is: what AUTO stands for.
enum rlmd_role rlmd_xen_role(void);
// Begins; broker->xen stays NULL in the local role. 0 or -errno, error tells.
int rlmd_xen_init(struct rlmd_broker *broker, enum rlmd_role role, char *error, size_t error_size);
void rlmd_xen_deinit(struct rlmd_broker *broker);
const char *rlmd_xen_role_name(const struct rlmd_broker *broker);

// Called by join.c and client.c, in any role:

// The link has its ends in two domains: a message for the process at one of them.
void rlmd_xen_send(struct rlmd_broker *broker, struct rlmd_link *link, unsigned side, const void *msg);
// A process of another domain: passes a message to its rlmd.
void rlmd_xen_relay(struct rlmd_client *client, unsigned peer_domain, const void *msg);
// guest: an offer that found no peer here. It ends with withdrawn() or with a BIND.
void rlmd_xen_offered(struct rlmd_broker *broker, struct rlmd_offer *offer);
void rlmd_xen_withdrawn(struct rlmd_broker *broker, struct rlmd_offer *offer);
// Why an offer has no peer that was not matched in time: guest: the broker may not be there to look for one.
enum rlm_why rlmd_xen_unmatched(const struct rlmd_broker *broker);
// A slot that is in none of our own links. False: nobody knows it.
bool rlmd_xen_release(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *release);
// The process has left a link. False: it is the broker's here to note it.
bool rlmd_xen_left(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_left *left);
void rlmd_xen_client_new(struct rlmd_broker *broker, struct rlmd_client *client);
void rlmd_xen_client_gone(struct rlmd_broker *broker, struct rlmd_client *client);
// rlmctl connections: asks the other domains, if there are any. True: takes list, and the client gets it, with theirs, later.
bool rlmd_xen_ask(struct rlmd_broker *broker, struct rlmd_client *client, json_t *list);
// rlmctl migrate: makes a domain quiet, and keeps it so until the tool stack has come and gone or the session ends. NULL: answers later.
json_t *rlmd_xen_prepare(struct rlmd_client *asking, struct rlmd_domain *domain, double seconds);
void rlmd_xen_prepare_forget(struct rlmd_client *asking);
// Adds to a domain's report what Xen knows of it.
void rlmd_xen_report(const struct rlmd_domain *domain, json_t *json);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// Links of this kernel's processes with processes of other domains. The broker in dom0 says what is to be: LINK, SEGMENT, BIND, DROP. Here they
// get their descriptors: we make our half of each part, tell the other side through the broker, and open its half when we hear of it.
// Messages wait, in order, until what they need is there. Both roles have this: dom0 may have processes of its own.
#ifndef RLMD_XEN_FAR_H
#define RLMD_XEN_FAR_H

#include <stdbool.h>
#include <stdint.h>

#include "xen_wire.h"

struct rlmd_broker;
struct rlmd_client;
struct rlmd_far_link;

struct rlmd_far {
	struct rlmd_broker *broker;
	struct rlmd_far_link *by_id;
	void (*half)(struct rlmd_broker *broker, const struct rlmd_wire_half *half);
	void (*release)(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *release);
	void (*empty)(struct rlmd_broker *broker); // the last link is gone; may be NULL
};

void rlmd_far_deinit(struct rlmd_far *far);
// A message of the broker for one of our processes; peer_domain counts for LINK alone.
void rlmd_far_deliver(struct rlmd_far *far, struct rlmd_client *client, unsigned peer_domain, const union rlm_msg *msg);
// LEAVE. False: the process does not have the link, and will not get it.
bool rlmd_far_leave(struct rlmd_far *far, struct rlmd_client *client, const union rlm_msg *msg);
// Tells LEAVE to all that have a link. The other sides hear of it elsewhere.
void rlmd_far_leave_all(struct rlmd_far *far);
// The domain is at another place: what is open of links that are being made is forgotten, and not closed, which would be a BUG of the kernel's.
void rlmd_far_abandon(struct rlmd_far *far);
// What the other side has made.
void rlmd_far_half(struct rlmd_far *far, const struct rlmd_wire_half *half);
// The process will not touch the slot again. False: no such link here.
bool rlmd_far_release(struct rlmd_far *far, struct rlmd_client *client, const struct rlm_msg_release *release);
// The process has left the link, as LEAVE told it to. False: no such link here.
bool rlmd_far_left(struct rlmd_far *far, struct rlmd_client *client, const struct rlm_msg_left *left);
void rlmd_far_client_gone(struct rlmd_far *far, struct rlmd_client *client);
// The domain is no more: whoever maps its memory has to let go, or it stays a zombie.
void rlmd_far_domain_lost(struct rlmd_far *far, unsigned domain);

#endif

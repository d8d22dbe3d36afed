// SPDX-License-Identifier: BSD-2-Clause
// A domain that is about to be suspended, for a save or a live migration. The broker makes it quiet first:
//
//   LEAVING   every link to and from it is left by both its processes (leave.c)
//   CLOSING   its rlmd closes what is left, the channel to us too, and says so in xenstore (xen_node.h)
//   QUIET     it may be suspended. Nothing is matched and no channel is served until the tool stack's helper has ended
//
// It begins when the tool stack executes its helper, which the guard holds meanwhile (xen_guard.h), or before that by `rlmctl migrate`. Who does not
// answer in time is named in the refusal, and everything goes on as before.
#ifndef RLMD_XEN_MOVE_H
#define RLMD_XEN_MOVE_H

#include <jansson.h>
#include <stdbool.h>

struct rlmd_broker;
struct rlmd_client;
struct rlmd_guest;

int rlmd_departures_init(struct rlmd_broker *broker, char *error, size_t error_size);
void rlmd_departures_deinit(struct rlmd_broker *broker);
// What the domain says of itself in xenstore has changed.
void rlmd_departure_look(struct rlmd_guest *guest);
// The domain is no more.
void rlmd_departure_gone(struct rlmd_guest *guest);

#endif

// SPDX-License-Identifier: BSD-2-Clause
// What the parts of the Xen roles know of one another.
#ifndef RLMD_XEN_INTERNAL_H
#define RLMD_XEN_INTERNAL_H

#include <ev.h>

#include "broker.h"
#include "xen.h"
#include "xen_far.h"
#include "xen_pipe.h"
#include "xen_store.h"

#define RLMD_GUEST_MACS	     4
#define RLMD_GUEST_ADDRESSES 16

struct rlmd_departure;
struct xs_handle;

// A domain of the host, as the broker sees it.
struct rlmd_guest {
	struct rlmd_broker *broker;
	struct rlmd_guest *prev, *next; // rlmd_xen.guests
	unsigned id;			// Xen's number
	bool seen;			// in the last look at xenstore
	bool hello;
	uint64_t location;
	char uuid[40];
	char macs[RLMD_GUEST_MACS][18]; // as xenstore knows them
	unsigned mac_count;
	unsigned assigned_count;
	struct rlmd_endpoint assigned[RLMD_GUEST_ADDRESSES]; // by the administrator: nobody else's
	unsigned address_count;
	struct rlmd_endpoint address[RLMD_WIRE_ADDRESSES]; // as it says itself, as far as that may be so
	ev_timer serve;
	double served;		       // when it got its last channel
	double pause;		       // before it gets the next one
	char asked[25]; // the number it asked for a channel with; "": did not
	struct rlmd_departure *departure; // it is about to be suspended
	struct rlmd_domain *domain; // reference
	struct rlmd_pipe pipe;
	struct rlmd_client *clients; // by number
	unsigned client_count;
	uint32_t asked_number; // question that it has not answered yet
	char *answer;	       // so far
	size_t answer_size;
};

struct rlmd_xen {
	enum rlmd_role role;
	struct xs_handle *store;
	ev_io watch;
	struct rlmd_far far;
	// broker
	struct rlmd_guest *guests;
	struct rlmd_guest nobody; // of clients whose domain is gone, until they are taken apart
	ev_io guard; // see xen_guard.h
	struct rlmd_failed_link *failed;
	ev_timer failed_turn;
	struct rlmd_question *questions;
	uint32_t next_question;
	// guest
	struct rlmd_pipe pipe;
	bool welcome;
	char number[20]; // that we asked for a channel with
	char told[64];	 // what we say of ourselves in xenstore, see xen_node.h
	int untold;	 // the error with which it did not take that last
	bool attaching;
	bool attach_failed; // and was said
	bool closing;  // CLOSE came
	bool leftover; // an earlier rlmd's processes had channels open when we began
	ev_timer ask_again;
	ev_io addresses; // tells that they have changed
	uint64_t location;
};

// xen_domains.c
int rlmd_domains_follow(struct rlmd_broker *broker);
void rlmd_domains_forget(struct rlmd_broker *broker);
// The path of a node below the domain's home.
void rlmd_guest_path(char *path, size_t size, const struct rlmd_guest *guest, const char *node);
// xen_broker.c
void rlmd_guest_begin(struct rlmd_guest *guest);
// xen_address.c
// Whether the address is another domain's and not this one's: the owner.
const struct rlmd_guest *rlmd_address_owner(const struct rlmd_guest *guest, const struct rlmd_endpoint *endpoint);
bool rlmd_address_valid(const struct rlmd_endpoint *endpoint);
// Takes over what it says, as far as it fits what is known of its interfaces.
void rlmd_addresses_learn(struct rlmd_guest *guest, const struct rlmd_wire_hello *wire);
// Reads what xenstore knows: "ADDRESS ADDRESS ..."
void rlmd_addresses_assign(struct rlmd_guest *guest, const char *text);
void rlmd_addresses_list(struct rlmd_wire_hello *wire);
void rlmd_addresses_watch(struct rlmd_broker *broker, void (*changed)(struct rlmd_broker *broker));
void rlmd_addresses_unwatch(struct rlmd_broker *broker);

// A process of ours is gone: tells the broker.
void rlmd_guest_client_gone(struct rlmd_broker *broker, struct rlmd_client *client);
// xen_ask.c
void rlmd_xen_ask_forget(struct rlmd_client *client);
void rlmd_xen_told(struct rlmd_guest *guest, const struct rlmd_wire_text *wire);
void rlmd_xen_answer(struct rlmd_broker *broker, const struct rlmd_wire_text *ask);

// A domain of the host; NULL: none.
struct rlmd_guest *rlmd_guest_by_id(struct rlmd_broker *broker, unsigned id);
// Ends its channel.
void rlmd_guest_shut(struct rlmd_guest *guest);
// Serves it one, soon, if it wants one and may have it.
void rlmd_channel_asked(struct rlmd_guest *guest);

int rlmd_guest_role_init(struct rlmd_broker *broker, char *error, size_t error_size);
void rlmd_guest_role_deinit(struct rlmd_broker *broker);
int rlmd_broker_role_init(struct rlmd_broker *broker, char *error, size_t error_size);
void rlmd_broker_role_deinit(struct rlmd_broker *broker);

#endif

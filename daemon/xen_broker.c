// SPDX-License-Identifier: BSD-2-Clause
// The broker role, in dom0: follows the host's domains in xenstore, serves each that asks a channel, and lets their processes take part in
// the matching as clients whose descriptors somebody else makes. Nothing that a domain says is believed before it is checked, and nothing it
// does makes us wait.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <libxenvchan.h>

#include "codec.h"
#include "leave.h"
#include "log.h"
#include "xen_internal.h"
#include "xen_move.h"
#include "xen_node.h"

#define CLIENTS_MAX	4096u // processes of one domain
#define SERVE_PAUSE	0.2   // seconds before a domain gets a channel; twice as long each time when it asks again soon
#define SERVE_PAUSE_MAX 10.0

// A link of which a side could not make its half.
struct rlmd_failed_link {
	uint64_t id;
	struct rlmd_failed_link *next;
};

// --- processes of domains

static struct rlmd_client *client_find(struct rlmd_guest *guest, uint32_t number)
{
	struct rlmd_client *client;

	HASH_FIND(hh_guest, guest->clients, &number, sizeof(number), client);
	return client;
}

static void clients_end(struct rlmd_guest *guest)
{
	struct rlmd_client *client, *next;
	struct rlmd_link_end *end;

	// Its processes leave by themselves what they have with others, who have to leave it as well.
	HASH_ITER (hh_guest, guest->clients, client, next) {
		DL_FOREACH (client->party.ends, end)
			rlmd_link_leave(guest->broker, end->link, NULL);
		rlmd_client_doom(client, "its domain's rlmd is gone");
	}
}

static void refuse(struct rlmd_guest *guest, const char *why)
{
	guest->broker->counters.misbehaved++;
	log_warn("%s: %s: channel closed", guest->domain->name, why);
	rlmd_event(&guest->broker->events, "misbehaved", guest->domain->name, NULL, "%s", why);
	rlmd_pipe_close(&guest->pipe);
	guest->hello = false;
	clients_end(guest);
}

static void client_add(struct rlmd_guest *guest, const struct rlmd_wire_client *wire)
{
	struct rlmd_client *client;

	if (client_find(guest, wire->header.client)) {
		refuse(guest, "two processes of one number");
		return;
	}
	client = guest->client_count < CLIENTS_MAX ? rlmd_client_new_far(guest->broker, guest->domain) : NULL;
	if (!client) {
		refuse(guest, "too many processes");
		return;
	}
	client->guest = guest;
	client->number = wire->header.client;
	client->pid = (pid_t)wire->pid;
	client->uid = wire->uid;
	rlmd_text_clean(client->command, sizeof(client->command), wire->command, sizeof(wire->command));
	HASH_ADD(hh_guest, guest->clients, number, sizeof(client->number), client);
	guest->client_count++;
	rlmd_event(&guest->broker->events, "process", guest->domain->name, NULL, "%s[%d]", client->command, (int)client->pid);
}

void rlmd_xen_client_gone(struct rlmd_broker *broker, struct rlmd_client *client)
{
	if (!broker->xen)
		return;
	rlmd_xen_ask_forget(client);
	if (client->guest) {
		HASH_DELETE(hh_guest, client->guest->clients, client);
		client->guest->client_count--;
		return;
	}
	rlmd_far_client_gone(&broker->xen->far, client);
	if (broker->xen->role == RLMD_ROLE_GUEST)
		rlmd_guest_client_gone(broker, client);
}

static void offer(struct rlmd_guest *guest, struct rlmd_client *client, const struct rlmd_wire_offer *wire)
{
	struct rlmd_broker *broker = guest->broker;
	const struct rlmd_guest *owner = rlmd_address_owner(guest, &wire->local);
	struct rlmd_offer *fresh, *old;

	HASH_FIND(hh, client->offers, &wire->conn.index, sizeof(wire->conn.index), old);
	if (old)
		rlmd_offer_free(broker, old);
	if (!rlmd_address_valid(&wire->local) || !rlmd_address_valid(&wire->remote)) {
		refuse(guest, "an address of unknown family");
		return;
	}
	if (owner) {
		rlmd_event(&broker->events, "foreign-address", guest->domain->name, owner->domain->name, "%s[%d] port %u", client->command,
			   (int)client->pid, wire->local.port);
		rlmd_client_note(client, wire->conn, RLM_WHY_UNNAMED, false);
		return;
	}
	fresh = client->offer_count < broker->config.limits.offers_per_process ? calloc(1, sizeof(*fresh)) : NULL;
	if (!fresh) {
		rlmd_client_note(client, wire->conn, RLM_WHY_LIMIT, false);
		return;
	}
	fresh->client = client;
	fresh->conn = wire->conn;
	fresh->how = RLM_NAME_ISN;
	fresh->domain = rlmd_domain_get(guest->domain);
	fresh->end.has[RLMD_NAME_ISN] = true;
	fresh->end.isn = wire->isn;
	fresh->end.tuple.netns = guest->domain->cookie;
	fresh->end.tuple.local = wire->local;
	fresh->end.tuple.remote = wire->remote;
	rlmd_offer_add(broker, fresh);
}

// What a process may say of itself through its rlmd.
static void message(struct rlmd_guest *guest, struct rlmd_client *client, const struct rlmd_wire_message *wire)
{
	uint16_t type = wire->msg.header.type;

	if (type != RLM_MSG_WITHDRAW && type != RLM_MSG_RELEASE && type != RLM_MSG_LEFT) {
		refuse(guest, "a message that is not for the broker");
		return;
	}
	rlmd_handle(guest->broker, client, &wire->msg, wire->msg.header.size, NULL, 0);
}

// --- halves of links

static struct rlmd_client *client_of(struct rlmd_party *party)
{
	return party ? (struct rlmd_client *)((char *)party - offsetof(struct rlmd_client, party)) : NULL;
}

static void failed_add(struct rlmd_broker *broker, uint64_t id)
{
	struct rlmd_failed_link *failed = calloc(1, sizeof(*failed));

	if (!failed)
		return;
	failed->id = id;
	LL_PREPEND(broker->xen->failed, failed);
	// Later: whoever told us may be in the middle of making the link.
	ev_feed_event(broker->loop, &broker->xen->failed_turn, EV_CUSTOM);
}

static void on_failed(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_broker *broker = timer->data;
	struct rlmd_failed_link *failed;
	struct rlmd_link *link;

	while ((failed = broker->xen->failed)) {
		LL_DELETE(broker->xen->failed, failed);
		link = rlmd_link_by_id(&broker->links, failed->id);
		if (link)
			rlmd_link_abandon(broker, link);
		free(failed);
	}
}

// From one side's maker to the other's.
static void half_route(struct rlmd_broker *broker, const struct rlmd_guest *from, const struct rlmd_wire_half *half)
{
	struct rlmd_link *link = rlmd_link_by_id(&broker->links, half->link);
	struct rlmd_wire_half wire = *half;
	struct rlmd_client *maker, *other;

	if (!link || !link->far || half->side > 1)
		return; // dropped meanwhile
	maker = client_of(link->end[half->side].party);
	other = client_of(link->end[!half->side].party);
	if (!maker || maker->guest != from || !rlmd_link_tell(link, half->side, half->segment, half->status != 0))
		return; // not its own, or said before
	if (half->status)
		failed_add(broker, half->link);
	if (!other)
		return;
	wire.header.client = other->number;
	if (other->guest)
		rlmd_pipe_send(&other->guest->pipe, &wire);
	else
		rlmd_far_half(&broker->xen->far, &wire);
}

static void half_own(struct rlmd_broker *broker, const struct rlmd_wire_half *half)
{
	half_route(broker, NULL, half);
}

// --- what domains say

static void hello(struct rlmd_guest *guest, const struct rlmd_wire_hello *wire)
{
	struct rlmd_wire_welcome welcome = {
	    .header = {.type = RLMD_WIRE_WELCOME, .size = sizeof(welcome)}, .version = RLMD_WIRE_VERSION, .location = guest->location};

	if (wire->version != RLMD_WIRE_VERSION || wire->addresses > RLMD_WIRE_ADDRESSES) {
		refuse(guest, "another version of the protocol");
		return;
	}
	rlmd_addresses_learn(guest, wire);
	if (guest->hello)
		return;
	guest->hello = true;
	snprintf(welcome.name, sizeof(welcome.name), "%s", guest->domain->name);
	rlmd_pipe_send(&guest->pipe, &welcome);
	log_info("%s has registered", guest->domain->name);
	rlmd_event(&guest->broker->events, "registered", guest->domain->name, NULL, "location %016llx", (unsigned long long)guest->location);
}

static void on_message(void *owner, const union rlmd_wire *wire)
{
	struct rlmd_guest *guest = owner;
	struct rlmd_client *client = client_find(guest, wire->header.client);

	if (!guest->hello && wire->header.type != RLMD_WIRE_HELLO) {
		refuse(guest, "a message before HELLO");
		return;
	}
	switch (wire->header.type) {
	case RLMD_WIRE_HELLO:
		hello(guest, &wire->hello);
		break;
	case RLMD_WIRE_CLIENT:
		client_add(guest, &wire->client);
		break;
	case RLMD_WIRE_HALF:
		half_route(guest->broker, guest, &wire->half);
		break;
	case RLMD_WIRE_TELL:
		rlmd_xen_told(guest, &wire->text);
		break;
	case RLMD_WIRE_GONE:
		if (client)
			rlmd_client_doom(client, "closed");
		break;
	case RLMD_WIRE_STATE:
		if (client)
			client->state = (char)wire->state.state;
		break;
	case RLMD_WIRE_OFFER:
		if (client && !client->doomed)
			offer(guest, client, &wire->offer);
		break;
	case RLMD_WIRE_MESSAGE:
		if (client && !client->doomed)
			message(guest, client, &wire->message);
		break;
	}
}

static void on_over(void *owner, const char *why)
{
	struct rlmd_guest *guest = owner;
	struct rlmd_broker *broker = guest->broker;

	log_info("%s: its rlmd is gone: %s", guest->domain->name, why);
	rlmd_event(&broker->events, "unregistered", guest->domain->name, NULL, "%s", why);
	guest->hello = false;
	clients_end(guest);
}

void rlmd_guest_shut(struct rlmd_guest *guest)
{
	char path[64];

	rlmd_guest_path(path, sizeof(path), guest, RLMD_WIRE_CHANNEL_NODE);
	rlmd_store_remove(guest->broker->xen, path);
	rlmd_pipe_close(&guest->pipe);
	guest->hello = false;
	clients_end(guest);
}

// --- channels

// Who comes again and again has to wait longer each time.
static void pause_set(struct rlmd_guest *guest)
{
	double now = ev_now(guest->broker->loop);

	guest->pause = now - guest->served > SERVE_PAUSE_MAX ? SERVE_PAUSE : guest->pause * 2;
	if (guest->pause > SERVE_PAUSE_MAX)
		guest->pause = SERVE_PAUSE_MAX;
	guest->served = now;
}

static struct libxenvchan *channel_make(struct rlmd_guest *guest)
{
	struct libxenvchan *channel = NULL;
	char path[64];

	// First: when the channel is seen, this is.
	rlmd_guest_path(path, sizeof(path), guest, RLMD_WIRE_FOR_NODE);
	if (!rlmd_store_write(guest->broker->xen, path, guest->asked))
		return NULL;
	rlmd_guest_path(path, sizeof(path), guest, RLMD_WIRE_CHANNEL_NODE);
	rlmd_store_begin();
	channel = libxenvchan_server_init(NULL, (int)guest->id, path, RLMD_WIRE_RING, RLMD_WIRE_RING);
	rlmd_store_end();
	return channel;
}

static void channel_serve(struct rlmd_guest *guest)
{
	struct libxenvchan *channel;
	char path[64], value[RLMD_NODE_SIZE], asked[sizeof(guest->asked)];

	rlmd_guest_path(path, sizeof(path), guest, RLMD_WIRE_ASK_NODE);
	rlmd_store_read(guest->broker->xen, path, value, sizeof(value));
	rlmd_node_number(value, asked);
	// One that closed its channel to be suspended gets one again without having to ask.
	if (guest->departure || (strcmp(asked, guest->asked) == 0 && (guest->pipe.channel || !rlmd_node_is_quiet(value))))
		return;
	memcpy(guest->asked, asked, sizeof(asked));
	rlmd_guest_shut(guest);
	if (!asked[0])
		return;
	pause_set(guest);
	channel = channel_make(guest);
	if (channel) {
		log_debug("%s: a channel for request %s", guest->domain->name, asked);
		rlmd_pipe_open(&guest->pipe, guest->broker->loop, channel);
		return;
	}
	log_warn("%s: cannot serve a channel: %s", guest->domain->name, strerror(errno));
	rlmd_event(&guest->broker->events, "channel-failed", guest->domain->name, NULL, "%s", strerror(errno));
	guest->asked[0] = 0;
	rlmd_channel_asked(guest);
}

static void on_serve(struct ev_loop *loop, ev_timer *timer, int events)
{
	channel_serve(timer->data);
}

void rlmd_channel_asked(struct rlmd_guest *guest)
{
	double wait = guest->served + guest->pause - ev_now(guest->broker->loop);

	if (ev_is_active(&guest->serve))
		return;
	ev_timer_set(&guest->serve, wait > SERVE_PAUSE ? wait : SERVE_PAUSE, 0);
	ev_timer_start(guest->broker->loop, &guest->serve);
}

void rlmd_guest_begin(struct rlmd_guest *guest)
{
	guest->pipe.owner = guest;
	guest->pipe.message = on_message;
	guest->pipe.over = on_over;
	ev_timer_init(&guest->serve, on_serve, 0, 0);
	guest->serve.data = guest;
}

// --- the role

int rlmd_broker_role_init(struct rlmd_broker *broker, char *error, size_t error_size)
{
	struct rlmd_xen *xen = broker->xen;
	int err;

	err = rlmd_departures_init(broker, error, error_size); // first: nobody has a channel yet
	if (err)
		return err;
	xen->far.half = half_own;
	xen->far.release = rlmd_release_own;
	ev_timer_init(&xen->failed_turn, on_failed, 0, 0);
	xen->failed_turn.data = broker;
	if (rlmd_domains_follow(broker)) {
		snprintf(error, error_size, "cannot watch xenstore");
		return -EIO;
	}
	return 0;
}

void rlmd_broker_role_deinit(struct rlmd_broker *broker)
{
	ev_timer_stop(broker->loop, &broker->xen->failed_turn);
	rlmd_departures_deinit(broker);
	rlmd_domains_forget(broker);
}

// --- rlmctl domains

void rlmd_xen_report(const struct rlmd_domain *domain, json_t *json)
{
	const struct rlmd_guest *guest = domain->guest;
	json_t *macs = json_array(), *addresses = json_array();
	char text[INET6_ADDRSTRLEN];

	if (guest) {
		for (unsigned i = 0; i < guest->mac_count; i++)
			json_array_append_new(macs, json_string(guest->macs[i]));
		for (unsigned i = 0; i < guest->address_count; i++)
			if (inet_ntop(guest->address[i].family, guest->address[i].address, text, sizeof(text)))
				json_array_append_new(addresses, json_string(text));
		json_object_set_new(json, "id", json_integer(guest->id));
		json_object_set_new(json, "uuid", json_string(guest->uuid));
		json_object_set(json, "macs", macs);
		json_object_set(json, "addresses", addresses);
		json_object_set_new(json, "registered", json_boolean(guest->hello));
	}
	json_decref(macs);
	json_decref(addresses);
}

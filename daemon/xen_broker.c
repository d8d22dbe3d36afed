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
#include <xenstore.h>

#include "codec.h"
#include "leave.h"
#include "log.h"
#include "xen_internal.h"
#include "xen_move.h"
#include "xen_node.h"

#define CLIENTS_MAX 4096u // processes of one domain
#define SERVE_PAUSE 0.2	  // seconds between two channels for one domain, however often it asks

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

static bool endpoint_valid(const struct rlmd_endpoint *endpoint)
{
	static const uint8_t zero[12];

	return endpoint->family == AF_INET6 || (endpoint->family == AF_INET && memcmp(endpoint->address + 4, zero, sizeof(zero)) == 0);
}

// Another domain has said that the address is its own, and this one has not.
static const struct rlmd_guest *address_owner(const struct rlmd_guest *guest, const struct rlmd_endpoint *endpoint)
{
	const struct rlmd_guest *other, *owner = NULL;

	DL_FOREACH (guest->broker->xen->guests, other)
		for (uint32_t i = 0; i < other->address_count; i++)
			if (other->address[i].family == endpoint->family &&
			    memcmp(other->address[i].address, endpoint->address, sizeof(endpoint->address)) == 0) {
				if (other == guest)
					return NULL;
				owner = other;
			}
	return owner;
}

static void offer(struct rlmd_guest *guest, struct rlmd_client *client, const struct rlmd_wire_offer *wire)
{
	struct rlmd_broker *broker = guest->broker;
	const struct rlmd_guest *owner = address_owner(guest, &wire->local);
	struct rlmd_offer *fresh, *old;

	HASH_FIND(hh, client->offers, &wire->conn.index, sizeof(wire->conn.index), old);
	if (old)
		rlmd_offer_free(broker, old);
	if (!endpoint_valid(&wire->local) || !endpoint_valid(&wire->remote)) {
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
	if (!maker || maker->guest != from)
		return; // not its own
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
	guest->address_count = 0;
	for (uint32_t i = 0; i < wire->addresses; i++)
		if (endpoint_valid(&wire->address[i]))
			guest->address[guest->address_count++] = wire->address[i];
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

static void home_path(char *path, size_t size, const struct rlmd_guest *guest, const char *node)
{
	snprintf(path, size, "/local/domain/%u/%s", guest->id, node);
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
	rlmd_pipe_close(&guest->pipe);
	guest->hello = false;
	clients_end(guest);
}

// --- domains

static void channel_serve(struct rlmd_guest *guest)
{
	struct rlmd_broker *broker = guest->broker;
	struct libxenvchan *channel;
	char path[64], value[RLMD_NODE_SIZE], asked[sizeof(guest->asked)];

	home_path(path, sizeof(path), guest, RLMD_WIRE_ASK_NODE);
	rlmd_store_read(broker->xen, path, value, sizeof(value));
	rlmd_node_number(value, asked);
	// One that closed its channel to be suspended gets one again without having to ask.
	if (guest->departure || (strcmp(asked, guest->asked) == 0 && (guest->pipe.channel || !rlmd_node_is_quiet(value))))
		return;
	memcpy(guest->asked, asked, sizeof(asked));
	rlmd_guest_shut(guest);
	if (!asked[0])
		return;
	home_path(path, sizeof(path), guest, RLMD_WIRE_CHANNEL_NODE);
	xs_rm(broker->xen->store, XBT_NULL, path);
	channel = libxenvchan_server_init(NULL, (int)guest->id, path, RLMD_WIRE_RING, RLMD_WIRE_RING);
	if (!channel) {
		log_warn("%s: cannot serve a channel: %s", guest->domain->name, strerror(errno));
		guest->asked[0] = 0;
		return;
	}
	rlmd_pipe_open(&guest->pipe, broker->loop, channel);
}

static void on_serve(struct ev_loop *loop, ev_timer *timer, int events)
{
	channel_serve(timer->data);
}

void rlmd_channel_asked(struct rlmd_guest *guest)
{
	if (!ev_is_active(&guest->serve)) {
		ev_timer_set(&guest->serve, SERVE_PAUSE, 0);
		ev_timer_start(guest->broker->loop, &guest->serve);
	}
}

static void macs_read(struct rlmd_guest *guest)
{
	struct rlmd_xen *xen = guest->broker->xen;
	char path[96], mac[sizeof(guest->macs[0])];
	unsigned count = 0;
	char **vifs;

	home_path(path, sizeof(path), guest, "device/vif");
	vifs = xs_directory(xen->store, XBT_NULL, path, &count);
	guest->mac_count = 0;
	for (unsigned i = 0; vifs && i < count && guest->mac_count < 4; i++) {
		// The domain writes there: it gets no control characters into a terminal.
		snprintf(path, sizeof(path), "/local/domain/%u/device/vif/%.16s/mac", guest->id, vifs[i]);
		if (rlmd_store_read(xen, path, mac, sizeof(mac)))
			rlmd_text_clean(guest->macs[guest->mac_count++], sizeof(guest->macs[0]), mac, sizeof(mac));
	}
	free(vifs);
}

static void names_read(struct rlmd_guest *guest)
{
	struct rlmd_xen *xen = guest->broker->xen;
	char path[64], value[RLMD_NAME_MAX - 8];

	home_path(path, sizeof(path), guest, "name");
	if (rlmd_store_read(xen, path, value, sizeof(value)))
		snprintf(guest->domain->name, sizeof(guest->domain->name), "domain:%s", value);
	home_path(path, sizeof(path), guest, "vm");
	if (rlmd_store_read(xen, path, value, sizeof(value)) && strncmp(value, "/vm/", 4) == 0)
		snprintf(guest->uuid, sizeof(guest->uuid), "%.36s", value + 4);
	snprintf(guest->domain->inode_name, sizeof(guest->domain->inode_name), "uuid:%s", guest->uuid);
	home_path(path, sizeof(path), guest, "rlm/group");
	rlmd_store_read(xen, path, guest->domain->group, sizeof(guest->domain->group));
	macs_read(guest);
}

static void guest_add(struct rlmd_broker *broker, unsigned id)
{
	struct rlmd_guest *guest = calloc(1, sizeof(*guest));
	char path[64], token[16];

	if (!guest)
		return;
	guest->broker = broker;
	guest->id = id;
	// Cookies of network namespaces are small numbers. Xen gives a number once, as long as it has others.
	guest->domain = rlmd_domain_make(&broker->domains, 1ull << 63 | id);
	if (!guest->domain) {
		free(guest);
		return;
	}
	guest->domain->guest = guest;
	guest->location = rlmd_location_number(&guest->domain->location);
	guest->pipe.owner = guest;
	guest->pipe.message = on_message;
	guest->pipe.over = on_over;
	ev_timer_init(&guest->serve, on_serve, 0, 0);
	guest->serve.data = guest;
	snprintf(guest->domain->name, sizeof(guest->domain->name), "domain:#%u", id);
	names_read(guest);
	DL_APPEND(broker->xen->guests, guest);
	log_info("%s: domain %u, uuid %s", guest->domain->name, id, guest->uuid);
	rlmd_event(&broker->events, "domain", guest->domain->name, NULL, "domain %u, uuid %s, location %016llx", id, guest->uuid,
		   (unsigned long long)guest->location);
	home_path(path, sizeof(path), guest, RLMD_WIRE_ASK_NODE);
	snprintf(token, sizeof(token), "%u", id);
	xs_watch(broker->xen->store, path, token);
	home_path(path, sizeof(path), guest, "name");
	xs_watch(broker->xen->store, path, token);
	home_path(path, sizeof(path), guest, "rlm/group");
	xs_watch(broker->xen->store, path, token);
}

static void watches_end(struct rlmd_guest *guest)
{
	static const char *const nodes[] = {RLMD_WIRE_ASK_NODE, "name", "rlm/group"};
	char path[64], token[16];

	snprintf(token, sizeof(token), "%u", guest->id);
	for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
		home_path(path, sizeof(path), guest, nodes[i]);
		xs_unwatch(guest->broker->xen->store, path, token);
	}
}

static void guest_free(struct rlmd_guest *guest)
{
	ev_timer_stop(guest->broker->loop, &guest->serve);
	guest->domain->guest = NULL;
	rlmd_domain_put(&guest->broker->domains, guest->domain);
	free(guest->answer);
	free(guest);
}

// The domain is gone for good. Its memory is free only when nobody maps it any more.
static void guest_remove(struct rlmd_guest *guest)
{
	struct rlmd_broker *broker = guest->broker;
	struct rlmd_wire_header lost = {.type = RLMD_WIRE_GONE, .size = sizeof(lost), .client = guest->id};
	struct rlmd_client *client, *next;
	struct rlmd_guest *other;

	log_info("%s: domain %u is gone", guest->domain->name, guest->id);
	rlmd_event(&broker->events, "domain-gone", guest->domain->name, NULL, "domain %u", guest->id);
	watches_end(guest);
	rlmd_departure_gone(guest);
	rlmd_pipe_close(&guest->pipe);
	DL_DELETE(broker->xen->guests, guest);
	HASH_ITER (hh_guest, guest->clients, client, next) {
		rlmd_client_doom(client, "its domain is gone");
		HASH_DELETE(hh_guest, guest->clients, client);
		client->guest = &broker->xen->nobody;
		HASH_ADD(hh_guest, broker->xen->nobody.clients, number, sizeof(client->number), client);
	}
	DL_FOREACH (broker->xen->guests, other)
		if (other->hello)
			rlmd_pipe_send(&other->pipe, &lost);
	rlmd_far_domain_lost(&broker->xen->far, guest->id);
	guest_free(guest);
}

struct rlmd_guest *rlmd_guest_by_id(struct rlmd_broker *broker, unsigned id)
{
	struct rlmd_guest *guest;

	DL_SEARCH_SCALAR(broker->xen->guests, guest, id, id);
	return guest;
}

static void domains_look(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;
	struct rlmd_guest *guest, *next;
	unsigned count = 0;
	char **ids = xs_directory(xen->store, XBT_NULL, "/local/domain", &count);

	if (!ids) {
		log_warn("cannot list domains: %s", strerror(errno));
		return;
	}
	DL_FOREACH (xen->guests, guest)
		guest->seen = false;
	for (unsigned i = 0; i < count; i++) {
		unsigned id = (unsigned)strtoul(ids[i], NULL, 10);

		if (id == 0 || !xs_is_domain_introduced(xen->store, id))
			continue;
		if (!rlmd_guest_by_id(broker, id))
			guest_add(broker, id);
		guest = rlmd_guest_by_id(broker, id);
		if (guest)
			guest->seen = true;
	}
	free(ids);
	DL_FOREACH_SAFE (xen->guests, guest, next)
		if (!guest->seen)
			guest_remove(guest);
}

static void on_watch(struct rlmd_broker *broker, const char *path, const char *token)
{
	struct rlmd_guest *guest;

	if (strcmp(token, "domains") == 0) {
		domains_look(broker);
		return;
	}
	guest = rlmd_guest_by_id(broker, (unsigned)strtoul(token, NULL, 10));
	if (!guest)
		return;
	if (strstr(path, "/" RLMD_WIRE_ASK_NODE)) {
		rlmd_departure_look(guest);
		rlmd_channel_asked(guest);
		return;
	}
	names_read(guest);
	rlmd_regroup(broker);
}

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
	rlmd_store_watch(broker, on_watch);
	if (!xs_watch(xen->store, "@introduceDomain", "domains") || !xs_watch(xen->store, "@releaseDomain", "domains")) {
		snprintf(error, error_size, "cannot watch xenstore: %s", strerror(errno));
		return -EIO;
	}
	domains_look(broker);
	return 0;
}

void rlmd_broker_role_deinit(struct rlmd_broker *broker)
{
	struct rlmd_guest *guest, *next;
	char path[64];

	ev_timer_stop(broker->loop, &broker->xen->failed_turn);
	rlmd_departures_deinit(broker);
	DL_FOREACH_SAFE (broker->xen->guests, guest, next) {
		home_path(path, sizeof(path), guest, RLMD_WIRE_CHANNEL_NODE);
		xs_rm(broker->xen->store, XBT_NULL, path);
		DL_DELETE(broker->xen->guests, guest);
		rlmd_pipe_close(&guest->pipe);
		guest_free(guest);
	}
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

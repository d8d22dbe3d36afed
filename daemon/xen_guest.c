// SPDX-License-Identifier: BSD-2-Clause
// The guest role: asks the broker for a channel, offers it what has no peer in this domain, and does for our processes what it says.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <libxenvchan.h>

#include "leave.h"
#include "log.h"
#include "xen_internal.h"
#include "xen_maps.h"
#include "xen_node.h"

#define ASK_AGAIN      0.5 // seconds after a channel ended
#define TRY_AGAIN      5.0 // after xenstore did not take what it was told
#define WELCOME_TIME   30.0

static void up(struct rlmd_broker *broker, const void *message)
{
	rlmd_pipe_send(&broker->xen->pipe, message);
}

static bool upwards(const struct rlmd_broker *broker)
{
	return broker->xen && broker->xen->role == RLMD_ROLE_GUEST && broker->xen->welcome;
}

static void half_up(struct rlmd_broker *broker, const struct rlmd_wire_half *half)
{
	up(broker, half);
}

static void release_up(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *release)
{
	struct rlmd_wire_message wire = {.header = {.type = RLMD_WIRE_MESSAGE,
						    .size = offsetof(struct rlmd_wire_message, msg) + sizeof(*release),
						    .client = client->number}};

	wire.msg.release = *release;
	up(broker, &wire);
}

static void left_up(struct rlmd_broker *broker, struct rlmd_client *client, uint64_t link, uint32_t side)
{
	struct rlmd_wire_message wire = {.header = {.type = RLMD_WIRE_MESSAGE,
						    .size = offsetof(struct rlmd_wire_message, msg) + sizeof(wire.msg.left),
						    .client = client->number},
					 .msg.left = {.header = {.type = RLM_MSG_LEFT, .size = sizeof(wire.msg.left)}, .link = link, .side = side}};

	up(broker, &wire);
}

bool rlmd_xen_left(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_left *left)
{
	if (!broker->xen || client->guest || !rlmd_far_left(&broker->xen->far, client, left) || broker->xen->role != RLMD_ROLE_GUEST)
		return false;
	left_up(broker, client, left->link, left->side);
	return true;
}

// --- our processes

static void client_up(struct rlmd_broker *broker, struct rlmd_client *client)
{
	struct rlmd_wire_client wire = {.header = {.type = RLMD_WIRE_CLIENT, .size = sizeof(wire), .client = client->number},
					.pid = (uint32_t)client->pid,
					.uid = client->uid};

	memcpy(wire.command, client->command, sizeof(wire.command));
	up(broker, &wire);
}

void rlmd_xen_client_new(struct rlmd_broker *broker, struct rlmd_client *client)
{
	if (client->guest)
		return;
	client->number = (uint32_t)client->party.id;
	if (upwards(broker))
		client_up(broker, client);
}

void rlmd_guest_client_gone(struct rlmd_broker *broker, struct rlmd_client *client)
{
	struct rlmd_wire_header wire = {.type = RLMD_WIRE_GONE, .size = sizeof(wire), .client = client->number};

	if (upwards(broker) && client->hello)
		up(broker, &wire);
}

void rlmd_xen_offered(struct rlmd_broker *broker, struct rlmd_offer *offer)
{
	struct rlmd_wire_offer wire = {.header = {.type = RLMD_WIRE_OFFER, .size = sizeof(wire), .client = offer->client->number},
				       .conn = offer->conn,
				       .isn = offer->end.isn,
				       .local = offer->end.tuple.local,
				       .remote = offer->end.tuple.remote};

	if (!upwards(broker) || !offer->end.has[RLMD_NAME_ISN] || offer->upwards)
		return;
	offer->upwards = true;
	up(broker, &wire);
}

void rlmd_xen_withdrawn(struct rlmd_broker *broker, struct rlmd_offer *offer)
{
	struct rlmd_wire_message wire = {
	    .header = {.type = RLMD_WIRE_MESSAGE,
		       .size = offsetof(struct rlmd_wire_message, msg) + sizeof(wire.msg.withdraw),
		       .client = offer->client->number},
	    .msg.withdraw = {.header = {.type = RLM_MSG_WITHDRAW, .size = sizeof(wire.msg.withdraw)}, .conn = offer->conn}};

	if (upwards(broker) && offer->upwards)
		up(broker, &wire);
}

static struct rlmd_client *client_find(struct rlmd_broker *broker, uint32_t number)
{
	struct rlmd_client *client;

	DL_SEARCH_SCALAR(broker->clients, client, number, number);
	return client && !client->doomed ? client : NULL;
}

static struct rlmd_offer *offer_find(struct rlmd_client *client, struct rlm_conn_ref conn)
{
	struct rlmd_offer *offer;

	HASH_FIND(hh, client->offers, &conn.index, sizeof(conn.index), offer);
	return offer && offer->conn.generation == conn.generation && offer->upwards ? offer : NULL;
}

// --- what xenstore is told

static void ask_after(struct rlmd_broker *broker, double seconds)
{
	ev_timer_stop(broker->loop, &broker->xen->ask_again);
	ev_timer_set(&broker->xen->ask_again, seconds, 0);
	ev_timer_start(broker->loop, &broker->xen->ask_again);
}

static bool node_tell(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;
	char value[RLMD_NODE_SIZE];

	rlmd_node_write(value, xen->closing, xen->number, xen->pipe.channel || xen->attaching || xen->far.by_id || xen->leftover);
	xen->untold = strcmp(value, xen->told) == 0 || rlmd_store_write(xen, RLMD_WIRE_ASK_NODE, value) ? 0 : errno;
	if (xen->untold) {
		log_warn("cannot tell xenstore \"%s\": %s; trying again", value, strerror(xen->untold));
		ask_after(broker, TRY_AGAIN);
		return false;
	}
	memcpy(xen->told, value, sizeof(xen->told));
	return true;
}

static void channel_forget(struct rlmd_broker *broker)
{
	struct rlmd_client *client;
	struct rlmd_offer *offer, *next;

	broker->xen->welcome = false;
	DL_FOREACH (broker->clients, client)
		HASH_ITER (hh, client->offers, offer, next)
			offer->upwards = false;
}

// The last channel of our processes is gone. CLOSE ends ours, too; whoever serves one again is answered.
static void on_empty(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;

	if (xen->closing) {
		rlmd_pipe_close(&xen->pipe);
		channel_forget(broker);
		rlmd_event(&broker->events, "quiet", "host", NULL, "all channels are closed");
	}
	node_tell(broker);
}

static void close_all(struct rlmd_broker *broker)
{
	rlmd_event(&broker->events, "quiesce", "host", NULL, "this domain is about to be suspended");
	broker->xen->closing = true;
	if (broker->xen->far.by_id)
		rlmd_far_leave_all(&broker->xen->far);
	else
		on_empty(broker);
}

static void resume(struct rlmd_broker *broker)
{
	rlmd_event(&broker->events, "stays", "host", NULL, "this domain is not suspended");
	broker->xen->closing = false;
	node_tell(broker);
}

// --- what the broker says

// It matched what is not offered any more: matched here meanwhile, or withdrawn.
static void bind_refuse(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_bind *bind)
{
	struct rlm_msg_release release = rlm_release_of(bind);

	release_up(broker, client, &release);
}

static void bind_pass(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlmd_wire_message *wire)
{
	struct rlmd_offer *offer = offer_find(client, wire->msg.bind.conn);

	if (!offer) {
		bind_refuse(broker, client, &wire->msg.bind);
		return;
	}
	broker->counters.matches++;
	rlmd_event(&broker->events, "matched", offer->domain->name, "broker", "%s[%d] port %u", client->command, (int)client->pid,
		   offer->end.tuple.local.port);
	offer->upwards = false;
	rlmd_offer_free(broker, offer);
	rlmd_far_deliver(&broker->xen->far, client, 0, &wire->msg);
}

static void note(struct rlmd_client *client, const struct rlm_msg_note *msg)
{
	struct rlmd_offer *offer = offer_find(client, msg->conn);

	if (offer)
		rlmd_offer_note(offer, msg->why, false);
}

// Only here can it be seen why a process may not answer.
static void state_up(struct rlmd_broker *broker, struct rlmd_client *client)
{
	struct rlmd_wire_state wire = {.header = {.type = RLMD_WIRE_STATE, .size = sizeof(wire), .client = client->number},
				       .state = (uint32_t)rlmd_state_of(client->pid)};

	if (wire.state == 'T' || wire.state == 't')
		up(broker, &wire);
}

static void message(struct rlmd_broker *broker, const struct rlmd_wire_message *wire)
{
	struct rlmd_client *client = client_find(broker, wire->header.client);

	if (!client)
		return; // the broker hears that it is gone
	switch (wire->msg.header.type) {
	case RLM_MSG_BIND:
		bind_pass(broker, client, wire);
		break;
	case RLM_MSG_LEAVE:
		state_up(broker, client);
		if (!rlmd_far_leave(&broker->xen->far, client, &wire->msg))
			left_up(broker, client, wire->msg.leave.link, wire->msg.leave.side);
		break;
	case RLM_MSG_LINK:
	case RLM_MSG_SEGMENT:
	case RLM_MSG_DROP:
		rlmd_far_deliver(&broker->xen->far, client, wire->peer_domain, &wire->msg);
		break;
	case RLM_MSG_NOTE:
		note(client, &wire->msg.note);
		break;
	case RLM_MSG_ORDER:
		rlmd_client_send(client, &wire->msg, NULL, 0);
		break;
	}
}

static void welcome(struct rlmd_broker *broker, const struct rlmd_wire_welcome *wire)
{
	struct rlmd_client *client;
	struct rlmd_offer *offer, *next;

	if (wire->version != RLMD_WIRE_VERSION) {
		log_error("the broker speaks version %u, we speak %u", wire->version, RLMD_WIRE_VERSION);
		return;
	}
	ev_timer_stop(broker->loop, &broker->xen->ask_again);
	node_tell(broker);
	broker->xen->welcome = true;
	broker->xen->location = wire->location;
	log_info("the broker calls us %.64s, location %016llx", wire->name, (unsigned long long)wire->location);
	rlmd_event(&broker->events, "broker", "host", NULL, "registered as %.64s, location %016llx", wire->name,
		   (unsigned long long)wire->location);
	DL_FOREACH (broker->clients, client) {
		if (!client->hello)
			continue;
		client_up(broker, client);
		HASH_ITER (hh, client->offers, offer, next)
			rlmd_xen_offered(broker, offer);
	}
}

static void on_message(void *owner, const union rlmd_wire *wire)
{
	struct rlmd_broker *broker = owner;

	switch (wire->header.type) {
	case RLMD_WIRE_WELCOME:
		welcome(broker, &wire->welcome);
		break;
	case RLMD_WIRE_MESSAGE:
		message(broker, &wire->message);
		break;
	case RLMD_WIRE_HALF:
		rlmd_far_half(&broker->xen->far, &wire->half);
		break;
	case RLMD_WIRE_ASK:
		rlmd_xen_answer(broker, &wire->text);
		break;
	case RLMD_WIRE_GONE: // a domain
		rlmd_far_domain_lost(&broker->xen->far, wire->header.client);
		break;
	case RLMD_WIRE_CLOSE:
		close_all(broker);
		break;
	case RLMD_WIRE_RESUME:
		resume(broker);
		break;
	}
}

// --- the channel

static void ask(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;

	snprintf(xen->number, sizeof(xen->number), "%016llx", (unsigned long long)rlmd_random());
	xen->closing = false;
	node_tell(broker);
}

static void on_over(void *owner, const char *why)
{
	struct rlmd_broker *broker = owner;

	log_info("the broker is gone (%s): connections between domains go on over TCP", why);
	rlmd_event(&broker->events, "broker-gone", "host", NULL, "%s", why);
	channel_forget(broker);
	rlmd_far_leave_all(&broker->xen->far);
	node_tell(broker);
	ask_after(broker, ASK_AGAIN);
}

static void on_ask_again(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_broker *broker = timer->data;

	if (!broker->xen->pipe.channel) {
		ask(broker);
	} else if (broker->xen->welcome) {
		node_tell(broker);
	} else {
		rlmd_pipe_close(&broker->xen->pipe);
		on_over(broker, "it does not answer");
	}
}

static void hello(struct rlmd_broker *broker)
{
	struct rlmd_wire_hello wire = {.header = {.type = RLMD_WIRE_HELLO, .size = sizeof(wire)}, .version = RLMD_WIRE_VERSION};

	rlmd_addresses_list(&wire);
	up(broker, &wire);
}

static void on_addresses(struct rlmd_broker *broker)
{
	if (upwards(broker))
		hello(broker);
}

// Nothing tells when it would come off, so the broker is asked for another one.
static void attach_failed(struct rlmd_broker *broker, int err)
{
	if (!broker->xen->attach_failed)
		log_warn("cannot attach to the broker's channel: %s; asking for another one until it comes off", strerror(err));
	broker->xen->attach_failed = true;
	node_tell(broker);
	ask_after(broker, TRY_AGAIN);
}

// The broker serves a channel: the one that we asked for?
static void channel_look(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;
	char number[sizeof(xen->number)], port[24];
	struct libxenvchan *channel;

	if (xen->pipe.channel || !rlmd_store_read(xen, RLMD_WIRE_FOR_NODE, number, sizeof(number)) || strcmp(number, xen->number) != 0 ||
	    !rlmd_store_read(xen, RLMD_WIRE_CHANNEL_NODE "/event-channel", port, sizeof(port))) // the last of its nodes
		return;
	log_debug("attaching to the channel for request %s", number);
	xen->attaching = true;
	if (!node_tell(broker)) { // before it is so
		xen->attaching = false;
		return;
	}
	rlmd_store_begin();
	channel = libxenvchan_client_init(NULL, 0, RLMD_WIRE_CHANNEL_NODE);
	rlmd_store_end();
	xen->attaching = false;
	if (!channel) {
		attach_failed(broker, errno);
		return;
	}
	xen->closing = xen->attach_failed = false;
	rlmd_pipe_open(&xen->pipe, broker->loop, channel);
	ask_after(broker, WELCOME_TIME);
	node_tell(broker);
	hello(broker);
}

// What was made at another place must not be touched any more, nor can it be closed: the kernel here knows nothing of it.
static void moved_open(struct rlmd_broker *broker)
{
	struct rlmd_domain *domain, *next;

	log_error("this domain was moved without notice, with channels open; streams that were in the middle of one are reset");
	rlmd_event(&broker->events, "lost", "host", NULL, "moved without notice");
	rlmd_pipe_abandon(&broker->xen->pipe);
	rlmd_far_abandon(&broker->xen->far);
	channel_forget(broker);
	HASH_ITER (hh, broker->domains.by_cookie, domain, next)
		rlmd_location_set(&domain->location, broker->domains.number(broker->domains.host, domain->cookie, ++domain->stay));
	rlmd_far_leave_all(&broker->xen->far);
}

// After a resume all watches fire, and what we wrote is gone if the place is another one.
static void place_look(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;
	char value[RLMD_NODE_SIZE];

	rlmd_store_read(xen, RLMD_WIRE_ASK_NODE, value, sizeof(value));
	if (strcmp(value, xen->told) == 0)
		return;
	log_info("this domain is at another place: asking for a channel here");
	rlmd_event(&broker->events, "arrived", "host", NULL, "at another place");
	if (rlmd_node_is_open(xen->told))
		moved_open(broker);
	xen->told[0] = 0;
	ask(broker);
}

static void on_watch(struct rlmd_broker *broker, const char *path, const char *token)
{
	place_look(broker);
	channel_look(broker);
}

int rlmd_guest_role_init(struct rlmd_broker *broker, char *error, size_t error_size)
{
	struct rlmd_xen *xen = broker->xen;

	xen->far.half = half_up;
	xen->far.release = release_up;
	xen->far.empty = on_empty;
	xen->leftover = rlmd_channels_left(xen);
	xen->pipe.owner = broker;
	xen->pipe.message = on_message;
	xen->pipe.over = on_over;
	ev_timer_init(&xen->ask_again, on_ask_again, 0, 0);
	xen->ask_again.data = broker;
	rlmd_store_watch(broker, on_watch);
	if (!rlmd_store_watch_add(xen, RLMD_WIRE_CHANNEL_NODE, "channel")) {
		snprintf(error, error_size, "cannot watch xenstore: %s", strerror(errno));
		return -EIO;
	}
	rlmd_addresses_watch(broker, on_addresses);
	ask(broker);
	return 0;
}

void rlmd_guest_role_deinit(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;

	rlmd_addresses_unwatch(broker);
	rlmd_pipe_close(&xen->pipe);
	node_tell(broker);
	ev_timer_stop(broker->loop, &xen->ask_again);
	if (!rlmd_node_is_open(xen->told))
		rlmd_store_remove(xen, RLMD_WIRE_ASK_NODE);
	xen->far.empty = NULL;
}

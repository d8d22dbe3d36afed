// SPDX-License-Identifier: BSD-2-Clause
// Carries out what processes ask. The message was received whole; nothing in it is believed before rlmd_msg_check().
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker.h"
#include "closer.h"
#include "codec.h"
#include "log.h"
#include "move.h"
#include "naming.h"
#include "xen.h"

#define REQUEST_MAX (64u << 10)

static void misbehaved(struct rlmd_broker *broker, struct rlmd_client *client, const char *problem)
{
	broker->counters.misbehaved++;
	log_warn("%s[%d]: %s: session ended", client->command, (int)client->pid, problem);
	rlmd_client_doom(client, problem);
}

static int fd_take(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

static void hello(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_hello *msg, int *fds,
		  unsigned fd_count)
{
	struct rlm_msg_welcome welcome = {.header = {.type = RLM_MSG_WELCOME, .size = sizeof(welcome)},
					  .version = RLM_PROTO_VERSION,
					  .broker = broker->id};
	const char *problem;

	rlmd_text_clean(client->command, sizeof(client->command), msg->command, sizeof(msg->command));
	if (client->hello) {
		misbehaved(broker, client, "second HELLO");
		return;
	}
	if (msg->version != RLM_PROTO_VERSION) {
		misbehaved(broker, client, "another version of the protocol");
		return;
	}
	client->table = rlmd_table_get(&broker->tables, fd_take(&fds[0]), client->uid, msg->connections, &problem);
	if (!client->table) {
		misbehaved(broker, client, problem ? problem : "no memory for its table");
		return;
	}
	client->hello = true;
	if (fd_count > 1)
		client->tickets = rlmd_tickets_map(fds[1]);
	if (broker->isn && client->tickets)
		welcome.flags |= RLM_WELCOME_ISN;
	if (rlmd_lookup_possible(&broker->lookup))
		welcome.flags |= RLM_WELCOME_LOOKUP;
	if (!client->domain) {
		rlmd_client_doom(client, "its domain is unknown");
		return;
	}
	if (rlmd_move_redirect(client))
		return;
	rlmd_client_send(client, &welcome, &client->domain->location.fd, 1);
	rlmd_xen_client_new(broker, client);
	rlmd_event(&broker->events, "process", client->domain->name, NULL, "%s[%d]",
		   client->command, (int)client->pid);
}

static struct rlmd_offer *offer_find(struct rlmd_client *client, uint32_t index)
{
	struct rlmd_offer *offer;

	HASH_FIND(hh, client->offers, &index, sizeof(index), offer);
	return offer;
}

// With the ticket claimed the process keeps its hands off the socket. Whatever comes out, it gets the ticket back at
// once.
static enum rlmd_naming isn_read(struct rlmd_broker *broker, struct rlmd_client *client, uint32_t ticket, int sock,
				 struct rlmd_isn *isn, enum rlm_why *why)
{
	enum rlmd_naming result;

	*why = RLM_WHY_UNNAMED;
	if (!client->tickets)
		return RLMD_NAMING_REFUSED;
	if (!rlmd_ticket_claim(client->tickets, ticket))
		return RLMD_NAMING_AGAIN;
	result = broker->isn ? rlmd_naming_isn(sock, isn, why) : RLMD_NAMING_REFUSED;
	rlmd_ticket_done(client->tickets, ticket);
	return result;
}

// Then its peer is most likely in the same network namespace, where the tuple will do.
static bool same_address(const struct rlmd_tuple *tuple)
{
	return memcmp(tuple->local.address, tuple->remote.address, sizeof(tuple->local.address)) == 0;
}

// What the process is told when its offer leads nowhere: nothing stands, no name, *why and *again say how to go on.
static bool name_read(struct rlmd_broker *broker, const struct rlm_msg_offer *msg, int sock, struct rlmd_offer *fresh,
		      enum rlm_why *why, bool *again)
{
	struct rlmd_client *client = fresh->client;
	struct rlmd_end *end = &fresh->end;
	enum rlmd_naming isn = RLMD_NAMING_REFUSED;
	enum rlm_why isn_why = RLM_WHY_UNNAMED;
	bool exact = false;
	bool isn_possible = broker->isn && client->tickets;

	*again = false;
	// First, as the process stands still meanwhile.
	if (msg->how == RLM_NAME_ISN)
		isn = isn_read(broker, client, msg->ticket, sock, &end->isn, &isn_why);
	if (rlmd_naming_tuple(sock, isn_possible, &end->tuple, &exact, why) != RLMD_NAMING_OK)
		return false;
	fresh->domain = rlmd_domain_of(&broker->domains, sock, ev_now(broker->loop));
	if (!fresh->domain) {
		*why = RLM_WHY_LIMIT;
		return false;
	}
	if (isn == RLMD_NAMING_REFUSED && msg->how == RLM_NAME_ISN && isn_why != RLM_WHY_UNNAMED) {
		*why = isn_why;
		return false;
	}
	end->has[RLMD_NAME_ISN] = isn == RLMD_NAMING_OK || (msg->how == RLM_NAME_TUPLE &&
							    rlmd_lookup_isn(&broker->lookup, sock, &end->tuple,
									    fresh->domain, &end->isn));
	end->has[RLMD_NAME_TUPLE] = exact;
	if (isn == RLMD_NAMING_AGAIN) {
		*why = RLM_WHY_MATCHING;
		*again = true;
		return false;
	}
	if (end->has[RLMD_NAME_ISN] || (exact && (!isn_possible || same_address(&end->tuple))))
		return true;
	*why = isn_possible ? RLM_WHY_NO_PEER : RLM_WHY_UNNAMED;
	*again = isn_possible && msg->how == RLM_NAME_TUPLE;
	return false;
}

static struct rlmd_offer *offer_new(struct rlmd_broker *broker, struct rlmd_client *client,
				    const struct rlm_msg_offer *msg)
{
	struct rlmd_offer *fresh;

	if (client->offer_count >= broker->config.limits.offers_per_process)
		return NULL;
	fresh = calloc(1, sizeof(*fresh));
	if (!fresh || !rlmd_user_remember(client->user, &broker->config.limits)) {
		free(fresh);
		return NULL;
	}
	fresh->client = client;
	fresh->conn = msg->conn;
	fresh->how = msg->how;
	return fresh;
}

// The socket that an offer shows. An offer that takes another one's place goes on where that began, if its socket is the same.
static void socket_note(struct rlmd_broker *broker, struct rlmd_end *end, int sock, const struct rlmd_end *before)
{
	end->socket = rlmd_socket_cookie(sock);
	end->last = ++broker->shown;
	end->first = before->socket && before->socket == end->socket ? before->first : end->last;
}

static void offer(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_offer *msg, int *fds)
{
	struct rlmd_offer *fresh, *old = offer_find(client, msg->conn.index);
	struct rlmd_end before = {.socket = 0};
	enum rlm_why why = RLM_WHY_LIMIT;
	bool again = false, named = false;

	if (msg->conn.index >= client->table->capacity) {
		misbehaved(broker, client, "offer of a connection beyond its table");
		return;
	}
	if (old) {
		before = old->end;
		rlmd_offer_free(broker, old);
	}
	fresh = offer_new(broker, client, msg);
	if (fresh) {
		socket_note(broker, &fresh->end, fds[0], &before);
		named = name_read(broker, msg, fds[0], fresh, &why, &again);
	}
	rlmd_close_foreign(fd_take(&fds[0]), client->uid); // before the answer, which says so
	if (!named) {
		if (fresh) {
			rlmd_domain_put(&broker->domains, fresh->domain);
			rlmd_user_forget(client->user);
		}
		free(fresh);
		if (again)
			rlmd_client_note(client, msg->conn, why, true);
		else
			rlmd_client_named(client, msg->conn, why);
		return;
	}
	fresh->end.tuple.netns = fresh->domain->cookie;
	rlmd_client_named(client, msg->conn, 0);
	rlmd_offer_add(broker, fresh);
}

static void withdraw(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_withdraw *msg)
{
	struct rlmd_offer *offered = offer_find(client, msg->conn.index);

	if (offered && offered->conn.generation == msg->conn.generation)
		rlmd_offer_free(broker, offered);
}

static void repair(struct rlmd_client *client, const struct rlm_msg_repair *msg, int *fds)
{
	int err = rlmd_naming_repair(fds[0]);

	rlmd_close_foreign(fd_take(&fds[0]), client->uid);
	rlmd_client_named(client, msg->conn, err ? RLM_WHY_UNNAMED : RLM_WHY_ACCELERATED);
}

static void request(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_text *msg)
{
	char *text;

	if (client->request.length + msg->length > REQUEST_MAX) {
		misbehaved(broker, client, "request too long");
		return;
	}
	text = realloc(client->request.text, client->request.length + msg->length + 1);
	if (!text) {
		rlmd_client_doom(client, "out of memory");
		return;
	}
	memcpy(text + client->request.length, msg->text, msg->length);
	client->request.text = text;
	client->request.length += msg->length;
	if (msg->more)
		return;
	rlmd_request(broker, client, text, client->request.length);
	free(client->request.text);
	client->request.text = NULL;
	client->request.length = 0;
}

void rlmd_handle(struct rlmd_broker *broker, struct rlmd_client *client, const union rlm_msg *msg, size_t size,
		 int *fds, unsigned fd_count)
{
	const char *problem;
	enum rlmd_check check = rlmd_msg_check(msg, size, fd_count, &problem);

	if (check == RLMD_CHECK_IGNORE)
		return;
	if (check == RLMD_CHECK_BAD) {
		misbehaved(broker, client, problem);
		return;
	}
	if (!client->hello && msg->header.type != RLM_MSG_HELLO && msg->header.type != RLM_MSG_REQUEST) {
		misbehaved(broker, client, "message before HELLO");
		return;
	}
	switch (msg->header.type) {
	case RLM_MSG_HELLO:
		hello(broker, client, &msg->hello, fds, fd_count);
		break;
	case RLM_MSG_OFFER:
		offer(broker, client, &msg->offer, fds);
		break;
	case RLM_MSG_WITHDRAW:
		withdraw(broker, client, &msg->withdraw);
		break;
	case RLM_MSG_RELEASE:
		rlmd_release(broker, client, &msg->release);
		break;
	case RLM_MSG_REPAIR:
		repair(client, &msg->repair, fds);
		break;
	case RLM_MSG_LEFT:
		if (!rlmd_xen_left(broker, client, &msg->left))
			rlmd_left(broker, client, &msg->left);
		break;
	case RLM_MSG_KEPT:
		if (!rlmd_kept(broker, client, &msg->kept))
			rlmd_client_doom(client, "it has too many links of an earlier broker");
		break;
	case RLM_MSG_REQUEST:
		request(broker, client, &msg->text);
		break;
	}
}

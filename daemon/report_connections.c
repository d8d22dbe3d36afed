// SPDX-License-Identifier: BSD-2-Clause
// rlmctl connections: what processes wrote into their tables, joined with what the broker knows about domains.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <utlist.h>

#include "broker.h"

// Where the broker met a connection: in an offer or a binding.
struct place {
	uint32_t index;
	uint32_t generation;
	const struct rlmd_domain *domain;
	UT_hash_handle hh;
};

struct listing {
	struct rlmd_broker *broker;
	struct rlmd_client *client;
	struct place *places;
	bool first; // of the clients with this table
	bool alone;
	json_t *list;
};

static void place_add(struct place **places, struct rlm_conn_ref conn, const struct rlmd_domain *domain)
{
	struct place *place;

	HASH_FIND(hh, *places, &conn.index, sizeof(conn.index), place);
	if (!place) {
		place = calloc(1, sizeof(*place));
		if (!place)
			return;
		place->index = conn.index;
		HASH_ADD(hh, *places, index, sizeof(place->index), place);
	}
	place->generation = conn.generation;
	place->domain = domain;
}

static void link_places(struct place **places, const struct rlmd_link_end *end)
{
	unsigned side = end == &end->link->end[1];
	struct rlmd_segment *segment;

	DL_FOREACH (end->link->segments, segment)
		for (uint32_t i = 0; i < segment->slots; i++)
			if (segment->slot[i].held & 1u << side)
				place_add(places, segment->slot[i].end[side].conn, segment->slot[i].end[side].domain);
}

static struct place *places_new(const struct rlmd_client *client)
{
	struct place *places = NULL;
	struct rlmd_link_end *end;
	struct rlmd_offer *offer, *next;

	DL_FOREACH (client->party.ends, end)
		link_places(&places, end);
	HASH_ITER (hh, client->offers, offer, next)
		place_add(&places, offer->conn, offer->domain);
	return places;
}

static void places_free(struct place *places)
{
	struct place *place, *next;

	HASH_ITER (hh, places, place, next) {
		HASH_DEL(places, place);
		free(place);
	}
}

static const struct place *place_find(const struct place *places, const struct rlmd_row *row)
{
	struct place *place;

	HASH_FIND(hh, places, &row->index, sizeof(row->index), place);
	return place && place->generation == row->generation ? place : NULL;
}

static json_t *address_json(uint16_t family, const uint8_t *address, uint16_t port)
{
	char text[INET6_ADDRSTRLEN] = "", full[INET6_ADDRSTRLEN + 10];

	if (family != AF_INET && family != AF_INET6)
		return json_null();
	inet_ntop(family, address, text, sizeof(text));
	snprintf(full, sizeof(full), family == AF_INET ? "%s:%u" : "[%s]:%u", text, port);
	return json_string(full);
}

static const char *carrier_word(uint8_t carrier)
{
	return carrier == RLM_CARRIER_RING ? "ring" : "plain";
}

static json_t *row_json(struct rlmd_broker *broker, const struct rlmd_client *client, const struct rlmd_row *row,
			const struct rlmd_domain *domain)
{
	const struct rlm_conn_stat *stat = &row->stat;

	return json_pack("{si si ss ss? ss? so so ss ss sI sI sI sI sI ss si}", "pid", (int)client->pid, "uid",
			 (int)client->uid, "command", client->command, "domain", domain ? domain->name : NULL, "group",
			 domain ? rlmd_domain_group(domain, &broker->config.groups) : NULL, "local",
			 address_json(stat->family, stat->local, stat->local_port), "remote",
			 address_json(stat->family, stat->remote, stat->remote_port), "tx_carrier",
			 carrier_word(stat->tx_carrier), "rx_carrier", carrier_word(stat->rx_carrier), "tx_bytes_ring",
			 (json_int_t)stat->tx_bytes_ring, "rx_bytes_ring", (json_int_t)stat->rx_bytes_ring,
			 "tx_bytes_plain", (json_int_t)stat->tx_bytes_plain, "rx_bytes_plain",
			 (json_int_t)stat->rx_bytes_plain, "switches", (json_int_t)stat->switches, "why",
			 rlm_why_words(stat->why), "why_code", (int)stat->why);
}

// In a family each connection is listed once: under the process that offered it, else under the first one.
static void visit(void *arg, const struct rlmd_row *row)
{
	struct listing *listing = arg;
	const struct place *place = place_find(listing->places, row);
	const struct rlmd_domain *domain = place ? place->domain : listing->client->domain;
	json_t *json;

	if (!place && !listing->first)
		return;
	if (!place && !listing->alone) {
		struct rlmd_client *other;

		DL_FOREACH (listing->broker->clients, other) {
			struct place *places = other->table == listing->client->table ? places_new(other) : NULL;
			bool theirs = place_find(places, row) != NULL;

			places_free(places);
			if (theirs)
				return;
		}
	}
	json = row_json(listing->broker, listing->client, row, domain);
	if (json)
		json_array_append_new(listing->list, json);
}

void rlmd_report_connections(struct rlmd_broker *broker, struct rlmd_client *asking, json_t *list)
{
	struct listing listing = {.broker = broker, .list = list};
	struct rlmd_client *client, *other;

	DL_FOREACH (broker->clients, client) {
		if (!client->table || client->doomed || !rlmd_report_may_see(asking, client))
			continue;
		DL_FOREACH (broker->clients, other)
			if (other->table == client->table)
				break;
		listing.client = client;
		listing.first = other == client;
		listing.alone = client->table->refs == 1;
		listing.places = places_new(client);
		rlmd_table_each(client->table, visit, &listing);
		places_free(listing.places);
	}
}

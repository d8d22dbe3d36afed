// SPDX-License-Identifier: BSD-2-Clause
// Answers rlmctl: one JSON object in, one out. The keys are documented in rlmctl(1).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "broker.h"
#include "move.h"
#include "xen.h"

typedef json_t *(*report_fn)(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request);

bool rlmd_report_may_see(const struct rlmd_client *asking, const struct rlmd_client *client)
{
	return !asking || rlmd_client_is_admin(asking) || asking->uid == client->uid;
}

static json_t *status(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	unsigned processes = 0;
	struct rlmd_client *client;

	DL_FOREACH (broker->clients, client)
		processes += client->table != NULL;
	return json_pack("{ss ss ss si sf ss sb sI sI sI sI}", "version", RLM_VERSION, "role", rlmd_xen_role_name(broker), "host", broker->host,
			 "pid", (int)getpid(), "uptime", ev_time() - broker->started, "config", broker->config_path,
			 "sequence_numbers", broker->isn, "processes", (json_int_t)processes, "links",
			 (json_int_t)HASH_COUNT(broker->links.by_id), "connections_bound",
			 (json_int_t)broker->links.bound, "memory", (json_int_t)broker->links.memory);
}

static json_t *sums_json(const struct rlmd_sums *sums)
{
	return json_pack("{sI sI sI sI sI sI sI}", "opened", (json_int_t)sums->opened, "promoted",
			 (json_int_t)sums->promoted, "switches", (json_int_t)sums->switches, "tx_bytes_ring",
			 (json_int_t)sums->tx_bytes_ring, "rx_bytes_ring", (json_int_t)sums->rx_bytes_ring,
			 "tx_bytes_plain", (json_int_t)sums->tx_bytes_plain, "rx_bytes_plain",
			 (json_int_t)sums->rx_bytes_plain);
}

static json_t *process_json(struct rlmd_broker *broker, const struct rlmd_client *client, const struct rlmd_sums *sums)
{
	json_t *process = sums_json(sums);

	json_object_set_new(process, "pid", json_integer(client->pid));
	json_object_set_new(process, "uid", json_integer(client->uid));
	json_object_set_new(process, "command", json_string(client->command));
	if (client->domain) {
		json_object_set_new(process, "domain", json_string(client->domain->name));
		json_object_set_new(process, "group",
				    json_string(rlmd_domain_group(client->domain, &broker->config.groups)));
	}
	json_object_set_new(process, "memory", json_integer((json_int_t)client->party.memory));
	json_object_set_new(process, "offers", json_integer(client->offer_count));
	return process;
}

// A family of processes has one table: its sums are the first session's, the others say zero.
static bool table_first(const struct rlmd_broker *broker, const struct rlmd_client *client)
{
	const struct rlmd_client *other;

	if (client->table->refs == 1)
		return true;
	DL_FOREACH (broker->clients, other)
		if (other->table == client->table)
			return other == client;
	return true;
}

static json_t *processes_json(struct rlmd_broker *broker, struct rlmd_client *asking, struct rlmd_sums *total)
{
	json_t *list = json_array();
	struct rlmd_client *client;
	struct rlmd_sums sums;

	DL_FOREACH (broker->clients, client) {
		if (!client->table || !rlmd_report_may_see(asking, client))
			continue;
		memset(&sums, 0, sizeof(sums));
		if (table_first(broker, client))
			rlmd_table_sums(client->table, &sums);
		rlmd_sums_add(total, &sums);
		json_array_append_new(list, process_json(broker, client, &sums));
	}
	return list;
}

static json_t *limits_json(const struct rlmd_limits *limits)
{
	return json_pack("{sI sI sI sI sI sI sI sI sf}", "ring_size", (json_int_t)limits->ring_size, "slots",
			 (json_int_t)limits->slots, "memory_per_link", (json_int_t)limits->memory_per_link,
			 "memory_per_process", (json_int_t)limits->memory_per_process, "memory_per_user",
			 (json_int_t)limits->memory_per_user, "memory_total", (json_int_t)limits->memory_total,
			 "offers_per_process", (json_int_t)limits->offers_per_process, "sessions_per_user",
			 (json_int_t)limits->sessions_per_user, "idle_time", limits->idle_time);
}

static json_t *stats(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	const struct rlmd_counters *counters = &broker->counters;
	struct rlmd_sums total;
	json_t *processes;

	memset(&total, 0, sizeof(total));
	if (rlmd_client_is_admin(asking))
		total = broker->gone;
	processes = processes_json(broker, asking, &total);
	return json_pack("{sf so so so sI sI sI sI s{sI sI sI sI sI sI sI sI sI sI}}", "uptime",
			 ev_time() - broker->started, "totals", sums_json(&total), "processes", processes, "limits",
			 limits_json(&broker->config.limits), "memory", (json_int_t)broker->links.memory, "links",
			 (json_int_t)HASH_COUNT(broker->links.by_id), "segments", (json_int_t)broker->links.segments,
			 "offers", (json_int_t)broker->registry.ends, "counters", "sessions",
			 (json_int_t)counters->clients, "offers", (json_int_t)counters->offers, "matches",
			 (json_int_t)counters->matches, "refused_group", (json_int_t)counters->refused_group,
			 "refused_limit", (json_int_t)counters->refused_limit, "ambiguous",
			 (json_int_t)counters->ambiguous, "misbehaved", (json_int_t)counters->misbehaved, "refused_sessions",
			 (json_int_t)counters->refused_sessions, "links_made",
			 (json_int_t)broker->links.links_made, "bindings", (json_int_t)broker->links.bindings);
}

static json_t *connections(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	json_t *list = json_array();

	rlmd_report_connections(broker, asking, list);
	if (rlmd_xen_ask(broker, asking, list))
		return NULL;
	return json_pack("{so}", "connections", list);
}

static json_t *domain_json(struct rlmd_broker *broker, const struct rlmd_domain *domain)
{
	bool away = domain->moved_to[0];
	const char *state = away ? "away" : rlmd_quiesce_covers(broker, domain) ? "quiesced" : "here";
	char location[24];

	snprintf(location, sizeof(location), "%016llx", (unsigned long long)rlmd_location_number(&domain->location));
	return json_pack("{ss sI sI ss sI ss ss sI ss?}", "name", domain->name, "inode", (json_int_t)domain->inode,
			 "cookie", (json_int_t)domain->cookie, "group",
			 rlmd_domain_group(domain, &broker->config.groups), "sessions", (json_int_t)domain->clients,
			 "host", away ? domain->moved_host : broker->host, "state", state, "stay",
			 (json_int_t)domain->stay, "location", away ? NULL : location);
}

static json_t *domains(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	json_t *list = json_array();
	struct rlmd_domain *domain, *next;

	HASH_ITER (hh, broker->domains.by_cookie, domain, next) {
		json_t *json = domain_json(broker, domain);

		rlmd_xen_report(domain, json);
		json_array_append_new(list, json);
	}
	return json_pack("{so}", "domains", list);
}

static json_t *group_json(struct rlmd_broker *broker, const char *name, const struct rlmd_group *group)
{
	json_t *patterns = json_array(), *members = json_array();
	struct rlmd_domain *domain, *next;

	for (size_t i = 0; group && i < group->count; i++)
		json_array_append_new(patterns, json_string(group->patterns[i]));
	HASH_ITER (hh, broker->domains.by_cookie, domain, next)
		if (strcmp(rlmd_domain_group(domain, &broker->config.groups), name) == 0)
			json_array_append_new(members, json_string(domain->name));
	return json_pack("{ss so so}", "name", name, "patterns", patterns, "domains", members);
}

static bool group_listed(const json_t *list, const char *name)
{
	const json_t *group;
	size_t i;

	json_array_foreach(list, i, group)
		if (strcmp(json_string_value(json_object_get(group, "name")), name) == 0)
			return true;
	return false;
}

static json_t *groups(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	const struct rlmd_groups *configured = &broker->config.groups;
	json_t *list = json_array();
	struct rlmd_domain *domain, *next;

	for (size_t i = 0; i < configured->count; i++)
		json_array_append_new(list, group_json(broker, configured->list[i].name, &configured->list[i]));
	if (!group_listed(list, RLMD_GROUP_DEFAULT))
		json_array_append_new(list, group_json(broker, RLMD_GROUP_DEFAULT, NULL));
	// Those that no file names, see rlmd_domain.group.
	HASH_ITER (hh, broker->domains.by_cookie, domain, next) {
		const char *name = rlmd_domain_group(domain, &broker->config.groups);

		if (!group_listed(list, name))
			json_array_append_new(list, group_json(broker, name, NULL));
	}
	return json_pack("{so}", "groups", list);
}

static json_t *error_json(const char *what)
{
	return json_pack("{ss}", "error", what);
}

static json_t *events_json(struct rlmd_broker *broker, uint64_t first)
{
	json_t *list = json_array();

	for (uint64_t i = first; i < broker->events.next; i++) {
		const struct rlmd_event *event = rlmd_event_at(&broker->events, i);
		json_t *json;

		if (!event)
			continue;
		json = json_pack("{sI sf ss ss}", "number", (json_int_t)i, "time", event->time, "event", event->what,
				 "text", event->text);
		if (event->domain[0][0])
			json_object_set_new(json, "domain", json_string(event->domain[0]));
		if (event->domain[1][0])
			json_object_set_new(json, "other_domain", json_string(event->domain[1]));
		json_array_append_new(list, json);
	}
	return json_pack("{so}", "events", list);
}

static json_t *events(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	uint64_t first = rlmd_events_first(&broker->events);

	if (!rlmd_client_is_admin(asking))
		return error_json("only root and the broker's own user may see events");
	asking->follow = json_is_true(json_object_get(request, "follow"));
	asking->follow_next = broker->events.next;
	return events_json(broker, first);
}

void rlmd_events_tell(struct rlmd_broker *broker)
{
	struct rlmd_client *client;

	if (!broker->followers)
		return;
	broker->followers = 0;
	DL_FOREACH (broker->clients, client) {
		if (!client->follow || client->doomed)
			continue;
		broker->followers++;
		// One that reads slowly gets several at a time, later.
		if (client->follow_next == broker->events.next || client->reply.text)
			continue;
		json_t *json = events_json(broker, client->follow_next);
		char *text = json_dumps(json, JSON_COMPACT);

		client->follow_next = broker->events.next;
		json_decref(json);
		if (text)
			rlmd_client_reply(client, text);
	}
}

static json_t *demote(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	return rlmd_order(broker, asking, request, RLM_ORDER_DEMOTE);
}

static json_t *promote(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	return rlmd_order(broker, asking, request, RLM_ORDER_PROMOTE);
}

static json_t *dispatch(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	static const struct {
		const char *name;
		report_fn report;
	} reports[] = {
	    {"status", status}, {"stats", stats},   {"connections", connections}, {"domains", domains},
	    {"groups", groups}, {"events", events}, {"demote", demote},		  {"promote", promote},
	    {"prepare", rlmd_move_prepare}, {"arrive", rlmd_move_arrive}, {"depart", rlmd_move_depart},
	};
	const char *name = json_string_value(json_object_get(request, "cmd"));

	if (!name)
		return error_json("a request is an object with a string \"cmd\"");
	for (size_t i = 0; i < sizeof(reports) / sizeof(reports[0]); i++)
		if (strcmp(name, reports[i].name) == 0)
			return reports[i].report(broker, asking, request);
	return error_json("no such request");
}

void rlmd_request(struct rlmd_broker *broker, struct rlmd_client *client, const char *text, size_t length)
{
	json_t *request = json_loadb(text, length, 0, NULL);
	json_t *reply = request ? dispatch(broker, client, request) : error_json("not JSON");
	char *reply_text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;
	bool later = !reply && (client->quiesce || client->departure || client->question);

	if (client->follow)
		broker->followers++;
	json_decref(request);
	json_decref(reply);
	if (later)
		return;
	if (!reply_text || !rlmd_client_reply(client, reply_text))
		rlmd_client_doom(client, "asked again before it read the answer");
}

// SPDX-License-Identifier: BSD-2-Clause
// rlmctl connections on the broker tells of the whole host: it asks the guests, which answer in chunks. Who does not answer in time is left out.
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "xen_internal.h"

#define PATIENCE 2.0	     // seconds
#define ANSWER_MAX (4u << 20) // bytes of one guest

struct rlmd_question {
	uint32_t number;
	struct rlmd_broker *broker;
	struct rlmd_client *client; // rlmctl
	json_t *list;
	unsigned pending; // guests
	ev_timer timer;
	struct rlmd_question *prev, *next; // rlmd_xen.questions
};

static void question_free(struct rlmd_question *question)
{
	ev_timer_stop(question->broker->loop, &question->timer);
	ev_clear_pending(question->broker->loop, &question->timer);
	DL_DELETE(question->broker->xen->questions, question);
	question->client->question = NULL;
	json_decref(question->list);
	free(question);
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_question *question = timer->data;
	struct rlmd_client *client = question->client;
	json_t *reply = json_pack("{sO}", "connections", question->list);
	char *text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;

	json_decref(reply);
	question_free(question);
	if (!text || !rlmd_client_reply(client, text))
		rlmd_client_doom(client, "cannot answer");
}

static void finish(struct rlmd_question *question)
{
	ev_timer_stop(question->broker->loop, &question->timer);
	ev_feed_event(question->broker->loop, &question->timer, EV_CUSTOM);
}

bool rlmd_xen_ask(struct rlmd_broker *broker, struct rlmd_client *client, json_t *list)
{
	struct rlmd_wire_text wire = {.header = {.type = RLMD_WIRE_ASK, .size = offsetof(struct rlmd_wire_text, text)}};
	struct rlmd_question *question;
	struct rlmd_guest *guest;

	if (!broker->xen || !broker->xen->guests || !rlmd_client_is_admin(client) || client->question)
		return false;
	question = calloc(1, sizeof(*question));
	if (!question)
		return false;
	question->number = wire.question = ++broker->xen->next_question;
	question->broker = broker;
	question->client = client;
	question->list = list;
	client->question = question;
	DL_APPEND(broker->xen->questions, question);
	ev_timer_init(&question->timer, on_timer, PATIENCE, 0);
	question->timer.data = question;
	ev_timer_start(broker->loop, &question->timer);
	DL_FOREACH (broker->xen->guests, guest) {
		free(guest->answer);
		guest->answer = NULL;
		guest->answer_size = 0;
		guest->asked_number = guest->hello ? question->number : 0;
		if (!guest->hello)
			continue;
		rlmd_pipe_send(&guest->pipe, &wire);
		question->pending++;
	}
	if (!question->pending)
		finish(question);
	return true;
}

void rlmd_xen_ask_forget(struct rlmd_client *client)
{
	if (client->question)
		question_free(client->question);
}

// A guest says what it likes: nothing in it may reach a terminal but plain text.
static void strings_clean(json_t *object)
{
	const char *key;
	json_t *value;
	void *next;

	json_object_foreach_safe(object, next, key, value)
	{
		char *text = json_is_string(value) ? strdup(json_string_value(value)) : NULL;

		if (json_is_object(value) || json_is_array(value)) {
			json_object_del(object, key);
			continue;
		}
		if (!text)
			continue;
		for (char *c = text; *c; c++)
			if ((unsigned char)*c < ' ' || (unsigned char)*c > '~')
				*c = '?';
		json_string_set(value, text);
		free(text);
	}
}

static void answer_take(struct rlmd_guest *guest, struct rlmd_question *question)
{
	json_t *answer = json_loadb(guest->answer, guest->answer_size, 0, NULL), *connection;
	size_t i;

	json_array_foreach(answer, i, connection)
	{
		if (!json_is_object(connection))
			continue;
		strings_clean(connection);
		json_object_set_new(connection, "domain", json_string(guest->domain->name));
		json_object_set_new(connection, "group", json_string(rlmd_domain_group(guest->domain, &guest->broker->config.groups)));
		json_array_append(question->list, connection);
	}
	json_decref(answer);
}

void rlmd_xen_told(struct rlmd_guest *guest, const struct rlmd_wire_text *wire)
{
	struct rlmd_question *question;
	char *grown;

	DL_SEARCH_SCALAR(guest->broker->xen->questions, question, number, wire->question);
	if (!question || guest->asked_number != wire->question)
		return;
	grown = guest->answer_size + wire->length <= ANSWER_MAX ? realloc(guest->answer, guest->answer_size + wire->length + 1) : NULL;
	if (!grown)
		return; // then the answer goes without this guest
	guest->answer = grown;
	memcpy(grown + guest->answer_size, wire->text, wire->length);
	guest->answer_size += wire->length;
	if (wire->more)
		return;
	guest->asked_number = 0;
	answer_take(guest, question);
	free(guest->answer);
	guest->answer = NULL;
	guest->answer_size = 0;
	if (--question->pending == 0)
		finish(question);
}

void rlmd_xen_answer(struct rlmd_broker *broker, const struct rlmd_wire_text *ask)
{
	struct rlmd_wire_text wire = {.header = {.type = RLMD_WIRE_TELL}, .question = ask->question};
	json_t *list = json_array();
	size_t length, at = 0;
	char *text;

	rlmd_report_connections(broker, NULL, list);
	text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	if (!text)
		return;
	length = strlen(text);
	do {
		wire.length = (uint32_t)(length - at < RLMD_WIRE_TEXT ? length - at : RLMD_WIRE_TEXT);
		wire.more = at + wire.length < length;
		wire.header.size = (uint16_t)(offsetof(struct rlmd_wire_text, text) + wire.length);
		memcpy(wire.text, text + at, wire.length);
		rlmd_pipe_send(&broker->xen->pipe, &wire);
		at += wire.length;
	} while (wire.more);
	free(text);
}

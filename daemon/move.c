// SPDX-License-Identifier: BSD-2-Clause
#include "move.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "broker.h"
#include "log.h"
#include "xen.h"

#define PATIENCE_MAX 60.0 // seconds to become quiet

// --- what outlives rlmd ---

// The socket may be in a directory where others can write, too.
static bool file_is_ours(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_uid == geteuid() || st.st_uid == 0);
}

static int file_write(const char *path, const json_t *json)
{
	int fd, err;

	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	err = json_dumpfd(json, fd, JSON_INDENT(1)) ? -EIO : 0;
	close(fd);
	return err;
}

static json_t *moved_json(const struct rlmd_domain *domain)
{
	return json_pack("{sI si ss ss ss}", "domain", (json_int_t)domain->cookie, "stay", (int)domain->stay, "name",
			 domain->name, "socket", domain->moved_to, "host", domain->moved_host);
}

static void boot_read(char boot[64])
{
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (!file || fscanf(file, "%63s", boot) != 1)
		boot[0] = 0;
	if (file)
		fclose(file);
}

static void moves_save(struct rlmd_broker *broker)
{
	json_t *list = json_array(), *all;
	struct rlmd_domain *domain, *next;
	char boot[64], fresh[160];
	int err;

	HASH_ITER (hh, broker->domains.by_cookie, domain, next)
		if (domain->moved)
			json_array_append_new(list, moved_json(domain));
	boot_read(boot);
	all = json_pack("{ss sb so}", "boot", boot, "linked", broker->linked, "domains", list);
	snprintf(fresh, sizeof(fresh), "%s.new", broker->moves_path);
	err = file_write(fresh, all);
	if (!err && rename(fresh, broker->moves_path))
		err = -errno;
	if (err)
		log_error("%s: %s; after a restart location numbers may differ", broker->moves_path, strerror(-err));
	json_decref(all);
}

// Keeps the domain known while nobody of it has a session.
static void moved_mark(struct rlmd_domain *domain)
{
	if (!domain->moved)
		rlmd_domain_get(domain);
	domain->moved = true;
}

static void moved_load(struct rlmd_broker *broker, const json_t *json)
{
	const char *name, *to, *host;
	json_int_t cookie, stay;
	struct rlmd_domain *domain;

	if (json_unpack((json_t *)(uintptr_t)json, "{sI sI ss ss ss}", "domain", &cookie, "stay", &stay, "name", &name,
			"socket", &to, "host", &host))
		return;
	domain = rlmd_domain_known(&broker->domains, (uint64_t)cookie, name);
	if (!domain)
		return;
	moved_mark(domain);
	domain->stay = (uint32_t)stay;
	rlmd_location_set(&domain->location, broker->domains.number(broker->domains.host, domain->cookie, domain->stay));
	snprintf(domain->moved_to, sizeof(domain->moved_to), "%s", to);
	snprintf(domain->moved_host, sizeof(domain->moved_host), "%s", host);
	rlmd_domain_put(&broker->domains, domain);
}

void rlmd_move_load(struct rlmd_broker *broker, const char *socket)
{
	json_t *all, *item;
	const char *boot;
	char now[64];
	size_t i;

	snprintf(broker->moves_path, sizeof(broker->moves_path), "%s.moves", socket);
	all = file_is_ours(broker->moves_path) ? json_load_file(broker->moves_path, 0, NULL) : NULL;
	boot = json_string_value(json_object_get(all, "boot"));
	boot_read(now);
	if (boot && strcmp(boot, now) == 0) {
		broker->linked = broker->succeeds = json_is_true(json_object_get(all, "linked"));
		json_array_foreach(json_object_get(all, "domains"), i, item) moved_load(broker, item);
	}
	json_decref(all);
}

void rlmd_move_linked(struct rlmd_broker *broker)
{
	if (broker->linked)
		return;
	broker->linked = true;
	moves_save(broker);
}

// --- requests ---

static json_t *error(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Never NULL, which would mean that nothing is wrong.
static json_t *error(const char *format, ...)
{
	char text[512];
	va_list ap;
	json_t *json;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	json = json_pack("{ss}", "error", text);
	return json ? json : json_null(); // which needs no memory
}

static json_t *not_allowed(const struct rlmd_client *asking)
{
	return rlmd_client_is_admin(asking) ? NULL : error("only root and the broker's own user may move domains");
}

static struct rlmd_domain *domain_named(struct rlmd_broker *broker, const char *name)
{
	struct rlmd_domain *domain, *next;
	char full[RLMD_NAME_MAX], xen[RLMD_NAME_MAX];

	snprintf(full, sizeof(full), "netns:%s", name);
	snprintf(xen, sizeof(xen), "domain:%s", name);
	HASH_ITER (hh, broker->domains.by_cookie, domain, next)
		if (strcmp(domain->name, name) == 0 || strcmp(domain->name, full) == 0 || strcmp(domain->name, xen) == 0 ||
		    strcmp(domain->inode_name, name) == 0)
			return domain;
	return NULL;
}

// *domain, which `asking` may move, or an answer that says why not.
static json_t *domain_asked(struct rlmd_broker *broker, const struct rlmd_client *asking, const json_t *request,
			    struct rlmd_domain **domain)
{
	const char *name = json_string_value(json_object_get(request, "domain"));
	json_t *refusal = not_allowed(asking);

	if (refusal)
		return refusal;
	if (!name)
		return error("\"domain\" must be a name");
	*domain = domain_named(broker, name);
	if (!*domain)
		return error("%s: no process of such a domain has a session here", name);
	if ((*domain)->moved_to[0])
		return error("%s: it is on host %s", name, (*domain)->moved_host);
	return NULL;
}

static json_t *domain_json(const struct rlmd_domain *domain)
{
	char location[24];

	snprintf(location, sizeof(location), "%016llx",
		 (unsigned long long)rlmd_location_number(&domain->location));
	return json_pack("{ss sI sI ss}", "domain", domain->name, "cookie", (json_int_t)domain->cookie, "processes",
			 (json_int_t)domain->clients, "location", location);
}

static void answer(struct rlmd_client *asking, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (!text || !rlmd_client_reply(asking, text))
		rlmd_client_doom(asking, "cannot be answered");
}

static void on_quiet(struct rlmd_quiesce *quiesce, const char *culprits)
{
	struct rlmd_client *asking = quiesce->data;
	struct rlmd_domain *domain = quiesce->domain;
	double seconds = ev_time() - quiesce->started;
	json_t *json;

	if (culprits) {
		rlmd_event(&quiesce->broker->events, "refused", domain->name, NULL, "after %.0f ms no answer from %s",
			   seconds * 1e3, culprits);
		json = error("%s stays: after %.0f ms no answer from %s", domain->name, seconds * 1e3, culprits);
		asking->quiesce = NULL;
		rlmd_quiesce_end(quiesce);
	} else {
		rlmd_event(&quiesce->broker->events, "quiet", domain->name, NULL,
			   "in %.2f ms: %u connections on %u links are on TCP", seconds * 1e3, quiesce->connections,
			   quiesce->links);
		json = domain_json(domain);
		json_object_set_new(json, "links", json_integer(quiesce->links));
		json_object_set_new(json, "connections", json_integer(quiesce->connections));
		json_object_set_new(json, "milliseconds", json_real(seconds * 1e3));
	}
	answer(asking, json);
}

json_t *rlmd_move_prepare(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	const json_t *timeout = json_object_get(request, "timeout");
	double seconds = timeout ? json_number_value(timeout) : broker->config.quiesce_time;
	struct rlmd_domain *domain;
	json_t *refusal = domain_asked(broker, asking, request, &domain);

	if (refusal)
		return refusal;
	if (!(seconds > 0 && seconds <= PATIENCE_MAX))
		return error("\"timeout\" must be above 0 and at most %.0f seconds", PATIENCE_MAX);
	if (domain->guest && !asking->departure)
		return rlmd_xen_prepare(asking, domain, seconds);
	if (asking->quiesce || asking->departure)
		return error("one domain at a time in one session");
	rlmd_event(&broker->events, "quiesce", domain->name, NULL, "%u processes, at most %.0f ms", domain->clients,
		   seconds * 1e3);
	asking->quiesce = rlmd_quiesce_start(broker, domain, seconds, on_quiet, asking);
	return asking->quiesce ? NULL : error("%s is about to move already", domain->name);
}

void rlmd_move_forget(struct rlmd_client *asking)
{
	if (!asking->quiesce)
		return;
	rlmd_event(&asking->broker->events, "stays", asking->quiesce->domain->name, NULL, "its move was given up");
	rlmd_quiesce_end(asking->quiesce);
	asking->quiesce = NULL;
}

static bool has_links(const struct rlmd_broker *broker, const struct rlmd_domain *domain)
{
	const struct rlmd_client *client;

	DL_FOREACH (broker->clients, client)
		if (client->domain == domain && client->party.ends)
			return true;
	return false;
}

json_t *rlmd_move_arrive(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "domain"));
	const char *from = json_string_value(json_object_get(request, "from"));
	uint64_t cookie = (uint64_t)json_integer_value(json_object_get(request, "cookie"));
	json_t *json = not_allowed(asking);
	struct rlmd_domain *domain;

	if (json)
		return json;
	if (!name || !cookie || !from)
		return error("\"domain\", \"cookie\" and \"from\" must say who arrives");
	domain = rlmd_domain_known(&broker->domains, cookie, name);
	if (!domain)
		return error("out of memory");
	if (has_links(broker, domain)) {
		rlmd_domain_put(&broker->domains, domain);
		return error("%s: processes of it are accelerated here already", name);
	}
	moved_mark(domain);
	domain->moved_to[0] = domain->moved_host[0] = 0;
	domain->stay++;
	rlmd_location_set(&domain->location, broker->domains.number(broker->domains.host, cookie, domain->stay));
	rlmd_location_quiesce(&domain->location, false);
	moves_save(broker);
	json = domain_json(domain);
	rlmd_event(&broker->events, "arrived", domain->name, NULL, "from host %s, location %s", from,
		   json_string_value(json_object_get(json, "location")));
	rlmd_domain_put(&broker->domains, domain);
	return json;
}

static void move_send(struct rlmd_client *client)
{
	struct rlm_msg_move msg = {.header = {.type = RLM_MSG_MOVE, .size = sizeof(msg)}};

	snprintf(msg.socket, sizeof(msg.socket), "%s", client->domain->moved_to);
	rlmd_client_send(client, &msg, NULL, 0);
	rlmd_client_doom(client, "its domain is on another host");
}

bool rlmd_move_redirect(struct rlmd_client *client)
{
	if (!client->domain || !client->domain->moved_to[0])
		return false;
	move_send(client);
	return true;
}

json_t *rlmd_move_depart(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request)
{
	const char *to = json_string_value(json_object_get(request, "to"));
	const char *host = json_string_value(json_object_get(request, "host"));
	bool announced = !json_is_false(json_object_get(request, "announced"));
	struct rlmd_client *client;
	struct rlmd_domain *domain;
	json_t *refusal = domain_asked(broker, asking, request, &domain);

	if (refusal)
		return refusal;
	if (!to || strlen(to) >= sizeof(domain->moved_to) || !host)
		return error("\"to\" and \"host\" must say where to");
	if (announced && (!asking->quiesce || asking->quiesce->domain != domain || asking->quiesce->pending))
		return error("%s is not quiet", domain->name);
	moved_mark(domain);
	snprintf(domain->moved_to, sizeof(domain->moved_to), "%s", to);
	snprintf(domain->moved_host, sizeof(domain->moved_host), "%s", host);
	moves_save(broker);
	rlmd_event(&broker->events, "departed", domain->name, NULL, "to host %s%s", host, announced ? "" : ", unannounced");
	DL_FOREACH (broker->clients, client)
		if (client->domain == domain && client->hello)
			move_send(client);
	if (asking->quiesce)
		rlmd_quiesce_end(asking->quiesce);
	asking->quiesce = NULL;
	return domain_json(domain);
}

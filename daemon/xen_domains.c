// SPDX-License-Identifier: BSD-2-Clause
// The host's domains, as xenstore tells of them: who is there, what they are called, which group, interfaces and addresses they have.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "codec.h"
#include "log.h"
#include "xen_internal.h"
#include "xen_move.h"

// Below a domain's home; it cannot write there.
#define GROUP_NODE     "rlm/group"
#define ADDRESSES_NODE "rlm/addresses"

static const char *const watched[] = {RLMD_WIRE_ASK_NODE, "name", GROUP_NODE, ADDRESSES_NODE};

void rlmd_guest_path(char *path, size_t size, const struct rlmd_guest *guest, const char *node)
{
	snprintf(path, size, "/local/domain/%u/%s", guest->id, node);
}

// The backends' part of xenstore: what is in its own the domain can change.
static void vif_path(char *path, size_t size, const struct rlmd_guest *guest)
{
	snprintf(path, size, "/local/domain/0/backend/vif/%u", guest->id);
}

static void interfaces_read(struct rlmd_guest *guest)
{
	struct rlmd_xen *xen = guest->broker->xen;
	char base[48], path[96], value[256];
	unsigned count = 0;
	char **vifs;

	vif_path(base, sizeof(base), guest);
	vifs = rlmd_store_list(xen, base, &count);
	guest->mac_count = guest->assigned_count = 0;
	for (unsigned i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%.16s/mac", base, vifs[i]);
		if (guest->mac_count < RLMD_GUEST_MACS && rlmd_store_read(xen, path, value, sizeof(value)))
			rlmd_text_clean(guest->macs[guest->mac_count++], sizeof(guest->macs[0]), value, sizeof(value));
		snprintf(path, sizeof(path), "%s/%.16s/ip", base, vifs[i]);
		if (rlmd_store_read(xen, path, value, sizeof(value)))
			rlmd_addresses_assign(guest, value);
	}
	free(vifs);
	rlmd_guest_path(path, sizeof(path), guest, ADDRESSES_NODE);
	if (rlmd_store_read(xen, path, value, sizeof(value)))
		rlmd_addresses_assign(guest, value);
}

static void names_read(struct rlmd_guest *guest)
{
	struct rlmd_xen *xen = guest->broker->xen;
	char path[64], value[RLMD_NAME_MAX - 8];

	rlmd_guest_path(path, sizeof(path), guest, "name");
	if (rlmd_store_read(xen, path, value, sizeof(value)))
		snprintf(guest->domain->name, sizeof(guest->domain->name), "domain:%s", value);
	rlmd_guest_path(path, sizeof(path), guest, "vm");
	if (rlmd_store_read(xen, path, value, sizeof(value)) && strncmp(value, "/vm/", 4) == 0)
		snprintf(guest->uuid, sizeof(guest->uuid), "%.36s", value + 4);
	snprintf(guest->domain->inode_name, sizeof(guest->domain->inode_name), "uuid:%s", guest->uuid);
	rlmd_guest_path(path, sizeof(path), guest, GROUP_NODE);
	rlmd_store_read(xen, path, value, sizeof(value));
	rlmd_text_clean(guest->domain->group, sizeof(guest->domain->group), value, sizeof(value));
	interfaces_read(guest);
}

static void watch(struct rlmd_guest *guest, const char *path, bool on)
{
	char token[16];

	snprintf(token, sizeof(token), "%u", guest->id);
	if (on)
		rlmd_store_watch_add(guest->broker->xen, path, token);
	else
		rlmd_store_watch_end(guest->broker->xen, path, token);
}

static void watch_all(struct rlmd_guest *guest, bool on)
{
	char path[64];

	for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++) {
		rlmd_guest_path(path, sizeof(path), guest, watched[i]);
		watch(guest, path, on);
	}
	vif_path(path, sizeof(path), guest);
	watch(guest, path, on);
}

static void guest_add(struct rlmd_broker *broker, unsigned id)
{
	struct rlmd_guest *guest = calloc(1, sizeof(*guest));

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
	rlmd_guest_begin(guest);
	snprintf(guest->domain->name, sizeof(guest->domain->name), "domain:#%u", id);
	names_read(guest);
	DL_APPEND(broker->xen->guests, guest);
	log_info("%s: domain %u, uuid %s", guest->domain->name, id, guest->uuid);
	rlmd_event(&broker->events, "domain", guest->domain->name, NULL, "domain %u, uuid %s, location %016llx", id, guest->uuid,
		   (unsigned long long)guest->location);
	watch_all(guest, true);
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
	watch_all(guest, false);
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
	char **ids = rlmd_store_list(xen, "/local/domain", &count);

	if (!ids) {
		log_warn("cannot list domains: %s", strerror(errno));
		return;
	}
	DL_FOREACH (xen->guests, guest)
		guest->seen = false;
	for (unsigned i = 0; i < count; i++) {
		unsigned id = (unsigned)strtoul(ids[i], NULL, 10);

		if (id == 0 || !rlmd_store_domain_lives(xen, id))
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

int rlmd_domains_follow(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;

	rlmd_store_watch(broker, on_watch);
	if (!rlmd_store_watch_add(xen, "@introduceDomain", "domains") || !rlmd_store_watch_add(xen, "@releaseDomain", "domains"))
		return -EIO;
	domains_look(broker);
	return 0;
}

void rlmd_domains_forget(struct rlmd_broker *broker)
{
	struct rlmd_guest *guest, *next;
	char path[64];

	DL_FOREACH_SAFE (broker->xen->guests, guest, next) {
		rlmd_guest_path(path, sizeof(path), guest, RLMD_WIRE_CHANNEL_NODE);
		rlmd_store_remove(broker->xen, path);
		DL_DELETE(broker->xen->guests, guest);
		rlmd_pipe_close(&guest->pipe);
		guest_free(guest);
	}
}

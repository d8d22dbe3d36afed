// SPDX-License-Identifier: BSD-2-Clause
// What both roles on Xen have in common: how they begin and end, and where messages for processes go.
#include "xen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "xen_channel.h"
#include "xen_internal.h"

#define GRANT_PAGES 16384 // 64 MiB

static bool file_says(const char *path, const char *word)
{
	char text[128] = "";
	FILE *file = fopen(path, "re");

	if (!file)
		return false;
	text[fread(text, 1, sizeof(text) - 1, file)] = 0;
	fclose(file);
	return strstr(text, word) != NULL;
}

enum rlmd_role rlmd_xen_role(void)
{
	if (!file_says("/sys/hypervisor/type", "xen") || access("/dev/xen/gntalloc", R_OK | W_OK) || access("/dev/xen/evtchn", R_OK | W_OK))
		return RLMD_ROLE_LOCAL;
	return file_says("/proc/xen/capabilities", "control_d") ? RLMD_ROLE_BROKER : RLMD_ROLE_GUEST;
}

const char *rlmd_xen_role_name(const struct rlmd_broker *broker)
{
	if (!broker->xen)
		return broker->backend->name;
	return broker->xen->role == RLMD_ROLE_BROKER ? "broker" : "guest";
}

int rlmd_xen_init(struct rlmd_broker *broker, enum rlmd_role role, char *error, size_t error_size)
{
	struct rlmd_xen *xen;
	int err;

	if (role == RLMD_ROLE_LOCAL)
		return 0;
	xen = calloc(1, sizeof(*xen));
	if (!xen)
		return -ENOMEM;
	xen->role = role;
	xen->far.broker = broker;
	broker->xen = xen;
	err = rlmd_store_open(broker);
	if (err) {
		snprintf(error, error_size, "cannot reach xenstore: %s", strerror(-err));
		broker->xen = NULL;
		free(xen);
		return err;
	}
	rlmd_xen_grants_allow(GRANT_PAGES);
	if (role == RLMD_ROLE_BROKER)
		return rlmd_broker_role_init(broker, error, error_size);
	return rlmd_guest_role_init(broker, error, error_size);
}

void rlmd_xen_deinit(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;

	if (!xen)
		return;
	if (xen->role == RLMD_ROLE_BROKER)
		rlmd_broker_role_deinit(broker);
	else
		rlmd_guest_role_deinit(broker);
	rlmd_far_deinit(&xen->far);
	rlmd_store_close(broker);
	free(xen);
	broker->xen = NULL;
}

enum rlm_why rlmd_xen_unmatched(const struct rlmd_broker *broker)
{
	const struct rlmd_xen *xen = broker->xen;

	if (!xen || xen->role != RLMD_ROLE_GUEST || xen->welcome)
		return RLM_WHY_NO_PEER;
	return xen->untold == ENOSPC ? RLM_WHY_LIMIT : RLM_WHY_NO_BROKER; // the domain's quota
}

// --- messages

bool rlmd_xen_release(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *release)
{
	return broker->xen && !client->guest && rlmd_far_release(&broker->xen->far, client, release);
}

static struct rlmd_client *client_of(struct rlmd_party *party)
{
	return party ? (struct rlmd_client *)((char *)party - offsetof(struct rlmd_client, party)) : NULL;
}

void rlmd_xen_send(struct rlmd_broker *broker, struct rlmd_link *link, unsigned side, const void *msg)
{
	struct rlmd_client *client = client_of(link->end[side].party), *peer = client_of(link->end[!side].party);
	unsigned peer_domain = peer && peer->guest ? peer->guest->id : 0;

	if (client->guest)
		rlmd_xen_relay(client, peer_domain, msg);
	else
		rlmd_far_deliver(&broker->xen->far, client, peer_domain, msg);
}

void rlmd_xen_relay(struct rlmd_client *client, unsigned peer_domain, const void *msg)
{
	const struct rlm_msg_header *header = msg;
	struct rlmd_wire_message wire = {.header = {.type = RLMD_WIRE_MESSAGE, .client = client->number}, .peer_domain = peer_domain};

	wire.header.size = (uint16_t)(offsetof(struct rlmd_wire_message, msg) + header->size);
	memcpy(&wire.msg, msg, header->size);
	rlmd_pipe_send(&client->guest->pipe, &wire);
}

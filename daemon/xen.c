// SPDX-License-Identifier: BSD-2-Clause
// What both roles on Xen have in common: xenstore, and where messages for processes go.
#include "xen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xenstore.h>

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
	xen->store = xs_open(0);
	if (!xen->store) {
		err = -errno;
		snprintf(error, error_size, "cannot reach xenstore: %s", strerror(errno));
		free(xen);
		return err;
	}
	rlmd_xen_grants_allow(GRANT_PAGES);
	broker->xen = xen;
	if (role == RLMD_ROLE_BROKER)
		return rlmd_broker_role_init(broker, error, error_size);
	return rlmd_guest_role_init(broker, error, error_size);
}

void rlmd_xen_deinit(struct rlmd_broker *broker)
{
	struct rlmd_xen *xen = broker->xen;

	if (!xen)
		return;
	ev_io_stop(broker->loop, &xen->watch);
	if (xen->role == RLMD_ROLE_BROKER)
		rlmd_broker_role_deinit(broker);
	else
		rlmd_guest_role_deinit(broker);
	rlmd_far_deinit(&xen->far);
	xs_close(xen->store);
	free(xen);
	broker->xen = NULL;
}

// --- xenstore

static void (*watch_fired)(struct rlmd_broker *broker, const char *path, const char *token);

static void on_watch(struct ev_loop *loop, ev_io *io, int events)
{
	struct rlmd_broker *broker = io->data;
	char **watch;

	while ((watch = xs_check_watch(broker->xen->store))) {
		watch_fired(broker, watch[XS_WATCH_PATH], watch[XS_WATCH_TOKEN]);
		free(watch);
	}
}

void rlmd_store_watch(struct rlmd_broker *broker, void (*fired)(struct rlmd_broker *broker, const char *path, const char *token))
{
	struct rlmd_xen *xen = broker->xen;

	watch_fired = fired;
	ev_io_init(&xen->watch, on_watch, xs_fileno(xen->store), EV_READ);
	xen->watch.data = broker;
	ev_io_start(broker->loop, &xen->watch);
}

bool rlmd_store_read(struct rlmd_xen *xen, const char *path, char *value, size_t size)
{
	unsigned length = 0;
	char *text = xs_read(xen->store, XBT_NULL, path, &length);

	value[0] = 0;
	if (!text)
		return false;
	snprintf(value, size, "%.*s", (int)length, text);
	free(text);
	return true;
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

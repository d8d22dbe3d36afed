// SPDX-License-Identifier: BSD-2-Clause
// A build without Xen: there is the local role and nothing else.
#include "xen.h"

#include <errno.h>
#include <stdio.h>

#include "broker.h"

enum rlmd_role rlmd_xen_role(void)
{
	return RLMD_ROLE_LOCAL;
}

int rlmd_xen_init(struct rlmd_broker *broker, enum rlmd_role role, char *error, size_t error_size)
{
	if (role == RLMD_ROLE_LOCAL)
		return 0;
	snprintf(error, error_size, "built without Xen: only the local role is there");
	return -ENOTSUP;
}

void rlmd_xen_deinit(struct rlmd_broker *broker)
{
}

const char *rlmd_xen_role_name(const struct rlmd_broker *broker)
{
	return broker->backend->name;
}

void rlmd_xen_send(struct rlmd_broker *broker, struct rlmd_link *link, unsigned side, const void *msg)
{
}

void rlmd_xen_relay(struct rlmd_client *client, unsigned peer_domain, const void *msg)
{
}

void rlmd_xen_offered(struct rlmd_broker *broker, struct rlmd_offer *offer)
{
}

void rlmd_xen_withdrawn(struct rlmd_broker *broker, struct rlmd_offer *offer)
{
}

enum rlm_why rlmd_xen_unmatched(const struct rlmd_broker *broker)
{
	return RLM_WHY_NO_PEER;
}

bool rlmd_xen_release(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_release *release)
{
	return false;
}

bool rlmd_xen_left(struct rlmd_broker *broker, struct rlmd_client *client, const struct rlm_msg_left *left)
{
	return false;
}

void rlmd_xen_client_new(struct rlmd_broker *broker, struct rlmd_client *client)
{
}

void rlmd_xen_client_gone(struct rlmd_broker *broker, struct rlmd_client *client)
{
}

bool rlmd_xen_ask(struct rlmd_broker *broker, struct rlmd_client *client, json_t *list)
{
	return false;
}

json_t *rlmd_xen_prepare(struct rlmd_client *asking, struct rlmd_domain *domain, double seconds)
{
	return NULL;
}

void rlmd_xen_prepare_forget(struct rlmd_client *asking)
{
}

void rlmd_xen_report(const struct rlmd_domain *domain, json_t *json)
{
}

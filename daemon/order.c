// SPDX-License-Identifier: BSD-2-Clause
// rlmctl demote and promote: passed on to processes, which do it.
#include <utlist.h>

#include "broker.h"

json_t *rlmd_order(struct rlmd_broker *broker, struct rlmd_client *asking, const json_t *request, enum rlm_order order)
{
	struct rlm_msg_order msg = {
	    .header = {.type = RLM_MSG_ORDER, .size = sizeof(msg)}, .conn = {.index = UINT32_MAX}, .order = order};
	const json_t *pid = json_object_get(request, "pid");
	struct rlmd_client *client;
	json_int_t told = 0;

	if (!rlmd_client_is_admin(asking))
		return json_pack("{ss}", "error", "only root and the broker's own user may give orders");
	if (pid && !json_is_integer(pid))
		return json_pack("{ss}", "error", "\"pid\" must be a number; without it all processes are meant");
	DL_FOREACH (broker->clients, client) {
		if (!client->hello || client->doomed || (pid && (client->guest || json_integer_value(pid) != client->pid)))
			continue;
		rlmd_client_send(client, &msg, NULL, 0);
		told++;
	}
	if (pid && told == 0)
		return json_pack("{ss}", "error", "no process with this pid has a session here");
	rlmd_event(&broker->events, order == RLM_ORDER_DEMOTE ? "demote" : "promote", NULL, NULL, "%lld processes told",
		   (long long)told);
	return json_pack("{sI}", "processes", told);
}

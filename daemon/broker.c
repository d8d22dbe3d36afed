// SPDX-License-Identifier: BSD-2-Clause
#include "xen.h"
#include "broker.h"

#include <string.h>
#include <sys/random.h>

#include "naming.h"

uint64_t rlmd_random(void)
{
	uint64_t value = 0;

	// Never fails for so few bytes once the kernel's pool is ready, and blocks until it is.
	while (getrandom(&value, sizeof(value), 0) != sizeof(value))
		;
	return value;
}

int rlmd_broker_init(struct rlmd_broker *broker, struct ev_loop *loop, const struct rlmd_backend *backend, const char *host)
{
	int err;

	memset(broker, 0, sizeof(*broker));
	broker->loop = loop;
	broker->backend = backend;
	broker->id = rlmd_random();
	broker->started = ev_time();
	broker->isn = rlmd_naming_isn_possible();
	rlmd_lookup_init(&broker->lookup);
	rlmd_config_default(&broker->config);
	rlmd_registry_init(&broker->registry);
	rlmd_links_init(&broker->links, &broker->config.limits, rlmd_random);
	rlmd_domains_init(&broker->domains, host, backend->location);
	err = rlmd_events_init(&broker->events);
	if (err)
		return err;
	err = backend->init();
	if (err) {
		rlmd_events_deinit(&broker->events);
		return err;
	}
	rlmd_timer_init(broker);
	return 0;
}

void rlmd_broker_deinit(struct rlmd_broker *broker)
{
	while (broker->clients) {
		broker->clients->doomed = true; // nothing more is sent to it
		rlmd_client_free(broker->clients);
	}
	rlmd_xen_deinit(broker);
	rlmd_timer_deinit(broker);
	broker->backend->deinit();
	rlmd_events_deinit(&broker->events);
	rlmd_registry_deinit(&broker->registry);
	rlmd_domains_deinit(&broker->domains);
	rlmd_lookup_deinit(&broker->lookup);
	rlmd_config_deinit(&broker->config);
}

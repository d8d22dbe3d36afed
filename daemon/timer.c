// SPDX-License-Identifier: BSD-2-Clause
// What happens by time alone: offers without a match, idle segments; and what is put off until nobody is in the middle
// of something. The timer is armed for the earliest of these, so an idle broker sleeps.
#include <utlist.h>

#include "broker.h"
#include "rlm/rlm.h"
#include "xen.h"

#define RETRY_INTERVAL 0.05
#define RETRIES	       1024

static void wait_long(struct rlmd_broker *broker, struct rlmd_offer *offer, double now)
{
	DL_DELETE2(broker->waiting[RLMD_WAIT_SHORT], offer, wait_prev, wait_next);
	offer->wait = RLMD_WAIT_LONG;
	offer->deadline = now + RLMD_WAIT_LONG_TIME;
	DL_APPEND2(broker->waiting[RLMD_WAIT_LONG], offer, wait_prev, wait_next);
}

static bool isn_would_help(const struct rlmd_broker *broker, const struct rlmd_offer *offer)
{
	return broker->isn && offer->client->tickets && !offer->end.has[RLMD_NAME_ISN];
}

// Where processes of several namespaces have sessions, the other end is likely in another one. No need to wait for a
// second.
static void short_expired(struct rlmd_broker *broker, struct rlmd_offer *offer, double now)
{
	wait_long(broker, offer, now);
	if (offer->noted == RLM_WHY_MATCHING && broker->domain_count > 1 && isn_would_help(broker, offer))
		rlmd_offer_note(offer, RLM_WHY_NO_PEER, true);
}

static void long_expired(struct rlmd_broker *broker, struct rlmd_offer *offer)
{
	DL_DELETE2(broker->waiting[RLMD_WAIT_LONG], offer, wait_prev, wait_next);
	offer->wait = RLMD_WAIT_NONE;
	if (offer->noted != RLM_WHY_MATCHING)
		return;
	if (isn_would_help(broker, offer))
		rlmd_offer_note(offer, RLM_WHY_NO_PEER, true);
	else
		rlmd_offer_note(offer, rlmd_xen_unmatched(broker), false);
}

static void waits_expire(struct rlmd_broker *broker, double now)
{
	struct rlmd_offer *offer;

	while ((offer = broker->waiting[RLMD_WAIT_LONG]) && offer->deadline <= now)
		long_expired(broker, offer);
	while ((offer = broker->waiting[RLMD_WAIT_SHORT]) && offer->deadline <= now)
		short_expired(broker, offer, now);
}

static double idle_deadline(const struct rlmd_broker *broker)
{
	return broker->links.idle->idle_since + broker->config.limits.idle_time;
}

static void idle_expire(struct rlmd_broker *broker, double now)
{
	while (broker->links.idle && idle_deadline(broker) <= now)
		rlmd_segment_drop(broker, broker->links.idle);
}

// Each goes to the end again if it is still limited, and a match may take others away: no more than there are now, and
// some at a time.
static void limited_retry(struct rlmd_broker *broker)
{
	struct rlmd_offer *offer;

	if (broker->freed)
		DL_COUNT2(broker->limited, offer, broker->limited_left, limited_next);
	broker->freed = false;
	for (int i = 0; i < RETRIES && broker->limited_left && broker->limited; i++, broker->limited_left--)
		rlmd_offer_try(broker, broker->limited);
}

static bool retry_is_due(const struct rlmd_broker *broker)
{
	return (broker->freed || broker->limited_left) && broker->limited;
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_broker *broker = timer->data;
	double now = ev_now(loop);

	waits_expire(broker, now);
	idle_expire(broker, now);
	if (retry_is_due(broker))
		limited_retry(broker);
}

// Taking one apart tells others, which may doom them.
static void doomed_free(struct rlmd_broker *broker)
{
	struct rlmd_client *client;

	while ((client = broker->doomed)) {
		LL_DELETE2(broker->doomed, client, doomed_next);
		rlmd_client_free(client);
	}
}

static double deadline_min(double deadline, double other)
{
	return other < deadline ? other : deadline;
}

static void timer_arm(struct rlmd_broker *broker)
{
	double now = ev_now(broker->loop), deadline = now + 3600;

	for (int wait = RLMD_WAIT_SHORT; wait < RLMD_WAITS; wait++)
		if (broker->waiting[wait])
			deadline = deadline_min(deadline, broker->waiting[wait]->deadline);
	if (broker->links.idle)
		deadline = deadline_min(deadline, idle_deadline(broker));
	if (retry_is_due(broker))
		deadline = deadline_min(deadline, now + RETRY_INTERVAL);
	if (ev_is_active(&broker->timer) && retry_is_due(broker) &&
	    ev_timer_remaining(broker->loop, &broker->timer) < RETRY_INTERVAL)
		return;
	broker->timer.repeat = deadline > now ? deadline - now : 1e-6;
	ev_timer_again(broker->loop, &broker->timer);
}

static void on_prepare(struct ev_loop *loop, ev_prepare *prepare, int events)
{
	struct rlmd_broker *broker = prepare->data;
	struct rlmd_end *end;

	doomed_free(broker);
	while ((end = rlmd_registry_retry(&broker->registry)))
		rlmd_offer_try(broker, (struct rlmd_offer *)((char *)end - offsetof(struct rlmd_offer, end)));
	rlmd_events_tell(broker);
	doomed_free(broker);
	timer_arm(broker);
}

void rlmd_timer_init(struct rlmd_broker *broker)
{
	ev_timer_init(&broker->timer, on_timer, 0, 0);
	ev_prepare_init(&broker->prepare, on_prepare);
	broker->timer.data = broker->prepare.data = broker;
	ev_prepare_start(broker->loop, &broker->prepare);
}

void rlmd_timer_deinit(struct rlmd_broker *broker)
{
	ev_timer_stop(broker->loop, &broker->timer);
	ev_prepare_stop(broker->loop, &broker->prepare);
}

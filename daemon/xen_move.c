// SPDX-License-Identifier: BSD-2-Clause
#include "xen_move.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <xenstore.h>

#include "log.h"
#include "xen_guard.h"
#include "xen_internal.h"
#include "xen_node.h"

#define REFUSED_NODE "rlm/refused" // below the domain's home: why its last suspend was refused

enum state { LEAVING, CLOSING, QUIET };

struct rlmd_departure {
	struct rlmd_broker *broker;
	struct rlmd_guest *guest;
	struct rlmd_quiesce *quiesce;
	enum state state;
	double deadline;
	ev_timer closing;
	uint32_t held; // the guard's number for the tool stack's helper; 0: not executed yet
	pid_t pid;     // its own
	ev_io helper;  // a pidfd
	struct rlmd_client *asking; // rlmctl; NULL: nobody, or it is gone
};

static void departure_free(struct rlmd_departure *departure)
{
	struct ev_loop *loop = departure->broker->loop;

	ev_timer_stop(loop, &departure->closing);
	ev_clear_pending(loop, &departure->closing);
	if (ev_is_active(&departure->helper)) {
		ev_io_stop(loop, &departure->helper);
		close(departure->helper.fd);
	}
	if (departure->asking)
		departure->asking->departure = NULL;
	departure->guest->departure = NULL;
	rlmd_quiesce_end(departure->quiesce);
	free(departure);
}

// The domain is as before; if it is still there it gets a channel again.
static void departure_end(struct rlmd_departure *departure)
{
	struct rlmd_wire_header resume = {.type = RLMD_WIRE_RESUME, .size = sizeof(resume)};
	struct rlmd_guest *guest = departure->guest;

	departure_free(departure);
	rlmd_pipe_send(&guest->pipe, &resume);
	rlmd_channel_asked(guest);
}

static void guard_answer(struct rlmd_broker *broker, uint32_t number, bool allow, const char *why)
{
	struct rlmd_guard_answer answer = {.number = number, .allow = allow};

	snprintf(answer.why, sizeof(answer.why), "%s", why);
	if (send(broker->xen->guard.fd, &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer))
		log_error("the guard takes no answer: %s", strerror(errno));
}

static void reply(struct rlmd_client *asking, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (!text || !rlmd_client_reply(asking, text))
		rlmd_client_doom(asking, "cannot be answered");
}

static double milliseconds(const struct rlmd_departure *departure)
{
	return (ev_time() - departure->quiesce->started) * 1e3;
}

static void refuse(struct rlmd_departure *departure, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void refuse(struct rlmd_departure *departure, const char *format, ...)
{
	struct rlmd_broker *broker = departure->broker;
	const struct rlmd_guest *guest = departure->guest;
	char why[256], path[64];
	size_t at = (size_t)snprintf(why, sizeof(why), "%s stays: ", guest->domain->name);
	va_list ap;

	va_start(ap, format);
	vsnprintf(why + at, sizeof(why) - at, format, ap);
	va_end(ap);
	log_warn("%s", why);
	rlmd_event(&broker->events, "refused", guest->domain->name, NULL, "%s", why + at);
	snprintf(path, sizeof(path), "/local/domain/%u/" REFUSED_NODE, guest->id);
	xs_write(broker->xen->store, XBT_NULL, path, why, (unsigned)strlen(why));
	if (departure->held)
		guard_answer(broker, departure->held, false, why);
	if (departure->asking && departure->state != QUIET)
		reply(departure->asking, json_pack("{ss}", "error", why));
	departure_end(departure);
}

// --- the tool stack's helper

static void on_helper_end(struct ev_loop *loop, ev_io *io, int events)
{
	struct rlmd_departure *departure = io->data;

	rlmd_event(&departure->broker->events, "tool-ended", departure->guest->domain->name, NULL, "%.0f ms after the beginning",
		   milliseconds(departure));
	departure_end(departure);
}

// Until it has executed the helper it waits for us, so its number is no other's.
static void helper_let_go(struct rlmd_departure *departure)
{
	int fd = (int)syscall(SYS_pidfd_open, departure->pid, 0);

	rlmd_event(&departure->broker->events, "departs", departure->guest->domain->name, NULL, "the tool stack goes on after %.0f ms",
		   milliseconds(departure));
	if (fd < 0) {
		refuse(departure, "the tool stack's process is gone");
		return;
	}
	ev_io_init(&departure->helper, on_helper_end, fd, EV_READ);
	departure->helper.data = departure;
	ev_io_start(departure->broker->loop, &departure->helper);
	guard_answer(departure->broker, departure->held, true, "");
}

static void quiet(struct rlmd_departure *departure)
{
	const struct rlmd_quiesce *quiesce = departure->quiesce;
	const struct rlmd_guest *guest = departure->guest;
	double time = milliseconds(departure);

	ev_timer_stop(departure->broker->loop, &departure->closing);
	departure->state = QUIET;
	rlmd_event(&departure->broker->events, "quiet", guest->domain->name, NULL, "in %.2f ms: %u connections on %u links are on TCP", time,
		   quiesce->connections, quiesce->links);
	if (departure->asking)
		reply(departure->asking, json_pack("{ss si sI sI sI sf}", "domain", guest->domain->name, "id", (int)guest->id, "processes",
						   (json_int_t)guest->client_count, "links", (json_int_t)quiesce->links, "connections",
						   (json_int_t)quiesce->connections, "milliseconds", time));
	if (departure->held)
		helper_let_go(departure);
}

// --- becoming quiet

static bool is_open(const struct rlmd_guest *guest)
{
	char path[64], value[RLMD_NODE_SIZE];

	snprintf(path, sizeof(path), "/local/domain/%u/" RLMD_WIRE_ASK_NODE, guest->id);
	return rlmd_store_read(guest->broker->xen, path, value, sizeof(value)) && rlmd_node_is_open(value);
}

static void on_closing_over(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_departure *departure = timer->data;

	refuse(departure, "after %.0f ms its rlmd has not closed all channels; its log names who does not answer", milliseconds(departure));
}

static void on_left(struct rlmd_quiesce *quiesce, const char *culprits)
{
	struct rlmd_wire_header close = {.type = RLMD_WIRE_CLOSE, .size = sizeof(close)};
	struct rlmd_departure *departure = quiesce->data;
	double left = departure->deadline - ev_time();

	if (culprits) {
		refuse(departure, "after %.0f ms no answer from %s", milliseconds(departure), culprits);
		return;
	}
	departure->state = CLOSING;
	if (!departure->guest->pipe.channel && is_open(departure->guest)) {
		refuse(departure, "its rlmd is gone, and its processes may have channels open: start it again");
		return;
	}
	rlmd_pipe_send(&departure->guest->pipe, &close);
	ev_timer_set(&departure->closing, left > 0 ? left : 0, 0);
	ev_timer_start(departure->broker->loop, &departure->closing);
	rlmd_departure_look(departure->guest);
}

void rlmd_departure_look(struct rlmd_guest *guest)
{
	if (!guest->departure || guest->departure->state != CLOSING || is_open(guest))
		return;
	rlmd_guest_shut(guest);
	quiet(guest->departure);
}

static struct rlmd_departure *departure_new(struct rlmd_guest *guest, double seconds, const char *who)
{
	struct rlmd_departure *departure = calloc(1, sizeof(*departure));

	if (!departure)
		return NULL;
	departure->broker = guest->broker;
	departure->guest = guest;
	departure->deadline = ev_time() + seconds;
	ev_timer_init(&departure->closing, on_closing_over, 0, 0);
	departure->closing.data = departure;
	rlmd_event(&guest->broker->events, "quiesce", guest->domain->name, NULL, "%u processes, at most %.0f ms, for %s", guest->client_count,
		   seconds * 1e3, who);
	departure->quiesce = rlmd_quiesce_start(guest->broker, guest->domain, seconds, on_left, departure);
	if (!departure->quiesce) {
		free(departure);
		return NULL;
	}
	guest->departure = departure;
	return departure;
}

void rlmd_departure_gone(struct rlmd_guest *guest)
{
	struct rlmd_departure *departure = guest->departure;

	if (!departure)
		return;
	if (departure->state != QUIET && departure->held)
		guard_answer(departure->broker, departure->held, true, "");
	if (departure->state != QUIET && departure->asking)
		reply(departure->asking, json_pack("{ss}", "error", "the domain is gone"));
	departure_free(departure);
}

// --- the guard

static void held(struct rlmd_broker *broker, const struct rlmd_guard_ask *ask)
{
	struct rlmd_guest *guest = rlmd_guest_by_id(broker, ask->domain);
	struct rlmd_departure *departure = guest ? guest->departure : NULL;
	char who[48];

	if (!guest) { // not here, or not introduced: it has no channel
		guard_answer(broker, ask->number, true, "");
		return;
	}
	if (departure && departure->held) {
		guard_answer(broker, ask->number, false, "the domain is being saved already");
		return;
	}
	snprintf(who, sizeof(who), "process %d of the tool stack", (int)ask->pid);
	if (!departure)
		departure = departure_new(guest, broker->config.quiesce_time, who);
	if (!departure) {
		guard_answer(broker, ask->number, false, "rlmd is out of memory");
		return;
	}
	departure->held = ask->number;
	departure->pid = ask->pid;
	if (departure->state == QUIET)
		helper_let_go(departure);
}

static void on_guard(struct ev_loop *loop, ev_io *io, int events)
{
	struct rlmd_broker *broker = io->data;
	struct rlmd_guard_ask ask;
	ssize_t size = recv(io->fd, &ask, sizeof(ask), MSG_DONTWAIT);

	if (size == sizeof(ask)) {
		held(broker, &ask);
	} else if (size >= 0 || (errno != EAGAIN && errno != EINTR)) {
		log_error("the guard is gone: without it no domain may have a channel");
		broker->failed = true;
		ev_break(loop, EVBREAK_ALL);
	}
}

int rlmd_departures_init(struct rlmd_broker *broker, char *error, size_t error_size)
{
	const struct rlmd_config *config = &broker->config;
	int fd = rlmd_guard_start(config->save_helper[0] ? config->save_helper : NULL, config->quiesce_time, error, error_size);

	if (fd < 0)
		return fd;
	ev_io_init(&broker->xen->guard, on_guard, fd, EV_READ);
	broker->xen->guard.data = broker;
	ev_io_start(broker->loop, &broker->xen->guard);
	return 0;
}

void rlmd_departures_deinit(struct rlmd_broker *broker)
{
	struct rlmd_guest *guest;

	for (guest = broker->xen->guests; guest; guest = guest->next)
		if (guest->departure)
			departure_free(guest->departure);
	if (!ev_is_active(&broker->xen->guard))
		return;
	ev_io_stop(broker->loop, &broker->xen->guard);
	close(broker->xen->guard.fd);
}

// --- rlmctl

json_t *rlmd_xen_prepare(struct rlmd_client *asking, struct rlmd_domain *domain, double seconds)
{
	if (domain->guest->departure)
		return json_pack("{ss}", "error", "it is about to move already");
	asking->departure = departure_new(domain->guest, seconds, "rlmctl");
	if (!asking->departure)
		return json_pack("{ss}", "error", "it cannot be made quiet now");
	asking->departure->asking = asking;
	return NULL;
}

// Once the tool stack is at work it is the one to end it.
void rlmd_xen_prepare_forget(struct rlmd_client *asking)
{
	struct rlmd_departure *departure = asking->departure;

	if (!departure)
		return;
	departure->asking = NULL;
	asking->departure = NULL;
	if (departure->held)
		return;
	rlmd_event(&departure->broker->events, "stays", departure->guest->domain->name, NULL, "its move was given up");
	departure_end(departure);
}

// SPDX-License-Identifier: BSD-2-Clause
#include "metrics.h"

#include <errno.h>
#include <ev.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "broker.h"
#include "closer.h"

#define CONNECTIONS 16u
#define TIMEOUT	    5u // seconds
#define BACKLOG	    16

struct rlmd_metrics {
	struct rlmd_broker *broker;
	struct MHD_Daemon *http;
	ev_io readable; // its epoll instance
	ev_timer later; // when it wants to be called without an event
};

// --- the text ---

struct family {
	const char *name, *type, *help;
};

static void family_print(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one_print(FILE *out, const char *name, const char *type, const char *help, uint64_t value)
{
	family_print(out, name, type, help);
	fprintf(out, "%s %llu\n", name, (unsigned long long)value);
}

static void sums_take(const struct rlmd_broker *broker, struct rlmd_sums *total, unsigned *processes)
{
	const struct rlmd_table *table, *next;
	const struct rlmd_client *client;
	struct rlmd_sums sums;

	*total = broker->gone;
	HASH_ITER (hh, broker->tables.by_file, table, next) {
		memset(&sums, 0, sizeof(sums));
		rlmd_table_sums(table, &sums);
		rlmd_sums_add(total, &sums);
	}
	*processes = 0;
	DL_FOREACH (broker->clients, client)
		*processes += client->table != NULL;
}

static void traffic_print(FILE *out, const struct rlmd_sums *total)
{
	family_print(out, "rlm_bytes_total", "counter", "Payload of all processes' connections; one between two processes counts at both ends.");
	fprintf(out, "rlm_bytes_total{direction=\"sent\",carrier=\"ring\"} %llu\n", (unsigned long long)total->tx_bytes_ring);
	fprintf(out, "rlm_bytes_total{direction=\"received\",carrier=\"ring\"} %llu\n", (unsigned long long)total->rx_bytes_ring);
	fprintf(out, "rlm_bytes_total{direction=\"sent\",carrier=\"tcp\"} %llu\n", (unsigned long long)total->tx_bytes_plain);
	fprintf(out, "rlm_bytes_total{direction=\"received\",carrier=\"tcp\"} %llu\n", (unsigned long long)total->rx_bytes_plain);
	one_print(out, "rlm_connections_opened_total", "counter", "Connections that processes made or accepted.", total->opened);
	one_print(out, "rlm_connections_accelerated_total", "counter", "Of these, connections that ever used shared memory.", total->promoted);
	one_print(out, "rlm_switches_total", "counter", "Changes between TCP and shared memory.", total->switches);
}

static void broker_print(FILE *out, const struct rlmd_broker *broker, unsigned processes)
{
	const struct rlmd_counters *counters = &broker->counters;

	family_print(out, "rlmd_start_time_seconds", "gauge", "When rlmd started, since 1970.");
	fprintf(out, "rlmd_start_time_seconds %.3f\n", broker->started);
	one_print(out, "rlmd_processes", "gauge", "Processes with a session.", processes);
	one_print(out, "rlmd_connections_bound", "gauge", "Connections that have a slot in shared memory.", broker->links.bound);
	one_print(out, "rlmd_links", "gauge", "Pairs of processes that share memory.", HASH_COUNT(broker->links.by_id));
	one_print(out, "rlmd_segments", "gauge", "Segments of shared memory.", broker->links.segments);
	one_print(out, "rlmd_memory_bytes", "gauge", "Shared memory given out.", broker->links.memory);
	one_print(out, "rlmd_memory_limit_bytes", "gauge", "memory_total of rlmd.conf.", broker->config.limits.memory_total);
	one_print(out, "rlmd_offers_waiting", "gauge", "Connections that look for their other end.", broker->registry.ends);
	one_print(out, "rlmd_sessions_total", "counter", "Sessions begun.", counters->clients);
	one_print(out, "rlmd_offers_total", "counter", "Connections offered.", counters->offers);
	one_print(out, "rlmd_matches_total", "counter", "Connections whose two ends were joined.", counters->matches);
	one_print(out, "rlmd_links_made_total", "counter", "Links made.", broker->links.links_made);
	one_print(out, "rlmd_bindings_total", "counter", "Connections bound to a slot.", broker->links.bindings);
	family_print(out, "rlmd_refused_total", "counter", "What was not joined or let in, and why.");
	fprintf(out, "rlmd_refused_total{why=\"group\"} %llu\n", (unsigned long long)counters->refused_group);
	fprintf(out, "rlmd_refused_total{why=\"memory\"} %llu\n", (unsigned long long)counters->refused_limit);
	fprintf(out, "rlmd_refused_total{why=\"ambiguous\"} %llu\n", (unsigned long long)counters->ambiguous);
	fprintf(out, "rlmd_refused_total{why=\"sessions\"} %llu\n", (unsigned long long)counters->refused_sessions);
	fprintf(out, "rlmd_refused_total{why=\"misbehaved\"} %llu\n", (unsigned long long)counters->misbehaved);
}

static char *text_make(const struct rlmd_broker *broker, size_t *length)
{
	struct rlmd_sums total;
	unsigned processes;
	char *text = NULL;
	FILE *out = open_memstream(&text, length);

	if (!out)
		return NULL;
	sums_take(broker, &total, &processes);
	broker_print(out, broker, processes);
	traffic_print(out, &total);
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}

// --- HTTP ---

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status, const char *type, char *text, size_t length,
				   enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(length, text, mode);
	enum MHD_Result result;

	if (!response) {
		if (mode == MHD_RESPMEM_MUST_FREE)
			free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, "Content-Type", type);
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result on_request(void *data, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
				  const char *upload, size_t *upload_size, void **state)
{
	static char nothing[] = "There is /metrics.\n";
	struct rlmd_metrics *metrics = data;
	size_t length;
	char *text;

	if (*upload_size)
		return MHD_NO;
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", nothing, 0, MHD_RESPMEM_PERSISTENT);
	if (strcmp(url, "/metrics") != 0)
		return answer_text(connection, MHD_HTTP_NOT_FOUND, "text/plain", nothing, sizeof(nothing) - 1, MHD_RESPMEM_PERSISTENT);
	text = text_make(metrics->broker, &length);
	return text ? answer_text(connection, MHD_HTTP_OK, "text/plain; version=0.0.4", text, length, MHD_RESPMEM_MUST_FREE) : MHD_NO;
}

static void go_on(struct rlmd_metrics *metrics)
{
	MHD_UNSIGNED_LONG_LONG milliseconds;

	MHD_run(metrics->http);
	ev_timer_stop(metrics->broker->loop, &metrics->later);
	if (MHD_get_timeout(metrics->http, &milliseconds) != MHD_YES)
		return;
	ev_timer_set(&metrics->later, (double)milliseconds / 1e3, 0);
	ev_timer_start(metrics->broker->loop, &metrics->later);
}

static void on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	go_on(io->data);
}

static void on_later(struct ev_loop *loop, ev_timer *timer, int events)
{
	go_on(timer->data);
}

// "ADDRESS:PORT", "[ADDRESS]:PORT". A socket, or -1 and what is wrong.
static int listen_at(const char *address, const char **problem)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
	const char *port = strrchr(address, ':');
	struct addrinfo *found;
	char host[64];
	int sock, err, on = 1;
	size_t length = port ? (size_t)(port - address) : 0;

	*problem = "must be ADDRESS:PORT in digits, as 127.0.0.1:9470 or [::1]:9470";
	if (!length || length >= sizeof(host))
		return -1;
	snprintf(host, sizeof(host), "%.*s", (int)length, address);
	if (host[0] == '[' && host[length - 1] == ']') {
		host[length - 1] = 0;
		memmove(host, host + 1, length - 1);
	} else if (strchr(host, ':')) {
		return -1;
	}
	if (getaddrinfo(host, port + 1, &hints, &found))
		return -1;
	sock = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	err = sock < 0 || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	      bind(sock, found->ai_addr, found->ai_addrlen) || listen(sock, BACKLOG);
	freeaddrinfo(found);
	if (!err)
		return sock;
	*problem = strerror(errno);
	if (sock >= 0)
		close(sock);
	return -1;
}

struct rlmd_metrics *rlmd_metrics_new(struct rlmd_broker *broker, const char *address, char *error, size_t error_size)
{
	struct rlmd_metrics *metrics = calloc(1, sizeof(*metrics));
	const union MHD_DaemonInfo *info = NULL;
	const char *problem = "out of memory";
	int sock = metrics ? listen_at(address, &problem) : -1;

	if (sock < 0)
		goto err;
	metrics->broker = broker;
	problem = "no HTTP server can be made";
	metrics->http = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, metrics, MHD_OPTION_LISTEN_SOCKET, sock,
					 MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, TIMEOUT, MHD_OPTION_END);
	if (metrics->http)
		info = MHD_get_daemon_info(metrics->http, MHD_DAEMON_INFO_EPOLL_FD);
	if (!info)
		goto err_socket;
	ev_io_init(&metrics->readable, on_readable, info->epoll_fd, EV_READ);
	ev_timer_init(&metrics->later, on_later, 0, 0);
	metrics->readable.data = metrics->later.data = metrics;
	ev_io_start(broker->loop, &metrics->readable);
	return metrics;
err_socket:
	if (metrics->http)
		MHD_stop_daemon(metrics->http);
	else
		close(sock);
err:
	snprintf(error, error_size, "--metrics %s: %s", address, problem);
	free(metrics);
	return NULL;
}

void rlmd_metrics_free(struct rlmd_metrics *metrics)
{
	if (!metrics)
		return;
	ev_io_stop(metrics->broker->loop, &metrics->readable);
	ev_timer_stop(metrics->broker->loop, &metrics->later);
	MHD_stop_daemon(metrics->http);
	free(metrics);
}

// SPDX-License-Identifier: BSD-2-Clause
// rlmd, the broker daemon, see rlmd(8).
#include <ev.h>
#include <popt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker.h"
#include "closer.h"
#include "isolate.h"
#include "log.h"
#include "metrics.h"
#include "move.h"
#include "server.h"
#include "xen.h"

struct options {
	const char *socket;
	const char *config; // NULL: the default one, if it is there
	const char *host;   // NULL: what the machine is called
	const char *metrics; // NULL: none
	enum rlmd_role role;
};

static void usage_error(poptContext context, const char *what, const char *why)
{
	fprintf(stderr, "rlmd: %s: %s\nTry 'rlmd --help'.\n", what, why);
	poptFreeContext(context);
	exit(2);
}

static int role_parse(const char *name, enum rlmd_role *role)
{
	static const char *const names[] = {
	    [RLMD_ROLE_AUTO] = "auto", [RLMD_ROLE_LOCAL] = "local", [RLMD_ROLE_BROKER] = "broker", [RLMD_ROLE_GUEST] = "guest"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0) {
			*role = (enum rlmd_role)i;
			return 0;
		}
	return -1;
}

static void options_read(struct options *options, int argc, const char **argv)
{
	static char *socket_path, *config, *level, *host, *role, *metrics;
	static int version, foreground;
	struct poptOption table[] = {
	    {"socket", 's', POPT_ARG_STRING, &socket_path, 0,
	     "listen here (default $RLM_SOCKET or " RLM_DEFAULT_SOCKET ")", "PATH"},
	    {"config", 'c', POPT_ARG_STRING, &config, 0, "configuration file (default " RLMD_DEFAULT_CONFIG ")",
	     "FILE"},
	    {"host", 'H', POPT_ARG_STRING, &host, 0, "what this host is called (default: the machine's name)", "NAME"},
	    {"foreground", 'f', POPT_ARG_NONE, &foreground, 0, "stay in the foreground (always so)", NULL},
	    {"log", 'l', POPT_ARG_STRING, &level, 0, "error, warn, info (default) or debug", "LEVEL"},
	    {"role", 'r', POPT_ARG_STRING, &role, 0, "auto (default), local, broker (in dom0 of Xen) or guest (in a domU)", "ROLE"},
	    {"metrics", 'm', POPT_ARG_STRING, &metrics, 0, "counters for Prometheus over HTTP, here", "ADDRESS:PORT"},
	    {"version", 'V', POPT_ARG_NONE, &version, 0, "print the version", NULL},
	    POPT_AUTOHELP POPT_TABLEEND};
	poptContext context = poptGetContext("rlmd", argc, argv, table, 0);
	int result = poptGetNextOpt(context);

	if (result < -1)
		usage_error(context, poptBadOption(context, POPT_BADOPTION_NOALIAS), poptStrerror(result));
	if (poptPeekArg(context))
		usage_error(context, poptPeekArg(context), "unexpected argument");
	if (level && rlmd_log_level(level))
		usage_error(context, level, "must be error, warn, info or debug");
	if (role && role_parse(role, &options->role))
		usage_error(context, role, "must be auto, local, broker or guest");
	if (version) {
		printf("rlmd %s\n", RLM_VERSION);
		exit(0);
	}
	options->socket = socket_path;
	if (!options->socket)
		options->socket = getenv("RLM_SOCKET");
	if (!options->socket || !options->socket[0])
		options->socket = RLM_DEFAULT_SOCKET;
	options->config = config;
	options->host = host;
	options->metrics = metrics;
	poptFreeContext(context);
}

static int config_read(struct rlmd_broker *broker, const struct options *options)
{
	const char *path = options->config ? options->config : RLMD_DEFAULT_CONFIG;
	char error[1024];
	int err = rlmd_config_load(&broker->config, path, options->config != NULL, error, sizeof(error));

	broker->config_path = path;
	broker->config_required = options->config != NULL;
	if (err)
		log_error("%s", error);
	return err;
}

static void host_set(struct rlmd_broker *broker, const char *name)
{
	if (name)
		snprintf(broker->host, sizeof(broker->host), "%s", name);
	else if (gethostname(broker->host, sizeof(broker->host) - 1))
		strcpy(broker->host, "-");
}

static void on_stop(struct ev_loop *loop, ev_signal *watcher, int events)
{
	ev_break(loop, EVBREAK_ALL);
}

static void on_reload(struct ev_loop *loop, ev_signal *watcher, int events)
{
	struct rlmd_broker *broker = watcher->data;
	char error[1024];

	if (rlmd_config_load(&broker->config, broker->config_path, broker->config_required, error, sizeof(error))) {
		log_error("%s; the configuration stays as it was", error);
		return;
	}
	log_info("configuration read again");
	rlmd_regroup(broker);
}

static void serve(struct rlmd_broker *broker, const struct options *options)
{
	ev_signal term, interrupt, hangup;

	ev_signal_init(&term, on_stop, SIGTERM);
	ev_signal_init(&interrupt, on_stop, SIGINT);
	ev_signal_init(&hangup, on_reload, SIGHUP);
	hangup.data = broker;
	ev_signal_start(broker->loop, &term);
	ev_signal_start(broker->loop, &interrupt);
	ev_signal_start(broker->loop, &hangup);
	log_info("ready on %s", options->socket);
	ev_run(broker->loop, 0);
	ev_signal_stop(broker->loop, &term);
	ev_signal_stop(broker->loop, &interrupt);
	ev_signal_stop(broker->loop, &hangup);
}

static void isolate(const struct rlmd_broker *broker)
{
	int err = rlmd_isolate_privileges();

	if (err)
		log_warn("cannot give up privileges: %s", strerror(-err));
	err = rlmd_isolate_syscalls(broker->xen != NULL);
	if (err)
		log_warn("no sandbox: %s", strerror(-err));
}

int main(int argc, char **argv)
{
	struct options options = {.role = RLMD_ROLE_AUTO};
	struct rlmd_broker broker;
	struct rlmd_server server;
	struct rlmd_metrics *metrics = NULL;
	char error[512];
	int err, status = 1;

	options_read(&options, argc, (const char **)argv);
	signal(SIGPIPE, SIG_IGN);
	rlmd_isolate_descriptors();
	err = rlmd_closer_init();
	if (!err)
		err = rlmd_broker_init(&broker, ev_default_loop(0), &rlmd_backend_local, options.socket);
	if (err) {
		log_error("cannot start: %s", strerror(-err));
		return 1;
	}
	host_set(&broker, options.host);
	if (config_read(&broker, &options))
		goto out;
	rlmd_move_load(&broker, options.socket);
	if (rlmd_server_init(&server, &broker, options.socket, error, sizeof(error))) {
		log_error("%s", error);
		goto out;
	}
	if (rlmd_xen_init(&broker, options.role == RLMD_ROLE_AUTO ? rlmd_xen_role() : options.role, error, sizeof(error))) {
		log_error("%s", error);
		goto out_server;
	}
	if (options.metrics) {
		metrics = rlmd_metrics_new(&broker, options.metrics, error, sizeof(error));
		if (!metrics) {
			log_error("%s", error);
			goto out_server;
		}
	}
	isolate(&broker);
	if (!broker.isn)
		log_info("without CAP_NET_ADMIN: only connections within one network namespace are accelerated");
	serve(&broker, &options);
	status = broker.failed;
out_server:
	rlmd_metrics_free(metrics);
	rlmd_server_deinit(&server);
out:
	rlmd_broker_deinit(&broker);
	return status;
}

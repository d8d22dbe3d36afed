// SPDX-License-Identifier: BSD-2-Clause
// rlmctl, see rlmctl(1).
#include <errno.h>
#include <popt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migrate.h"
#include "move.h"
#include "print.h"
#include "rlm/proto.h"
#include "session.h"
#include "top.h"

enum argument { ARGUMENT_NONE, ARGUMENT_PID, ARGUMENT_MOVE, ARGUMENT_MIGRATE };

struct command {
	const char *name;
	enum argument argument;
	void (*print)(const json_t *reply);
	const char *help;
};

static const struct command commands[] = {
    {"status", ARGUMENT_NONE, print_status, "the broker in a few lines"},
    {"connections", ARGUMENT_NONE, print_connections, "every connection: carriers, bytes, and why not accelerated"},
    {"stats", ARGUMENT_NONE, print_stats, "sums by process and in total, memory, counters"},
    {"groups", ARGUMENT_NONE, print_groups, "groups and the domains in them"},
    {"domains", ARGUMENT_NONE, print_domains, "network namespaces that have processes here"},
    {"events", ARGUMENT_NONE, print_events, "what happened lately; with --follow also what happens now"},
    {"demote", ARGUMENT_PID, print_ordered, "[PID|all]: back to TCP, until promote"},
    {"promote", ARGUMENT_PID, print_ordered, "[PID|all]: undo demote, accelerate at once"},
    {"move", ARGUMENT_MOVE, NULL, "DOMAIN SOCKET: to the host whose broker listens there"},
    {"migrate", ARGUMENT_MIGRATE, NULL, "DOMAIN HOST: a Xen domain, by xl migrate"},
    {"top", ARGUMENT_NONE, NULL, "live screen"},
};

static struct {
	char *socket;
	char *ssh;
	int json;
	int follow;
	int version;
	int unannounced;
	double interval;
	double timeout;
} options = {.interval = 1};

static struct poptOption option_table[] = {
    {"socket", 's', POPT_ARG_STRING, &options.socket, 0, "the broker's (default $RLM_SOCKET or " RLM_DEFAULT_SOCKET ")",
     "PATH"},
    {"json", 'j', POPT_ARG_NONE, &options.json, 0, "print JSON", NULL},
    {"follow", 'f', POPT_ARG_NONE, &options.follow, 0, "events: go on", NULL},
    {"interval", 'i', POPT_ARG_DOUBLE, &options.interval, 0, "top: between two looks (default 1)", "SECONDS"},
    {"timeout", 't', POPT_ARG_DOUBLE, &options.timeout, 0, "move, migrate: for the domain to become quiet", "SECONDS"},
    {"ssh", 0, POPT_ARG_STRING, &options.ssh, 0, "migrate: what xl is to use in place of ssh", "COMMAND"},
    {"unannounced", 0, POPT_ARG_NONE, &options.unannounced, 0, "move: as if nobody had known of it, for tests", NULL},
    {"version", 'V', POPT_ARG_NONE, &options.version, 0, "print the version", NULL},
    POPT_AUTOHELP POPT_TABLEEND};

static int fail(int status, const char *what, const char *why)
{
	fprintf(stderr, "rlmctl: %s: %s\n", what, why);
	return status;
}

static const struct command *command_find(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static void commands_print(FILE *to)
{
	fprintf(to, "Commands:\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(to, "  %-13s %s\n", commands[i].name, commands[i].help);
}

static bool pid_parse(const char *text, json_t *request)
{
	char *end;
	long pid;

	if (!text || strcmp(text, "all") == 0)
		return true;
	errno = 0;
	pid = strtol(text, &end, 10);
	if (errno || *end || pid <= 0 || end == text)
		return false;
	json_object_set_new(request, "pid", json_integer(pid));
	return true;
}

static int reply_show(const struct command *command, json_t *reply)
{
	const char *error = json_string_value(json_object_get(reply, "error"));

	if (!reply)
		return fail(1, "the broker", "ended the session");
	if (error)
		return fail(1, command->name, error);
	if (!options.json) {
		command->print(reply);
	} else {
		json_dumpf(reply, stdout, options.follow ? JSON_COMPACT : JSON_INDENT(2));
		putchar('\n');
		fflush(stdout);
	}
	return 0;
}

static int command_run(int session, const struct command *command, const char *argument)
{
	json_t *request = json_pack("{ss sb}", "cmd", command->name, "follow", options.follow);
	json_t *reply;
	int err, status;

	if (command->argument == ARGUMENT_PID && !pid_parse(argument, request)) {
		json_decref(request);
		return fail(2, argument, "must be a process id or 'all'");
	}
	err = session_ask(session, request);
	json_decref(request);
	if (err)
		return fail(1, "the broker", strerror(-err));
	do {
		reply = session_reply(session);
		if (!reply && options.follow)
			return fail(1, "the broker", "is gone");
		status = reply_show(command, reply);
		json_decref(reply);
	} while (status == 0 && options.follow);
	return status;
}

static const char *socket_path(void)
{
	const char *path = options.socket;

	if (!path)
		path = getenv("RLM_SOCKET");
	return path && path[0] ? path : RLM_DEFAULT_SOCKET;
}

static int session_start(int *session)
{
	const char *path = socket_path();

	*session = session_open(path);
	return *session < 0 ? fail(1, path,
				   *session == -ENOENT || *session == -ECONNREFUSED ? "no broker is running there"
										    : strerror(-*session))
			    : 0;
}

static int arguments_check(poptContext context, const struct command **command, const char *arguments[2])
{
	int result = poptGetNextOpt(context);
	const char *name;

	if (result < -1)
		return fail(2, poptBadOption(context, POPT_BADOPTION_NOALIAS), poptStrerror(result));
	if (options.version)
		return 0;
	name = poptGetArg(context);
	if (!name) {
		poptPrintUsage(context, stderr, 0);
		commands_print(stderr);
		return 2;
	}
	*command = command_find(name);
	if (!*command)
		return fail(2, name, "no such command; 'rlmctl --help' lists them");
	if ((*command)->argument != ARGUMENT_NONE)
		arguments[0] = poptGetArg(context);
	if ((*command)->argument == ARGUMENT_MOVE || (*command)->argument == ARGUMENT_MIGRATE)
		arguments[1] = poptGetArg(context);
	if ((*command)->argument == ARGUMENT_MOVE && !arguments[1])
		return fail(2, name, "needs the domain and the socket of the other broker");
	if ((*command)->argument == ARGUMENT_MIGRATE && !arguments[1])
		return fail(2, name, "needs the domain and the other host");
	if (poptPeekArg(context))
		return fail(2, poptPeekArg(context), "unexpected argument");
	if (options.follow && strcmp((*command)->name, "events") != 0)
		return fail(2, "--follow", "only for events");
	if (!(options.interval >= 0.05 && options.interval <= 3600))
		return fail(2, "--interval", "must be from 0.05 to 3600 seconds");
	if (!(options.timeout >= 0 && options.timeout <= 60))
		return fail(2, "--timeout", "must be at most 60 seconds");
	return 0;
}

static int run(int session, const struct command *command, const char *const arguments[2])
{
	const struct move move = {.domain = arguments[0],
				  .socket = arguments[1],
				  .timeout = options.timeout,
				  .unannounced = options.unannounced,
				  .json = options.json};

	const struct migrate migrate = {.domain = arguments[0],
					.host = arguments[1],
					.ssh = options.ssh,
					.socket = socket_path(),
					.timeout = options.timeout,
					.json = options.json};

	if (command->argument == ARGUMENT_MOVE)
		return move_run(session, &move);
	if (command->argument == ARGUMENT_MIGRATE)
		return migrate_run(session, &migrate);
	return command->print ? command_run(session, command, arguments[0]) : top_run(session, options.interval);
}

int main(int argc, char **argv)
{
	poptContext context = poptGetContext("rlmctl", argc, (const char **)argv, option_table, 0);
	const struct command *command = NULL;
	const char *arguments[2] = {NULL, NULL};
	int session, status;

	poptSetOtherOptionHelp(context,
			       "[OPTION...] COMMAND\n\n  status | connections | stats | groups | domains | events |\n"
			       "  demote [PID|all] | promote [PID|all] | move DOMAIN SOCKET |\n"
			       "  migrate DOMAIN HOST | top\n");
	status = arguments_check(context, &command, arguments);
	if (status == 0 && options.version)
		printf("rlmctl %s\n", RLM_VERSION);
	if (status == 0 && command)
		status = session_start(&session);
	if (status == 0 && command) {
		status = run(session, command, arguments);
		close(session);
	}
	poptFreeContext(context);
	return status;
}

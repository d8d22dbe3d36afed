// SPDX-License-Identifier: BSD-2-Clause
// The order matters: as long as the domain is only quiet, the broker undoes everything when our session ends, for whatever reason.
#include "move.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "print.h"
#include "session.h"

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static json_t *prepare(int session, const struct move *move, double start)
{
	json_t *request = json_pack("{ss ss}", "cmd", "prepare", "domain", move->domain), *reply;

	if (move->timeout > 0)
		json_object_set_new(request, "timeout", json_real(move->timeout));
	reply = session_request(session, "move", request);
	if (reply && !move->json)
		printf("%-9s %7.2f ms  %lld processes, %lld connections on %lld links went back to TCP\n", "quiet", now() - start,
		       (long long)number_of(reply, "processes"), (long long)number_of(reply, "connections"),
		       (long long)number_of(reply, "links"));
	fflush(stdout);
	return reply;
}

// Without asking anybody for silence: what the broker knows of the domain.
static json_t *describe(int session, const struct move *move)
{
	json_t *reply = session_request(session, "move", json_pack("{ss}", "cmd", "domains")), *domain, *found = NULL;
	size_t i;

	json_array_foreach(json_object_get(reply, "domains"), i, domain)
	{
		const char *name = text_of(domain, "name");

		if (strcmp(name, move->domain) == 0 ||
		    (strncmp(name, "netns:", 6) == 0 && strcmp(name + 6, move->domain) == 0))
			found = json_pack("{ss sI}", "domain", name, "cookie", (json_int_t)number_of(domain, "cookie"));
	}
	json_decref(reply);
	if (!found)
		fprintf(stderr, "rlmctl: move: %s: no such domain here\n", move->domain);
	return found;
}

static json_t *arrive(int there, const struct move *move, const json_t *quiet, const char *from, double start)
{
	json_t *reply = session_request(there, "move", json_pack("{ss ss sI ss}", "cmd", "arrive", "domain", text_of(quiet, "domain"), "cookie",
					     (json_int_t)number_of(quiet, "cookie"), "from", from));

	if (reply && !move->json)
		printf("%-9s %7.2f ms  location %s\n", "arrived", now() - start, text_of(reply, "location"));
	return reply;
}

static json_t *depart(int session, const struct move *move, const char *to, const char *host, double start)
{
	json_t *reply = session_request(session, "move", json_pack("{ss ss ss ss sb}", "cmd", "depart", "domain", move->domain, "to", to, "host",
					       host, "announced", !move->unannounced));

	if (reply && !move->json)
		printf("%-9s %7.2f ms  to host %s\n", "departed", now() - start, host);
	return reply;
}

static int carry_out(int session, int there, const struct move *move, const char *path)
{
	json_t *here_status = session_request(session, "move", json_pack("{ss}", "cmd", "status"));
	json_t *there_status = session_request(there, "move", json_pack("{ss}", "cmd", "status"));
	json_t *quiet = NULL, *arrived = NULL, *departed = NULL;
	double start = now(), quiet_at;

	if (!here_status || !there_status)
		goto out;
	if (number_of(here_status, "pid") == number_of(there_status, "pid")) {
		fprintf(stderr, "rlmctl: move: %s is the broker where %s is already\n", path, move->domain);
		goto out;
	}
	quiet = move->unannounced ? describe(session, move) : prepare(session, move, start);
	quiet_at = now();
	if (quiet)
		arrived = arrive(there, move, quiet, text_of(here_status, "host"), start);
	if (arrived)
		departed = depart(session, move, path, text_of(there_status, "host"), start);
	if (departed && move->json) {
		json_object_set_new(quiet, "quiet_milliseconds", json_real(quiet_at - start));
		json_object_set_new(quiet, "milliseconds", json_real(now() - start));
		json_object_set(quiet, "location", json_object_get(arrived, "location"));
		json_dumpf(quiet, stdout, JSON_INDENT(2));
		putchar('\n');
	}
out:
	json_decref(here_status);
	json_decref(there_status);
	json_decref(quiet);
	json_decref(arrived);
	json_decref(departed);
	return departed ? 0 : 1;
}

int move_run(int session, const struct move *move)
{
	char *path = realpath(move->socket, NULL); // processes may have another working directory
	int there = path ? session_open(path) : -errno;
	int status = 1;

	if (there < 0) {
		fprintf(stderr, "rlmctl: %s: %s\n", move->socket,
			there == -ENOENT || there == -ECONNREFUSED ? "no broker is running there" : strerror(-there));
	} else {
		status = carry_out(session, there, move, path);
		close(there);
	}
	free(path);
	return status;
}

// SPDX-License-Identifier: BSD-2-Clause
// The domain is made quiet first, so that the tool stack does not wait for it. What happens then is what xl does, and what the broker tells of it;
// when our session ends before xl has begun, or when xl fails, the broker undoes everything.
#include "migrate.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "print.h"
#include "session.h"

#define GONE_MS 2000 // for the news that the domain has left, after xl has ended well

static double begun;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6 - begun;
}

static void phase(const struct migrate *migrate, const char *name, const char *text)
{
	if (!migrate->json)
		printf("%-10s %9.2f ms  %s\n", name, now(), text);
	fflush(stdout);
}

static json_t *prepare(int session, const struct migrate *migrate)
{
	json_t *request = json_pack("{ss ss}", "cmd", "prepare", "domain", migrate->domain), *reply;
	char text[128];

	if (migrate->timeout > 0)
		json_object_set_new(request, "timeout", json_real(migrate->timeout));
	reply = session_request(session, "migrate", request);
	if (reply && !json_object_get(reply, "id")) {
		fprintf(stderr, "rlmctl: migrate: %s is no Xen domain\n", migrate->domain);
		json_decref(reply);
		return NULL;
	}
	if (!reply)
		return NULL;
	snprintf(text, sizeof(text), "%lld processes, %lld connections on %lld links went back to TCP", (long long)number_of(reply, "processes"),
		 (long long)number_of(reply, "connections"), (long long)number_of(reply, "links"));
	phase(migrate, "quiet", text);
	return reply;
}

static pid_t xl_start(const struct migrate *migrate, const char *domain)
{
	const char *arguments[8] = {"xl", "migrate"};
	unsigned count = 2;
	pid_t pid;

	if (migrate->ssh) {
		arguments[count++] = "-s";
		arguments[count++] = migrate->ssh;
	}
	arguments[count++] = domain;
	arguments[count++] = migrate->host;
	fflush(stdout);
	pid = fork();
	if (pid)
		return pid;
	if (migrate->json)
		dup2(2, 1);
	execvp(arguments[0], (char **)(uintptr_t)arguments);
	fprintf(stderr, "rlmctl: migrate: xl: %s\n", strerror(errno));
	_exit(127);
}

// Shows what the broker tells of the domain. True: it has left.
static bool story_show(int story, const struct migrate *migrate, const char *domain)
{
	json_t *reply = session_reply(story), *event;
	bool gone = !reply; // there will be no more
	size_t i;

	json_array_foreach(json_object_get(reply, "events"), i, event)
	{
		const char *what = text_of(event, "event");

		if (strcmp(text_of(event, "domain"), domain) != 0)
			continue;
		if (strcmp(what, "departs") == 0 || strcmp(what, "tool-ended") == 0 || strcmp(what, "domain-gone") == 0)
			phase(migrate, what, text_of(event, "text"));
		gone |= strcmp(what, "domain-gone") == 0;
	}
	json_decref(reply);
	return gone;
}

static int xl_follow(pid_t pid, int story, const struct migrate *migrate, const char *domain)
{
	int end = (int)syscall(SYS_pidfd_open, pid, 0), status = -1;
	struct pollfd fds[] = {{.fd = story, .events = POLLIN}, {.fd = end, .events = POLLIN}};
	bool gone = false;

	while (end >= 0 && !fds[1].revents) {
		if (poll(fds, 2, -1) > 0 && fds[0].revents) {
			gone |= story_show(story, migrate, domain);
			if (gone)
				fds[0].fd = -1;
		}
	}
	if (end >= 0)
		close(end);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status == 0)
		while (!gone && poll(fds, 1, GONE_MS) > 0)
			gone = story_show(story, migrate, domain);
	return status;
}

static bool carry_out(int session, int story, const struct migrate *migrate)
{
	json_t *quiet = prepare(session, migrate);
	const char *domain = quiet ? text_of(quiet, "domain") : NULL, *name = domain ? strchr(domain, ':') : NULL;
	pid_t pid = name ? xl_start(migrate, name + 1) : -1;
	bool moved = pid > 0 && xl_follow(pid, story, migrate, domain) == 0;

	if (moved && migrate->json) {
		json_object_set(quiet, "quiet_milliseconds", json_object_get(quiet, "milliseconds"));
		json_object_set_new(quiet, "milliseconds", json_real(now()));
		json_dumpf(quiet, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (moved) {
		phase(migrate, "moved", migrate->host);
	} else if (quiet) {
		fprintf(stderr, "rlmctl: migrate: %s stays: xl has failed\n", domain);
	}
	json_decref(quiet);
	return moved;
}

int migrate_run(int session, const struct migrate *migrate)
{
	int story = session_open(migrate->socket);
	json_t *past;
	bool moved;

	begun = now();
	if (story < 0) {
		fprintf(stderr, "rlmctl: %s: %s\n", migrate->socket, strerror(-story));
		return 1;
	}
	past = session_request(story, "migrate", json_pack("{ss sb}", "cmd", "events", "follow", 1));
	moved = past && carry_out(session, story, migrate);
	json_decref(past);
	close(story);
	return !moved;
}

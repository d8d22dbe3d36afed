// SPDX-License-Identifier: BSD-2-Clause
#include "xen_store.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <xenstore.h>

#include "log.h"
#include "xen_internal.h"

#define PATIENCE	 2  // seconds, then we say that xenstored is slow
#define WATCHES_PER_TURN 64 // a domain may make them fire as often as it likes

static void (*watch_fired)(struct rlmd_broker *broker, const char *path, const char *token);

// --- a slow xenstored

static double since;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// The thread that would say so is the one that waits.
static void on_alarm(int signal)
{
	static const char text[] = "rlmd: xenstored does not answer: connections go on, new ones between domains stay on TCP\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		return;
}

void rlmd_store_begin(void)
{
	since = now();
	alarm(PATIENCE);
}

void rlmd_store_end(void)
{
	int err = errno;

	alarm(0);
	if (now() - since >= PATIENCE)
		log_warn("xenstored answers again, after %.1f s", now() - since);
	errno = err;
}

// --- the connection

int rlmd_store_open(struct rlmd_broker *broker)
{
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};

	sigaction(SIGALRM, &action, NULL);
	broker->xen->store = xs_open(0);
	return broker->xen->store ? 0 : -errno;
}

void rlmd_store_close(struct rlmd_broker *broker)
{
	ev_io_stop(broker->loop, &broker->xen->watch);
	xs_close(broker->xen->store);
}

static void on_watch(struct ev_loop *loop, ev_io *io, int events)
{
	struct rlmd_broker *broker = io->data;
	char **watch;

	for (int i = 0; i < WATCHES_PER_TURN && (watch = xs_check_watch(broker->xen->store)); i++) {
		watch_fired(broker, watch[XS_WATCH_PATH], watch[XS_WATCH_TOKEN]);
		free(watch);
	}
}

void rlmd_store_watch(struct rlmd_broker *broker, void (*fired)(struct rlmd_broker *broker, const char *path, const char *token))
{
	struct rlmd_xen *xen = broker->xen;

	watch_fired = fired;
	ev_io_init(&xen->watch, on_watch, xs_fileno(xen->store), EV_READ);
	xen->watch.data = broker;
	ev_io_start(broker->loop, &xen->watch);
}

bool rlmd_store_watch_add(struct rlmd_xen *xen, const char *path, const char *token)
{
	bool done;

	rlmd_store_begin();
	done = xs_watch(xen->store, path, token);
	rlmd_store_end();
	if (!done)
		log_warn("cannot watch %s in xenstore: %s", path, strerror(errno));
	return done;
}

void rlmd_store_watch_end(struct rlmd_xen *xen, const char *path, const char *token)
{
	rlmd_store_begin();
	xs_unwatch(xen->store, path, token);
	rlmd_store_end();
}

// --- nodes

bool rlmd_store_read(struct rlmd_xen *xen, const char *path, char *value, size_t size)
{
	unsigned length = 0;
	char *text;

	rlmd_store_begin();
	text = xs_read(xen->store, XBT_NULL, path, &length);
	rlmd_store_end();
	value[0] = 0;
	if (!text) {
		if (errno != ENOENT)
			log_warn("cannot read %s in xenstore: %s", path, strerror(errno));
		return false;
	}
	snprintf(value, size, "%.*s", (int)length, text);
	free(text);
	return true;
}

bool rlmd_store_write(struct rlmd_xen *xen, const char *path, const char *value)
{
	bool done;

	rlmd_store_begin();
	done = xs_write(xen->store, XBT_NULL, path, value, (unsigned)strlen(value));
	rlmd_store_end();
	return done;
}

void rlmd_store_remove(struct rlmd_xen *xen, const char *path)
{
	rlmd_store_begin();
	xs_rm(xen->store, XBT_NULL, path);
	rlmd_store_end();
}

char **rlmd_store_list(struct rlmd_xen *xen, const char *path, unsigned *count)
{
	char **names;

	rlmd_store_begin();
	names = xs_directory(xen->store, XBT_NULL, path, count);
	rlmd_store_end();
	if (!names)
		*count = 0;
	return names;
}

bool rlmd_store_domain_lives(struct rlmd_xen *xen, unsigned domain)
{
	bool lives;

	rlmd_store_begin();
	lives = xs_is_domain_introduced(xen->store, domain);
	rlmd_store_end();
	return lives;
}

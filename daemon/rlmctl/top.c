// SPDX-License-Identifier: BSD-2-Clause
// Per connection: addresses, carriers, rates since the last look. The busiest first. 80 columns are enough, more show
// more.
#include "top.h"

#include <curses.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "print.h"
#include "session.h"

struct line {
	char key[160]; // the same connection at the next look
	const json_t *connection;
	double tx, rx; // bytes so far
	double tx_rate, rx_rate;
};

struct look {
	json_t *reply;
	struct line *lines;
	size_t count;
	double time;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static json_t *ask(int session, const char *cmd)
{
	json_t *request = json_pack("{ss}", "cmd", cmd);
	int err = session_ask(session, request);

	json_decref(request);
	return err ? NULL : session_reply(session);
}

static void look_free(struct look *look)
{
	json_decref(look->reply);
	free(look->lines);
	memset(look, 0, sizeof(*look));
}

static bool look_take(struct look *look, int session)
{
	json_t *list, *connection;
	size_t i;

	memset(look, 0, sizeof(*look));
	look->reply = ask(session, "connections");
	list = json_object_get(look->reply, "connections");
	if (!json_is_array(list))
		return false;
	look->time = now();
	look->count = json_array_size(list);
	look->lines = calloc(look->count + 1, sizeof(*look->lines));
	if (!look->lines)
		return false;
	json_array_foreach(list, i, connection)
	{
		struct line *line = &look->lines[i];

		line->connection = connection;
		line->tx = (double)(number_of(connection, "tx_bytes_ring") + number_of(connection, "tx_bytes_plain"));
		line->rx = (double)(number_of(connection, "rx_bytes_ring") + number_of(connection, "rx_bytes_plain"));
		snprintf(line->key, sizeof(line->key), "%lld %s %s", (long long)number_of(connection, "pid"),
			 text_of(connection, "local"), text_of(connection, "remote"));
	}
	return true;
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct line *)a)->key, ((const struct line *)b)->key);
}

static int by_rate(const void *a, const void *b)
{
	const struct line *x = a, *y = b;
	double rx = x->tx_rate + x->rx_rate, ry = y->tx_rate + y->rx_rate;

	return rx < ry ? 1 : rx > ry ? -1 : strcmp(x->key, y->key);
}

// before is sorted by key afterwards.
static void rates_set(struct look *look, struct look *before)
{
	double span = look->time - before->time;

	qsort(before->lines, before->count, sizeof(*before->lines), by_key);
	for (size_t i = 0; i < look->count; i++) {
		struct line *line = &look->lines[i];
		struct line *old =
		    before->count ? bsearch(line, before->lines, before->count, sizeof(*line), by_key) : NULL;

		if (!old || span <= 0 || line->tx < old->tx || line->rx < old->rx)
			continue;
		line->tx_rate = (line->tx - old->tx) / span;
		line->rx_rate = (line->rx - old->rx) / span;
	}
	qsort(look->lines, look->count, sizeof(*look->lines), by_rate);
}

// In 80 columns only the port of the local address fits, and one letter per carrier.
static bool narrow(void)
{
	return COLS < 110;
}

static int address_width(void)
{
	return COLS >= 150 ? 46 : narrow() ? 17 : 21;
}

// The end is what tells addresses apart.
static const char *address_of(const json_t *connection, const char *key, int width)
{
	const char *address = text_of(connection, key);
	size_t length = strlen(address);

	return length > (size_t)width ? address + length - (size_t)width : address;
}

static void line_draw(int y, const struct line *line)
{
	const json_t *c = line->connection;
	const char *local = address_of(c, "local", address_width());
	int width = address_width(), room;
	char tx[16], rx[16];

	bytes_text(tx, sizeof(tx), line->tx_rate);
	bytes_text(rx, sizeof(rx), line->rx_rate);
	if (narrow() && strrchr(local, ':'))
		local = strrchr(local, ':');
	mvprintw(y, 0, "%7lld %-8.8s %-*s %-*s %-*.*s %-*.*s %5s %5s  ", (long long)number_of(c, "pid"),
		 text_of(c, "command"), narrow() ? 6 : width, local, width, address_of(c, "remote", width),
		 narrow() ? 2 : 5, narrow() ? 1 : 5, text_of(c, "tx_carrier"), narrow() ? 2 : 5, narrow() ? 1 : 5,
		 text_of(c, "rx_carrier"), tx, rx);
	room = COLS - getcurx(stdscr);
	if (room > 0 && getcury(stdscr) == y)
		addnstr(text_of(c, "why"), room);
}

static void draw(const struct look *look)
{
	size_t ring = 0, room = LINES > 4 ? (size_t)LINES - 4 : 0;
	int width = address_width();
	double tx_rate = 0;
	char rate[16];

	for (size_t i = 0; i < look->count; i++) {
		const json_t *c = look->lines[i].connection;

		ring += strcmp(text_of(c, "tx_carrier"), "ring") == 0 && strcmp(text_of(c, "rx_carrier"), "ring") == 0;
		tx_rate += look->lines[i].tx_rate;
	}
	erase();
	mvprintw(0, 0, "rlmctl top   %zu connections, %zu on rings both ways, %s/s sent   (q quits)", look->count, ring,
		 bytes_text(rate, sizeof(rate), tx_rate));
	attron(A_REVERSE);
	mvhline(2, 0, ' ', COLS);
	mvprintw(2, 0, "%7s %-8s %-*s %-*s %-*s %-*s %5s %5s  %s", "PID", "COMMAND", narrow() ? 6 : width, "LOCAL",
		 width, "REMOTE", narrow() ? 2 : 5, "TX", narrow() ? 2 : 5, "RX", "TX/s", "RX/s", "WHY");
	attroff(A_REVERSE);
	for (size_t i = 0; i < look->count && i < room; i++)
		line_draw((int)i + 3, &look->lines[i]);
	if (look->count > room)
		mvprintw(LINES - 1, 0, "... and %zu more", look->count - room);
	refresh();
}

// False: the broker is gone.
static bool loop(int session, double interval)
{
	struct look before = {.count = 0}, look;
	bool alive;
	int key;

	timeout((int)(interval * 1000));
	while ((alive = look_take(&look, session))) {
		rates_set(&look, &before);
		look_free(&before);
		draw(&look);
		before = look;
		key = getch();
		if (key == 'q' || key == 'Q' || key == 27)
			break;
	}
	if (!alive)
		look_free(&look);
	look_free(&before);
	return alive;
}

int top_run(int session, double interval)
{
	const char *terminal = getenv("TERM");
	SCREEN *screen;
	bool alive;

	setlocale(LC_ALL, "");
	if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO)) {
		fprintf(stderr, "rlmctl: top needs a terminal; 'rlmctl connections' works without\n");
		return 2;
	}
	screen = newterm(terminal, stdout, stdin);
	if (!screen) {
		fprintf(stderr, "rlmctl: top does not know the terminal '%s'; 'rlmctl connections' works without\n",
			terminal ? terminal : "");
		return 2;
	}
	cbreak();
	noecho();
	curs_set(0);
	alive = loop(session, interval);
	endwin();
	delscreen(screen);
	if (!alive)
		fprintf(stderr, "rlmctl: the broker is gone\n");
	return alive ? 0 : 1;
}

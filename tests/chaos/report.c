// SPDX-License-Identifier: BSD-2-Clause
// What the board says: where each connection stands, what was done in all, and whether anything stands still.
#include "chaos.h"

#include <stdio.h>

#include "rlm/rlm.h"

static uint32_t record_count(const struct board *board)
{
	uint32_t records = board->records;

	return records < BOARD_RECORDS ? records : BOARD_RECORDS;
}

static bool end_live(const struct board *board, const struct end *end)
{
	return end->incarnation && !end->closed && !board->incarnation[end->incarnation].killed;
}

static void report_end(const struct board *board, const struct record *record, enum side side)
{
	const struct end *end = &record->end[side];
	const struct incarnation *incarnation = &board->incarnation[end->incarnation];
	const char *state = !end->incarnation	  ? "not there yet"
			    : incarnation->killed ? "killed"
			    : end->closed	  ? "closed"
						  : "open";

	printf("   %s: %s", side == CLIENT ? "client" : "server", state);
	if (end->incarnation)
		printf(", pid %d, %s, flap %llu, sends by %s, receives by %s (%s), %u switches", incarnation->pid,
		       style_names[incarnation->style], (unsigned long long)incarnation->flap,
		       end->tx_carrier ? "ring" : "TCP", end->rx_carrier ? "ring" : "TCP", rlm_why_words(end->why),
		       end->switches);
	printf("%s\n", end->abandoned ? ", gave up" : "");
}

static void report_direction(const struct direction *direction, const char *name)
{
	printf("   %s: sent %llu, received %llu", name, (unsigned long long)direction->sent,
	       (unsigned long long)direction->received);
	if (direction->final)
		printf(", ends at %llu", (unsigned long long)direction->final - 1);
	if (direction->ended)
		printf(", end seen");
	printf(", moved %lld ms ago\n", (long long)(now_ms() - direction->moved));
}

void report_record(const struct board *board, uint32_t number)
{
	const struct record *record = &board->record[number];

	printf("record %u of pair %u\n", number, board->incarnation[record->end[CLIENT].incarnation].pair);
	report_end(board, record, CLIENT);
	report_end(board, record, SERVER);
	report_direction(&record->direction[CLIENT], "client to server");
	report_direction(&record->direction[SERVER], "server to client");
}

void report_open(const struct board *board)
{
	for (uint32_t i = 0; i < record_count(board); i++)
		if (end_live(board, &board->record[i].end[CLIENT]) || end_live(board, &board->record[i].end[SERVER]))
			report_record(board, i);
}

uint64_t report_switches(const struct board *board)
{
	uint64_t switches = 0;

	for (uint32_t i = 0; i < record_count(board); i++) {
		const struct end *end = board->record[i].end;

		// Both ends see each switch, the one that was asked first last.
		switches += end[0].switches > end[1].switches ? end[0].switches : end[1].switches;
	}
	return switches;
}

void report_summary(const struct board *board)
{
	uint64_t bytes = 0, ring = 0, completed = 0, used = 0;

	for (uint32_t i = 0; i < record_count(board); i++) {
		const struct record *record = &board->record[i];

		used += record->end[SERVER].incarnation != 0;
		completed += record->direction[0].ended && record->direction[0].final && record->direction[1].ended &&
			     record->direction[1].final;
		bytes += record->direction[0].received + record->direction[1].received;
		ring += record->end[0].ring_bytes > record->end[1].ring_bytes ? record->end[0].ring_bytes
									      : record->end[1].ring_bytes;
	}
	printf("%llu connections, %llu of them to both ends of stream; %.1f MB received and right, %.1f MB of them by "
	       "ring\n",
	       (unsigned long long)used, (unsigned long long)completed, (double)bytes / 1e6, (double)ring / 1e6);
}

// A direction stands still when neither its sender nor its receiver did anything though one of them is alive and not
// done.
static bool direction_stuck(const struct board *board, const struct record *record, enum side sender, uint64_t limit)
{
	const struct direction *direction = &record->direction[sender];
	bool receiver_waits = end_live(board, &record->end[!sender]) && !direction->ended;
	bool sender_works =
	    end_live(board, &record->end[sender]) && !direction->final && !record->end[sender].abandoned;

	return (receiver_waits || sender_works) && direction->moved + limit < now_ms();
}

long report_stuck(const struct board *board, uint64_t patience_ms)
{
	for (uint32_t i = 0; i < record_count(board); i++) {
		const struct record *record = &board->record[i];

		if (!record->direction[0].moved || !record->direction[1].moved)
			continue;
		if (direction_stuck(board, record, CLIENT, patience_ms) ||
		    direction_stuck(board, record, SERVER, patience_ms))
			return i;
	}
	return -1;
}

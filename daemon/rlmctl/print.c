// SPDX-License-Identifier: BSD-2-Clause
#include "print.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COLUMNS_MAX 16
#define CELL_MAX    64

// Lines of cells, as wide as the widest in their column.
struct table {
	unsigned columns;
	size_t lines;
	size_t room;
	char (*cells)[CELL_MAX];
	const char *align; // per column: 'l' or 'r'
};

static void table_init(struct table *table, unsigned columns, const char *align)
{
	memset(table, 0, sizeof(*table));
	table->columns = columns;
	table->align = align;
}

static void table_line(struct table *table, const char *const *cells)
{
	if (table->lines == table->room) {
		size_t room = table->room ? 2 * table->room : 64;
		void *larger = realloc(table->cells, room * table->columns * CELL_MAX);

		if (!larger)
			return;
		table->cells = larger;
		table->room = room;
	}
	for (unsigned i = 0; i < table->columns; i++)
		snprintf(table->cells[table->lines * table->columns + i], CELL_MAX, "%s", cells[i]);
	table->lines++;
}

static void table_print(struct table *table)
{
	int widths[COLUMNS_MAX] = {0};

	for (size_t i = 0; i < table->lines * table->columns; i++) {
		int width = (int)strlen(table->cells[i]);

		if (width > widths[i % table->columns])
			widths[i % table->columns] = width;
	}
	for (size_t i = 0; i < table->lines * table->columns; i++) {
		size_t column = i % table->columns;

		if (column == table->columns - 1)
			printf("%s\n", table->cells[i]);
		else
			printf("%*s  ", table->align[column] == 'r' ? widths[column] : -widths[column],
			       table->cells[i]);
	}
	free(table->cells);
}

const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

json_int_t number_of(const json_t *object, const char *key)
{
	return (json_int_t)json_number_value(json_object_get(object, key));
}

char *bytes_text(char *buffer, size_t size, double bytes)
{
	static const char units[] = " KMGTPE";
	unsigned unit = 0;

	while (bytes >= 1000 && unit < 6) {
		bytes /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(buffer, size, "%.0f", bytes);
	else
		snprintf(buffer, size, bytes < 10 ? "%.1f%c" : "%.0f%c", bytes, units[unit]);
	return buffer;
}

static void span_print(double seconds)
{
	long s = (long)seconds;

	if (s >= 86400)
		printf("%ld d ", s / 86400);
	if (s >= 3600)
		printf("%ld h ", s / 3600 % 24);
	if (s >= 60)
		printf("%ld min ", s / 60 % 60);
	printf("%ld s\n", s % 60);
}

void print_status(const json_t *reply)
{
	char memory[16];

	printf("rlmd %s, %s role, pid %lld, up ", text_of(reply, "version"), text_of(reply, "role"),
	       (long long)number_of(reply, "pid"));
	span_print(json_number_value(json_object_get(reply, "uptime")));
	printf("configuration       %s\n", text_of(reply, "config"));
	printf("names connections   %s\n", json_is_true(json_object_get(reply, "sequence_numbers"))
					       ? "by sequence numbers, across namespaces and address translation"
					       : "by addresses, within one namespace only (no CAP_NET_ADMIN)");
	printf("processes           %lld\n", (long long)number_of(reply, "processes"));
	printf("links               %lld\n", (long long)number_of(reply, "links"));
	printf("connections bound   %lld\n", (long long)number_of(reply, "connections_bound"));
	printf("shared memory       %s\n", bytes_text(memory, sizeof(memory), (double)number_of(reply, "memory")));
}

void print_connections(const json_t *reply)
{
	static const char *const heads[] = {"PID",     "COMMAND", "DOMAIN",   "LOCAL",	  "REMOTE",   "TX", "RX",
					    "TX-RING", "RX-RING", "TX-PLAIN", "RX-PLAIN", "SWITCHES", "WHY"};
	static const char *const counters[] = {"tx_bytes_ring", "rx_bytes_ring", "tx_bytes_plain", "rx_bytes_plain"};
	struct table table;
	json_t *connection;
	size_t i;

	table_init(&table, 13, "rllllllrrrrrl");
	table_line(&table, heads);
	json_array_foreach(json_object_get(reply, "connections"), i, connection)
	{
		char pid[16], bytes[4][16], switches[16];

		snprintf(pid, sizeof(pid), "%lld", (long long)number_of(connection, "pid"));
		snprintf(switches, sizeof(switches), "%lld", (long long)number_of(connection, "switches"));
		for (int j = 0; j < 4; j++)
			bytes_text(bytes[j], sizeof(bytes[j]), (double)number_of(connection, counters[j]));
		const char *cells[] = {pid,
				       text_of(connection, "command"),
				       text_of(connection, "domain"),
				       text_of(connection, "local"),
				       text_of(connection, "remote"),
				       text_of(connection, "tx_carrier"),
				       text_of(connection, "rx_carrier"),
				       bytes[0],
				       bytes[1],
				       bytes[2],
				       bytes[3],
				       switches,
				       text_of(connection, "why")};
		table_line(&table, cells);
	}
	table_print(&table);
}

static void sums_cells(const json_t *sums, char cells[7][24])
{
	static const char *const counts[] = {"opened", "promoted", "switches"};
	static const char *const bytes[] = {"tx_bytes_ring", "rx_bytes_ring", "tx_bytes_plain", "rx_bytes_plain"};

	for (int i = 0; i < 3; i++)
		snprintf(cells[i], 24, "%lld", (long long)number_of(sums, counts[i]));
	for (int i = 0; i < 4; i++)
		bytes_text(cells[3 + i], 24, (double)number_of(sums, bytes[i]));
}

static void sums_line(struct table *table, const char *pid, const char *command, const json_t *sums)
{
	char cells[7][24], memory[16];
	const char *line[10] = {pid, command};

	sums_cells(sums, cells);
	for (int i = 0; i < 7; i++)
		line[2 + i] = cells[i];
	line[9] = json_object_get(sums, "memory")
		      ? bytes_text(memory, sizeof(memory), (double)number_of(sums, "memory"))
		      : "";
	table_line(table, line);
}

void print_stats(const json_t *reply)
{
	static const char *const heads[] = {"PID",     "COMMAND", "OPENED",   "PROMOTED", "SWITCHES",
					    "TX-RING", "RX-RING", "TX-PLAIN", "RX-PLAIN", "MEMORY"};
	const json_t *limits = json_object_get(reply, "limits");
	json_t *process, *count;
	struct table table;
	const char *name;
	char used[16], limit[16];
	size_t i;

	table_init(&table, 10, "rlrrrrrrrl");
	table_line(&table, heads);
	json_array_foreach(json_object_get(reply, "processes"), i, process)
	{
		char pid[16];

		snprintf(pid, sizeof(pid), "%lld", (long long)number_of(process, "pid"));
		sums_line(&table, pid, text_of(process, "command"), process);
	}
	sums_line(&table, "", "all, and gone", json_object_get(reply, "totals"));
	table_print(&table);
	printf("\nshared memory %s of %s, %lld links, %lld segments, %lld offers waiting\n",
	       bytes_text(used, sizeof(used), (double)number_of(reply, "memory")),
	       bytes_text(limit, sizeof(limit), (double)number_of(limits, "memory_total")),
	       (long long)number_of(reply, "links"), (long long)number_of(reply, "segments"),
	       (long long)number_of(reply, "offers"));
	json_object_foreach(json_object_get(reply, "counters"), name, count)
	    printf("%s %lld\n", name, (long long)json_integer_value(count));
}

static void list_print(const json_t *list)
{
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item) printf("%s%s", i ? ", " : "", json_string_value(item));
	printf("%s\n", json_array_size(list) ? "" : "-");
}

void print_groups(const json_t *reply)
{
	json_t *group;
	size_t i;

	json_array_foreach(json_object_get(reply, "groups"), i, group)
	{
		printf("%s\n  configured  ", text_of(group, "name"));
		list_print(json_object_get(group, "patterns"));
		printf("  present     ");
		list_print(json_object_get(group, "domains"));
	}
}

static void list_text(char *text, size_t size, const json_t *list)
{
	json_t *item;
	size_t i, at = 0;

	text[0] = 0;
	json_array_foreach(list, i, item) if (at < size)
		at += (size_t)snprintf(text + at, size - at, "%s%s", i ? "," : "", json_string_value(item));
}

// On Xen a domain has more to tell.
static bool has_xen(const json_t *domains)
{
	json_t *domain;
	size_t i;

	json_array_foreach(domains, i, domain) if (json_object_get(domain, "uuid"))
		return true;
	return false;
}

void print_domains(const json_t *reply)
{
	static const char *const heads[] = {"DOMAIN",	"GROUP", "HOST", "STATE", "SESSIONS", "LOCATION",
					    "INODE", "ID",	 "UUID", "MAC",	  "ADDRESSES"};
	bool xen = has_xen(json_object_get(reply, "domains"));
	struct table table;
	json_t *domain;
	size_t i;

	table_init(&table, xen ? 11 : 7, "llllrllllll");
	table_line(&table, heads);
	json_array_foreach(json_object_get(reply, "domains"), i, domain)
	{
		char sessions[24], inode[24], id[24] = "", macs[CELL_MAX], addresses[CELL_MAX];

		if (json_object_get(domain, "id"))
			snprintf(id, sizeof(id), "%lld", (long long)number_of(domain, "id"));
		list_text(macs, sizeof(macs), json_object_get(domain, "macs"));
		list_text(addresses, sizeof(addresses), json_object_get(domain, "addresses"));
		snprintf(sessions, sizeof(sessions), "%lld", (long long)number_of(domain, "sessions"));
		snprintf(inode, sizeof(inode), "%lld", (long long)number_of(domain, "inode"));
		const char *cells[] = {text_of(domain, "name"),	 text_of(domain, "group"), text_of(domain, "host"),
				       text_of(domain, "state"), sessions,		   text_of(domain, "location"),
				       inode,			 id,			   text_of(domain, "uuid"),
				       macs,			 addresses};
		table_line(&table, cells);
	}
	table_print(&table);
}

void print_events(const json_t *reply)
{
	json_t *event;
	size_t i;

	json_array_foreach(json_object_get(reply, "events"), i, event)
	{
		double when = json_number_value(json_object_get(event, "time"));
		time_t seconds = (time_t)when;
		const char *other = json_string_value(json_object_get(event, "other_domain"));
		struct tm tm;
		char text[32];

		localtime_r(&seconds, &tm);
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
		printf("%s.%03d  %-13s %s%s%s: %s\n", text, (int)((when - (double)seconds) * 1000),
		       text_of(event, "event"), text_of(event, "domain"), other ? ", " : "", other ? other : "",
		       text_of(event, "text"));
	}
	fflush(stdout);
}

void print_ordered(const json_t *reply)
{
	printf("%lld processes told\n", (long long)number_of(reply, "processes"));
}

// SPDX-License-Identifier: BSD-2-Clause
// rlmctl shows what is in the tables of processes, to whom it may, and passes orders on.
#include "harness.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <jansson.h>

static json_t *ask(const char *command)
{
	char *text = output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "--json", command, NULL);
	json_t *json = json_loads(text, 0, NULL);

	assert_non_null(json);
	free(text);
	return json;
}

static void entry_fill(struct peer *peer, uint32_t index)
{
	static const uint8_t local[4] = {127, 0, 0, 1}, remote[4] = {10, 1, 2, 3};
	struct rlm_conn_stat *entry = &peer->entries[index];

	entry->family = AF_INET;
	memcpy(entry->local, local, 4);
	memcpy(entry->remote, remote, 4);
	entry->local_port = 1000;
	entry->remote_port = 2000;
	entry->tx_bytes_ring = 11;
	entry->rx_bytes_ring = 12;
	entry->tx_bytes_plain = 13;
	entry->rx_bytes_plain = 14;
	entry->switches = 3;
	entry->tx_carrier = RLM_CARRIER_RING;
	entry->why = RLM_WHY_NO_PEER;
	atomic_store(&entry->generation, 1);
	if (peer->table->used <= index)
		atomic_store(&peer->table->used, index + 1);
}

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void test_connections(void **state)
{
	struct peer a;
	json_t *reply, *list, *one;
	char *shown;

	peer_open(&a, &rlmd, "my\nprogram");
	entry_fill(&a, 0);
	entry_fill(&a, 2);
	a.entries[2].family = 99;
	a.entries[2].why = 999;
	reply = ask("connections");
	list = json_object_get(reply, "connections");
	assert_int_equal(json_array_size(list), 2);
	one = json_array_get(list, 0);
	assert_string_equal(text(one, "local"), "127.0.0.1:1000");
	assert_string_equal(text(one, "remote"), "10.1.2.3:2000");
	assert_string_equal(text(one, "tx_carrier"), "ring");
	assert_string_equal(text(one, "rx_carrier"), "plain");
	assert_string_equal(text(one, "why"), "peer has no librlm");
	assert_string_equal(text(one, "command"), "my?program");
	assert_string_equal(text(one, "domain"), "host");
	assert_string_equal(text(one, "group"), "default");
	assert_int_equal(number(one, "pid"), getpid());
	assert_int_equal(number(one, "tx_bytes_ring"), 11);
	assert_int_equal(number(one, "rx_bytes_ring"), 12);
	assert_int_equal(number(one, "tx_bytes_plain"), 13);
	assert_int_equal(number(one, "rx_bytes_plain"), 14);
	assert_int_equal(number(one, "switches"), 3);
	json_decref(reply);
	shown = output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "connections", NULL);
	assert_non_null(strstr(shown, "peer has no librlm"));
	free(shown);
	peer_close(&a);
}

static size_t process_count(void)
{
	json_t *reply = ask("stats");
	size_t count = json_array_size(json_object_get(reply, "processes"));

	json_decref(reply);
	return count;
}

static json_int_t total(const json_t *stats, const char *key)
{
	return number(json_object_get(stats, "totals"), key);
}

// Live connections count, and sums stay when the process is gone.
static void test_stats(void **state)
{
	struct peer a;
	json_t *reply;
	json_int_t bytes, switches;

	reply = ask("stats");
	bytes = total(reply, "tx_bytes_ring");
	switches = total(reply, "switches");
	json_decref(reply);
	peer_open(&a, &rlmd, "a");
	entry_fill(&a, 0);
	a.table->tx_bytes_ring = 1000;
	a.table->switches = 100;
	a.table->opened = 5;
	for (int round = 0; round < 2; round++) {
		reply = ask("stats");
		assert_int_equal(total(reply, "tx_bytes_ring") - bytes, 1011);
		assert_int_equal(total(reply, "switches") - switches, 103);
		assert_int_equal(json_array_size(json_object_get(reply, "processes")), round == 0);
		assert_true(json_is_object(json_object_get(reply, "limits")));
		json_decref(reply);
		peer_close(&a);
		eventually(process_count() == 0);
	}
}

static char *as_nobody(int status, const char *arguments)
{
	char command[400];

	snprintf(command, sizeof(command), "%s/rlmctl --socket %s %s", rlmd.directory, rlmd.socket, arguments);
	return output_of(status, "setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", command, NULL);
}

// Other users see their own processes only, and give no orders.
static void test_permissions(void **state)
{
	struct peer a;
	char *shown;

	if (geteuid() != 0)
		skip();
	peer_open(&a, &rlmd, "a");
	entry_fill(&a, 0);
	assert_true(shell("install -m 755 %s %s/rlmctl", RLMCTL_PATH, rlmd.directory));
	shown = as_nobody(0, "connections --json");
	assert_null(strstr(shown, "127.0.0.1"));
	free(shown);
	shown = as_nobody(1, "demote all");
	assert_non_null(strstr(shown, "only root"));
	free(shown);
	free(as_nobody(1, "events"));
	silence_expect(&a);
	assert_true(shell("rm -f %s/rlmctl", rlmd.directory));
	peer_close(&a);
}

static void order(const char *command, const char *whom, struct peer *peer, enum rlm_order expected)
{
	union rlm_msg msg;
	int fds[RLM_MSG_FDS_MAX];

	free(output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, command, whom, NULL));
	message_expect(peer, RLM_MSG_ORDER, &msg, fds);
	assert_int_equal(msg.order.order, expected);
	assert_int_equal(msg.order.conn.index, UINT32_MAX);
}

static void test_orders(void **state)
{
	struct peer a;
	char pid[16], *shown;

	peer_open(&a, &rlmd, "a");
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	order("demote", pid, &a, RLM_ORDER_DEMOTE);
	order("promote", "all", &a, RLM_ORDER_PROMOTE);
	order("demote", NULL, &a, RLM_ORDER_DEMOTE);
	shown = output_of(1, RLMCTL_PATH, "--socket", rlmd.socket, "demote", "1", NULL);
	assert_non_null(strstr(shown, "no process with this pid"));
	free(shown);
	silence_expect(&a);
	peer_close(&a);
}

// Up to a line that has these words.
static void line_expect(FILE *out, const char *what, const char *who)
{
	char line[512];
	bool seen = false;

	while (!seen && fgets(line, sizeof(line), out))
		seen = strstr(line, what) && strstr(line, who);
	assert_true(seen);
}

// What was before is told first.
static void test_follow(void **state)
{
	char line[512];
	struct peer a, b;
	FILE *out;

	peer_open(&a, &rlmd, "early");
	snprintf(line, sizeof(line), "timeout 2 %s --socket %s events --follow", RLMCTL_PATH, rlmd.socket);
	out = popen(line, "r");
	assert_non_null(out);
	line_expect(out, "process", "early[");
	peer_open(&b, &rlmd, "followed");
	line_expect(out, "process", "followed[");
	peer_close(&b);
	line_expect(out, "process-gone", "followed[");
	pclose(out);
	peer_close(&a);
}

// A long answer comes whole, while others are served.
static void test_long_answer(void **state)
{
	struct peer a;
	json_t *reply;

	peer_open(&a, &rlmd, "a");
	for (uint32_t i = 0; i < 10000; i++)
		entry_fill(&a, i);
	reply = ask("connections");
	assert_int_equal(json_array_size(json_object_get(reply, "connections")), 10000);
	json_decref(reply);
	peer_close(&a);
}

static void test_usage(void **state)
{
	char *shown;

	shown = output_of(2, RLMCTL_PATH, "--socket", rlmd.socket, "dance", NULL);
	assert_non_null(strstr(shown, "no such command"));
	free(shown);
	shown = output_of(1, RLMCTL_PATH, "--socket", "/nowhere/sock", "status", NULL);
	assert_non_null(strstr(shown, "no broker is running there"));
	free(shown);
	shown = output_of(2, RLMCTL_PATH, "--socket", rlmd.socket, "top", NULL);
	assert_non_null(strstr(shown, "needs a terminal"));
	free(shown);
	free(output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "groups", NULL));
	free(output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "domains", NULL));
	free(output_of(0, RLMCTL_PATH, "--socket", rlmd.socket, "status", NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_connections), cmocka_unit_test(test_stats),  cmocka_unit_test(test_permissions),
	    cmocka_unit_test(test_orders),	cmocka_unit_test(test_follow), cmocka_unit_test(test_long_answer),
	    cmocka_unit_test(test_usage),
	};

	return cmocka_run_group_tests(tests, broker_setup, broker_teardown);
}

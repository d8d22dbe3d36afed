// SPDX-License-Identifier: BSD-2-Clause
// What Prometheus reads.
#include "harness.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char address[32];

static int setup(void **state)
{
	int sock = tcp_listen(AF_INET, "127.0.0.1", 0); // a port that is free

	snprintf(address, sizeof(address), "127.0.0.1:%u", tcp_port(sock));
	close(sock);
	setenv("RLM_TEST_METRICS", address, 1);
	broker_start(&rlmd, NULL);
	return 0;
}

static char *get(const char *path)
{
	char url[64];

	snprintf(url, sizeof(url), "http://%s%s", address, path);
	return output_of(0, "curl", "-s", "-i", "--max-time", "20", url, NULL);
}

static double value_of(const char *text, const char *name)
{
	const char *line = text;

	while ((line = strstr(line, name))) {
		if (line[-1] == '\n' && line[strlen(name)] == ' ')
			return strtod(line + strlen(name), NULL);
		line++;
	}
	fail_msg("no %s in: %s", name, text);
	return 0;
}

static double processes(void)
{
	char *text = get("/metrics");
	double count = value_of(text, "rlmd_processes");

	free(text);
	return count;
}

static void test_values(void **state)
{
	struct couple c;
	char *text;

	couple_open(&c, &rlmd);
	couple_bind(&c);
	c.a.table->tx_bytes_ring = 1234;
	c.a.table->opened = 3;
	text = get("/metrics");
	assert_non_null(strstr(text, "200 OK"));
	assert_non_null(strstr(text, "text/plain; version=0.0.4"));
	assert_true(value_of(text, "rlmd_processes") == 2);
	assert_true(value_of(text, "rlmd_connections_bound") == 1);
	assert_true(value_of(text, "rlmd_links") == 1);
	assert_true(value_of(text, "rlmd_memory_bytes") > 4 << 20);
	assert_true(value_of(text, "rlmd_matches_total") == 1);
	assert_true(value_of(text, "rlmd_refused_total{why=\"group\"}") == 0);
	assert_true(value_of(text, "rlm_bytes_total{direction=\"sent\",carrier=\"ring\"}") == 1234);
	assert_true(value_of(text, "rlm_connections_opened_total") == 3);
	free(text);
	couple_close(&c);
	// What processes that are gone did still counts.
	eventually(processes() == 0);
	text = get("/metrics");
	assert_true(value_of(text, "rlm_bytes_total{direction=\"sent\",carrier=\"ring\"}") == 1234);
	free(text);
}

static void test_others(void **state)
{
	char *text = get("/");

	assert_non_null(strstr(text, "404"));
	free(text);
	text = output_of(1, RLMD_PATH, "--socket", "/tmp/rlm-test-nowhere.sock", "--metrics", "localhost", NULL);
	assert_non_null(strstr(text, "must be ADDRESS:PORT"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_others)};

	return cmocka_run_group_tests(tests, setup, broker_teardown);
}

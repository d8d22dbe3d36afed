// SPDX-License-Identifier: BSD-2-Clause
// The guard on any Linux: a copy of /bin/true is the tool stack's helper, files in a directory are xenstore.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xenstore.h>

#include "xen_guard.h"

#define PATIENCE_MS 10000
#define WAIT_MS	    300 // in which nothing is to happen

static char place[64], helper[96];
static int guard = -1;

// --- xenstore: /local/domain/7/data/rlm is the file "7", and there is no other domain

static char *file_read(const char *name, unsigned *length)
{
	char path[96], *text = calloc(1, 256);
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", place, name);
	file = fopen(path, "re");
	if (!file) {
		free(text);
		return NULL;
	}
	*length = (unsigned)fread(text, 1, 255, file);
	fclose(file);
	return text;
}

static void file_write(const char *name, const char *text)
{
	char path[96], fresh[104];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", place, name);
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	file = fopen(fresh, "we");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	assert_int_equal(rename(fresh, path), 0);
}

struct xs_handle *xs_open(unsigned long flags)
{
	return (struct xs_handle *)place;
}

void *xs_read(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *length)
{
	if (strcmp(path, "/local/domain/7/data/rlm") == 0)
		return file_read("7", length);
	return strcmp(path, "/local/domain/0/rlm/guard") == 0 ? file_read("guard", length) : NULL;
}

bool xs_write(struct xs_handle *h, xs_transaction_t t, const char *path, const void *data, unsigned int length)
{
	file_write("guard", data);
	return true;
}

char **xs_directory(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *count)
{
	char **list = calloc(1, sizeof(*list));

	list[0] = "7";
	*count = 1;
	return list;
}

// --- the tool stack

struct run {
	pid_t pid;
	int err; // its standard error
};

static struct run helper_run(const char *mode, const char *domain)
{
	struct run run;
	int pair[2];
	static bool socket; // in turn

	socket = !socket;
	assert_int_equal(socket ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) : pipe2(pair, O_CLOEXEC), 0);
	run.err = pair[0];
	run.pid = fork();
	if (run.pid == 0) {
		dup2(pair[1], 2);
		close(guard); // it is held before what it has open is closed
		execl(helper, helper, mode, "3", "4", domain, "1", "2", NULL);
		_exit(errno == EPERM ? 111 : 112);
	}
	close(pair[1]);
	return run;
}

static int ended(struct run run, char *text, size_t size)
{
	ssize_t length = 0, more;
	int status;

	while ((more = read(run.err, text + length, size - 1 - (size_t)length)) > 0)
		length += more;
	text[length] = 0;
	close(run.err);
	assert_int_equal(waitpid(run.pid, &status, 0), run.pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool waits(struct run run)
{
	struct pollfd p = {.fd = run.err};

	return poll(&p, 1, WAIT_MS) == 0;
}

static struct rlmd_guard_ask asked(void)
{
	struct pollfd p = {.fd = guard, .events = POLLIN};
	struct rlmd_guard_ask ask = {.number = 0};

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(recv(guard, &ask, sizeof(ask), 0), sizeof(ask));
	return ask;
}

static void answer(uint32_t number, bool allow, const char *why)
{
	struct rlmd_guard_answer message = {.number = number, .allow = allow};

	strcpy(message.why, why);
	assert_int_equal(send(guard, &message, sizeof(message), 0), sizeof(message));
}

static int start(double patience)
{
	char error[256];
	int fd = rlmd_guard_start(helper, patience, error, sizeof(error));

	if (fd < 0)
		print_message("%s\n", error);
	return fd;
}

static int setup(void **state)
{
	char command[256];

	strcpy(place, "/tmp/rlm-guard.XXXXXX");
	assert_non_null(mkdtemp(place));
	snprintf(helper, sizeof(helper), "%s/libxl-save-helper", place);
	snprintf(command, sizeof(command), "cp /bin/true %s && cp /bin/true %s/other", helper, place);
	assert_int_equal(system(command), 0);
	guard = start(1);
	return guard == -EPERM ? 1 : 0;
}

static int teardown(void **state)
{
	char command[96];

	if (guard >= 0)
		close(guard);
	file_write("7", "ask 1"); // the guard ends
	snprintf(command, sizeof(command), "rm -rf %s", place);
	return system(command);
}

// --- tests

static void allowed_at_once(void **state)
{
	char text[256], other[96];

	assert_int_equal(ended(helper_run("--restore-domain", "7"), text, sizeof(text)), 0);
	snprintf(other, sizeof(other), "%s/other", place);
	assert_int_equal(system(other), 0);
}

static void rlmd_decides(void **state)
{
	struct run run = helper_run("--save-domain", "7");
	struct rlmd_guard_ask ask = asked();
	char text[256];

	assert_int_equal(ask.domain, 7);
	assert_int_equal(ask.pid, run.pid);
	assert_true(waits(run));
	answer(ask.number, true, "");
	assert_int_equal(ended(run, text, sizeof(text)), 0);
	run = helper_run("--save-domain", "7");
	answer(asked().number, false, "somebody is stopped");
	assert_int_equal(ended(run, text, sizeof(text)), 111);
	assert_string_equal(text, "rlmd: somebody is stopped\n");
	run = helper_run("--save-domain", "7");
	answer(asked().number, false, "somebody else is stopped");
	assert_int_equal(ended(run, text, sizeof(text)), 111);
	assert_string_equal(text, "rlmd: somebody else is stopped\n");
}

static void helper_is_replaced(void **state)
{
	struct run run;
	char text[256], command[512];

	snprintf(command, sizeof(command), "cp /bin/true %s.new && mv %s.new %s", helper, helper, helper);
	assert_int_equal(system(command), 0);
	run = helper_run("--save-domain", "12");
	answer(asked().number, true, "");
	assert_int_equal(ended(run, text, sizeof(text)), 0);
}

// It says no in the place of an rlmd that is alive and does not answer.
static void rlmd_is_silent(void **state)
{
	struct run run = helper_run("--save-domain", "7");
	char text[256];

	asked();
	assert_int_equal(ended(run, text, sizeof(text)), 111);
	assert_non_null(strstr(text, "does not answer"));
}

// Without rlmd it is the domain's own word that counts.
static void rlmd_is_gone(void **state)
{
	struct run run;
	char text[256];

	file_write("7", "ask 1 open");
	run = helper_run("--save-domain", "7");
	asked();
	close(guard);
	guard = -1;
	assert_true(waits(run));
	file_write("7", "ask 1");
	assert_int_equal(ended(run, text, sizeof(text)), 0);
}

static void rlmd_is_gone_and_channels_stay_open(void **state)
{
	struct run run;
	char text[256];

	file_write("7", "ask 1 open");
	guard = start(0);
	assert_true(guard >= 0);
	close(guard);
	guard = -1;
	run = helper_run("--save-domain", "7");
	assert_int_equal(ended(run, text, sizeof(text)), 111);
	assert_non_null(strstr(text, "no rlmd is running"));
	// The guard of an rlmd that has come back is the one that counts.
	guard = start(1);
	assert_true(guard >= 0);
	run = helper_run("--save-domain", "7");
	answer(asked().number, true, "");
	assert_int_equal(ended(run, text, sizeof(text)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(allowed_at_once),	  cmocka_unit_test(rlmd_decides), cmocka_unit_test(helper_is_replaced),
	    cmocka_unit_test(rlmd_is_silent),	  cmocka_unit_test(rlmd_is_gone), cmocka_unit_test(rlmd_is_gone_and_channels_stay_open),
	};

	if (geteuid() != 0)
		return 77;
	return cmocka_run_group_tests(tests, setup, teardown);
}

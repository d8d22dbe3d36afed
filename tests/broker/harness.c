// SPDX-License-Identifier: BSD-2-Clause
#include "harness.h"

#include <dirent.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_MAX (16 << 20)

struct broker rlmd;

void pause_ms(long milliseconds)
{
	struct timespec ts = {milliseconds / 1000, milliseconds % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static const char *rlmd_path(void)
{
	const char *path = getenv("RLMD");

	return path ? path : RLMD_PATH;
}

int broker_connect(const struct broker *broker)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, broker->socket);
	if (connect(sock, (struct sockaddr *)&address, sizeof(address)) == 0)
		return sock;
	close(sock);
	return -1;
}

void broker_config(struct broker *broker, const char *config)
{
	FILE *file = fopen(broker->config, "w");

	assert_non_null(file);
	fputs(config, file);
	fclose(file);
}

static void broker_exec(struct broker *broker, bool unprivileged)
{
	const char *metrics = getenv("RLM_TEST_METRICS");
	int sock;

	broker->pid = fork();
	assert_true(broker->pid >= 0);
	if (broker->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unprivileged && (setgroups(0, NULL) || setgid(65534) || setuid(65534)))
			_exit(126);
		execl(rlmd_path(), "rlmd", "--socket", broker->socket, "--config", broker->config, "--log",
		      getenv("RLMD_LOG") ? getenv("RLMD_LOG") : "error", metrics ? "--metrics" : NULL, metrics, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < PATIENCE / 10; i++) {
		sock = broker_connect(broker);
		if (sock >= 0) {
			close(sock);
			return;
		}
		assert_int_equal(waitpid(broker->pid, NULL, WNOHANG), 0);
		pause_ms(10);
	}
	fail_msg("rlmd does not answer");
}

static void broker_run(struct broker *broker, const char *config, bool unprivileged)
{
	strcpy(broker->directory, "/tmp/rlm-test-XXXXXX");
	assert_non_null(mkdtemp(broker->directory));
	chmod(broker->directory, 0777);
	snprintf(broker->socket, sizeof(broker->socket), "%s/rlmd.sock", broker->directory);
	snprintf(broker->config, sizeof(broker->config), "%s/rlmd.conf", broker->directory);
	broker_config(broker, config ? config : "");
	broker_exec(broker, unprivileged);
}

void broker_again(struct broker *broker)
{
	broker_exec(broker, false);
}

void broker_start(struct broker *broker, const char *config)
{
	broker_run(broker, config, false);
}

void broker_start_unprivileged(struct broker *broker, const char *config)
{
	broker_run(broker, config, true);
}

static int broker_end(struct broker *broker, int signal_number)
{
	int status = 0;

	kill(broker->pid, signal_number);
	assert_int_equal(waitpid(broker->pid, &status, 0), broker->pid);
	return status;
}

void broker_stop(struct broker *broker)
{
	int status = broker_end(broker, SIGTERM);

	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(access(broker->socket, F_OK), -1);
	unlink(broker->config);
	shell("rm -f %s.moves", broker->socket); // what outlives a broker
	rmdir(broker->directory);
}

void broker_kill(struct broker *broker)
{
	broker_end(broker, SIGKILL);
}

bool broker_lives(const struct broker *broker)
{
	return waitpid(broker->pid, NULL, WNOHANG) == 0;
}

int broker_setup(void **state)
{
	broker_start(&rlmd, NULL);
	return 0;
}

int broker_teardown(void **state)
{
	broker_stop(&rlmd);
	return 0;
}

unsigned broker_open_files(const struct broker *broker)
{
	char path[64];
	unsigned count = 0;
	DIR *directory;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)broker->pid);
	directory = opendir(path);
	assert_non_null(directory);
	for (const struct dirent *entry; (entry = readdir(directory));)
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

unsigned broker_files_at_rest(const struct broker *broker)
{
	unsigned count = broker_open_files(broker), before;

	do {
		before = count;
		pause_ms(200);
		count = broker_open_files(broker);
	} while (count != before);
	return count;
}

bool shell(const char *format, ...)
{
	char command[1024];
	va_list ap;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	return system(command) == 0;
}

char *output_of(int status, const char *program, ...)
{
	const char *arguments[16] = {program};
	char *text = calloc(1, OUTPUT_MAX);
	size_t length = 0;
	int fds[2], ended;
	ssize_t n;
	va_list ap;
	pid_t pid;

	va_start(ap, program);
	for (int i = 1; i < 15 && (arguments[i] = va_arg(ap, const char *)); i++)
		;
	va_end(ap);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		dup2(fds[1], 1);
		dup2(fds[1], 2);
		close(fds[0]);
		close(fds[1]);
		execvp(program, (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	close(fds[1]);
	while ((n = read(fds[0], text + length, (OUTPUT_MAX)-1 - length)) > 0)
		length += (size_t)n;
	close(fds[0]);
	assert_int_equal(waitpid(pid, &ended, 0), pid);
	if (!WIFEXITED(ended) || WEXITSTATUS(ended) != status)
		fail_msg("%s: status %d, not %d: %s", program, WEXITSTATUS(ended), status, text);
	return text;
}

// SPDX-License-Identifier: BSD-2-Clause
// Connections that other programs get: exec, posix_spawn, vfork, system.
#include "owners.h"

#include <sys/stat.h>

#include <rlm/rlm.h>
#include <spawn.h>

extern char **environ;

static void run_shell(struct pair *p, int how, const char *script)
{
	char *argv[] = {"sh", "-c", (char *)script, NULL};
	posix_spawn_file_actions_t actions;
	int status;
	pid_t child = -1;

	switch (how) {
	case 0: // fork and exec
		child = fork();
		if (child == 0) {
			dup2(p->b, 0);
			dup2(p->b, 1);
			close(p->a);
			close(p->b);
			execv("/bin/sh", argv);
			_exit(98);
		}
		break;
	case 1: // posix_spawn
		posix_spawn_file_actions_init(&actions);
		posix_spawn_file_actions_adddup2(&actions, p->b, 0);
		posix_spawn_file_actions_adddup2(&actions, p->b, 1);
		posix_spawn_file_actions_addclose(&actions, p->a);
		posix_spawn_file_actions_addclose(&actions, p->b);
		assert_returns(posix_spawn(&child, "/bin/sh", &actions, NULL, argv, environ), 0);
		posix_spawn_file_actions_destroy(&actions);
		break;
	default: // vfork and exec; only calls that may be made after it
		child = vfork();
		if (child == 0) {
			dup2(p->b, 0);
			dup2(p->b, 1);
			close(p->a);
			close(p->b);
			execve("/bin/sh", argv, environ);
			_exit(98);
		}
	}
	assert_that(child > 0);
	assert_returns(waitpid(child, &status, 0), child);
	assert_that(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// inetd style: another program has the socket as its standard input and output.
static void socket_as_standard_streams(void **state)
{
	for (int how = 0; how < 3; how++) {
		struct pair p;

		pair_open(&p, *(int *)*state);
		pair_settle(&p);
		send_text(p.a, "question\nrest");
		run_shell(&p, how, "read line; echo \"answer to $line\"; echo done");
		recv_text(p.a, "answer to question\ndone\n");
		recv_text(p.b, "rest");
		send_text(p.b, "still open");
		recv_text(p.a, "still open");
		send_text(p.a, "both ways");
		recv_text(p.b, "both ways");
		pair_close(&p);
	}
}

// The same with a program that does not have librlm at all.
static int copy_file(const char *from, const char *to)
{
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_EXCL, 0700);
	char buffer[4096];
	ssize_t n = -1;

	while (in >= 0 && out >= 0 && (n = read(in, buffer, sizeof(buffer))) > 0)
		assert_returns(write(out, buffer, (size_t)n), n);
	close(in);
	close(out);
	return (int)n;
}

// A program that runs as another user than the one who starts it sees no LD_PRELOAD.
static void into_set_user_id_program(void **state)
{
	struct pair p;
	char path[200];
	pid_t child;

	if (geteuid() != 0 || !getenv("RLM_TEST_DIR"))
		skip();
	snprintf(path, sizeof(path), "%s/cat", getenv("RLM_TEST_DIR"));
	assert_returns(copy_file("/bin/cat", path), 0);
	assert_returns(chmod(path, 04755), 0);
	assert_returns(chmod(getenv("RLM_TEST_DIR"), 0755), 0);
	pair_open(&p, *(int *)*state);
	pair_settle(&p);
	send_text(p.a, "first ");
	child = fork();
	if (child == 0) {
		dup2(p.b, 0);
		dup2(p.b, 1);
		close(p.a);
		close(p.b);
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(97);
		execl(path, "cat", NULL);
		_exit(98);
	}
	close(p.b);
	p.b = -1;
	send_text(p.a, "second");
	recv_text(p.a, "first second");
	assert_returns(shutdown(p.a, SHUT_WR), 0);
	recv_end(p.a);
	child_finish(child);
	pair_close(&p);
	assert_returns(unlink(path), 0);
}

static void into_foreign_program(void **state)
{
	for (int how = 0; how < 3; how++) {
		struct pair p;

		pair_open(&p, *(int *)*state);
		pair_settle(&p);
		send_text(p.a, "question\nrest");
		run_shell(&p, how,
			  "unset LD_PRELOAD; read line; env -u LD_PRELOAD sh -c \"echo foreign answer to $line\"");
		recv_text(p.a, "foreign answer to question\n");
		recv_text(p.b, "rest");
		pair_close(&p);
	}
}

// Only the exec'ed program is left with the socket; both directions carry much.
static void handed_to_exec(void **state)
{
	struct pair *p = *state;
	pid_t child = fork();

	if (child == 0) {
		dup2(p->b, 0);
		dup2(p->b, 1);
		close(p->a);
		close(p->b);
		execl("/bin/cat", "cat", NULL);
		_exit(98);
	}
	close_end(&p->b);
	for (uint64_t at = 0; at < 300000; at += 3000) {
		send_pattern(p->a, 1, at, 3000);
		recv_pattern(p->a, 1, at, 3000);
	}
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_end(p->a);
	child_finish(child);
}

// A preloaded program that does something with a descriptor it was started with.
static pid_t python_by_exec(struct pair *p, const char *program)
{
	pid_t child = fork();
	char number[16];

	if (child == 0) {
		close(p->a);
		snprintf(number, sizeof(number), "%d", p->b);
		execl("/usr/bin/python3", "python3", "-c", program, number, NULL);
		_exit(98);
	}
	return child;
}

static pid_t echo_by_exec(struct pair *p)
{
	return python_by_exec(p, "import os, sys\nfd = int(sys.argv[1])\nwhile b := os.read(fd, 9999): os.write(fd, b)");
}

static void inherited_alone(void **state)
{
	struct pair *p = *state;
	struct rlm_info info;
	uint64_t at = 0;
	bool ring = false;
	int64_t deadline;
	pid_t child;

	queues_lock(LOCK_EX);
	child = echo_by_exec(p);
	deadline = now_ms() + DEADLINE_MS;
	close_end(&p->b);
	do {
		echo_some(p, &at);
		assert_returns(rlm_socket_info(p->a, &info), 0);
		ring = info.tx_carrier && info.rx_carrier;
	} while (carrier_is_ring() && ownership_can_be_seen() && !ring && now_ms() < deadline);
	assert_that(ring || !carrier_is_ring() || !ownership_can_be_seen());
	for (int i = 0; i < 100; i++)
		echo_some(p, &at);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_end(p->a);
	child_finish(child);
	queues_lock(LOCK_UN);
}

// An option that an earlier program has set is as good as one that this program sets, on TCP and afterwards.
static void inherited_timestamps(void **state)
{
	struct pair *p = *state;
	int64_t deadline = now_ms() + DEADLINE_MS, end = 0;
	char answer;
	pid_t child;

	set_int(p->b, SOL_SOCKET, SO_TIMESTAMP, 1);
	child = python_by_exec(p, "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\n"
				  "while (r := s.recvmsg(100, 100))[0]: s.send(b'1' if r[1] else b'0')");
	close_end(&p->b);
	do { // the kernel begins to stamp a moment after the option was set
		send_text(p->a, "x");
		assert_returns(recv(p->a, &answer, 1, 0), 1);
		assert_that(answer == '1' || (!end && now_ms() < deadline));
		if (answer == '1' && !end)
			end = now_ms() + 500; // time enough to be promoted
	} while (!end || now_ms() < end);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	recv_end(p->a);
	child_finish(child);
}

static bool on_ring(int fd)
{
	struct rlm_info info;

	assert_returns(rlm_socket_info(fd, &info), 0);
	return info.tx_carrier && info.rx_carrier;
}

// A program that cannot be executed, and how that is found out.
static void fail_to_exec(int how)
{
	static char *const nothing[] = {"nothing", NULL};
	static const char *const volatile nowhere = (const char *)16;
	char *much[] = {"much", NULL, NULL}, text[] = "/tmp/rlm-test.XXXXXX";
	pid_t pid;
	int fd;

	switch (how) {
	case 0:
		assert_fails(execve("/no/such/file", nothing, environ), ENOENT);
		break;
	case 1:
		assert_fails(execv("/etc/passwd", nothing), EACCES);
		break;
	case 2:
		assert_fails(execl("/tmp", "tmp", NULL), EACCES);
		break;
	case 3:
		assert_fails(execvp("rlm-no-such-program", nothing), ENOENT);
		assert_fails(execlp("", "nothing", NULL), ENOENT);
		break;
	case 4:
		assert_fails(execv("/etc/passwd/nothing", nothing), ENOTDIR);
		assert_fails(execve(nowhere, nothing, environ), EFAULT);
		break;
	case 5:
		assert_fails(fexecve(1000, nothing, environ), EBADF);
		break;
	case 6:
		assert_returns(posix_spawn(&pid, "/no/such/file", NULL, NULL, nothing, environ), ENOENT);
		break;
	case 7: // from here on it is the file's contents or the arguments
		much[1] = malloc(1 << 20);
		memset(much[1], 'x', (1 << 20) - 1);
		much[1][(1 << 20) - 1] = 0;
		assert_fails(execv("/bin/true", much), E2BIG);
		free(much[1]);
		break;
	default:
		fd = mkstemp(text);
		assert_that(fd >= 0 && write(fd, "nothing", 7) == 7 && fchmod(fd, 0700) == 0 && close(fd) == 0);
		assert_fails(execv(text, nothing), ENOEXEC);
		assert_returns(unlink(text), 0);
	}
}

// Then all goes on as it was, on the ring if it was there.
static void failed(void **state)
{
	struct pair *p = *state;
	int64_t deadline;
	uint64_t at = 0;

	for (int how = 0; how < 9; how++) {
		send_pattern(p->a, 1, at, 2000);
		send_pattern(p->b, 2, at, 2000);
		recv_pattern(p->b, 1, at, 1000);
		fail_to_exec(how);
		if (how < 6)
			pair_check_ring(p);
		recv_pattern(p->b, 1, at + 1000, 1000);
		recv_pattern(p->a, 2, at, 2000);
		at += 2000;
		deadline = now_ms() + DEADLINE_MS;
		while (carrier_is_ring() && !(on_ring(p->a) && on_ring(p->b)) && now_ms() < deadline)
			pair_touch(p);
		pair_check_ring(p);
	}
}

// Somebody else has it too, and uses it.
static void inherited_and_kept(void **state)
{
	struct pair *p = *state;
	pid_t child = echo_by_exec(p);
	int64_t quiet = now_ms() + 10 * QUIET_MS;
	struct rlm_info info;
	uint64_t at = 0;

	do
		echo_some(p, &at);
	while (now_ms() < quiet);
	assert_returns(rlm_socket_info(p->a, &info), 0);
	assert_that(!info.tx_carrier && !info.rx_carrier);
	send_text(p->b, "from the parent");
	recv_text(p->a, "from the parent");
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	child_finish(child);
	recv_end(p->b);
}

static void cloexec_is_kept(void **state)
{
	struct pair *p = *state;
	char script[64];

	assert_returns(fcntl(p->b, F_SETFD, FD_CLOEXEC), 0);
	snprintf(script, sizeof(script), "test ! -e /proc/self/fd/%d", p->b);
	assert_returns(system(script), 0);
	assert_returns(fcntl(p->b, F_SETFD, 0), 0);
	snprintf(script, sizeof(script), "test -e /proc/self/fd/%d", p->b);
	assert_returns(system(script), 0);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
}

// system() and popen() know nothing of the socket; the connection goes on meanwhile and afterwards.
static void system_and_popen(void **state)
{
	struct pair *p = *state;
	char line[32] = "";
	FILE *pipe;

	send_text(p->a, "before");
	assert_returns(system("exit 3") >> 8, 3);
	recv_text(p->b, "before");
	pipe = popen("echo hello", "r");
	assert_that(pipe);
	send_text(p->b, "during");
	assert_that(fgets(line, sizeof(line), pipe));
	assert_bytes(line, "hello\n", 6);
	assert_returns(pclose(pipe), 0);
	recv_text(p->a, "during");
}

// Nothing of the library's leaks into other programs: they see standard streams alone.
static void no_descriptor_leaks(void **state)
{
	struct pair *p = *state;

	assert_returns(fcntl(p->a, F_SETFD, FD_CLOEXEC), 0);
	assert_returns(fcntl(p->b, F_SETFD, FD_CLOEXEC), 0);
	assert_returns(system("test \"$(env -u LD_PRELOAD ls /proc/self/fd | tr '\\n' ' ')\" = '0 1 2 3 '"), 0);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(socket_as_standard_streams),
    TEST_FAMILY(into_foreign_program),
    TEST_FAMILY(into_set_user_id_program),
    TEST_SETTLED(handed_to_exec),
    TEST_FRESH(inherited_alone),
    TEST_FRESH(inherited_timestamps),
    TEST_SETTLED(failed),
    TEST_SETTLED(inherited_and_kept),
    TEST_SETTLED(cloexec_is_kept),
    TEST_SETTLED(system_and_popen),
    TEST_SETTLED(no_descriptor_leaks),
};
// clang-format on

SUITE_MAIN(tests)

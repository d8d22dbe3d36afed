// SPDX-License-Identifier: BSD-2-Clause
// Processes that are killed for any system call but those they make themselves (seccomp), that have left the file system (chroot), or have given up privileges.
#include "pair.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static struct sock_filter rules[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    ALLOW(read),
    ALLOW(write),
    ALLOW(recvfrom),
    ALLOW(sendto),
    ALLOW(poll),
    ALLOW(epoll_wait),
    ALLOW(epoll_pwait), // what libc calls for epoll_wait() differs
    ALLOW(epoll_ctl),
    ALLOW(accept),
    ALLOW(shutdown),
    ALLOW(close),
    ALLOW(clock_gettime), // not always without a system call
    ALLOW(exit),
    ALLOW(exit_group),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
};
static struct sock_fprog program = {sizeof(rules) / sizeof(rules[0]), rules};

static void enter_filter(void)
{
	assert_returns(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_returns(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void enter_strict(void)
{
	if (prctl(PR_GET_SECCOMP) == SECCOMP_MODE_FILTER) { // the whole run has one, and the kernel allows no other mode then
		enter_filter();
		return;
	}
	assert_returns(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), 0);
}

static void enter_filter_by_number(void)
{
	assert_returns(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_returns(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), 0);
}

// The child echoes what comes in pieces of 5 bytes, with nothing but read and write, until the end of the stream.
static void echo(struct pair *p, void (*enter)(void))
{
	pid_t child = fork();

	if (child == 0) {
		char buffer[5];
		size_t got;

		close(p->a);
		enter();
		do {
			for (got = 0; got < sizeof(buffer);) {
				ssize_t n = read(p->b, buffer + got, sizeof(buffer) - got);
				if (n <= 0)
					break;
				got += n;
			}
			if (got && write(p->b, buffer, got) != (ssize_t)got)
				break;
		} while (got == sizeof(buffer));
		syscall(SYS_exit, got);
	}
	close(p->b);
	p->b = -1;
	for (int i = 0; i < 100; i++) {
		send_text(p->a, "12345");
		recv_text(p->a, "12345");
	}
	shutdown(p->a, SHUT_WR);
	recv_end(p->a);
	child_finish(child);
}

static void strict(void **state)
{
	echo(*state, enter_strict);
}

// More than read and write: waiting, connections that come later, closing, exit().
static void serve(int listener, struct pair *p, void (*enter)(void))
{
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = epoll_create1(0);
	struct pollfd poller = {.fd = p->b, .events = POLLIN};
	char buffer[8];

	assert_returns(epoll_ctl(epoll, EPOLL_CTL_ADD, p->b, &event), 0);
	enter();
	for (int i = 0; i < 100; i++) {
		if (epoll_wait(epoll, &event, 1, DEADLINE_MS) != 1 || recv(p->b, buffer, 5, 0) != 5)
			_exit(1);
		if (poll(&poller, 1, 0) != 0 || send(p->b, buffer, 5, 0) != 5)
			_exit(2);
	}
	for (int i = 0; i < 5; i++) {
		int fd = accept(listener, NULL, NULL);

		poller.fd = fd;
		for (int k = 0; k < 20; k++)
			if (poll(&poller, 1, DEADLINE_MS) != 1 || read(fd, buffer, 3) != 3 || write(fd, buffer, 3) != 3)
				_exit(3);
		if (shutdown(fd, SHUT_WR) < 0 || close(fd) < 0)
			_exit(4);
	}
	_exit(0);
}

static void filtered(struct pair *p, void (*enter)(void))
{
	int listener = listener_open(p->family);
	pid_t child = fork();

	if (child == 0) {
		close(p->a);
		serve(listener, p, enter);
	}
	close(p->b);
	p->b = -1;
	for (int i = 0; i < 100; i++) {
		send_text(p->a, "12345");
		recv_text(p->a, "12345");
	}
	for (int i = 0; i < 5; i++) {
		int fd = listener_connect(listener);

		for (int k = 0; k < 20; k++) {
			send_text(fd, "abc");
			recv_text(fd, "abc");
		}
		recv_end(fd);
		close(fd);
	}
	recv_end(p->a);
	child_finish(child);
	close(listener);
}

static void filter(void **state)
{
	filtered(*state, enter_filter);
}

static void filter_by_number(void **state)
{
	filtered(*state, enter_filter_by_number);
}

// A child that connects and uses its connection; before that, or in the middle of it, it confines itself.
static void confined(int family, void (*before)(void), void (*after)(void))
{
	int listener, fd;
	pid_t child;

	if (geteuid() != 0)
		skip();
	listener = listener_open(family);
	assert_that(listener >= 0);
	child = fork();
	if (child == 0) {
		before();
		fd = listener_connect(listener);
		peer_settle(fd, false);
		for (int i = 0; i < 100; i++) {
			recv_text(fd, "12345");
			send_text(fd, "abc");
			if (i == 50)
				after();
		}
		recv_end(fd);
		_exit(0);
	}
	fd = accept(listener, NULL, NULL);
	assert_that(fd >= 0);
	peer_settle(fd, true);
	for (int i = 0; i < 100; i++) {
		send_text(fd, "12345");
		recv_text(fd, "abc");
	}
	close(fd);
	close(listener);
	child_finish(child);
}

static void nothing(void)
{
}

static void enter_jail(void)
{
	assert_returns(mkdir("jail", 0700), 0);
	assert_returns(chroot("jail"), 0);
	assert_returns(chdir("/"), 0);
	assert_fails(access("/proc", F_OK), ENOENT);
}

// The broker's socket cannot be found by its path from there; what is connected later is accelerated all the same.
static void jailed(void **state)
{
	confined(*(int *)*state, enter_jail, nothing);
	assert_returns(rmdir("jail"), 0);
}

int capset(void *header, const void *data); // no header of libc declares it

// libc ends the process when seteuid() works in some of its threads only.
static void give_up_and_take_back(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{.effective = 1 << CAP_SETUID, .permitted = 1 << CAP_SETUID}};

	assert_returns(prctl(PR_SET_KEEPCAPS, 1), 0);
	assert_returns(setuid(65534), 0);
	assert_returns(capset(&header, data), 0);
	assert_returns(seteuid(0), 0);
	assert_returns(seteuid(65534), 0);
}

// Capabilities are each thread's own, and the program has one thread.
static void capabilities(void **state)
{
	confined(*(int *)*state, nothing, give_up_and_take_back);
}

// The program of idle_in_jail(). Its broker goes away, and from a jail it finds no other.
static void idle(int gate)
{
	struct rusage before, after;
	struct pair p;
	char byte;

	pair_open(&p, AF_INET);
	pair_touch(&p);
	enter_jail();
	assert_returns(read(gate, &byte, 1), 1);
	assert_returns(getrusage(RUSAGE_SELF, &before), 0);
	nap_ms(300);
	assert_returns(getrusage(RUSAGE_SELF, &after), 0);
	assert_that(after.ru_nvcsw - before.ru_nvcsw < 30);
}

static int broker_open(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_that(fd >= 0 && strlen(path) < sizeof(address.sun_path));
	strcpy(address.sun_path, path);
	assert_returns(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_returns(listen(fd, 1), 0);
	return fd;
}

// What listens ends each session at once.
static void idle_in_jail(void **state)
{
	int broker = broker_open("broker.sock"), gate[2];
	struct pollfd poller = {.fd = broker, .events = POLLIN};
	char *path = realpath("broker.sock", NULL), number[12];
	pid_t child;

	(void)state;
	if (geteuid() != 0)
		skip();
	assert_that(path != NULL);
	assert_returns(pipe(gate), 0);
	child = fork();
	if (child == 0) {
		snprintf(number, sizeof(number), "%d", gate[0]);
		setenv("RLM_SOCKET", path, 1);
		execl("/proc/self/exe", "test_sandbox", "--idle", number, NULL);
		_exit(127);
	}
	if (carrier_accelerates()) {
		assert_returns(poll(&poller, 1, DEADLINE_MS), 1);
		close(accept(broker, NULL, NULL));
	}
	assert_returns(write(gate[1], "x", 1), 1);
	child_finish(child);
	free(path);
	close(broker);
	close(gate[0]);
	close(gate[1]);
	assert_returns(unlink("broker.sock") | rmdir("jail"), 0);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(strict),
    TEST_FRESH(strict),
    TEST_SETTLED(filter),
    TEST_FRESH(filter),
    TEST_SETTLED(filter_by_number),
    TEST_FAMILY(jailed),
    TEST_FAMILY(capabilities),
    cmocka_unit_test(idle_in_jail),
};
// clang-format on

int main(int argc, char **argv)
{
	if (argc != 3 || strcmp(argv[1], "--idle"))
		return suite_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
	idle(atoi(argv[2]));
	return 0;
}

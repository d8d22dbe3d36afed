// SPDX-License-Identifier: BSD-2-Clause
// The sandbox: what rlmd may still do, and what nobody can make it do any more. That it does its work inside is what all the other tests show.
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "isolate.h"

#define REFUSED(call) (errno = 0, (long)(call) == -1 && errno == EPERM)

static void *nothing(void *arg)
{
	return arg;
}

static bool works(void)
{
	pthread_t thread;
	int fd = memfd_create("m", MFD_CLOEXEC);
	char byte;
	void *page;

	if (fd < 0 || ftruncate(fd, 4096) || pread(fd, &byte, 1, 0) != 1)
		return false;
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return page != MAP_FAILED && munmap(page, 4096) == 0 && close(fd) == 0 && pthread_create(&thread, NULL, nothing, NULL) == 0 &&
	       pthread_join(thread, NULL) == 0 && open("/proc/self/stat", O_RDONLY) >= 0;
}

// 0, or the line of what is not as it should be.
static int local(void)
{
	union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY};
	char *const arguments[] = {(char *)(uintptr_t)"true", NULL};
	void *page;

	if (rlmd_isolate_syscalls(false))
		return 1;
	if (!works())
		return 2;
	if (!REFUSED(execv("/bin/true", arguments)))
		return 3;
	if (!REFUSED(socket(AF_INET, SOCK_STREAM, 0)) || !REFUSED(socket(AF_PACKET, SOCK_RAW, 0)))
		return 4;
	if (!REFUSED(ptrace(PTRACE_TRACEME, 0, 0, 0)) || !REFUSED(mount("none", "/mnt", "tmpfs", 0, NULL)))
		return 5;
	if (!REFUSED(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr))))
		return 6;
	page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page != MAP_FAILED || errno != EPERM)
		return 7;
	if (!REFUSED(ioctl(0, TIOCSTI, "x")) || !REFUSED(kill(getppid(), 0)) || !REFUSED(chmod("/nowhere", 0777)))
		return 8;
	return 0;
}

static int xen(void)
{
	char *const arguments[] = {(char *)(uintptr_t)"true", NULL};

	if (rlmd_isolate_syscalls(true))
		return 1;
	if (!works())
		return 2;
	if (!REFUSED(execv("/bin/true", arguments)) || !REFUSED(mount("none", "/mnt", "tmpfs", 0, NULL)))
		return 3;
	return socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? 4 : 0;
}

static int status_of(int (*what)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(rlmd_isolate_privileges() ? 99 : what());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_local(void **state)
{
	assert_int_equal(status_of(local), 0);
}

static void test_xen(void **state)
{
	assert_int_equal(status_of(xen), 0);
}

static bool status_has(const char *path, const char *line)
{
	char *status = output_of(0, "cat", path, NULL);
	bool has = strstr(status, line);

	free(status);
	return has;
}

// The real one is inside.
static void test_rlmd(void **state)
{
	struct broker broker;
	struct peer peer;
	char path[64];

#if defined(__SANITIZE_ADDRESS__)
	skip(); // it has no sandbox then
#endif
	broker_start(&broker, NULL);
	snprintf(path, sizeof(path), "/proc/%d/status", (int)broker.pid);
	eventually(status_has(path, "Seccomp:\t2")); // it can be connected to a moment before
	assert_true(status_has(path, "NoNewPrivs:\t1"));
	if (geteuid() == 0)
		assert_true(status_has(path, "CapEff:\t0000000000001000")); // CAP_NET_ADMIN
	peer_open(&peer, &broker, "a");
	peer_close(&peer);
	broker_stop(&broker);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_local), cmocka_unit_test(test_xen), cmocka_unit_test(test_rlmd)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

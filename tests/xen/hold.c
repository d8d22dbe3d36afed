// SPDX-License-Identifier: BSD-2-Clause
// xen-hold PID: holds all threads of a process, as a debugger does at a breakpoint, until it is killed.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void hold(pid_t thread)
{
	if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL))
		die("ptrace");
	if (waitpid(thread, NULL, __WALL) != thread)
		die("waitpid");
}

int main(int argc, char **argv)
{
	char path[64];
	struct dirent *entry;
	DIR *threads;

	if (argc != 2)
		return 2;
	snprintf(path, sizeof(path), "/proc/%s/task", argv[1]);
	threads = opendir(path);
	if (!threads)
		die(path);
	while ((entry = readdir(threads)))
		if (entry->d_name[0] != '.')
			hold(atoi(entry->d_name));
	closedir(threads);
	printf("held\n");
	fflush(stdout);
	for (;;)
		pause();
}

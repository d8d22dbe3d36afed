// SPDX-License-Identifier: BSD-2-Clause
// The supervisor's words: what it tells while all is well, and everything that helps to find the fault when it is not.
#include "supervisor.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_MS 20000

void say(const char *format, ...)
{
	static uint64_t start;
	va_list ap;

	if (!start)
		start = now_ms();
	if (chaos.quiet)
		return;
	printf("%6.2f ", (double)(now_ms() - start) / 1000);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

static void show_file(const char *path, const char *title)
{
	char line[512];
	FILE *file = fopen(path, "r");

	if (!file)
		return;
	while (fgets(line, sizeof(line), file))
		printf("   %s%s%s", title, line, strchr(line, '\n') ? "" : "\n");
	fclose(file);
}

static unsigned record_pair(uint32_t record)
{
	return chaos.board->incarnation[chaos.board->record[record].end[CLIENT].incarnation].pair;
}

// Where the process sleeps; with CHAOS_GDB set, all of its stacks.
void show_process(pid_t pid)
{
	char command[256];

	printf("process %d\n", pid);
	fflush(stdout);
	if (getenv("CHAOS_GDB"))
		snprintf(command, sizeof(command),
			 "gdb -q -batch -ex 'thread apply all bt 12' -p %d 2>&1 | grep -E '^(#|Thread)'", pid);
	else
		snprintf(command, sizeof(command),
			 "for t in /proc/%d/task/*; do echo \"   $(cat $t/comm) $(cat $t/wchan) $(cat $t/syscall)\"; "
			 "done 2>/dev/null",
			 pid);
	if (system(command) < 0)
		printf("   cannot be looked at\n");
}

_Noreturn void fail(const char *format, ...)
{
	va_list ap;

	printf("FAILED: ");
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
	for (int i = 0; i < WORKERS; i++)
		if (chaos.worker[i].pid > 0)
			kill(chaos.worker[i].pid, SIGCONT);
	if (chaos.board->failed_record >= 0)
		report_record(chaos.board, (uint32_t)chaos.board->failed_record);
	for (int i = 0; i < WORKERS; i++)
		if (chaos.worker[i].pid > 0 && chaos.board->failed_record >= 0 &&
		    (unsigned)i / 2 == record_pair((uint32_t)chaos.board->failed_record))
			show_process(chaos.worker[i].pid);
	printf("--- all connections\n");
	report_open(chaos.board);
	printf("---\n");
	show_file(chaos.log, "rlmd: ");
	report_summary(chaos.board);
	printf("seed %llu\n", (unsigned long long)chaos.seed);
	kill_all();
	exit(1);
}

void fail_if_wrong(void)
{
	char error[sizeof(chaos.board->error)];

	if (!chaos.board->failed)
		return;
	usleep(50000); // the text follows the flag
	memcpy(error, chaos.board->error, sizeof(error));
	error[sizeof(error) - 1] = '\0';
	fail("%s", error);
}

void watch(void)
{
	long stuck = report_stuck(chaos.board, PATIENCE_MS);

	fail_if_wrong();
	if (stuck < 0)
		return;
	chaos.board->failed_record = stuck;
	fail("record %ld has stood still for %d s", stuck, PATIENCE_MS / 1000);
}

bool switches_are_enough(void)
{
	return chaos.bare || report_switches(chaos.board) * 60 >= (uint64_t)SWITCHES_PER_MIN * chaos.seconds;
}

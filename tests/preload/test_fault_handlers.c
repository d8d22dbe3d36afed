// SPDX-License-Identifier: BSD-2-Clause
// Handlers for SIGSEGV: nobody finds one that the program did not set, and its own get what they would get without librlm.
#include "pair.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <sys/resource.h>

static void *volatile nowhere = (void *)16;

static sigjmp_buf back;
static volatile sig_atomic_t faults;
static void *volatile fault_at;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	faults++;
	fault_at = info->si_addr;
	siglongjmp(back, 1);
}

static void set_action(int signal, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};

	assert_returns(sigaction(signal, &action, NULL), 0);
}

static void touch(volatile char *p)
{
	if (!sigsetjmp(back, 1))
		*p = 1;
}

// The program's own faults are its handler's, those of buffers in calls are errors.
static void with_a_handler(void **state)
{
	struct pair *p = *state;
	struct sigaction now;
	char *edge = edge_open(4096);

	set_action(SIGSEGV, on_fault, 0);
	faults = 0;
	touch(edge);
	assert_returns(faults, 1);
	assert_that(fault_at == edge);
	assert_fails(send(p->a, edge - 1, 8, 0), EFAULT);
	assert_returns(faults, 1);
	touch(edge);
	assert_returns(faults, 2);
	assert_returns(sigaction(SIGSEGV, NULL, &now), 0);
	assert_that(now.sa_sigaction == on_fault);
	assert_returns(now.sa_flags & (SA_SIGINFO | SA_ONSTACK | SA_RESETHAND), SA_SIGINFO);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	edge_close(edge, 4096);
}

static void seen_by_the_program(void **state)
{
	struct pair *p = *state;
	struct sigaction now, standard = {.sa_handler = SIG_DFL}, was, other;

	assert_returns(sigaction(SIGUSR2, &standard, NULL), 0);
	assert_returns(sigaction(SIGUSR2, NULL, &other), 0);
	for (int i = 0; i < 2; i++) {
		int number = i ? SIGBUS : SIGSEGV;

		assert_returns(sigaction(number, &standard, &was), 0);
		assert_returns(sigaction(number, NULL, &now), 0);
		assert_that(now.sa_handler == SIG_DFL);
		assert_returns(now.sa_flags, other.sa_flags);
		assert_fails(send(p->a, nowhere, 1, 0), EFAULT);
		assert_that(signal(number, SIG_IGN) == SIG_DFL);
		assert_returns(sigaction(number, NULL, &now), 0);
		assert_that(now.sa_handler == SIG_IGN);
		assert_that(signal(number, SIG_DFL) == SIG_IGN);
		assert_that(sysv_signal(number, SIG_DFL) == SIG_DFL);
		assert_fails(send(p->a, nowhere, 1, 0), EFAULT);
		assert_returns(sigaction(number, &was, &now), 0);
		assert_that(now.sa_handler == SIG_DFL);
	}
}

static int status_of(pid_t pid)
{
	int status = 0;

	assert_returns(waitpid(pid, &status, 0), pid);
	return status;
}

static pid_t fork_quiet(void)
{
	const struct rlimit no_core = {0, 0};
	pid_t pid = fork();

	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
	}
	return pid;
}

// Without a handler a fault is the end, as is the signal when it is sent.
static void without_a_handler(void **state)
{
	struct pair *p = *state;
	pid_t pid = fork_quiet();
	int status;

	if (pid == 0) {
		if (send(p->a, nowhere, 1, 0) < 0 && errno == EFAULT)
			*(volatile char *)nowhere = 1;
		_exit(1);
	}
	status = status_of(pid);
	assert_that(WIFSIGNALED(status));
	assert_returns(WTERMSIG(status), SIGSEGV);
	pid = fork_quiet();
	if (pid == 0) {
		send(p->a, nowhere, 1, 0);
		kill(getpid(), SIGBUS);
		_exit(1);
	}
	status = status_of(pid);
	assert_that(WIFSIGNALED(status));
	assert_returns(WTERMSIG(status), SIGBUS);
}

static void handler_for_once(void **state)
{
	struct pair *p = *state;
	char *edge = edge_open(4096);
	struct sigaction now;

	faults = 0;
	set_action(SIGSEGV, on_fault, (int)SA_RESETHAND);
	assert_fails(send(p->a, edge, 8, 0), EFAULT); // not the one
	touch(edge);
	assert_returns(faults, 1);
	assert_returns(sigaction(SIGSEGV, NULL, &now), 0);
	assert_that(now.sa_handler == SIG_DFL);
	assert_fails(send(p->a, edge, 8, 0), EFAULT);
	edge_close(edge, 4096);
}

static int dive(volatile char *above)
{
	volatile char here[4096];

	here[0] = *above;
	return *above ? dive(here) + here[0] : 0;
}

static char *volatile handler_stack;

static void on_overflow(int signal, siginfo_t *info, void *context)
{
	char here;

	_exit(&here >= handler_stack && &here < handler_stack + 65536 ? 7 : 8);
}

static void *overflow(void *arg)
{
	stack_t stack = {.ss_sp = handler_stack, .ss_size = 65536};

	sigaltstack(&stack, NULL);
	_exit(dive(&(volatile char){1}));
}

// The program's handler runs on the stack that it asked for; with none, the program ends.
static void stack_overflow(void **state)
{
	pthread_attr_t small;
	pthread_t thread;
	int status;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 262144);
	for (int with = 0; with < 2; with++) {
		pid_t pid = fork_quiet();

		if (pid == 0) {
			handler_stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (with)
				set_action(SIGSEGV, on_overflow, SA_ONSTACK);
			pthread_create(&thread, &small, overflow, NULL);
			pthread_join(thread, NULL);
			_exit(1);
		}
		status = status_of(pid);
		if (with)
			assert_returns(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 7);
		else
			assert_returns(WIFSIGNALED(status) ? WTERMSIG(status) : -1, SIGSEGV);
	}
}

static unsigned long long ignored_by_child(void)
{
	unsigned long long set = 0;
	char line[100] = "";
	FILE *pipe = popen("cat /proc/self/status", "r");

	assert_that(pipe != NULL);
	while (fgets(line, sizeof(line), pipe) && sscanf(line, "SigIgn: %llx", &set) != 1)
		;
	assert_that(!strncmp(line, "SigIgn:", 7));
	pclose(pipe);
	return set >> (SIGSEGV - 1) & 1;
}

// What a program that is executed inherits.
static void inherited_by_programs(void **state)
{
	struct pair *p = *state;

	assert_fails(send(p->a, nowhere, 1, 0), EFAULT);
	signal(SIGSEGV, SIG_DFL);
	assert_returns(ignored_by_child(), 0);
	signal(SIGSEGV, SIG_IGN);
	assert_returns(ignored_by_child(), 1);
	signal(SIGSEGV, SIG_DFL);
	assert_returns(ignored_by_child(), 0);
}

// The test library has handlers of its own, which tests here take away: each runs in a process of its own.
static void (*running)(void **state);

static void alone(void **state)
{
	pid_t pid = fork();

	if (pid == 0) {
		running(state);
		exit(0);
	}
	child_finish(pid);
}

#define ALONE(fn)                                                                                                                        \
	static void fn##_alone(void **state)                                                                                             \
	{                                                                                                                                \
		running = fn;                                                                                                            \
		alone(state);                                                                                                            \
	}
ALONE(with_a_handler)
ALONE(seen_by_the_program)
ALONE(handler_for_once)
ALONE(inherited_by_programs)

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(with_a_handler_alone),
    TEST_SETTLED(seen_by_the_program_alone),
    TEST_SETTLED(without_a_handler),
    TEST_SETTLED(handler_for_once_alone),
    TEST_SETTLED(stack_overflow),
    TEST_SETTLED(inherited_by_programs_alone),
};
// clang-format on

SUITE_MAIN(tests)

// SPDX-License-Identifier: BSD-2-Clause
#include "xen_guard.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include <xenstore.h>

#include "log.h"
#include "xen_node.h"

#define NAME	   "libxl-save-helper"
#define GUARD_NODE "/local/domain/0/rlm/guard" // the number of the one that counts
#define SLACK	   5.0 // seconds more than rlmd takes for its answer
#define TICK_MS	   100 // between two looks at a domain that is to close its channels by itself

// Where the different builds of Xen have it.
static const char *const places[] = {"/usr/lib/xen-*/bin/" NAME, "/usr/lib/xen/bin/" NAME, "/usr/libexec/xen/bin/" NAME,
				     "/usr/local/lib/xen/bin/" NAME, "/usr/local/libexec/xen/bin/" NAME};

// An execution that waits for its permission.
struct held {
	uint32_t number;
	int fd; // the file, by which the kernel knows what we answer to
	pid_t pid;
	unsigned domain;
	double deadline;
	struct held *prev, *next;
};

static struct {
	int events; // fanotify
	int broker; // -1: gone
	struct xs_handle *store;
	char number[20];
	double patience;
	struct held *held;
	uint32_t next;
} guard;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool store_read(const char *path, char *value, size_t size)
{
	unsigned length = 0;
	char *text = guard.store ? xs_read(guard.store, XBT_NULL, path, &length) : NULL;

	value[0] = 0;
	if (!text)
		return false;
	snprintf(value, size, "%.*s", (int)length, text);
	free(text);
	return true;
}

static bool domain_is_open(unsigned domain)
{
	char path[64], value[RLMD_NODE_SIZE];

	snprintf(path, sizeof(path), "/local/domain/%u/" RLMD_WIRE_ASK_NODE, domain);
	return store_read(path, value, sizeof(value)) && rlmd_node_is_open(value);
}

// --- what is being executed

// The address of argv in a process that waits inside execve(). 0: it does something else.
static uint64_t argv_address(pid_t pid)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	unsigned long long argument[3];
	char path[40], text[256];
	long number;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)pid);
	for (int tries = 0; tries < 1000; tries++) { // "running" until it sleeps
		file = fopen(path, "re");
		if (!file)
			return 0;
		text[fread(text, 1, sizeof(text) - 1, file)] = 0;
		fclose(file);
		if (sscanf(text, "%ld %llx %llx %llx", &number, &argument[0], &argument[1], &argument[2]) == 4)
			return number == SYS_execve ? argument[1] : number == SYS_execveat ? argument[2] : 0;
		nanosleep(&moment, NULL);
	}
	return 0;
}

static bool memory_read(pid_t pid, uint64_t address, void *to, size_t size)
{
	struct iovec local = {to, size}, remote = {(void *)(uintptr_t)address, size};

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

// Byte by byte: what follows the string may not be mapped.
static bool string_read(pid_t pid, uint64_t address, char *to, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (!memory_read(pid, address + i, to + i, 1))
			return false;
		if (!to[i])
			return true;
	}
	return false;
}

enum asked { ASKED_OTHER, ASKED_SAVE, ASKED_UNKNOWN };

// libxl-save-helper --save-domain STREAM BACK-CHANNEL DOMAIN ...
static enum asked what_is_asked(pid_t pid, unsigned *domain)
{
	uint64_t address = pid > 0 ? argv_address(pid) : 0, argv[5];
	char mode[32], text[16], *end;

	if (!address || !memory_read(pid, address, argv, 2 * sizeof(argv[0])) || !argv[1] || !string_read(pid, argv[1], mode, sizeof(mode)))
		return ASKED_UNKNOWN;
	if (strcmp(mode, "--save-domain") != 0)
		return ASKED_OTHER;
	if (!memory_read(pid, address, argv, sizeof(argv)) || !argv[4] || !string_read(pid, argv[4], text, sizeof(text)))
		return ASKED_UNKNOWN;
	*domain = (unsigned)strtoul(text, &end, 10);
	return *end || end == text ? ASKED_UNKNOWN : ASKED_SAVE;
}

// --- answers

static void permit(int fd, bool allow)
{
	struct fanotify_response response = {.fd = fd, .response = allow ? FAN_ALLOW : FAN_DENY};

	if (write(guard.events, &response, sizeof(response)) != sizeof(response))
		log_error("guard: the kernel takes no answer: %s", strerror(errno));
	close(fd);
}

// A process's standard error, so that writing there does not make us wait: opened anew, or, as a socket cannot be, a duplicate. -1: neither.
static int stderr_of(pid_t pid, bool *socket)
{
	char path[40];
	int fd, process;

	snprintf(path, sizeof(path), "/proc/%d/fd/2", (int)pid);
	fd = open(path, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	*socket = fd < 0;
	if (fd >= 0)
		return fd;
	process = (int)syscall(SYS_pidfd_open, pid, 0);
	fd = process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, process, 2, 0);
	if (process >= 0)
		close(process);
	return fd;
}

// All that the tool stack itself says is that it may not execute its helper.
static void tell(pid_t pid, const char *why)
{
	char text[320];
	int length = snprintf(text, sizeof(text), "rlmd: %s\n", why);
	bool socket;
	int fd = stderr_of(pid, &socket);

	log_warn("guard: refused: %s", why);
	if (fd < 0)
		return;
	if ((socket ? send(fd, text, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL) : write(fd, text, (size_t)length)) != length)
		log_debug("guard: the tool stack does not hear why");
	close(fd);
}

static void release(struct held *held, bool allow, const char *why)
{
	if (!allow)
		tell(held->pid, why);
	permit(held->fd, allow);
	DL_DELETE(guard.held, held);
	free(held);
}

static void broker_over(void)
{
	if (guard.broker >= 0)
		close(guard.broker);
	guard.broker = -1;
}

static void broker_ask(const struct held *held)
{
	struct rlmd_guard_ask ask = {.number = held->number, .domain = held->domain, .pid = held->pid};

	if (guard.broker >= 0 && send(guard.broker, &ask, sizeof(ask), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(ask) && errno != EAGAIN)
		broker_over(); // EAGAIN: it does not answer any more, which the deadline tells
}

// One answer, if there is one.
static bool broker_answered(void)
{
	struct rlmd_guard_answer answer;
	struct held *held;
	ssize_t size = guard.broker < 0 ? 0 : recv(guard.broker, &answer, sizeof(answer), MSG_DONTWAIT);

	if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR))
		broker_over();
	if (size != sizeof(answer))
		return false;
	answer.why[sizeof(answer.why) - 1] = 0;
	DL_SEARCH_SCALAR(guard.held, held, number, answer.number);
	if (held)
		release(held, answer.allow, answer.why);
	return true;
}

// --- the loop

static void hold(int fd, pid_t pid)
{
	struct held *held;
	unsigned domain = 0;
	enum asked asked = what_is_asked(pid, &domain);

	held = asked == ASKED_SAVE ? calloc(1, sizeof(*held)) : NULL;
	if (!held) {
		if (asked != ASKED_OTHER)
			tell(pid, "cannot tell which domain is to be saved, so it may not be");
		permit(fd, asked == ASKED_OTHER);
		return;
	}
	held->number = ++guard.next;
	held->fd = fd;
	held->pid = pid;
	held->domain = domain;
	held->deadline = now() + guard.patience + SLACK;
	DL_APPEND(guard.held, held);
	broker_ask(held);
}

// The whole directory is watched, so that the file may be replaced.
static bool is_helper(int fd)
{
	char link[40], path[512];
	const char *name;
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	path[length > 0 ? length : 0] = 0;
	name = strrchr(path, '/');
	return name && strncmp(name + 1, NAME, strlen(NAME)) == 0;
}

static void events_take(void)
{
	union {
		struct fanotify_event_metadata first;
		char bytes[4096];
	} buffer;
	ssize_t left = read(guard.events, &buffer, sizeof(buffer));
	struct fanotify_event_metadata *event = &buffer.first;

	for (; left > 0 && FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
		if (event->fd < 0)
			continue;
		if (is_helper(event->fd))
			hold(event->fd, event->pid);
		else
			permit(event->fd, true);
	}
}

static void held_look(void)
{
	struct held *held, *next;
	char why[128];

	DL_FOREACH_SAFE (guard.held, held, next) {
		if (guard.broker < 0 && !domain_is_open(held->domain)) {
			release(held, true, NULL);
		} else if (now() > held->deadline) {
			snprintf(why, sizeof(why), "domain %u stays: %s", held->domain,
				 guard.broker < 0 ? "no rlmd is running in dom0, and the domain's channels are still open"
						  : "the rlmd of dom0 does not answer");
			release(held, false, why);
		}
	}
}

static bool any_is_open(void)
{
	unsigned count = 0;
	char **ids = guard.store ? xs_directory(guard.store, XBT_NULL, "/local/domain", &count) : NULL;
	bool any = false;

	for (unsigned i = 0; ids && i < count; i++)
		any |= domain_is_open((unsigned)strtoul(ids[i], NULL, 10));
	free(ids);
	return any;
}

static bool is_needed(void)
{
	char number[sizeof(guard.number)];

	if (guard.broker >= 0)
		return true;
	if (store_read(GUARD_NODE, number, sizeof(number)) && strcmp(number, guard.number) != 0)
		return false; // what we hold, the other one holds as well
	return guard.held || any_is_open();
}

static void run(void)
{
	while (is_needed()) {
		struct pollfd fds[] = {{.fd = guard.events, .events = POLLIN}, {.fd = guard.broker, .events = POLLIN}};

		poll(fds, 2, guard.held || guard.broker < 0 ? TICK_MS : -1);
		if (fds[0].revents)
			events_take();
		// Whatever has come by now, also after a time in which the whole domain stood still, counts before a deadline does.
		while (broker_answered())
			;
		held_look();
	}
}

// Of what it inherits it keeps two descriptors and one power: to see what a process is about to execute.
static void isolate(int events, int broker)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (file >= 0 && write(file, "-1000", 5) != 5)
		log_warn("guard: cannot be spared when memory is short: %s", strerror(errno));
	guard.events = fcntl(events, F_DUPFD_CLOEXEC, 16);
	guard.broker = fcntl(broker, F_DUPFD_CLOEXEC, 16);
	dup2(guard.events, 3);
	dup2(guard.broker, 4);
	guard.events = 3;
	guard.broker = 4;
	syscall(SYS_close_range, 5u, ~0u, 0u);
	setsid();
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, "rlmd-guard");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	capng_clear(CAPNG_SELECT_BOTH);
	capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_SYS_PTRACE);
	if (capng_apply(CAPNG_SELECT_CAPS))
		log_warn("guard: cannot give up privileges");
}

static _Noreturn void guard_main(int events, int broker, double patience)
{
	uint64_t number = 0;

	isolate(events, broker);
	while (getrandom(&number, sizeof(number), 0) != sizeof(number))
		;
	snprintf(guard.number, sizeof(guard.number), "%016llx", (unsigned long long)number);
	guard.patience = patience;
	guard.store = xs_open(0);
	if (!guard.store || !xs_write(guard.store, XBT_NULL, GUARD_NODE, guard.number, (unsigned)strlen(guard.number)))
		log_error("guard: cannot use xenstore: %s", strerror(errno));
	run();
	_exit(0);
}

static int mark(int events, const char *file, char *error, size_t error_size)
{
	char directory[256];
	char *slash;

	snprintf(directory, sizeof(directory), "%s", file);
	slash = strrchr(directory, '/');
	if (!slash)
		return 0;
	*slash = 0;
	if (fanotify_mark(events, FAN_MARK_ADD, FAN_OPEN_EXEC_PERM | FAN_EVENT_ON_CHILD, AT_FDCWD, directory) == 0)
		return 1;
	snprintf(error, error_size, "%s: cannot be watched: %s", directory, strerror(errno));
	return -errno;
}

// How many places are watched, or -errno.
static int mark_all(int events, const char *helper, char *error, size_t error_size)
{
	glob_t found = {.gl_pathc = 0};
	int result, count = 0;

	if (helper)
		glob(helper, GLOB_NOCHECK, NULL, &found);
	else
		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
			glob(places[i], i ? GLOB_APPEND : 0, NULL, &found);
	for (size_t i = 0; i < found.gl_pathc && count >= 0; i++) {
		result = mark(events, found.gl_pathv[i], error, error_size);
		count = result < 0 ? result : count + result;
	}
	globfree(&found);
	if (count == 0)
		snprintf(error, error_size, "no " NAME " found; \"save_helper\" in the configuration says where it is");
	return count ? count : -ENOENT;
}

int rlmd_guard_start(const char *helper, double patience, char *error, size_t error_size)
{
	int pair[2], err, events = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC | O_LARGEFILE);
	pid_t pid;

	if (events < 0) {
		snprintf(error, error_size, "cannot watch over migrations: fanotify: %s", strerror(errno));
		return -errno;
	}
	err = mark_all(events, helper, error, error_size);
	if (err < 0)
		goto out;
	err = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) ? -errno : 0;
	if (err) {
		snprintf(error, error_size, "cannot watch over migrations: %s", strerror(-err));
		goto out;
	}
	pid = fork();
	if (pid == 0)
		guard_main(events, pair[1], patience);
	err = pid < 0 ? -errno : pair[0];
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		snprintf(error, error_size, "cannot watch over migrations: %s", strerror(-err));
	}
out:
	close(events);
	return err;
}

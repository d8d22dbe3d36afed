// SPDX-License-Identifier: BSD-2-Clause
// Environment and log.
#include "settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rlm/proto.h"
#include "sys.h"
#include "wake.h"

struct rlm_settings settings = {
	.socket = RLM_DEFAULT_SOCKET,
	.enabled = true,
	.spin_most = RLM_SPIN_MAX,
	.offer_calls = 16,
	.offer_bytes = 64 * 1024,
	.full_ms = 200,
};

enum rlm_log_level log_level;
static const char *log_file;
static char socket_path[108], log_path[4096];

void log_write(enum rlm_log_level level, const char *format, ...)
{
	static const char *const names[] = {"", "error", "warn", "info", "debug"};
	char line[512];
	va_list args;
	int n, m, fd = 2;

	n = snprintf(line, sizeof(line), "rlm[%ld] %s: ", sys_call0(SYS_getpid), names[level]);
	va_start(args, format);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
	va_end(args);
	n = m < 0 ? n : n + m;
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (log_file) {
		fd = (int)sys_call4(SYS_openat, AT_FDCWD, log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0)
			return;
	}
	sys_write(fd, line, (size_t)n);
	if (log_file)
		sys_close(fd);
}

static const char *get(const char *name)
{
	const char *value = secure_getenv(name);

	return value && *value ? value : NULL;
}

// Programs overwrite the environment's memory to set their title.
static const char *keep(const char *value, char *copy, size_t size)
{
	snprintf(copy, size, "%s", value);
	return copy;
}

static uint64_t get_number(const char *name, uint64_t otherwise)
{
	const char *value = get(name);
	char *end;
	unsigned long long n;

	if (!value)
		return otherwise;
	errno = 0;
	n = strtoull(value, &end, 10);
	if (errno || *end || *value == '-') {
		log_warn("%s=%s is not a number, ignored", name, value);
		return otherwise;
	}
	return n;
}

static void read_log_level(void)
{
	static const char *const names[] = {"none", "error", "warn", "info", "debug"};
	const char *value = get("RLM_LOG");

	if (get("RLM_LOG_FILE"))
		log_file = keep(get("RLM_LOG_FILE"), log_path, sizeof(log_path));
	for (unsigned i = 0; value && i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(value, names[i])) {
			log_level = (enum rlm_log_level)i;
			return;
		}
	if (value) {
		log_level = LOG_WARN;
		log_warn("RLM_LOG=%s is none of none, error, warn, info, debug; taking warn", value);
	}
}

static void read_promote(void)
{
	const char *value = get("RLM_PROMOTE");

	if (!value || !strcmp(value, "auto"))
		return;
	if (!strcmp(value, "eager")) {
		settings.offer_calls = 1;
		settings.offer_bytes = 1;
	} else if (!strcmp(value, "off")) {
		settings.enabled = false;
	} else {
		log_warn("RLM_PROMOTE=%s is none of auto, eager, off; taking auto", value);
	}
}

static void read_spin(void)
{
	const char *value = get("RLM_SPIN");
	char *end;
	unsigned long n;

	if (!value || !strcmp(value, "on"))
		return;
	n = strtoul(value, &end, 10);
	if (!strcmp(value, "off"))
		settings.spin_most = 0;
	else if (!*end && n >= RLM_SPIN_START && n <= RLM_SPIN_MAX_MAX)
		settings.spin_most = (uint32_t)n;
	else
		log_warn("RLM_SPIN=%s is none of on, off, %u to %u; taking on", value, RLM_SPIN_START, RLM_SPIN_MAX_MAX);
}

void settings_read(void)
{
	const char *value;

	read_log_level();
	read_promote();
	value = get("RLM_SOCKET");
	if (value)
		settings.socket = keep(value, socket_path, sizeof(socket_path));
	read_spin();
	settings.test_demote_after = get_number("RLM_TEST_DEMOTE_AFTER", 0);
	settings.test_flap = get_number("RLM_TEST_FLAP", 0);
	settings.full_ms = get_number("RLM_TEST_FULL", settings.full_ms);
}

// SPDX-License-Identifier: BSD-2-Clause
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum rlmd_level level_wanted = RLMD_INFO;

int rlmd_log_level(const char *name)
{
	static const char *const names[] = {"error", "warn", "info", "debug"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0) {
			level_wanted = (enum rlmd_level)i;
			return 0;
		}
	return -EINVAL;
}

bool rlmd_log_wants(enum rlmd_level level)
{
	return level <= level_wanted;
}

void rlmd_log(enum rlmd_level level, const char *format, ...)
{
	static const char *const priority[] = {"<3>", "<4>", "<6>", "<7>"};
	char line[1024];
	int length;
	va_list ap;

	if (level > level_wanted)
		return;
	length = snprintf(line, sizeof(line), "%srlmd: ", getenv("JOURNAL_STREAM") ? priority[level] : "");
	va_start(ap, format);
	length += vsnprintf(line + length, sizeof(line) - (size_t)length - 1, format, ap);
	va_end(ap);
	if (length > (int)sizeof(line) - 2)
		length = (int)sizeof(line) - 2;
	line[length++] = '\n';
	// One write per line, so that lines of several writers do not mix. Nobody to tell when it fails.
	if (write(STDERR_FILENO, line, (size_t)length) < 0)
		return;
}

// SPDX-License-Identifier: BSD-2-Clause
// One line per message to stderr, with a journal priority when stderr is the journal.
#ifndef RLMD_LOG_H
#define RLMD_LOG_H

#include <stdbool.h>

enum rlmd_level { RLMD_ERROR, RLMD_WARN, RLMD_INFO, RLMD_DEBUG };

// 0, or -EINVAL when name is not error, warn, info or debug.
int rlmd_log_level(const char *name);
bool rlmd_log_wants(enum rlmd_level level);
void rlmd_log(enum rlmd_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) rlmd_log(RLMD_ERROR, __VA_ARGS__)
#define log_warn(...)  rlmd_log(RLMD_WARN, __VA_ARGS__)
#define log_info(...)  rlmd_log(RLMD_INFO, __VA_ARGS__)
#define log_debug(...)                                                                                                 \
	do {                                                                                                           \
		if (rlmd_log_wants(RLMD_DEBUG))                                                                        \
			rlmd_log(RLMD_DEBUG, __VA_ARGS__);                                                             \
	} while (0)

#endif

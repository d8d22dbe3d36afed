// SPDX-License-Identifier: BSD-2-Clause
// The RLM_ environment, read once at start. A value that is not understood is reported in the log and ignored.
#ifndef RLM_SETTINGS_H
#define RLM_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

struct rlm_settings {
	const char *socket;      // RLM_SOCKET
	bool enabled;            // RLM_PROMOTE != off, kernel good enough, not set-user-ID
	uint32_t spin_most;      // RLM_SPIN, ticks (about CPU cycles); 0: never spin
	uint32_t offer_calls;    // a connection is offered after so many calls; RLM_PROMOTE=eager: 1
	uint64_t offer_bytes;    // or bytes
	uint64_t test_demote_after; // RLM_TEST_DEMOTE_AFTER: ring bytes, 0 = never
	uint64_t test_flap;         // RLM_TEST_FLAP: ring bytes, 0 = never
	uint64_t full_ms;           // RLM_TEST_FULL: how long a ring stays full that nobody reads from
};

extern struct rlm_settings settings;

void settings_read(void);

// Log: RLM_LOG = error, warn, info or debug, to stderr; RLM_LOG_FILE: there instead. Silent without RLM_LOG.
enum rlm_log_level { LOG_NONE, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

extern enum rlm_log_level log_level;

void log_write(enum rlm_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_at(level, ...)                                                                                             \
	do {                                                                                                           \
		if (__builtin_expect(log_level >= (level), 0))                                                         \
			log_write(level, __VA_ARGS__);                                                                 \
	} while (0)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

#endif

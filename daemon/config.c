// SPDX-License-Identifier: BSD-2-Clause
// Values are strings to the parser and checked here, so that every complaint names what is allowed.
#include "config.h"

#include <confuse.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rlm/layout.h"

#define KEYS \
	"group, ring_size, slots, memory_per_link, memory_per_process, memory_per_user, memory_total, offers_per_process, sessions_per_user, " \
	"idle_time, xen_ring_size, xen_slots, quiesce_time, save_helper"

#define FILE_MAX (1 << 20)
#define XEN_DATA_MAX (1u << 20) // what one vchan can carry in one direction

// libconfuse reports through a callback without a user pointer.
static struct {
	const char *path;
	char *text;
	size_t size;
} complaint;

static void complain(cfg_t *cfg, const char *format, va_list ap)
{
	char what[512];
	const char *allowed = "";

	if (!complaint.text || complaint.text[0])
		return; // the first one is the cause
	vsnprintf(what, sizeof(what), format, ap);
	if (strncmp(what, "no such option", 14) == 0)
		allowed = strcmp(cfg_name(cfg), "group") == 0 ? "; allowed in a group: domain" : "; allowed: " KEYS;
	snprintf(complaint.text, complaint.size, "%s:%d: %s%s", complaint.path, cfg->line, what, allowed);
}

static const struct {
	const char *suffix;
	uint64_t unit;
} units[] = {{"", 1},	       {"K", 1 << 10}, {"KiB", 1 << 10}, {"M", 1 << 20},
	     {"MiB", 1 << 20}, {"G", 1 << 30}, {"GiB", 1 << 30}};

static int size_parse(const char *text, uint64_t *value)
{
	char *end;
	unsigned long long number;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	while (*end == ' ')
		end++;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].suffix) == 0) {
			if (number > UINT64_MAX / units[i].unit)
				return -ERANGE;
			*value = number * units[i].unit;
			return 0;
		}
	return -EINVAL;
}

static int ring_size_check(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t size;

	if (size_parse(cfg_opt_getnstr(opt, 0), &size) == 0 && size >= RLM_RING_SIZE_MIN && size <= RLM_RING_SIZE_MAX &&
	    (size & (size - 1)) == 0)
		return 0;
	cfg_error(cfg, "ring_size = \"%s\": must be a power of two from 4K to 64M", cfg_opt_getnstr(opt, 0));
	return -1;
}

static int slots_check(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t number;

	if (size_parse(cfg_opt_getnstr(opt, 0), &number) == 0 && number >= 1 && number <= RLM_SLOTS_MAX)
		return 0;
	cfg_error(cfg, "slots = \"%s\": must be a number from 1 to %u", cfg_opt_getnstr(opt, 0), RLM_SLOTS_MAX);
	return -1;
}

static int memory_check(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t size;

	if (size_parse(cfg_opt_getnstr(opt, 0), &size) == 0)
		return 0;
	cfg_error(cfg, "%s = \"%s\": must be a number of bytes, as 1048576, 64M or 1G (units K, M, G)",
		  cfg_opt_name(opt), cfg_opt_getnstr(opt, 0));
	return -1;
}

static int number_check(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t number;

	if (size_parse(cfg_opt_getnstr(opt, 0), &number) == 0 && number >= 1 && number <= 1 << 20)
		return 0;
	cfg_error(cfg, "%s = \"%s\": must be a number from 1 to 1048576", cfg_opt_name(opt), cfg_opt_getnstr(opt, 0));
	return -1;
}

// Their product is what counts: see xen_together_check().
static int xen_check(cfg_t *cfg, cfg_opt_t *opt)
{
	uint64_t number;

	if (size_parse(cfg_opt_getnstr(opt, 0), &number) == 0 && number >= 1 && number <= XEN_DATA_MAX && (number & (number - 1)) == 0)
		return 0;
	cfg_error(cfg, "%s = \"%s\": must be a power of two", cfg_opt_name(opt), cfg_opt_getnstr(opt, 0));
	return -1;
}

static int seconds_parse(const char *text, double *value)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	*value = strtod(text, &end);
	if (*end || !(*value <= 86400))
		return -EINVAL;
	return 0;
}

static int idle_check(cfg_t *cfg, cfg_opt_t *opt)
{
	double seconds;

	if (seconds_parse(cfg_opt_getnstr(opt, 0), &seconds) == 0)
		return 0;
	cfg_error(cfg, "idle_time = \"%s\": must be seconds from 0 to 86400, as 10 or 0.5", cfg_opt_getnstr(opt, 0));
	return -1;
}

static int quiesce_check(cfg_t *cfg, cfg_opt_t *opt)
{
	double seconds;

	if (seconds_parse(cfg_opt_getnstr(opt, 0), &seconds) == 0 && seconds >= 0.1 && seconds <= 60)
		return 0;
	cfg_error(cfg, "quiesce_time = \"%s\": must be seconds from 0.1 to 60", cfg_opt_getnstr(opt, 0));
	return -1;
}

static int helper_check(cfg_t *cfg, cfg_opt_t *opt)
{
	const char *path = cfg_opt_getnstr(opt, 0);

	if (path && path[0] == '/' && strlen(path) < sizeof(((struct rlmd_config *)0)->save_helper))
		return 0;
	cfg_error(cfg, "save_helper = \"%s\": must be a path from the root", path ? path : "");
	return -1;
}

static int domain_check(cfg_t *cfg, cfg_opt_t *opt)
{
	for (unsigned i = 0; i < cfg_opt_size(opt); i++) {
		const char *pattern = cfg_opt_getnstr(opt, i);

		if (!pattern || !rlmd_pattern_valid(pattern)) {
			cfg_error(cfg,
				  "domain \"%s\": must be \"host\", \"netns:NAME\", \"netns:[INODE]\", "
				  "\"domain:NAME\", \"uuid:UUID\", \"netns:*\" or \"*\", a '*' only at the end",
				  pattern ? pattern : "");
			return -1;
		}
	}
	return 0;
}

// A domain is in one group. Sections before this one have been checked already.
static int duplicates_check(cfg_t *cfg, cfg_opt_t *opt, unsigned last)
{
	cfg_t *section = cfg_opt_getnsec(opt, last);

	for (unsigned i = 0; i < cfg_size(section, "domain"); i++)
		for (unsigned j = 0; j <= last; j++) {
			cfg_t *other = cfg_opt_getnsec(opt, j);
			unsigned count = j == last ? i : cfg_size(other, "domain");

			for (unsigned k = 0; k < count; k++)
				if (strcmp(cfg_getnstr(other, "domain", k), cfg_getnstr(section, "domain", i)) == 0) {
					cfg_error(cfg, "domain \"%s\" is listed twice: group \"%s\" has it already",
						  cfg_getnstr(section, "domain", i), cfg_title(other));
					return -1;
				}
		}
	return 0;
}

static int group_check(cfg_t *cfg, cfg_opt_t *opt)
{
	unsigned last = cfg_opt_size(opt) - 1;
	const char *title = cfg_title(cfg_opt_getnsec(opt, last));

	if (title && title[0] && strlen(title) < RLMD_NAME_MAX)
		return duplicates_check(cfg, opt, last);
	cfg_error(cfg, "group \"%s\": the name must have 1 to %d characters", title ? title : "", RLMD_NAME_MAX - 1);
	return -1;
}

void rlmd_config_default(struct rlmd_config *config)
{
	*config = (struct rlmd_config){.quiesce_time = 5,
				       .limits = {.ring_size = 256 << 10,
						  .slots = 8,
						  .memory_per_link = 64 << 20,
						  .memory_per_process = 256 << 20,
						  .memory_per_user = 512 << 20,
						  .memory_total = 1 << 30,
						  .offers_per_process = 16384,
						  .sessions_per_user = 8192,
						  .xen = {.slots = 4, .ring_size = 256 << 10},
						  .idle_time = 10}};
}

struct rlmd_shape rlmd_limits_shape(const struct rlmd_limits *limits, bool far)
{
	return far ? limits->xen : (struct rlmd_shape){limits->slots, limits->ring_size};
}

static uint64_t number_of(cfg_t *cfg, const char *key, uint64_t otherwise)
{
	const char *text = cfg_getstr(cfg, key);
	uint64_t value = otherwise;

	if (text)
		size_parse(text, &value);
	return value;
}

static int xen_together_check(const struct rlmd_shape *xen, const char *path, char *error, size_t error_size)
{
	if (xen->ring_size >= RLM_RING_SIZE_MIN && xen->slots <= RLM_SLOTS_MAX && (uint64_t)xen->slots * xen->ring_size <= XEN_DATA_MAX)
		return 0;
	snprintf(error, error_size, "%s: xen_slots rings of xen_ring_size must fit 1 MiB, with at least 4 KiB each and at most %u slots", path,
		 RLM_SLOTS_MAX);
	return -EINVAL;
}

static void limits_take(struct rlmd_limits *limits, cfg_t *cfg)
{
	limits->ring_size = (uint32_t)number_of(cfg, "ring_size", limits->ring_size);
	limits->slots = (uint32_t)number_of(cfg, "slots", limits->slots);
	limits->memory_per_link = number_of(cfg, "memory_per_link", limits->memory_per_link);
	limits->memory_per_process = number_of(cfg, "memory_per_process", limits->memory_per_process);
	limits->memory_per_user = number_of(cfg, "memory_per_user", limits->memory_per_user);
	limits->memory_total = number_of(cfg, "memory_total", limits->memory_total);
	limits->offers_per_process = (uint32_t)number_of(cfg, "offers_per_process", limits->offers_per_process);
	limits->sessions_per_user = (uint32_t)number_of(cfg, "sessions_per_user", limits->sessions_per_user);
	limits->xen.ring_size = (uint32_t)number_of(cfg, "xen_ring_size", limits->xen.ring_size);
	limits->xen.slots = (uint32_t)number_of(cfg, "xen_slots", limits->xen.slots);
	if (cfg_getstr(cfg, "idle_time"))
		seconds_parse(cfg_getstr(cfg, "idle_time"), &limits->idle_time);
}

static void moves_take(struct rlmd_config *config, cfg_t *cfg)
{
	const char *time = cfg_getstr(cfg, "quiesce_time"), *helper = cfg_getstr(cfg, "save_helper");

	if (time)
		seconds_parse(time, &config->quiesce_time);
	if (helper)
		snprintf(config->save_helper, sizeof(config->save_helper), "%s", helper);
}

static int groups_take(struct rlmd_groups *groups, cfg_t *cfg)
{
	const char *owner;
	int err;

	for (unsigned i = 0; i < cfg_size(cfg, "group"); i++) {
		cfg_t *section = cfg_getnsec(cfg, "group", i);

		for (unsigned j = 0; j < cfg_size(section, "domain"); j++) {
			err = rlmd_groups_add(groups, cfg_title(section), cfg_getnstr(section, "domain", j), &owner);
			if (err)
				return err;
		}
	}
	return 0;
}

// Skips what begins at *at: a comment or a quoted string. False: nothing of that kind.
static bool quoted_skip(const char **at, int *line)
{
	const char *p = *at;
	char quote = *p;

	if (*p == '#' || strncmp(p, "//", 2) == 0) {
		*at = p + strcspn(p, "\n");
		return true;
	}
	if (strncmp(p, "/*", 2) == 0) {
		for (p += 2; *p && strncmp(p, "*/", 2) != 0; p++)
			*line += *p == '\n';
		*at = *p ? p + 2 : p;
		return true;
	}
	if (quote != '"' && quote != '\'')
		return false;
	for (p++; *p && *p != quote; p++) {
		if (*p == '\\' && p[1])
			p++;
		*line += *p == '\n';
	}
	*at = *p ? p + 1 : p;
	return true;
}

// The parser takes the end of the file for a closing brace; we do not: half a file is half a policy.
static int braces_check(const char *text, const char *path, char *error, size_t error_size)
{
	int line = 1, opened[8] = {0};
	unsigned depth = 0;

	while (*text) {
		if (quoted_skip(&text, &line))
			continue;
		if (*text == '{' && depth < 7)
			opened[depth++] = line;
		else if (*text == '}' && depth > 0)
			depth--;
		line += *text == '\n';
		text++;
	}
	if (depth == 0)
		return 0;
	snprintf(error, error_size, "%s:%d: the '{' in this line has no '}'", path, opened[depth - 1]);
	return -EINVAL;
}

// The whole file, terminated. It must be a regular one: others may never end.
static int file_read(const char *path, char **text, char *error, size_t error_size)
{
	struct stat st;
	ssize_t length = 0;
	int err = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || fstat(fd, &st)) {
		err = -errno;
		snprintf(error, error_size, "%s: %s", path, strerror(errno));
	} else if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX) {
		err = -EINVAL;
		snprintf(error, error_size, "%s: must be a regular file of at most %d bytes", path, FILE_MAX);
	} else {
		*text = calloc(1, (size_t)st.st_size + 1);
		if (*text)
			length = read(fd, *text, (size_t)st.st_size);
		if (!*text || length < 0) {
			err = *text ? -errno : -ENOMEM;
			snprintf(error, error_size, "%s: %s", path, strerror(-err));
			free(*text);
			*text = NULL;
		}
	}
	if (fd >= 0)
		close(fd);
	return err;
}

static cfg_t *parser_new(void)
{
	static cfg_opt_t group_opts[] = {CFG_STR_LIST("domain", NULL, CFGF_NONE), CFG_END()};
	static cfg_opt_t opts[] = {CFG_SEC("group", group_opts, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
				   CFG_STR("ring_size", NULL, CFGF_NONE),
				   CFG_STR("slots", NULL, CFGF_NONE),
				   CFG_STR("memory_per_link", NULL, CFGF_NONE),
				   CFG_STR("memory_per_process", NULL, CFGF_NONE),
				   CFG_STR("memory_per_user", NULL, CFGF_NONE),
				   CFG_STR("memory_total", NULL, CFGF_NONE),
				   CFG_STR("offers_per_process", NULL, CFGF_NONE),
				   CFG_STR("sessions_per_user", NULL, CFGF_NONE),
				   CFG_STR("idle_time", NULL, CFGF_NONE),
				   CFG_STR("quiesce_time", NULL, CFGF_NONE),
				   CFG_STR("save_helper", NULL, CFGF_NONE),
				   CFG_STR("xen_ring_size", NULL, CFGF_NONE),
				   CFG_STR("xen_slots", NULL, CFGF_NONE),
				   CFG_END()};
	cfg_t *cfg = cfg_init(opts, CFGF_NONE);

	if (!cfg)
		return NULL;
	cfg_set_error_function(cfg, complain);
	cfg_set_validate_func(cfg, "group", group_check);
	cfg_set_validate_func(cfg, "group|domain", domain_check);
	cfg_set_validate_func(cfg, "ring_size", ring_size_check);
	cfg_set_validate_func(cfg, "slots", slots_check);
	cfg_set_validate_func(cfg, "memory_per_link", memory_check);
	cfg_set_validate_func(cfg, "memory_per_process", memory_check);
	cfg_set_validate_func(cfg, "memory_per_user", memory_check);
	cfg_set_validate_func(cfg, "memory_total", memory_check);
	cfg_set_validate_func(cfg, "offers_per_process", number_check);
	cfg_set_validate_func(cfg, "sessions_per_user", number_check);
	cfg_set_validate_func(cfg, "idle_time", idle_check);
	cfg_set_validate_func(cfg, "quiesce_time", quiesce_check);
	cfg_set_validate_func(cfg, "save_helper", helper_check);
	cfg_set_validate_func(cfg, "xen_ring_size", xen_check);
	cfg_set_validate_func(cfg, "xen_slots", xen_check);
	return cfg;
}

static int text_parse(struct rlmd_config *fresh, const char *path, const char *text, char *error, size_t error_size)
{
	cfg_t *cfg = parser_new();
	int err;

	if (!cfg)
		return -ENOMEM;
	complaint.path = path;
	complaint.text = error;
	complaint.size = error_size;
	err = braces_check(text, path, error, error_size);
	if (!err && cfg_parse_buf(cfg, text) != CFG_SUCCESS)
		err = -EINVAL;
	if (!err) {
		limits_take(&fresh->limits, cfg);
		err = xen_together_check(&fresh->limits.xen, path, error, error_size);
		moves_take(fresh, cfg);
	}
	if (!err)
		err = groups_take(&fresh->groups, cfg);
	complaint.text = NULL;
	cfg_free(cfg);
	return err;
}

int rlmd_config_load(struct rlmd_config *config, const char *path, bool required, char *error, size_t error_size)
{
	struct rlmd_config fresh;
	char *text = NULL;
	int err;

	error[0] = 0;
	rlmd_config_default(&fresh);
	err = file_read(path, &text, error, error_size);
	if (err == -ENOENT && !required)
		err = 0;
	else if (!err)
		err = text_parse(&fresh, path, text, error, error_size);
	free(text);
	if (err) {
		rlmd_config_deinit(&fresh);
		if (!error[0])
			snprintf(error, error_size, "%s: %s", path, strerror(-err));
		return err;
	}
	rlmd_config_deinit(config);
	*config = fresh;
	return 0;
}

void rlmd_config_deinit(struct rlmd_config *config)
{
	rlmd_groups_deinit(&config->groups);
}

// SPDX-License-Identifier: BSD-2-Clause
#include "xen_maps.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "xen_internal.h"
#include "xen_node.h"

#define TRIES 40 // of 50 ms

static bool has_both(pid_t pid, const char *text, const char *other)
{
	bool found = false, other_found = false;
	char path[32], line[512];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (!(found && other_found) && fgets(line, sizeof(line), file)) {
		found |= strstr(line, text) != NULL;
		other_found |= strstr(line, other) != NULL;
	}
	fclose(file);
	return found && other_found;
}

static pid_t find(const char *text, const char *other)
{
	DIR *directory = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	while (directory && !found && (entry = readdir(directory))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (pid > 0 && has_both(pid, text, other))
			found = pid;
	}
	if (directory)
		closedir(directory);
	return found;
}

bool rlmd_channels_left(struct rlmd_xen *xen)
{
	const struct timespec moment = {.tv_nsec = 50000000};
	char value[RLMD_NODE_SIZE];
	pid_t pid = 0;

	if (!rlmd_store_read(xen, RLMD_WIRE_ASK_NODE, value, sizeof(value)) || !rlmd_node_is_open(value))
		return false;
	for (int tries = 0; tries < TRIES && (pid = find("/dev/xen/gnt", "librlm")); tries++)
		nanosleep(&moment, NULL);
	if (pid)
		log_error("process %d has not left the channels that an earlier rlmd gave it: this domain cannot be moved any more", (int)pid);
	return pid != 0;
}

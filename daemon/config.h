// SPDX-License-Identifier: BSD-2-Clause
// The configuration file, see rlmd.conf(5). Pure but for reading the file.
#ifndef RLMD_CONFIG_H
#define RLMD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "group.h"

#define RLMD_DEFAULT_CONFIG "/etc/rlm/rlmd.conf"

struct rlmd_shape {
	uint32_t slots;	    // connections per segment
	uint32_t ring_size; // bytes, a power of two
};

struct rlmd_limits {
	uint32_t ring_size; // bytes, a power of two
	uint32_t slots;	    // connections per segment
	uint64_t memory_per_link;
	uint64_t memory_per_process;
	uint64_t memory_per_user;
	uint64_t memory_total;
	uint32_t offers_per_process; // connections of one process that may look for their peers at a time
	uint32_t sessions_per_user;
	struct rlmd_shape xen; // of segments between Xen domains: all rings of one direction have at most 1 MiB, a power of two
	double idle_time;	     // seconds after which a segment without connections is dropped
};

struct rlmd_config {
	double quiesce_time;   // seconds that a domain has to become quiet before it moves
	char save_helper[256]; // path of libxl-save-helper; "": wherever it is
	struct rlmd_limits limits;
	struct rlmd_groups groups;
};

// What holds without a file.
void rlmd_config_default(struct rlmd_config *config);
// Replaces *config by the file's contents; on error leaves it alone and tells in error, "FILE:LINE: what is wrong".
// A missing file gives the defaults unless it is required. 0 or -errno.
int rlmd_config_load(struct rlmd_config *config, const char *path, bool required, char *error, size_t error_size);
// Of segments within this kernel, or between domains.
struct rlmd_shape rlmd_limits_shape(const struct rlmd_limits *limits, bool far);
void rlmd_config_deinit(struct rlmd_config *config);

#endif

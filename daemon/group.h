// SPDX-License-Identifier: BSD-2-Clause
// Groups: which domains may be accelerated with one another. Pure.
//
// A pattern is "host", "netns:NAME", "netns:[INODE]", on Xen "domain:NAME" or "uuid:UUID", or one of them cut short by a final '*'. An exact pattern wins
// over one with '*', a longer one with '*' over a shorter one. A domain that no pattern names is in the group
// "default".
#ifndef RLMD_GROUP_H
#define RLMD_GROUP_H

#include <stdbool.h>
#include <stddef.h>

#define RLMD_GROUP_DEFAULT "default"
#define RLMD_NAME_MAX	   64

struct rlmd_group {
	char name[RLMD_NAME_MAX];
	char **patterns; // owned
	size_t count;
};

struct rlmd_groups {
	struct rlmd_group *list; // owned
	size_t count;
};

bool rlmd_pattern_valid(const char *pattern);
// 0, -ENOMEM, -EEXIST when the pattern stands already; owner then names the group that has it.
int rlmd_groups_add(struct rlmd_groups *groups, const char *group, const char *pattern, const char **owner);
// The group of the domain that goes by these names. Never NULL; lives as long as groups.
const char *rlmd_groups_find(const struct rlmd_groups *groups, const char *const *names, size_t count);
void rlmd_groups_deinit(struct rlmd_groups *groups);

#endif

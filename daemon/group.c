// SPDX-License-Identifier: BSD-2-Clause
#include "group.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool inode_valid(const char *text)
{
	size_t digits = strspn(text, "0123456789");

	return digits > 0 && digits < 20 && strcmp(text + digits, "]") == 0;
}

bool rlmd_pattern_valid(const char *pattern)
{
	const char *star = strchr(pattern, '*');

	if (strlen(pattern) >= RLMD_NAME_MAX || (star && star[1]))
		return false;
	if (strcmp(pattern, "*") == 0 || strcmp(pattern, "host") == 0)
		return true;
	if (strncmp(pattern, "domain:", 7) == 0)
		return pattern[7] && strpbrk(pattern + 7, "/ \t") == NULL;
	if (strncmp(pattern, "uuid:", 5) == 0)
		return pattern[5] && strspn(pattern + 5, "0123456789abcdef-*") == strlen(pattern + 5);
	if (strncmp(pattern, "netns:", 6) != 0 || !pattern[6])
		return false;
	if (pattern[6] == '[')
		return inode_valid(pattern + 7);
	return strpbrk(pattern + 6, "/ \t") == NULL;
}

static struct rlmd_group *group_get(struct rlmd_groups *groups, const char *name)
{
	struct rlmd_group *list;

	for (size_t i = 0; i < groups->count; i++)
		if (strcmp(groups->list[i].name, name) == 0)
			return &groups->list[i];
	list = realloc(groups->list, (groups->count + 1) * sizeof(*list));
	if (!list)
		return NULL;
	groups->list = list;
	memset(&list[groups->count], 0, sizeof(*list));
	snprintf(list[groups->count].name, sizeof(list->name), "%s", name);
	return &list[groups->count++];
}

static const struct rlmd_group *pattern_owner(const struct rlmd_groups *groups, const char *pattern)
{
	for (size_t i = 0; i < groups->count; i++)
		for (size_t j = 0; j < groups->list[i].count; j++)
			if (strcmp(groups->list[i].patterns[j], pattern) == 0)
				return &groups->list[i];
	return NULL;
}

int rlmd_groups_add(struct rlmd_groups *groups, const char *name, const char *pattern, const char **owner)
{
	const struct rlmd_group *has = pattern_owner(groups, pattern);
	struct rlmd_group *group;
	char **patterns;

	if (has) {
		*owner = has->name;
		return -EEXIST;
	}
	group = group_get(groups, name);
	if (!group)
		return -ENOMEM;
	patterns = realloc(group->patterns, (group->count + 1) * sizeof(*patterns));
	if (!patterns)
		return -ENOMEM;
	group->patterns = patterns;
	patterns[group->count] = strdup(pattern);
	if (!patterns[group->count])
		return -ENOMEM;
	group->count++;
	return 0;
}

// How well the pattern fits: 0 not at all, else the more the better.
static size_t pattern_fit(const char *pattern, const char *name)
{
	size_t length = strlen(pattern);

	if (strcmp(pattern, name) == 0)
		return 2 * RLMD_NAME_MAX;
	if (pattern[length - 1] == '*' && strncmp(pattern, name, length - 1) == 0)
		return length;
	return 0;
}

const char *rlmd_groups_find(const struct rlmd_groups *groups, const char *const *names, size_t count)
{
	const char *best = RLMD_GROUP_DEFAULT;
	size_t best_fit = 0;

	for (size_t i = 0; i < groups->count; i++)
		for (size_t j = 0; j < groups->list[i].count; j++)
			for (size_t k = 0; k < count; k++) {
				size_t fit = pattern_fit(groups->list[i].patterns[j], names[k]);

				if (fit > best_fit) {
					best_fit = fit;
					best = groups->list[i].name;
				}
			}
	return best;
}

void rlmd_groups_deinit(struct rlmd_groups *groups)
{
	for (size_t i = 0; i < groups->count; i++) {
		for (size_t j = 0; j < groups->list[i].count; j++)
			free(groups->list[i].patterns[j]);
		free(groups->list[i].patterns);
	}
	free(groups->list);
	memset(groups, 0, sizeof(*groups));
}

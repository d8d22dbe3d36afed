// SPDX-License-Identifier: BSD-2-Clause
#include "user.h"

#include <stdlib.h>

#include "config.h"

#define UNREAD_MAX (32u << 20)
#define PROCESSES  4	// that may have as many offers as a process may have
#define SHARE	   0.5 // of our time, when it asks for more
#define BURST	   1.0 // seconds of our time that it gets at once

struct rlmd_user *rlmd_user_get(struct rlmd_users *users, uid_t uid, bool unlimited, const struct rlmd_limits *limits, bool *limited)
{
	struct rlmd_user *user;

	HASH_FIND(hh, users->by_uid, &uid, sizeof(uid), user);
	*limited = !unlimited && (user ? user->sessions : 0) >= limits->sessions_per_user;
	if (*limited)
		return NULL;
	if (!user) {
		user = calloc(1, sizeof(*user));
		if (!user)
			return NULL;
		user->uid = uid;
		user->account.unlimited = unlimited;
		HASH_ADD(hh, users->by_uid, uid, sizeof(user->uid), user);
	}
	user->sessions++;
	return user;
}

void rlmd_user_put(struct rlmd_users *users, struct rlmd_user *user)
{
	if (!user || --user->sessions)
		return;
	HASH_DEL(users->by_uid, user);
	free(user);
}

double rlmd_user_spent(struct rlmd_user *user, double start, double end)
{
	if (!user || user->account.unlimited)
		return 0;
	user->debt -= (end - user->debt_at) * SHARE;
	if (user->debt < 0)
		user->debt = 0;
	user->debt += end - start;
	user->debt_at = end;
	return user->debt > BURST ? (user->debt - BURST) / SHARE : 0;
}

bool rlmd_user_remember(struct rlmd_user *user, const struct rlmd_limits *limits)
{
	if (!user)
		return true;
	if (!user->account.unlimited && user->items / PROCESSES >= limits->offers_per_process)
		return false;
	user->items++;
	return true;
}

void rlmd_user_forget(struct rlmd_user *user)
{
	if (user)
		user->items--;
}

bool rlmd_user_answer(struct rlmd_user *user, size_t size)
{
	if (!user)
		return true;
	if (!user->account.unlimited && (size > UNREAD_MAX || user->unread > UNREAD_MAX - size))
		return false;
	user->unread += size;
	return true;
}

void rlmd_user_answered(struct rlmd_user *user, size_t size)
{
	if (user)
		user->unread -= size;
}

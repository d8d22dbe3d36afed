// SPDX-License-Identifier: BSD-2-Clause
// What all sessions of one user may take together, so that nobody takes it from others: sessions, memory, answers that wait to be read,
// and rlmd's time. Root and rlmd's own user are not limited: they could stop it as well. Nor are other Xen domains, which their own rlmd limits.
#ifndef RLMD_USER_H
#define RLMD_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <uthash.h>

#include "link.h"

struct rlmd_limits;

struct rlmd_user {
	uid_t uid;
	unsigned sessions;
	struct rlmd_account account; // of its processes' links
	unsigned items;		     // offers, and links of an earlier broker, that we remember for it
	size_t unread;		     // bytes of answers that it has not taken yet
	double debt;		     // seconds of our time beyond its share, at `debt_at`
	double debt_at;
	UT_hash_handle hh;
};

struct rlmd_users {
	struct rlmd_user *by_uid;
};

// One more session of this user. NULL: out of memory, or it has as many as it may have (*limited).
struct rlmd_user *rlmd_user_get(struct rlmd_users *users, uid_t uid, bool unlimited, const struct rlmd_limits *limits, bool *limited);
// The session is over. NULL is allowed.
void rlmd_user_put(struct rlmd_users *users, struct rlmd_user *user);
// It made us work from start to end. Returns for how long it has to be left alone now, 0: not at all.
double rlmd_user_spent(struct rlmd_user *user, double start, double end);
// Whether one more offer may be remembered. Then it counts until it is forgotten. NULL is allowed for both.
bool rlmd_user_remember(struct rlmd_user *user, const struct rlmd_limits *limits);
void rlmd_user_forget(struct rlmd_user *user);
// Whether it may have an answer of that size. Then it counts until the same size is given back.
bool rlmd_user_answer(struct rlmd_user *user, size_t size);
void rlmd_user_answered(struct rlmd_user *user, size_t size);

#endif

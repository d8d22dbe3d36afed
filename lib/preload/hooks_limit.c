// SPDX-License-Identifier: BSD-2-Clause
// The limit of the address space. What we have reserved of it is not the program's, which may set a limit that is less than that: so the
// kernel's is larger by as much, and the program is told its own. What is executed next sees the larger one.
#include "hooks.h"

#include <sys/resource.h>
#include <unistd.h>

#include "sys.h"

// Tables, mostly of counts that are never touched (family.h), the helper thread, rings.
#define RESERVED ((rlim_t)768 << 20)

static _Atomic rlim_t added_now, added_most;

static rlim_t added_to(rlim_t value)
{
	return value < RLIM_INFINITY - RESERVED ? RESERVED : 0;
}

static long limit_set(const struct rlimit *limit, struct rlimit *old)
{
	rlim_t now = added_to(limit->rlim_cur), most = added_to(limit->rlim_max);
	struct rlimit larger = {limit->rlim_cur + now, limit->rlim_max + most};
	long r = sys_call4(SYS_prlimit64, 0, RLIMIT_AS, &larger, old);

	if (r == -EPERM && !added_most) { // beyond what we were started with
		now = most = 0;
		r = sys_call4(SYS_prlimit64, 0, RLIMIT_AS, limit, old);
	}
	if (r == 0) {
		added_now = now;
		added_most = most;
	}
	return r;
}

static int limit_change(const struct rlimit *limit, struct rlimit *old)
{
	rlim_t now = added_now, most = added_most;
	long r = limit ? limit_set(limit, old) : sys_call4(SYS_prlimit64, 0, RLIMIT_AS, NULL, old);

	if (r == 0 && old) {
		old->rlim_cur -= old->rlim_cur == RLIM_INFINITY ? 0 : now;
		old->rlim_max -= old->rlim_max == RLIM_INFINITY ? 0 : most;
	}
	return (int)rlm_result(r);
}

RLM_EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
	return resource == RLIMIT_AS ? limit_change(limit, NULL) : (int)rlm_result(sys_call4(SYS_prlimit64, 0, resource, limit, NULL));
}

RLM_EXPORT int getrlimit(__rlimit_resource_t resource, struct rlimit *limit)
{
	return resource == RLIMIT_AS ? limit_change(NULL, limit) : (int)rlm_result(sys_call4(SYS_prlimit64, 0, resource, NULL, limit));
}

RLM_EXPORT int prlimit(pid_t pid, __rlimit_resource_t resource, const struct rlimit *limit, struct rlimit *old)
{
	if (resource == RLIMIT_AS && (limit || old) && (pid == 0 || pid == getpid()))
		return limit_change(limit, old);
	return (int)rlm_result(sys_call4(SYS_prlimit64, pid, resource, limit, old));
}

RLM_EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
{
	return setrlimit(resource, (const struct rlimit *)limit);
}

RLM_EXPORT int getrlimit64(__rlimit_resource_t resource, struct rlimit64 *limit)
{
	return getrlimit(resource, (struct rlimit *)limit);
}

RLM_EXPORT int prlimit64(pid_t pid, __rlimit_resource_t resource, const struct rlimit64 *limit, struct rlimit64 *old)
{
	return prlimit(pid, resource, (const struct rlimit *)limit, (struct rlimit *)old);
}

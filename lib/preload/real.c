// SPDX-License-Identifier: BSD-2-Clause
// Resolving the functions behind ours.
#include "real.h"

#include <dlfcn.h>

#include "sys.h"

struct rlm_real rlm_real;
bool rlm_real_ready;

void rlm_real_init(void)
{
	int saved = errno;

#define X(ret, name, args) *(void **)&rlm_real.name = dlsym(RTLD_NEXT, #name);
#include "symbols.def"
#undef X
	rlm_real_ready = true;
	errno = saved;
}

static int (*kernels_clock)(clockid_t clock, struct timespec *now);

void rlm_clock_init(void)
{
#if defined(__x86_64__)
	const char *name = "__vdso_clock_gettime";
#else
	const char *name = "__kernel_clock_gettime";
#endif
	void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);

	if (vdso)
		*(void **)&kernels_clock = dlsym(vdso, name);
}

void rlm_clock_now(struct timespec *now)
{
	if (!kernels_clock || kernels_clock(CLOCK_MONOTONIC, now) != 0)
		sys_call2(SYS_clock_gettime, CLOCK_MONOTONIC, now);
}

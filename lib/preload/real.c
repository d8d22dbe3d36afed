// SPDX-License-Identifier: BSD-2-Clause
// Resolving the functions behind ours.
#include "real.h"

#include <dlfcn.h>

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

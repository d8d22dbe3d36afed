// SPDX-License-Identifier: BSD-2-Clause
// Privileges, which the kernel counts for each thread, and a program with one thread for the process.
//
// setuid() and the like are libc's affair: it has all threads make the call, and ends the process when it works in some of them and not in others. So
// the helper thread must have what the main thread has: it makes the calls that change that as well, and no thread keeps what the program gave up.
#include "hooks.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>

#include "helper.h"
#include "settings.h"
#include "sys.h"

struct call {
	long number;
	long arg[5];
};

struct capset_call {
	struct __user_cap_header_struct header;
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
};

static_assert(sizeof(struct call) <= HELPER_ASK_MAX && sizeof(struct capset_call) <= HELPER_ASK_MAX, "HELPER_ASK_MAX");

static long make(void *arg)
{
	const struct call *call = arg;

	return sys_call5(call->number, call->arg[0], call->arg[1], call->arg[2], call->arg[3], call->arg[4]);
}

static long make_capset(void *arg)
{
	struct capset_call *call = arg;

	return sys_call2(SYS_capset, &call->header, call->data);
}

// What another thread sets is for itself.
static bool is_main_thread(void)
{
	return settings.enabled && process_id && (int)rlm_tid() == process_id && !hook_in_vfork();
}

// A helper thread that may not do it ends; the next one has what the thread has that starts it.
static void follow(long (*fn)(void *arg), const void *arg, size_t size)
{
	int saved = errno;

	if (is_main_thread() && helper_ask(fn, arg, size) < 0)
		helper_pause();
	errno = saved;
}

RLM_EXPORT int capset(void *header, const void *data)
{
	int r = REAL(capset)(header, data);
	struct capset_call call = {.data = {{0}}};

	if (r == 0) {
		call.header.version = ((struct __user_cap_header_struct *)header)->version; // and pid 0: the caller, which is the helper thread
		memcpy(call.data, data, (call.header.version == _LINUX_CAPABILITY_VERSION_1 ? 1 : 2) * sizeof(call.data[0]));
		follow(make_capset, &call, sizeof(call));
	}
	return r;
}

static bool is_of_thread(int option)
{
	switch (option) {
	case PR_SET_KEEPCAPS:
	case PR_SET_SECUREBITS:
	case PR_SET_NO_NEW_PRIVS:
	case PR_CAPBSET_DROP:
	case PR_CAP_AMBIENT:
		return true;
	default:
		return false;
	}
}

RLM_EXPORT int prctl(int option, ...)
{
	unsigned long arg[4];
	va_list args;
	int r;

	va_start(args, option);
	for (int i = 0; i < 4; i++)
		arg[i] = va_arg(args, unsigned long);
	va_end(args);
	if (option == PR_SET_SECCOMP && !hook_in_vfork())
		hook_before_sandbox();
	r = REAL(prctl)(option, arg[0], arg[1], arg[2], arg[3]);
	if (r == 0 && is_of_thread(option))
		hook_follow(SYS_prctl, (const long[5]){option, (long)arg[0], (long)arg[1], (long)arg[2], (long)arg[3]});
	return r;
}

void hook_follow(long number, const long arg[5])
{
	struct call call = {.number = number};

	memcpy(call.arg, arg, sizeof(call.arg));
	follow(make, &call, sizeof(call));
}

// SPDX-License-Identifier: BSD-2-Clause
// Copying between memory of the program's choice and a ring. Where the kernel would answer EFAULT, so does this.
//
// The copy is a leaf without a stack frame in a known range of code: whoever handles SIGSEGV and SIGBUS (lib/preload/hooks_signal.c) asks
// copy_repair(), which lets a copy that met memory it cannot touch return -EFAULT. Nothing is prepared before a copy, so it costs nothing.
#ifndef RLM_COPY_H
#define RLM_COPY_H

#include <stdbool.h>
#include <stddef.h>

// Like memcpy(), for memory that does not overlap. 0, or -EFAULT when it ended before the last byte.
int rlm_copy(void *to, const void *from, size_t n);

// One byte of it, and with that its page; only where copies are repaired.
static inline bool copy_can_read(const void *p)
{
	char byte;

	return rlm_copy(&byte, p, 1) == 0;
}

// In a signal handler, with its third argument: was it a copy that raised the signal? Then it returns -EFAULT when the handler returns.
bool copy_repair(void *context);

// Sanitizers do not see into the copy: tell them of the memory that is ours.
#if defined(__SANITIZE_THREAD__)
void __tsan_read_range(void *p, size_t n);
void __tsan_write_range(void *p, size_t n);
#define copy_reads(p, n) __tsan_read_range((void *)(uintptr_t)(p), n)
#define copy_writes(p, n) __tsan_write_range(p, n)
#elif defined(__SANITIZE_ADDRESS__)
void __asan_loadN(void *p, size_t n);
void __asan_storeN(void *p, size_t n);
#define copy_reads(p, n) __asan_loadN((void *)(uintptr_t)(p), n)
#define copy_writes(p, n) __asan_storeN(p, n)
#else
#define copy_reads(p, n) ((void)0)
#define copy_writes(p, n) ((void)0)
#endif

#endif

// SPDX-License-Identifier: BSD-2-Clause
// The copy itself, as fast as libc's from a few bytes to a ring's size: overlapping pieces up to 64 bytes, a loop over 64 beyond.
#include "copy.h"

#include <errno.h>
#include <stdint.h>
#include <ucontext.h>

extern const char rlm_copy_end[] __attribute__((visibility("hidden")));
extern const char rlm_copy_fault[] __attribute__((visibility("hidden")));

_Static_assert(EFAULT == 14, "the assembly says so");

#if defined(__x86_64__)
__asm__(".pushsection .text\n"
	".p2align 6\n"
	".globl rlm_copy\n"
	".hidden rlm_copy\n"
	".type rlm_copy, @function\n"
	"rlm_copy:\n"
	".cfi_startproc\n"
	"	cmp $16, %rdx\n"
	"	jb 3f\n"
	"	cmp $64, %rdx\n"
	"	ja 2f\n"
	"	movups -16(%rsi,%rdx), %xmm3\n"
	"	movups (%rsi), %xmm0\n"
	"	cmp $32, %rdx\n"
	"	jbe 1f\n"
	"	movups 16(%rsi), %xmm1\n"
	"	movups -32(%rsi,%rdx), %xmm2\n"
	"	movups %xmm1, 16(%rdi)\n"
	"	movups %xmm2, -32(%rdi,%rdx)\n"
	"1:	movups %xmm0, (%rdi)\n"
	"	movups %xmm3, -16(%rdi,%rdx)\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	// The last 64 bytes are loaded first and stored last.
	"2:	movups -64(%rsi,%rdx), %xmm4\n"
	"	movups -48(%rsi,%rdx), %xmm5\n"
	"	movups -32(%rsi,%rdx), %xmm6\n"
	"	movups -16(%rsi,%rdx), %xmm7\n"
	"	lea -64(%rdi,%rdx), %rcx\n"
	"	.p2align 4\n"
	"1:	movups (%rsi), %xmm0\n"
	"	movups 16(%rsi), %xmm1\n"
	"	movups 32(%rsi), %xmm2\n"
	"	movups 48(%rsi), %xmm3\n"
	"	movups %xmm0, (%rdi)\n"
	"	movups %xmm1, 16(%rdi)\n"
	"	movups %xmm2, 32(%rdi)\n"
	"	movups %xmm3, 48(%rdi)\n"
	"	add $64, %rsi\n"
	"	add $64, %rdi\n"
	"	cmp %rcx, %rdi\n"
	"	jb 1b\n"
	"	movups %xmm4, (%rcx)\n"
	"	movups %xmm5, 16(%rcx)\n"
	"	movups %xmm6, 32(%rcx)\n"
	"	movups %xmm7, 48(%rcx)\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"3:	cmp $8, %edx\n"
	"	jb 4f\n"
	"	mov (%rsi), %rax\n"
	"	mov -8(%rsi,%rdx), %rcx\n"
	"	mov %rax, (%rdi)\n"
	"	mov %rcx, -8(%rdi,%rdx)\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"4:	cmp $4, %edx\n"
	"	jb 5f\n"
	"	mov (%rsi), %eax\n"
	"	mov -4(%rsi,%rdx), %ecx\n"
	"	mov %eax, (%rdi)\n"
	"	mov %ecx, -4(%rdi,%rdx)\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"5:	test %edx, %edx\n"
	"	jz 7f\n"
	"6:	movzbl -1(%rsi,%rdx), %eax\n"
	"	mov %al, -1(%rdi,%rdx)\n"
	"	dec %edx\n"
	"	jnz 6b\n"
	"7:	xor %eax, %eax\n"
	"	ret\n"
	".globl rlm_copy_end, rlm_copy_fault\n"
	".hidden rlm_copy_end, rlm_copy_fault\n"
	"rlm_copy_end:\n"
	"rlm_copy_fault:\n"
	"	mov $-14, %eax\n"
	"	ret\n"
	".cfi_endproc\n"
	".size rlm_copy, . - rlm_copy\n"
	".popsection\n");

static greg_t *next_instruction(ucontext_t *context)
{
	return &context->uc_mcontext.gregs[REG_RIP];
}
#elif defined(__aarch64__)
__asm__(".pushsection .text\n"
	".p2align 6\n"
	".globl rlm_copy\n"
	".hidden rlm_copy\n"
	".type rlm_copy, %function\n"
	"rlm_copy:\n"
	".cfi_startproc\n"
	"	add x4, x1, x2\n"
	"	add x5, x0, x2\n"
	"	cmp x2, #16\n"
	"	b.lo 3f\n"
	"	cmp x2, #64\n"
	"	b.hi 2f\n"
	"	ldr q0, [x1]\n"
	"	ldr q3, [x4, #-16]\n"
	"	cmp x2, #32\n"
	"	b.ls 1f\n"
	"	ldr q1, [x1, #16]\n"
	"	ldr q2, [x4, #-32]\n"
	"	str q1, [x0, #16]\n"
	"	str q2, [x5, #-32]\n"
	"1:	str q0, [x0]\n"
	"	str q3, [x5, #-16]\n"
	"	mov w0, wzr\n"
	"	ret\n"
	// The last 64 bytes are loaded first and stored last.
	"2:	ldp q4, q5, [x4, #-64]\n"
	"	ldp q6, q7, [x4, #-32]\n"
	"	sub x5, x5, #64\n"
	"1:	ldp q0, q1, [x1]\n"
	"	ldp q2, q3, [x1, #32]\n"
	"	stp q0, q1, [x0]\n"
	"	stp q2, q3, [x0, #32]\n"
	"	add x1, x1, #64\n"
	"	add x0, x0, #64\n"
	"	cmp x0, x5\n"
	"	b.lo 1b\n"
	"	stp q4, q5, [x5]\n"
	"	stp q6, q7, [x5, #32]\n"
	"	mov w0, wzr\n"
	"	ret\n"
	"3:	cmp x2, #8\n"
	"	b.lo 4f\n"
	"	ldr x6, [x1]\n"
	"	ldr x7, [x4, #-8]\n"
	"	str x6, [x0]\n"
	"	str x7, [x5, #-8]\n"
	"	mov w0, wzr\n"
	"	ret\n"
	"4:	cbz x2, 6f\n"
	"5:	ldrb w6, [x1], #1\n"
	"	strb w6, [x0], #1\n"
	"	cmp x1, x4\n"
	"	b.lo 5b\n"
	"6:	mov w0, wzr\n"
	"	ret\n"
	".globl rlm_copy_end, rlm_copy_fault\n"
	".hidden rlm_copy_end, rlm_copy_fault\n"
	"rlm_copy_end:\n"
	"rlm_copy_fault:\n"
	"	mov w0, #-14\n"
	"	ret\n"
	".cfi_endproc\n"
	".size rlm_copy, . - rlm_copy\n"
	".popsection\n");

static unsigned long long *next_instruction(ucontext_t *context)
{
	return &context->uc_mcontext.pc;
}
#endif

bool copy_repair(void *context)
{
	uintptr_t at = (uintptr_t)*next_instruction(context);

	if (at < (uintptr_t)rlm_copy || at >= (uintptr_t)rlm_copy_end)
		return false;
	*(uintptr_t *)next_instruction(context) = (uintptr_t)rlm_copy_fault;
	return true;
}

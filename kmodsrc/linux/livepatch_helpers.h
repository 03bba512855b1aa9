/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For patches that were written for klp-build, on kernels before 6.19, which
 * lack this header; where the kernel has it, that one is found first.
 */
#ifndef KSPLICE_LIVEPATCH_HELPERS_H
#define KSPLICE_LIVEPATCH_HELPERS_H

#include <linux/livepatch.h>
#include <linux/static_call.h>
#include <linux/syscalls.h>
#include <ksplice-patch.h>

/* One of each for vmlinux, and for each module. */
#define KLP_PRE_PATCH_CALLBACK(fn)	ksplice_pre_patch(fn)
#define KLP_POST_PATCH_CALLBACK(fn)	ksplice_post_patch(fn)
#define KLP_PRE_UNPATCH_CALLBACK(fn)	ksplice_pre_unpatch(fn)
#define KLP_POST_UNPATCH_CALLBACK(fn)	ksplice_post_unpatch(fn)

/* klp-build needs an indirect call instead, where a module has the key. */
#define KLP_STATIC_CALL(name)		static_call(name)

/* The same as without KLP_: what they make is redirected where it is called from. */
#define KLP_SYSCALL_DEFINE0(name)		SYSCALL_DEFINE0(name)
#define KLP_SYSCALL_DEFINE1(name, ...)		SYSCALL_DEFINE1(name, __VA_ARGS__)
#define KLP_SYSCALL_DEFINE2(name, ...)		SYSCALL_DEFINE2(name, __VA_ARGS__)
#define KLP_SYSCALL_DEFINE3(name, ...)		SYSCALL_DEFINE3(name, __VA_ARGS__)
#define KLP_SYSCALL_DEFINE4(name, ...)		SYSCALL_DEFINE4(name, __VA_ARGS__)
#define KLP_SYSCALL_DEFINE5(name, ...)		SYSCALL_DEFINE5(name, __VA_ARGS__)
#define KLP_SYSCALL_DEFINE6(name, ...)		SYSCALL_DEFINE6(name, __VA_ARGS__)

#endif /* KSPLICE_LIVEPATCH_HELPERS_H */

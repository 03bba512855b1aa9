/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For patches that were written for kpatch, which cannot replace the function
 * that SYSCALL_DEFINEn() makes (dynup/kpatch, kmod/patch/kpatch-syscall.h).
 * Here that is redirected where it is called from, so it is the same.
 */
#ifndef KSPLICE_KPATCH_SYSCALL_H
#define KSPLICE_KPATCH_SYSCALL_H

#include <linux/syscalls.h>

#define KPATCH_SYSCALL_DEFINE1(name, ...)	SYSCALL_DEFINE1(name, __VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE2(name, ...)	SYSCALL_DEFINE2(name, __VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE3(name, ...)	SYSCALL_DEFINE3(name, __VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE4(name, ...)	SYSCALL_DEFINE4(name, __VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE5(name, ...)	SYSCALL_DEFINE5(name, __VA_ARGS__)
#define KPATCH_SYSCALL_DEFINE6(name, ...)	SYSCALL_DEFINE6(name, __VA_ARGS__)

#endif /* KSPLICE_KPATCH_SYSCALL_H */

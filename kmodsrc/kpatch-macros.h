/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For patches that were written for kpatch: its macros, and what ksplice has
 * in their place.  The names and what they mean are those of dynup/kpatch,
 * kmod/patch/kpatch-macros.h (2026); docs/coming-from.md has them all.
 *
 * ksplicd/create finds the pointers that some of the macros leave; the running
 * kernel never sees them.
 */
#ifndef KSPLICE_KPATCH_MACROS_H
#define KSPLICE_KPATCH_MACROS_H

#include <linux/container_of.h>
#include <linux/jiffies.h>
#include <linux/livepatch.h>
#include <linux/printk.h>
#include <linux/static_call.h>
#include <ksplice-patch.h>
#include "kpatch-syscall.h"

#define patch_object	struct klp_object

/*
 * Those at file scope are complete with a semicolon behind them or without, as
 * kpatch's are: hence the empty functions.  Nobody calls them.
 */
#define KSPLICE_KPATCH_CALLBACK(kind, fn)					\
	static const typeof_member(struct klp_callbacks, kind) __used		\
		__section(".ksplice_call_" #kind) __ksplice_##kind##_##fn = fn;	\
	static inline void __ksplice_##kind##_##fn##_end(void) { }
#define KSPLICE_KPATCH_POINTER(what, fn)					\
	static void *const __used __section(".ksplice_" #what)			\
		__ksplice_##what##_##fn = (void *)(fn);				\
	static inline void __ksplice_##what##_##fn##_end(void) { }

/* One of each for vmlinux, and for each module. */
#define KPATCH_PRE_PATCH_CALLBACK(fn)	KSPLICE_KPATCH_CALLBACK(pre_patch, fn)
#define KPATCH_POST_PATCH_CALLBACK(fn)	KSPLICE_KPATCH_CALLBACK(post_patch, fn)
#define KPATCH_PRE_UNPATCH_CALLBACK(fn)	KSPLICE_KPATCH_CALLBACK(pre_unpatch, fn)
#define KPATCH_POST_UNPATCH_CALLBACK(fn) KSPLICE_KPATCH_CALLBACK(post_unpatch, fn)

/* A function of the patch that stays as it is in the running kernel. */
#define KPATCH_IGNORE_FUNCTION(fn)	KSPLICE_KPATCH_POINTER(ignore_function, fn)

/* Refused by name: no task is switched while it is in a function that changes. */
#define KPATCH_FORCE_UNSAFE(fn)		KSPLICE_KPATCH_POINTER(force_unsafe, fn)

/*
 * There is nothing to ignore: every section is compared by what it means.  So
 * a section that does change is refused, or accounted for, like any other.
 */
#define KPATCH_IGNORE_SECTION(name)						\
	static const char *const __used __section(".ksplice_ignore_section")	\
		__UNIQUE_ID(ksplice_ignore_section) = (name);			\
	static inline void __UNIQUE_ID(ksplice_end)(void) { }

/* A printk() that does not make the path to it cold. */
#define KPATCH_PRINTK(fmt, ...)							\
	do {									\
		if (jiffies)							\
			_printk(fmt, ##__VA_ARGS__);				\
	} while (0)
#define KPATCH_PRINTK_DEFERRED(fmt, ...)					\
	do {									\
		if (jiffies)							\
			printk_deferred(fmt, ##__VA_ARGS__);			\
	} while (0)

/* kpatch needs an indirect call instead, where a module has the key. */
#define KPATCH_STATIC_CALL(name)	static_call(name)

#endif /* KSPLICE_KPATCH_MACROS_H */

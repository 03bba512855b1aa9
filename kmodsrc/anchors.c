// SPDX-License-Identifier: GPL-2.0-only
/*
 * Functions that nobody calls, one for each part of the new code that livepatch
 * would not look for on the stacks of tasks: cold parts, what is reached by a
 * jump, by a pointer or by a kprobe.  To livepatch, such a part is the new form
 * of its anchor; so the new code is not unloaded while a task is in it.  An
 * anchor's name is KSPLICE_ANCHOR_PREFIX from the command line, a number, "_"
 * and the function's name, which conflicts.c shows.
 */
#include <linux/compiler.h>
#include <linux/compiler_types.h>

#define KSPLICE_ANCHOR_NAME(n, name)	__PASTE(__PASTE(KSPLICE_ANCHOR_PREFIX, n), _##name)

/* No two have the same body: the compiler would make them one. */
#define KSPLICE_ANCHOR(n, name)							\
	static noinline __used void KSPLICE_ANCHOR_NAME(n, name)(void)		\
	{									\
		asm volatile("" : : "i" (__COUNTER__));				\
	}

/* Generated: KSPLICE_ANCHOR(0, pipe_fsync) ... */
#include "anchors.h"

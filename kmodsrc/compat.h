/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Everything that differs between kernel versions, each with its commit.
 *
 * Features are probed: the types of declarations and macros of headers here,
 * what C cannot see in the Kbuild file.  No other file knows a version, but
 * module_walk.h, which needs many headers of the kernel.
 */
#ifndef KSPLICE_COMPAT_H
#define KSPLICE_COMPAT_H

#include <asm/nops.h>

/*
 * Reach an unexported symbol of vmlinux: the name makes the reference a
 * livepatch relocation once the bundle's builder has marked it.  Since 6.1
 * walks all of kallsyms for each relocation entry, every such symbol of the
 * core, which nobody fills in, has one reference only.
 */
#define KSPLICE_VMLINUX_SYMBOL(name)	asm("\".klp.sym.vmlinux." #name ",0\"")

/*
 * livepatch compares each function that it redirects, and each symbol that a
 * module refers to, with all names of kallsyms: see the Kbuild file.
 */
#ifdef KSPLICE_HAS_SLOW_LOOKUP
#define KSPLICE_LOOKUP_IS_SLOW	true
#else
#define KSPLICE_LOOKUP_IS_SLOW	false
#endif

/*
 * 0c05e7bd2d01 ("livepatch,x86: Clear relocation targets on a module removal"),
 * 6.3: livepatch does that itself, and complains when it finds it done.
 */
#ifdef KSPLICE_HAS_CLEAR_RELOCATE_ADD
#define KSPLICE_MUST_CLEAR_UNLOADED	false
#else
#define KSPLICE_MUST_CLEAR_UNLOADED	true
#endif

/*
 * 128ea9f6ccfb ("workqueue: Add system_percpu_wq and system_dfl_wq"), 6.17: the
 * queue of schedule_delayed_work() has another name.
 */
#ifdef KSPLICE_HAS_PERCPU_WQ
#define KSPLICE_SYSTEM_WQ	system_percpu_wq
#else
#define KSPLICE_SYSTEM_WQ	system_wq
#endif

/*
 * x86_nops[] as one row of bytes: nops of 1, 2, 3 ... bytes.
 * df25edbac31e ("x86/alternatives: Add longer 64-bit NOPs"), 6.5: up to 11.
 */
#if ASM_NOP_MAX > 8
#define KSPLICE_ALL_NOPS								\
	{ BYTES_NOP1, BYTES_NOP2, BYTES_NOP3, BYTES_NOP4, BYTES_NOP5, BYTES_NOP6,	\
	  BYTES_NOP7, BYTES_NOP8, BYTES_NOP9, BYTES_NOP10, BYTES_NOP11 }
#else
#define KSPLICE_ALL_NOPS								\
	{ BYTES_NOP1, BYTES_NOP2, BYTES_NOP3, BYTES_NOP4, BYTES_NOP5, BYTES_NOP6,	\
	  BYTES_NOP7, BYTES_NOP8 }
#endif

#endif /* KSPLICE_COMPAT_H */

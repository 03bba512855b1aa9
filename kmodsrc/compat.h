/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Everything that differs between kernel versions, each with its commit.
 *
 * Features are probed: the types of declarations and macros of headers here,
 * what C cannot see in the Kbuild file.  No other file knows a version.
 */
#ifndef KSPLICE_COMPAT_H
#define KSPLICE_COMPAT_H

#include <linux/kallsyms.h>
#include <linux/module.h>
#include <asm/nops.h>

/*
 * Reach an unexported symbol of vmlinux: the name makes the reference a
 * livepatch relocation once the bundle's builder has marked it.  Since 6.1
 * walks all of kallsyms for each relocation entry, every such symbol has one
 * reference only.
 */
#define KSPLICE_VMLINUX_SYMBOL(name)	asm("\".klp.sym.vmlinux." #name ",0\"")

typedef int ksplice_visit_mod_fn(void *data, const char *name, struct module *mod,
				 unsigned long addr);

/*
 * 3703bd54cd37 ("kallsyms: Delete an unused parameter related to
 * {module_}kallsyms_on_each_symbol()"), 6.4: the callback loses @mod.  By then
 * all that it sees is of the module that was asked for.
 */
#ifdef KSPLICE_VISIT_HAS_MOD
#define KSPLICE_VISIT_PARAMETERS						\
	void *data, const char *name, struct module *mod, unsigned long addr
#define KSPLICE_IS_VISIT_OF(target)	(mod && !strcmp(mod->name, target))
#else
#define KSPLICE_VISIT_PARAMETERS	void *data, const char *name, unsigned long addr
#define KSPLICE_IS_VISIT_OF(target)	true
#endif

/*
 * 07cc2c931e8e ("livepatch: Improve the search performance of
 * module_kallsyms_on_each_symbol()"), 6.3: walks one module by name.
 */
#define KSPLICE_WALK_IS_BY_NAME							\
	(!__builtin_types_compatible_p(typeof(module_kallsyms_on_each_symbol),	\
				       int(ksplice_visit_mod_fn *, void *)))

int ksplice_walk_all(void *visit, void *data)
	KSPLICE_VMLINUX_SYMBOL(module_kallsyms_on_each_symbol);
int ksplice_walk_named(const char *target, void *visit, void *data)
	KSPLICE_VMLINUX_SYMBOL(module_kallsyms_on_each_symbol);

/*
 * Calls module_kallsyms_on_each_symbol(), in the module that it is used in:
 * since ed53a0d97192 ("x86/alternative: Use .ibt_endbr_seal to seal indirect
 * calls"), 5.18, a function of the kernel whose address nobody takes loses its
 * landing pad, and a call through a pointer to it ends in a fault.
 */
static inline int ksplice_walk(const char *target, void *visit, void *data)
{
	return KSPLICE_WALK_IS_BY_NAME ? ksplice_walk_named(target, visit, data) :
					 ksplice_walk_all(visit, data);
}

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

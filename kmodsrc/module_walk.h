/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The walk over the symbols of modules, as each kernel version has it.
 */
#ifndef KSPLICE_MODULE_WALK_H
#define KSPLICE_MODULE_WALK_H

#include <linux/module.h>
#include <linux/string.h>
#include "compat.h"

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

extern typeof(module_kallsyms_on_each_symbol)
	ksplice_walk_symbols KSPLICE_VMLINUX_SYMBOL(module_kallsyms_on_each_symbol);

/*
 * Calls module_kallsyms_on_each_symbol(), in the module that it is used in:
 * since ed53a0d97192 ("x86/alternative: Use .ibt_endbr_seal to seal indirect
 * calls"), 5.18, a function of the kernel whose address nobody takes loses its
 * landing pad, and a call through a pointer to it ends in a fault.
 *
 * 07cc2c931e8e ("livepatch: Improve the search performance of
 * module_kallsyms_on_each_symbol()"), 6.3: walks one module by name.
 */
static inline int ksplice_walk(const char *target, void *visit, void *data)
{
#ifdef KSPLICE_WALK_IS_BY_NAME
	return ksplice_walk_symbols(target, visit, data);
#else
	return ksplice_walk_symbols(visit, data);
#endif
}

#endif /* KSPLICE_MODULE_WALK_H */

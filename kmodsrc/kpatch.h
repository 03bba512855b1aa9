/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For patches that were written for kpatch: its shadow variables, which are
 * known by a text (dynup/kpatch, kmod/core/shadow.c).  The kernel's own, which
 * are used here, are known by a number (Documentation/livepatch/shadow-vars.rst).
 */
#ifndef KSPLICE_KPATCH_H
#define KSPLICE_KPATCH_H

#include "kpatch-macros.h"

/* FNV-1a; two of one patch that have one number would be one variable. */
static __always_inline unsigned long ksplice_kpatch_id(const char *name)
{
	unsigned long id = 0xcbf29ce484222325;

	while (*name)
		id = (id ^ (u8)*name++) * 0x100000001b3;
	return id;
}

static inline void *kpatch_shadow_alloc(void *obj, char *var, size_t size, gfp_t gfp)
{
	return klp_shadow_alloc(obj, ksplice_kpatch_id(var), size, gfp, NULL, NULL);
}

static inline void *kpatch_shadow_get(void *obj, char *var)
{
	return klp_shadow_get(obj, ksplice_kpatch_id(var));
}

static inline void kpatch_shadow_free(void *obj, char *var)
{
	klp_shadow_free(obj, ksplice_kpatch_id(var), NULL);
}

#endif /* KSPLICE_KPATCH_H */

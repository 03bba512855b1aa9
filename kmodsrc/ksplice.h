/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the core exports to the old and the new code of its update.
 *
 * KSPLICE_KID comes from the command line.  Exported names carry it, because
 * the cores of several updates are loaded together.
 */
#ifndef KSPLICE_H
#define KSPLICE_H

#include <linux/stringify.h>
#include <linux/types.h>
#include "types.h"

#define KSPLICE_PASTE_(kid, name)	ksplice_##kid##_##name
#define KSPLICE_PASTE(kid, name)	KSPLICE_PASTE_(kid, name)

#define ksplice_match		KSPLICE_PASTE(KSPLICE_KID, match)
#define ksplice_match_late	KSPLICE_PASTE(KSPLICE_KID, match_late)
#define ksplice_note_target	KSPLICE_PASTE(KSPLICE_KID, note_target)
#define ksplice_may_patch	KSPLICE_PASTE(KSPLICE_KID, may_patch)
#define ksplice_was_compared	KSPLICE_PASTE(KSPLICE_KID, was_compared)
#define ksplice_set_stage	KSPLICE_PASTE(KSPLICE_KID, set_stage)
#define ksplice_abort		KSPLICE_PASTE(KSPLICE_KID, abort)
#define ksplice_fill		KSPLICE_PASTE(KSPLICE_KID, fill)
#define ksplice_kobject		KSPLICE_PASTE(KSPLICE_KID, kobject)
#define ksplice_tripwire_hit	KSPLICE_PASTE(KSPLICE_KID, tripwire_hit)

struct kobject;
struct module;

int ksplice_match(const struct ksplice_old *old);
int ksplice_match_late(const char *target, const struct module *mod, ksplice_walk_fn *walk_modules,
		       bool may_leave);
int ksplice_note_target(const char *target, enum ksplice_target_state state);
bool ksplice_may_patch(const char *target);
bool ksplice_was_compared(const char *target, unsigned long addr);
void ksplice_set_stage(enum ksplice_stage stage);
struct kobject *ksplice_kobject(void);
void ksplice_abort(enum ksplice_cause cause);

#ifdef KSPLICE_HAS_SLOW_LOOKUP
int ksplice_fill(struct module *mod);
#else
static inline int ksplice_fill(struct module *mod)
{
	return 0;
}
#endif

#endif /* KSPLICE_H */

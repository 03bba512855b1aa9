/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside of the new-code module: what new_code.c calls.
 */
#ifndef KSPLICE_NEW_CODE_H
#define KSPLICE_NEW_CODE_H

#include <linux/livepatch.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/stringify.h>
#include <linux/workqueue.h>
#include "compat.h"

#define KSPLICE_CORE	"ksplice_" __stringify(KSPLICE_KID)

/* early.c */
extern struct delayed_work klp_work KSPLICE_VMLINUX_SYMBOL(klp_transition_work);

void ksplice_early_begin(const struct klp_patch *patch, bool forward);
void ksplice_early_end(void);
void ksplice_early_exit(void);

/* nops.c */
extern struct mutex klp_mutex KSPLICE_VMLINUX_SYMBOL(klp_mutex);
/* Takes the functions in the object's list out of ftrace. */
void klp_unpatch_object(struct klp_object *obj) KSPLICE_VMLINUX_SYMBOL(klp_unpatch_object);

void ksplice_put_nops(struct klp_patch *patch);
void ksplice_take_out_nops(void);
void ksplice_nops_exit(void);

/* conflicts.c */
extern typeof(idle_task) idle_task_of KSPLICE_VMLINUX_SYMBOL(idle_task);

int ksplice_conflicts_init(const struct klp_patch *which);
void ksplice_conflicts_exit(void);
void ksplice_transition_begins(void);
void ksplice_transition_ends(void);

#ifdef KSPLICE_HAS_MODULES
int ksplice_admit_target(struct klp_object *obj, bool may_leave);
void ksplice_note_patched(const struct klp_object *obj);
void ksplice_settle_unpatched(struct klp_object *obj);
void ksplice_release_target(struct klp_object *obj, bool is_undone);
void ksplice_clear_relocations(const struct klp_object *obj);
#else
static inline int ksplice_admit_target(struct klp_object *obj, bool may_leave)
{
	return 0;
}

static inline void ksplice_note_patched(const struct klp_object *obj)
{
}

static inline void ksplice_settle_unpatched(struct klp_object *obj)
{
}

static inline void ksplice_release_target(struct klp_object *obj, bool is_undone)
{
}

static inline void ksplice_clear_relocations(const struct klp_object *obj)
{
}
#endif

#ifdef KSPLICE_HAS_REDIRECTS
int ksplice_prepare_redirects(const struct klp_object *obj, unsigned int number);
bool ksplice_switch_redirects(unsigned int number, bool is_on);
void ksplice_release_redirects(unsigned int number);
bool ksplice_has_redirects(unsigned int number);
#else
static inline int ksplice_prepare_redirects(const struct klp_object *obj, unsigned int number)
{
	return 0;
}

static inline bool ksplice_switch_redirects(unsigned int number, bool is_on)
{
	return true;
}

static inline void ksplice_release_redirects(unsigned int number)
{
}

static inline bool ksplice_has_redirects(unsigned int number)
{
	return false;
}
#endif

#endif /* KSPLICE_NEW_CODE_H */

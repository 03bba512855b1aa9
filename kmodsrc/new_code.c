// SPDX-License-Identifier: GPL-2.0-only
/*
 * New code of one update: the klp_patch and its callbacks.
 *
 * update.h, generated with the bundle, has the tables, with an entry for each
 * target.  The first is vmlinux, even when nothing there is replaced: its
 * callbacks set the stage of the whole update.  The last one, when there are
 * anchors, is the core: see anchors.c.
 *
 * The new functions are in other objects of this module.  No locks: livepatch
 * holds klp_mutex around the callbacks, the core has its own lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/string.h>
#include "ksplice.h"
#include "new_code.h"

static int pre_patch(struct klp_object *obj);
static void post_patch(struct klp_object *obj);
static void pre_unpatch(struct klp_object *obj);
static void post_unpatch(struct klp_object *obj);

/* When a hook of ksplice-patch.h is called. */
enum hook_kind {
	NO_HOOK,
	HOOK_pre_apply,
	HOOK_check_apply,
	HOOK_apply,
	HOOK_post_apply,
	HOOK_fail_apply,
	HOOK_pre_reverse,
	HOOK_check_reverse,
	HOOK_reverse,
	HOOK_post_reverse,
	HOOK_fail_reverse,
	HOOK_pre_patch,
	HOOK_post_patch,
	HOOK_pre_unpatch,
	HOOK_post_unpatch,
};

/**
 * struct hook - a function of the patch; one of the pointers is set
 * @kind: when it is called
 * @check: the function, if it may refuse
 * @act: the function, if not
 * @check_obj: the same, for a function that is handed its target
 * @act_obj: the same
 */
struct hook {
	enum hook_kind kind;
	int (*check)(void);
	void (*act)(void);
	int (*check_obj)(struct klp_object *obj);
	void (*act_obj)(struct klp_object *obj);
};

#define KSPLICE_CALLBACKS							\
	{ .pre_patch = pre_patch, .post_patch = post_patch,			\
	  .pre_unpatch = pre_unpatch, .post_unpatch = post_unpatch }

/* Generated: objects[], hooks[] of each, and must_match[], the targets' names. */
#include "update.h"

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objects,
};

/**
 * enum phase - where an object is, for its hooks
 * @IDLE: old code, no hook was called
 * @APPLYING: pre_apply, check_apply and apply were called
 * @APPLIED: new code
 * @REVERSING: pre_reverse and check_reverse were called
 * @LEFT_ALONE: loaded later and left unpatched
 */
static enum phase {
	IDLE,
	APPLYING,
	APPLIED,
	REVERSING,
	LEFT_ALONE,
} phases[ARRAY_SIZE(objects)];

/* Livepatch has begun with the update: no other transition was in the way. */
static bool was_begun;
/* A callback has refused, not livepatch. */
static bool was_refused;
/* Targets that are loaded from now on may be left alone.  Written without klp_mutex. */
static bool was_enabled;

static unsigned int number_of(const struct klp_object *obj)
{
	return obj - objects;
}

static enum phase *phase_of(const struct klp_object *obj)
{
	return &phases[number_of(obj)];
}

static int call_hook(const struct hook *hook, struct klp_object *obj)
{
	if (hook->check)
		return hook->check();
	if (hook->check_obj)
		return hook->check_obj(obj);
	if (hook->act)
		hook->act();
	else
		hook->act_obj(obj);
	return 0;
}

/* Stops at the first error. */
static int call_hooks(struct klp_object *obj, enum hook_kind kind)
{
	const struct hook *hook;
	int err;

	for (hook = hooks[number_of(obj)]; hook->kind != NO_HOOK; hook++) {
		if (hook->kind != kind)
			continue;
		err = call_hook(hook, obj);
		if (err) {
			pr_err("%pS: error %d\n", hook->check ?: (void *)hook->check_obj, err);
			return err < 0 ? err : -EINVAL;
		}
	}
	return 0;
}

/* Livepatch replaces whatever has the name: refuse what was not compared. */
static int check_compared(const struct klp_object *obj)
{
	const char *target = obj->name ?: KSPLICE_VMLINUX;
	const struct klp_func *func;

	klp_for_each_func(obj, func) {
		if (ksplice_was_compared(target, (unsigned long)func->old_func))
			continue;
		pr_err("%s: %s was not compared, nothing is replaced\n", target, func->old_name);
		ksplice_abort(KSPLICE_NO_MATCH);
		return -EPERM;
	}
	return 0;
}

static bool keeps_code;
module_param(keeps_code, bool, 0444);
MODULE_PARM_DESC(keeps_code, "set by the module: it stays loaded until the next boot, because the kernel may hold pointers to its functions");

/*
 * Never unload the new code: timers, callbacks and copies of tables may hold
 * pointers to it, and nobody can tell which do.
 */
static void keep_code(void)
{
	if (!keeps_code)
		__module_get(THIS_MODULE);
	keeps_code = true;
}

/*
 * Somebody else's live patch that replaces all others removes this one without
 * calling it.  What hooks have done stays then, as do kprobes and pointers, and
 * so must this module.
 */
static bool must_be_called(const struct klp_object *obj)
{
	return hooks[number_of(obj)]->kind != NO_HOOK || ksplice_has_redirects(number_of(obj));
}

static void switch_redirects(const struct klp_object *obj, bool is_on)
{
	if (!ksplice_switch_redirects(number_of(obj), is_on))
		keep_code();
}

static void transition_begins(bool forward)
{
	ksplice_transition_begins();
	ksplice_early_begin(&patch, forward);
}

static void transition_ends(void)
{
	ksplice_early_end();
	ksplice_transition_ends();
}

static int pre_patch(struct klp_object *obj)
{
	/* An undo clears patch.enabled long before it is over. */
	bool is_late = patch.enabled || READ_ONCE(was_enabled);
	int err = ksplice_admit_target(obj, is_late);

	was_begun = true;
	if (err > 0) {
		*phase_of(obj) = LEFT_ALONE;
		return 0;
	}
	if (!err) {
		err = check_compared(obj);
		/* It was matched, and is not patched all the same. */
		if (err)
			ksplice_release_target(obj, !is_late);
	}
	if (!err) {
		/* post_unpatch follows if pre_patch has not refused: it is the last that may */
		err = call_hooks(obj, HOOK_pre_apply) ?: call_hooks(obj, HOOK_check_apply) ?:
		      ksplice_prepare_redirects(obj, number_of(obj));
		if (!err) {
			err = call_hooks(obj, HOOK_pre_patch);
			if (err)
				ksplice_release_redirects(number_of(obj));
		}
		if (!err) {
			if (KSPLICE_KEEPS_CODE)
				keep_code();
			if (must_be_called(obj))
				__module_get(THIS_MODULE);
			call_hooks(obj, HOOK_apply);
			*phase_of(obj) = APPLYING;
			if (!obj->name)
				transition_begins(true);
			return 0;
		}
		call_hooks(obj, HOOK_fail_apply);
		ksplice_abort(KSPLICE_CALL_FAILED);
		ksplice_release_target(obj, !is_late);
	}
	was_refused = true;
	ksplice_clear_relocations(obj);
	return err;
}

static void post_patch(struct klp_object *obj)
{
	if (*phase_of(obj) == LEFT_ALONE) {
		ksplice_settle_unpatched(obj);
	} else {
		if (*phase_of(obj) == APPLYING)
			ksplice_note_patched(obj);
		switch_redirects(obj, true);
		call_hooks(obj, HOOK_post_patch);
		call_hooks(obj, *phase_of(obj) == REVERSING ? HOOK_fail_reverse : HOOK_post_apply);
		*phase_of(obj) = APPLIED;
	}
	if (!obj->name) {
		transition_ends();
		ksplice_take_out_nops();
		ksplice_set_stage(KSPLICE_APPLIED);
	}
}

/* Livepatch cannot be stopped here: an error is only logged. */
static void pre_unpatch(struct klp_object *obj)
{
	if (*phase_of(obj) != APPLIED)
		return;
	if (!obj->name) {
		transition_begins(false);
		ksplice_put_nops(&patch);
	}
	call_hooks(obj, HOOK_pre_unpatch);
	if (!call_hooks(obj, HOOK_pre_reverse))
		call_hooks(obj, HOOK_check_reverse);
	switch_redirects(obj, false);
	*phase_of(obj) = REVERSING;
}

static void post_unpatch(struct klp_object *obj)
{
	enum phase phase = *phase_of(obj);

	if (phase != LEFT_ALONE) {
		ksplice_release_redirects(number_of(obj));
		call_hooks(obj, HOOK_reverse);
		call_hooks(obj, HOOK_post_unpatch);
		call_hooks(obj, phase == APPLYING ? HOOK_fail_apply : HOOK_post_reverse);
		/* never the last reference: livepatch drops its own later */
		if (must_be_called(obj))
			module_put(THIS_MODULE);
	}
	*phase_of(obj) = IDLE;
	/* vmlinux is the first when all are undone, and stays when only a module goes */
	ksplice_release_target(obj, phases[0] == IDLE);
	if (!obj->name) {
		transition_ends();
		ksplice_take_out_nops();
		ksplice_set_stage(KSPLICE_REVERSED);
	}
}

/*
 * That a function is the only one of its name was seen by the match.  livepatch
 * would look for a second one up to the end of kallsyms; the first it takes.
 */
static void __init look_up_first(void)
{
	struct klp_object *obj;
	struct klp_func *func;

	for (obj = objects; obj->funcs; obj++)
		klp_for_each_func_static(obj, func)
			func->old_sympos = func->old_sympos ?: 1;
}

static int __init new_init(void)
{
	const char *const *target;
	int err;

	err = ksplice_fill(THIS_MODULE);
	if (err)
		return err;
	if (KSPLICE_LOOKUP_IS_SLOW)
		look_up_first();
	for (target = must_match; *target; target++) {
		if (ksplice_may_patch(*target))
			continue;
		pr_err("%s: not matched, nothing is replaced\n", *target);
		ksplice_abort(KSPLICE_NO_MATCH);
		return -EPERM;
	}

	err = ksplice_conflicts_init(&patch);
	if (err)
		goto refused;
	err = klp_enable_patch(&patch);
	if (!err) {
		WRITE_ONCE(was_enabled, true);
		return 0;
	}
	transition_ends();
	ksplice_early_exit();
	ksplice_conflicts_exit();
	/* -EBUSY without a cause: another transition runs */
	if (err == -EBUSY && !was_begun)
		return err;
	if (err == -EBUSY && !was_refused)
		pr_err("ftrace refuses: a function has another redirection, or kernel.ftrace_enabled is 0\n");
refused:
	ksplice_abort(err == -ENOMEM ? KSPLICE_OUT_OF_MEMORY : KSPLICE_CALL_FAILED);
	return err;
}

static void __exit new_exit(void)
{
	ksplice_early_exit();
	ksplice_nops_exit();
	ksplice_conflicts_exit();
}

module_init(new_init);
module_exit(new_exit);
MODULE_DESCRIPTION("Ksplice update " __stringify(KSPLICE_KID) ": new code");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");

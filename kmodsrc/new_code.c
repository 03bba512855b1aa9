// SPDX-License-Identifier: GPL-2.0-only
/*
 * New code of one update: the klp_patch and its callbacks.
 *
 * update.h, generated with the bundle, lists what is replaced and is included
 * once per table.  Its first object is vmlinux, even when nothing there is
 * replaced: its callbacks tell where the whole update is.
 *
 *	KSPLICE_OBJECT_BEGIN(0, "vmlinux")
 *	KSPLICE_FUNC("do_fcntl", 0, ksplice_new_0)
 *	KSPLICE_HOOK(apply, ksplice_hook_0)
 *	KSPLICE_OBJECT_END(0)
 *	KSPLICE_ANCHORS_BEGIN
 *	KSPLICE_FUNC("ksplice_anchor_0", 0, ksplice_new_1)
 *	KSPLICE_OBJECT_END(1)
 *
 * The last one, when there are anchors, is the core: see anchors.c.
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

typedef void ksplice_new_fn(void);

#define KSPLICE_OBJECT_BEGIN(index, object)
#define KSPLICE_ANCHORS_BEGIN
#define KSPLICE_OBJECT_END(index)
#define KSPLICE_FUNC(old, position, new) new,
#define KSPLICE_HOOK(kind, fn) fn,
/* One declaration of all new functions and hooks. */
ksplice_new_fn
#include "update.h"
	ksplice_new_none;

#undef KSPLICE_FUNC
#undef KSPLICE_HOOK
#undef KSPLICE_OBJECT_END

#define KSPLICE_OBJECT_END(index) { },
#define KSPLICE_FUNC(old, position, new)						\
	{ .old_name = (old), .old_sympos = (position), .new_func = (new) },
#define KSPLICE_HOOK(kind, fn)
/* The functions of all objects, one after the other; an empty one ends an object's. */
static struct klp_func funcs[] = {
#include "update.h"
};

#undef KSPLICE_FUNC
#undef KSPLICE_HOOK

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
};

struct hook {
	enum hook_kind kind;
	void *fn;
};

#define KSPLICE_FUNC(old, position, new)
#define KSPLICE_HOOK(kind, fn) { HOOK_##kind, fn },
/* The hooks of all objects, likewise. */
static const struct hook hooks[] = {
#include "update.h"
};

#undef KSPLICE_HOOK
#undef KSPLICE_OBJECT_BEGIN
#undef KSPLICE_ANCHORS_BEGIN
#undef KSPLICE_OBJECT_END

#define KSPLICE_HOOK(kind, fn)
#define KSPLICE_OBJECT_END(index)
#define KSPLICE_OBJECT_BEGIN(index, object)						\
	{ .name = (object),								\
	  .callbacks = {								\
		.pre_patch = pre_patch, .post_patch = post_patch,			\
		.pre_unpatch = pre_unpatch, .post_unpatch = post_unpatch } },
#define KSPLICE_ANCHORS_BEGIN { .name = "ksplice_" __stringify(KSPLICE_KID) },
static struct klp_object objects[] = {
#include "update.h"
	{ }
};

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

static enum phase *phase_of(const struct klp_object *obj)
{
	return &phases[obj - objects];
}

static unsigned int number_of(const struct klp_object *obj)
{
	return obj - objects;
}

static const struct hook *first_hook(const struct klp_object *obj)
{
	const struct hook *hook = hooks;
	long before = obj - objects;

	for (; before; hook++)
		before -= hook->kind == NO_HOOK;
	return hook;
}

/* Hooks that may fail return an int; the first error ends the row. */
static int call_hooks(const struct klp_object *obj, enum hook_kind kind)
{
	const struct hook *hook;
	int err;

	for (hook = first_hook(obj); hook->kind != NO_HOOK; hook++) {
		if (hook->kind != kind)
			continue;
		switch (kind) {
		case HOOK_pre_apply:
		case HOOK_check_apply:
		case HOOK_pre_reverse:
		case HOOK_check_reverse:
			err = ((int (*)(void))hook->fn)();
			if (err) {
				pr_err("%pS: error %d\n", hook->fn, err);
				return err;
			}
			break;
		default:
			((void (*)(void))hook->fn)();
		}
	}
	return 0;
}

/* Livepatch replaces whatever has the name: nothing that was not compared. */
static int check_compared(const struct klp_object *obj)
{
	const char *target = obj->name ?: "vmlinux";
	const struct klp_func *func;

	klp_for_each_func(obj, func) {
		if (func->nop || ksplice_was_compared(target, (unsigned long)func->old_func))
			continue;
		pr_err("%s: %s was not compared, nothing is replaced\n", target, func->old_name);
		ksplice_abort(KSPLICE_NO_MATCH);
		return -EPERM;
	}
	return 0;
}

#ifdef KSPLICE_KEEPS_CODE
static bool keeps_code;
module_param(keeps_code, bool, 0444);
MODULE_PARM_DESC(keeps_code, "set by the module: it stays loaded until the next boot, because the kernel may hold pointers to its functions");

/* Timers, callbacks and copies of tables: nobody can tell who holds them. */
static void keep_code(void)
{
	if (!keeps_code)
		__module_get(THIS_MODULE);
	keeps_code = true;
}
#else
static inline void keep_code(void)
{
}
#endif

static int pre_patch(struct klp_object *obj)
{
	int err = ksplice_come(obj, patch.enabled) ?: check_compared(obj);

	if (err > 0) {
		*phase_of(obj) = LEFT_ALONE;
		return 0;
	}
	if (!err) {
		err = call_hooks(obj, HOOK_pre_apply) ?: call_hooks(obj, HOOK_check_apply) ?:
		      ksplice_prepare_redirects(obj, number_of(obj));
		if (!err) {
			keep_code();
			call_hooks(obj, HOOK_apply);
			*phase_of(obj) = APPLYING;
			return 0;
		}
		call_hooks(obj, HOOK_fail_apply);
		ksplice_abort(KSPLICE_CALL_FAILED);
		ksplice_go(obj, patch.enabled);
	}
	ksplice_clear_relocations(obj);
	return err;
}

static void post_patch(struct klp_object *obj)
{
	if (*phase_of(obj) != LEFT_ALONE) {
		ksplice_switch_redirects(number_of(obj), true);
		call_hooks(obj, *phase_of(obj) == REVERSING ? HOOK_fail_reverse : HOOK_post_apply);
		*phase_of(obj) = APPLIED;
	}
	if (!obj->name)
		ksplice_set_stage(KSPLICE_APPLIED);
}

/* Livepatch cannot be stopped here: an error is only told. */
static void pre_unpatch(struct klp_object *obj)
{
	if (*phase_of(obj) != APPLIED)
		return;
	if (!call_hooks(obj, HOOK_pre_reverse))
		call_hooks(obj, HOOK_check_reverse);
	ksplice_switch_redirects(number_of(obj), false);
	*phase_of(obj) = REVERSING;
}

static void post_unpatch(struct klp_object *obj)
{
	enum phase phase = *phase_of(obj);

	if (phase != LEFT_ALONE) {
		ksplice_release_redirects(number_of(obj));
		call_hooks(obj, HOOK_reverse);
		call_hooks(obj, phase == APPLYING ? HOOK_fail_apply : HOOK_post_reverse);
	}
	*phase_of(obj) = IDLE;
	ksplice_go(obj, patch.enabled);
	if (!obj->name)
		ksplice_set_stage(KSPLICE_REVERSED);
}

static int __init new_init(void)
{
	struct klp_func *func = funcs;
	struct klp_object *obj;
	int err;

	for (obj = objects; obj->name; obj++) {
		obj->funcs = func;
		if (obj->callbacks.pre_patch && !ksplice_may_patch(obj->name) &&
		    (func->old_name || first_hook(obj)->kind != NO_HOOK || obj != objects)) {
			pr_err("%s: not matched, nothing is replaced\n", obj->name);
			return -EPERM;
		}
		while ((func++)->old_name)
			;
	}
	/* livepatch's name for vmlinux */
	objects[0].name = NULL;

	err = klp_enable_patch(&patch);
	/* -EBUSY without a cause: another transition runs */
	if (err && err != -EBUSY)
		ksplice_abort(KSPLICE_CALL_FAILED);
	return err;
}

static void __exit new_exit(void)
{
}

module_init(new_init);
module_exit(new_exit);
MODULE_DESCRIPTION("Ksplice update " __stringify(KSPLICE_KID) ": new code");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");

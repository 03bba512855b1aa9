// SPDX-License-Identifier: GPL-2.0-only
/*
 * New code of one update: the klp_patch and its callbacks.
 *
 * update.h, generated with the bundle, lists what is replaced and is included
 * once per table:
 *
 *	KSPLICE_OBJECT_BEGIN(0, "vmlinux")
 *	KSPLICE_FUNC("do_fcntl", 0, ksplice_new_0)
 *	KSPLICE_OBJECT_END(0)
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

typedef void ksplice_new_fn(void);

static void post_patch(struct klp_object *obj)
{
	ksplice_set_stage(KSPLICE_APPLIED);
}

static void post_unpatch(struct klp_object *obj)
{
	ksplice_set_stage(KSPLICE_REVERSED);
}

#define KSPLICE_OBJECT_BEGIN(index, object)
#define KSPLICE_OBJECT_END(index)
#define KSPLICE_FUNC(old, position, new) new,
/* One declaration of all new functions. */
ksplice_new_fn
#include "update.h"
	ksplice_new_none;

#undef KSPLICE_FUNC
#undef KSPLICE_OBJECT_END

#define KSPLICE_OBJECT_END(index) { },
#define KSPLICE_FUNC(old, position, new)						\
	{ .old_name = (old), .old_sympos = (position), .new_func = (new) },
/* The functions of all objects, one after the other; an empty one ends an object's. */
static struct klp_func funcs[] = {
#include "update.h"
};

#undef KSPLICE_FUNC
#undef KSPLICE_OBJECT_END
#undef KSPLICE_OBJECT_BEGIN

#define KSPLICE_FUNC(old, position, new)
#define KSPLICE_OBJECT_END(index)
#define KSPLICE_OBJECT_BEGIN(index, object)						\
	{ .name = (object),								\
	  .callbacks = { .post_patch = post_patch, .post_unpatch = post_unpatch } },
static struct klp_object objects[] = {
#include "update.h"
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objects,
};

static int __init new_init(void)
{
	struct klp_func *func = funcs;
	struct klp_object *obj;
	int err;

	for (obj = objects; obj->name; obj++) {
		obj->funcs = func;
		while ((func++)->old_name)
			;
	}

	for (obj = objects; obj->funcs; obj++) {
		if (!ksplice_is_matched(obj->name)) {
			pr_err("%s: not matched, nothing is replaced\n", obj->name);
			return -EPERM;
		}
		/* livepatch's name for vmlinux */
		if (!strcmp(obj->name, "vmlinux"))
			obj->name = NULL;
	}

	err = klp_enable_patch(&patch);
	if (err)
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

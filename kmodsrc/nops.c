// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lets an undo end before ftrace has let go of its functions one by one.
 *
 * At the end of an undo livepatch unregisters each function from ftrace, which
 * waits for two grace periods of RCU tasks, some 0.2 s, and holds klp_mutex all
 * the while: for 500 functions no module is loaded for two minutes.  It
 * does not unregister a function that somebody else has replaced too.  So a nop
 * is put below each of ours when an undo begins: what livepatch itself puts
 * there for functions that a cumulative patch does not replace any more, which
 * lets the original run.  When the undo is over, livepatch's own function takes
 * the nops out again, one by one, and klp_mutex is free in between.
 *
 * The nops are in no klp_patch.  Nobody but livepatch's ftrace handler and its
 * check of stacks, which knows nops, looks at a function's stack of patches.
 *
 * Locks: klp_mutex protects everything in this file.
 */
#include <linux/delay.h>
#include <linux/list.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/workqueue.h>
#include "compat.h"
#include "new_code.h"

/* So few functions of an object are left to livepatch: that takes half a second. */
#define FEW		2
/* For others to get klp_mutex and ftrace's lock, each time. */
#define PAUSE_MS	50

/**
 * struct nop - below a function of ours
 * @func: livepatch's nop
 * @mod: the module that the function is in, NULL when it stays anyway
 */
struct nop {
	struct klp_func func;
	struct module *mod;
};

/* While ftrace has functions of an undo that is over; for whoever would unload this module. */
static bool lets_go;
module_param(lets_go, bool, 0444);
MODULE_PARM_DESC(lets_go, "ftrace has not let go of all functions yet");

static struct nop *nops;
static unsigned int nr_nops;

static void take_out_nops(struct work_struct *work);
/* Reads nops without the lock: nobody changes them while they are to be taken out. */
static DECLARE_WORK(taker, take_out_nops);

/* Whether nobody else has replaced @func: the list's head is before and behind it. */
static bool is_alone(const struct klp_func *func)
{
	return func->patched && func->stack_node.next == func->stack_node.prev;
}

static unsigned int count_alone(const struct klp_object *obj)
{
	const struct klp_func *func;
	unsigned int nr = 0;

	klp_for_each_func(obj, func)
		nr += is_alone(func);
	return nr > FEW ? nr : 0;
}

/* The core stays while we are there; other modules are held until the nop is out. */
static struct module *module_to_hold(const struct klp_object *obj)
{
	return obj->name && strcmp(obj->name, KSPLICE_CORE) ? obj->mod : NULL;
}

static void put_below(struct nop *nop, struct klp_func *func, struct module *mod)
{
	*nop = (struct nop) {
		.mod = mod,
		.func = {
			.old_name = func->old_name,
			.old_func = func->old_func,
			.new_func = func->old_func,
			.old_size = func->old_size,
			.new_size = func->old_size,
			.nop = true,
			.patched = true,
		},
	};
	list_add_rcu(&nop->func.stack_node, &func->stack_node);
}

static void put_below_all(const struct klp_object *obj)
{
	struct module *mod = module_to_hold(obj);
	struct klp_func *func;

	if (!count_alone(obj))
		return;
	klp_for_each_func(obj, func) {
		if (!is_alone(func))
			continue;
		/* it is on its way out, and its functions with it */
		if (mod && !try_module_get(mod))
			return;
		put_below(&nops[nr_nops++], func, mod);
	}
}

/**
 * ksplice_put_nops - an undo begins
 * @patch: of our functions
 *
 * Without memory, or when those of an undo that was turned around are still
 * there, livepatch does without.
 */
void ksplice_put_nops(struct klp_patch *patch)
{
	const struct klp_object *obj;
	unsigned int nr = 0;

	if (nops)
		return;
	klp_for_each_object(patch, obj)
		nr += obj->patched ? count_alone(obj) : 0;
	nops = nr ? kvcalloc(nr, sizeof(*nops), GFP_KERNEL) : NULL;
	if (!nops)
		return;
	klp_for_each_object(patch, obj)
		if (obj->patched)
			put_below_all(obj);
}

static void take_out(struct nop *nop)
{
	struct klp_object obj = { .func_list = LIST_HEAD_INIT(obj.func_list) };

	list_add(&nop->func.node, &obj.func_list);
	klp_unpatch_object(&obj);
	module_put(nop->mod);
}

static void take_out_nops(struct work_struct *work)
{
	struct nop *taken = nops;
	unsigned int i, nr = nr_nops;

	for (i = 0; i < nr; i++) {
		if (i)
			msleep(PAUSE_MS);
		mutex_lock(&klp_mutex);
		take_out(&taken[i]);
		mutex_unlock(&klp_mutex);
	}
	/* Where somebody's function was above, livepatch has not waited for readers. */
	synchronize_rcu_tasks_rude();
	mutex_lock(&klp_mutex);
	nops = NULL;
	nr_nops = 0;
	WRITE_ONCE(lets_go, false);
	mutex_unlock(&klp_mutex);
	kvfree(taken);
	module_put(THIS_MODULE);
}

/**
 * ksplice_take_out_nops - the undo is over, or was turned around
 */
void ksplice_take_out_nops(void)
{
	if (!nops || !queue_work(system_long_wq, &taker))
		return;
	WRITE_ONCE(lets_go, true);
	/* livepatch still has a reference; so an unload is refused instead of waiting */
	__module_get(THIS_MODULE);
}

/**
 * ksplice_nops_exit - the module is about to go
 *
 * Waits for the end of the work item, which has given the last reference back.
 */
void ksplice_nops_exit(void)
{
	flush_work(&taker);
}

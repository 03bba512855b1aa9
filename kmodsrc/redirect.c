// SPDX-License-Identifier: GPL-2.0-only
/*
 * What livepatch cannot redirect: functions without fentry, by a kprobe that
 * moves the instruction pointer; function pointers in tables; the exit function
 * of a module.
 *
 * Off until every task runs new code, and off again before the first one leaves
 * it.  That nobody is left in a function that was reached this way is for
 * livepatch's stack check to find: see anchors.c.
 *
 * No locks: livepatch holds klp_mutex around every call.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/compiler.h>
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/vmalloc.h>
#include "ksplice.h"
#include "new_code.h"

enum redirect_kind {
	REDIRECT_PROBE,
	REDIRECT_POINTER,
	REDIRECT_EXIT,
};

/**
 * struct redirect - one place that leads to new code
 * @object: number of the klp_object that it belongs to
 * @kind: what @place is
 * @place: the old function; the pointer; or NULL for the module's exit function
 * @old: what the pointer holds before
 * @new: what it holds then, or the new function
 * @cell: the pointer, where it can be written
 * @probe: at the old function
 */
struct redirect {
	unsigned int object;
	enum redirect_kind kind;
	void *place;
	void *old;
	void *new;
	void **cell;
	struct kprobe probe;
};

/* Generated: redirects[] */
#include "redirects.h"

/* The first, or the next after @r, of an object; NULL at the end. */
static struct redirect *next_redirect(struct redirect *r, unsigned int number)
{
	for (r = r ? r + 1 : redirects; r < redirects + ARRAY_SIZE(redirects); r++)
		if (r->object == number)
			return r;
	return NULL;
}

/**
 * ksplice_has_redirects - is there something here for a target?
 * @number: its number in the klp_patch
 */
bool ksplice_has_redirects(unsigned int number)
{
	return next_redirect(NULL, number);
}

/* As the kernel's error injection does (kernel/fail_function.c). */
static int move_ip(struct kprobe *probe, struct pt_regs *regs)
{
	struct redirect *r = container_of(probe, struct redirect, probe);

	instruction_pointer_set(regs, (unsigned long)r->new);
	return 1;
}

NOKPROBE_SYMBOL(move_ip);

/* It being there keeps the probe a breakpoint: only that can move the pointer. */
static void never_called(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

NOKPROBE_SYMBOL(never_called);

/* Nothing is redirected that was not compared. */
static int prepare_probe(struct redirect *r, const struct klp_object *obj)
{
	if (!ksplice_was_compared(obj->name ?: "vmlinux", (unsigned long)r->place))
		return -EILSEQ;
	r->probe = (struct kprobe){
		.addr = r->place,
		.pre_handler = move_ip,
		.post_handler = never_called,
		.flags = KPROBE_FLAG_DISABLED,
	};
	return register_kprobe(&r->probe);
}

/* The table may be read-only: write through a mapping of our own. */
static int prepare_pointer(struct redirect *r)
{
	struct page *page;
	void *map;

	if (READ_ONCE(*(void **)r->place) != r->old) {
		pr_err("%pS: holds %pS, expected %pS\n", r->place, *(void **)r->place, r->old);
		return -EILSEQ;
	}
	page = virt_addr_valid(r->place) ? virt_to_page(r->place) : vmalloc_to_page(r->place);
	map = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!map)
		return -ENOMEM;
	r->cell = map + offset_in_page(r->place);
	return 0;
}

static int prepare(struct redirect *r, const struct klp_object *obj)
{
	switch (r->kind) {
	case REDIRECT_PROBE:
		return prepare_probe(r, obj);
	case REDIRECT_POINTER:
		return prepare_pointer(r);
	case REDIRECT_EXIT:
#ifdef CONFIG_MODULE_UNLOAD
		r->cell = (void **)&obj->mod->exit;
		r->old = *r->cell;
		return 0;
#endif
	default:
		return -EINVAL;
	}
}

static void release(struct redirect *r)
{
	if (r->probe.addr)
		unregister_kprobe(&r->probe);
	r->probe.addr = NULL;
	if (r->cell && r->kind == REDIRECT_POINTER)
		vunmap((void *)((unsigned long)r->cell & PAGE_MASK));
	r->cell = NULL;
}

/**
 * ksplice_prepare_redirects - make ready what may fail
 * @obj: a target that is about to be patched
 * @number: its number in the klp_patch
 *
 * Return: 0 or a negative error, with nothing left behind.
 */
int ksplice_prepare_redirects(const struct klp_object *obj, unsigned int number)
{
	struct redirect *r;
	int err;

	for (r = next_redirect(NULL, number); r; r = next_redirect(r, number)) {
		err = prepare(r, obj);
		if (err) {
			pr_err("%pS: cannot be redirected: %d\n", r->place, err);
			r->probe.addr = NULL;
			ksplice_abort(err == -EILSEQ ? KSPLICE_NO_MATCH :
				      err == -ENOMEM ? KSPLICE_OUT_OF_MEMORY : KSPLICE_CALL_FAILED);
			ksplice_release_redirects(number);
			return err;
		}
	}
	return 0;
}

/**
 * ksplice_switch_redirects - lead to new code, or to old code again
 * @number: number of the target in the klp_patch
 * @is_on: to new code
 */
void ksplice_switch_redirects(unsigned int number, bool is_on)
{
	struct redirect *r;
	int err;

	for (r = next_redirect(NULL, number); r; r = next_redirect(r, number)) {
		if (r->kind == REDIRECT_PROBE) {
			err = is_on ? enable_kprobe(&r->probe) : disable_kprobe(&r->probe);
			if (err)
				pr_err("%pS: kprobe: %d\n", r->place, err);
		} else if (*r->cell == (is_on ? r->old : r->new)) {
			WRITE_ONCE(*r->cell, is_on ? r->new : r->old);
		} else {
			pr_warn("%pS: was changed by somebody else\n", r->place);
		}
	}
}

/**
 * ksplice_release_redirects - give back what ksplice_prepare_redirects() took
 * @number: number of the target in the klp_patch
 */
void ksplice_release_redirects(unsigned int number)
{
	struct redirect *r;

	for (r = next_redirect(NULL, number); r; r = next_redirect(r, number))
		release(r);
}

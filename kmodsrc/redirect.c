// SPDX-License-Identifier: GPL-2.0-only
/*
 * What livepatch cannot redirect: functions without fentry, by a kprobe that
 * moves the instruction pointer; function pointers in tables, and other fields;
 * the exit function of a module.
 *
 * Prepared before the transition, where failure still refuses the update, off
 * until every task runs new code, and off again before the first one leaves it.
 * That nobody is left in a function that was reached this way is for
 * livepatch's stack check to find: see anchors.c.
 *
 * No locks: livepatch holds klp_mutex around every call; move_ip(), which may
 * run at any time, reads one word.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/compiler.h>
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/rcupdate.h>
#include <linux/vmalloc.h>
#include <asm/text-patching.h>
#include "ksplice.h"
#include "new_code.h"

enum redirect_kind {
	REDIRECT_PROBE,
	REDIRECT_POINTER,
	REDIRECT_VALUE,
	REDIRECT_EXIT,
};

/**
 * struct redirect - one place that leads to new code
 * @object: number of the klp_object that it belongs to
 * @kind: what @place is, of enum redirect_kind
 * @size: bytes of the field at @place
 * @place: the old function, or the field; a module's exit pointer once it is loaded
 * @old: what the field holds before
 * @new: what it holds then, or the new function
 * @cell: the field in a writable mapping, NULL when there is none
 * @probe: at the old function; registered before the transition, where it may fail
 * @is_on: whether the probe leads to @new
 */
struct redirect {
	unsigned int object;
	u16 kind;
	u16 size;
	void *place;
	void *old;
	void *new;
	void *cell;
	struct kprobe probe;
	bool is_on;
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
 * ksplice_has_redirects - check whether a target has redirects
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

	if (!READ_ONCE(r->is_on))
		return 0;
	instruction_pointer_set(regs, (unsigned long)r->new);
	return 1;
}

NOKPROBE_SYMBOL(move_ip);

/* A post handler keeps the probe a breakpoint: a jump could not move the pointer. */
static void do_nothing(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

NOKPROBE_SYMBOL(do_nothing);

/* Nothing is redirected that was not compared. */
static int prepare_probe(struct redirect *r, const struct klp_object *obj)
{
	int err;

	if (!ksplice_was_compared(obj->name ?: KSPLICE_VMLINUX, (unsigned long)r->place))
		return -EILSEQ;
	r->probe = (struct kprobe){
		.addr = r->place,
		.pre_handler = move_ip,
		.post_handler = do_nothing,
	};
	err = register_kprobe(&r->probe);
	if (err == -EILSEQ)
		return -EINVAL;
	if (err || *(u8 *)r->probe.addr == INT3_INSN_OPCODE)
		return err;
	pr_err("kprobes are switched off: write 1 to /sys/kernel/debug/kprobes/enabled\n");
	unregister_kprobe(&r->probe);
	return -EPERM;
}

/*
 * Map the field writable for as long as it takes to write.
 *
 * The table may be read-only, and is not made writable: a second mapping of its
 * page leaves the first as it is for everybody, needs no page of 2 MiB to be
 * split, and is gone again after one store of a few bytes, which nobody sees the
 * half of.  text_poke() does the same for text; of data it knows nothing, and
 * set_memory_rw() would open the whole page to whoever writes by mistake.  That
 * the field holds what the old code has there was checked before.
 */
static int map_field(struct redirect *r)
{
	struct page *page = virt_addr_valid(r->place) ? virt_to_page(r->place) :
							vmalloc_to_page(r->place);
	void *map = vmap(&page, 1, VM_MAP, PAGE_KERNEL);

	if (!map)
		return -ENOMEM;
	r->cell = map + offset_in_page(r->place);
	return 0;
}

static void unmap_field(struct redirect *r)
{
	if (r->cell && r->kind != REDIRECT_EXIT) {
		vunmap((void *)((unsigned long)r->cell & PAGE_MASK));
		r->cell = NULL;
	}
}

static void *read_field(const struct redirect *r)
{
	switch (r->size) {
	case 1:
		return (void *)(unsigned long)READ_ONCE(*(u8 *)r->place);
	case 2:
		return (void *)(unsigned long)READ_ONCE(*(u16 *)r->place);
	case 4:
		return (void *)(unsigned long)READ_ONCE(*(u32 *)r->place);
	default:
		return READ_ONCE(*(void **)r->place);
	}
}

/* One store, which no reader sees the half of; false when the field holds something else. */
static bool write_field(const struct redirect *r, void *from, void *to)
{
	unsigned long a = (unsigned long)from, b = (unsigned long)to;

	switch (r->size) {
	case 1:
		return cmpxchg((u8 *)r->cell, (u8)a, (u8)b) == (u8)a;
	case 2:
		return cmpxchg((u16 *)r->cell, (u16)a, (u16)b) == (u16)a;
	case 4:
		return cmpxchg((u32 *)r->cell, (u32)a, (u32)b) == (u32)a;
	default:
		return cmpxchg((void **)r->cell, from, to) == from;
	}
}

static int prepare_field(struct redirect *r)
{
	void *now;

	if (!IS_ALIGNED((unsigned long)r->place, r->size))
		return -EINVAL;
	now = read_field(r);
	if (now != r->old) {
		/* what it holds is not for the log, which more people read than root */
		pr_err("%pS: does not hold what the old code has there\n", r->place);
		return -EILSEQ;
	}
	return map_field(r);
}

static int prepare(struct redirect *r, const struct klp_object *obj)
{
	switch (r->kind) {
	case REDIRECT_PROBE:
		return prepare_probe(r, obj);
	case REDIRECT_POINTER:
	case REDIRECT_VALUE:
		return prepare_field(r);
	case REDIRECT_EXIT:
		r->place = &obj->mod->exit;
		r->cell = r->place;
		r->old = read_field(r);
		return 0;
	default:
		return -EINVAL;
	}
}

static void release(struct redirect *r)
{
	if (r->probe.addr)
		unregister_kprobe(&r->probe);
	r->probe.addr = NULL;
	r->is_on = false;
	unmap_field(r);
	r->cell = NULL;
}

/**
 * ksplice_prepare_redirects - do what may fail before the transition
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

/*
 * A failure here comes after the transition and can only be logged.  Whoever has
 * changed the field after us may write ours back one day.
 */
static bool exchange(struct redirect *r, bool is_on)
{
	void *from = is_on ? r->old : r->new, *to = is_on ? r->new : r->old;
	bool is_mapped = r->cell || !map_field(r);
	bool is_done = is_mapped && write_field(r, from, to);

	unmap_field(r);
	if (is_done)
		return true;
	if (is_mapped)
		pr_warn("%pS: was changed by somebody else\n", r->place);
	else
		pr_err("%pS: no memory, still as it was\n", r->place);
	ksplice_abort(KSPLICE_CALL_FAILED);
	return false;
}

/**
 * ksplice_switch_redirects - lead to new code, or to old code again
 * @number: number of the target in the klp_patch
 * @is_on: to new code
 *
 * Return: true when all were switched; otherwise a pointer to new code may be left, and the caller
 * must keep that code.
 */
bool ksplice_switch_redirects(unsigned int number, bool is_on)
{
	bool has_exit = false, is_done = true;
	struct redirect *r;

	for (r = next_redirect(NULL, number); r; r = next_redirect(r, number)) {
		if (r->kind == REDIRECT_PROBE)
			WRITE_ONCE(r->is_on, is_on);
		else
			is_done &= exchange(r, is_on);
		has_exit |= r->kind == REDIRECT_EXIT;
	}
	/* A task that has read the pointer but not followed it yet is in no function of ours. */
	if (has_exit && !is_on)
		synchronize_rcu_tasks();
	return is_done;
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

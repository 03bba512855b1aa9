// SPDX-License-Identifier: GPL-2.0-only
/*
 * Run-pre matching: proves that the running kernel is the one that the update
 * was built from.
 *
 *	tables checked -> symbols found -> every function compared
 *
 * Reads the kernel, writes nothing but its own memory.  No locks: the run
 * belongs to the caller, who holds the core's lock so that runs do not mix.
 */
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <asm/text-patching.h>
#include "field.h"
#include "match.h"
#include "sites.h"
#include "steps.h"

/*
 * Static keys, static calls or ftrace may be rewriting a site: compare again
 * before refusing.  text_poke_bp() first writes an int3 and then waits for all
 * processors, and a guest's may be stalled for long.  __static_call_update()
 * changes the key first and then one site after the other: until its turn a
 * site calls what the key held before.
 */
#define TRIES			5
#define TRIES_AT_REWRITTEN	250
#define TRY_DELAY_US		2000

static bool may_be_rewritten(const struct ksplice_report *report)
{
	return *report->found == INT3_INSN_OPCODE ||
	       report->kind == ksplice_site_name(KSPLICE_SITE_STATIC_CALL);
}

static int compare_patiently(struct ksplice_matching *m, const struct ksplice_func *f)
{
	u32 known = m->nr_learned;
	int tries, others = 0, err;

	for (tries = 1;; tries++) {
		err = ksplice_compare(m, f);
		if (!err) {
			m->report = (struct ksplice_report) { .cause = KSPLICE_OK };
			return 0;
		}
		ksplice_forget_slots(m, known);
		/* Those at a site that is rewritten do not count as any other's. */
		others += !may_be_rewritten(&m->report);
		if (others >= TRIES || tries >= TRIES_AT_REWRITTEN)
			return err;
		usleep_range(TRY_DELAY_US, 2 * TRY_DELAY_US);
	}
}

static bool get_memory(struct ksplice_matching *m)
{
	struct ksplice_found *found = m->found;

	if (!found->addr)
		found->addr = kvcalloc(m->head->syms.nr, sizeof(*found->addr), GFP_KERNEL);
	if (!found->seen)
		found->seen = kvcalloc(m->head->syms.nr, sizeof(*found->seen), GFP_KERNEL);
	m->addr = found->addr;
	m->slots = kvcalloc(m->head->nr_slots, sizeof(*m->slots), GFP_KERNEL);
	m->learned = kvmalloc_array(m->head->nr_slots, sizeof(*m->learned), GFP_KERNEL);
	m->run = kvmalloc(m->largest, GFP_KERNEL);
	m->cover = kvmalloc(m->largest, GFP_KERNEL);
	m->starts = kvmalloc_array(m->head->funcs.nr, sizeof(*m->starts), GFP_KERNEL);
	return found->addr && found->seen && m->slots && m->learned && m->run && m->cover &&
	       m->starts;
}

static void put_memory(struct ksplice_matching *m)
{
	kvfree(m->slots);
	kvfree(m->learned);
	kvfree(m->run);
	kvfree(m->cover);
}

/**
 * ksplice_forget_found - free what was found of a target
 * @found: may be empty
 */
void ksplice_forget_found(struct ksplice_found *found)
{
	kvfree(found->addr);
	kvfree(found->seen);
	*found = (struct ksplice_found) { };
}

/**
 * ksplice_run_match - match the old code of one target
 * @old: the old code
 * @found: zeroed, or as the last match of the same old code has left it; the
 *     caller's to free
 * @m: zeroed; filled in.  After a failure @m->report says why; its strings,
 *     like @m->target, point into the blob.  Free @m->starts with kvfree().
 *
 * Context: process context, sleeps.
 * Return: 0 or a negative error.
 */
int ksplice_run_match(const struct ksplice_old *old, struct ksplice_found *found,
		      struct ksplice_matching *m)
{
	int err;
	u32 i;

	m->blob = old->blob;
	m->size = old->size;
	m->walk_modules = old->walk_modules;
	m->found = found;
	m->own = found->own;

	err = ksplice_check_tables(m);
	if (err)
		return err;

	if (get_memory(m)) {
		err = ksplice_resolve(m);
		for (i = 0; !err && i < m->head->funcs.nr; i++) {
			m->starts[i] = m->addr[m->funcs[i].sym];
			err = compare_patiently(m, &m->funcs[i]);
			cond_resched();
		}
	} else {
		m->report.cause = KSPLICE_OUT_OF_MEMORY;
		err = -ENOMEM;
	}
	put_memory(m);
	return err;
}

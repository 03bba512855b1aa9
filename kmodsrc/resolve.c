// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds every symbol that matching needs in one pass over kallsyms.
 *
 * No locks of our own: kallsyms of vmlinux never changes, and that of modules
 * is walked under the kernel's module_mutex.
 */
#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>
#include "compat.h"
#include "field.h"
#include "match.h"
#include "module_walk.h"
#include "steps.h"

extern typeof(kallsyms_on_each_symbol)
	walk_vmlinux KSPLICE_VMLINUX_SYMBOL(kallsyms_on_each_symbol);

/* In the order of enum ksplice_own_sym. */
static const char *const own_names[KSPLICE_NR_OWN_SYMS] = {
	[KSPLICE_STATIC_CALL_RETURN] = "__static_call_return",
	[KSPLICE_INDIRECT_THUNKS] = "__x86_indirect_thunk_array",
	[KSPLICE_CALL_THUNKS] = "__x86_indirect_call_thunk_array",
	[KSPLICE_JUMP_THUNKS] = "__x86_indirect_jump_thunk_array",
	[KSPLICE_ETEXT] = "_etext",
	[KSPLICE_STEXT] = "_stext",
	[KSPLICE_NOP_FUNC] = "nop_func",
	[KSPLICE_RETURN_THUNK] = "x86_return_thunk",
	[KSPLICE_FTRACE_CALLER] = "ftrace_caller",
	[KSPLICE_FTRACE_REGS_CALLER] = "ftrace_regs_caller",
	[KSPLICE_JUMP_TABLE] = "__start___jump_table",
	[KSPLICE_JUMP_TABLE_END] = "__stop___jump_table",
	[KSPLICE_EX_TABLE] = "__start___ex_table",
	[KSPLICE_EX_TABLE_END] = "__stop___ex_table",
};

static void note_own(struct ksplice_matching *m, const char *name, u64 addr)
{
	u32 i;

	if (!strchr("_fnx", *name))
		return;
	for (i = 0; i < KSPLICE_NR_OWN_SYMS; i++)
		if (!strcmp(own_names[i], name))
			m->found->own[i] = addr;
}

static void note_symbol(struct ksplice_matching *m, const char *name, u64 addr, u32 in_target)
{
	u32 low = 0, high = m->head->syms.nr;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (strcmp(ksplice_name(m, m->syms[middle].name), name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < m->head->syms.nr && !strcmp(ksplice_name(m, m->syms[low].name), name); low++) {
		u32 pos = m->syms[low].pos;

		if ((pos & KSPLICE_SYM_IN_TARGET) != in_target)
			continue;
		pos &= ~KSPLICE_SYM_IN_TARGET;
		m->found->seen[low]++;
		if (m->found->seen[low] == max(pos, 1U))
			m->found->addr[low] = addr;
	}
}

static int visit_vmlinux(KSPLICE_VISIT_PARAMETERS)
{
	note_own(data, name, addr);
	note_symbol(data, name, addr, 0);
	return 0;
}

/* Positions do not count init symbols, which a module still has while it is being loaded. */
static int visit_target(KSPLICE_VISIT_PARAMETERS)
{
	struct ksplice_matching *m = data;

	if (KSPLICE_IS_VISIT_OF(m->target) && !(m->mod && within_module_init(addr, m->mod)))
		note_symbol(m, name, addr, KSPLICE_SYM_IN_TARGET);
	return 0;
}

/* Report the first symbol that is missing or ambiguous. */
static int check_found(struct ksplice_matching *m)
{
	bool is_target_there = !m->walk_modules;
	const u32 *seen = m->found->seen;
	u32 i;

	for (i = 0; i < m->head->syms.nr; i++)
		if (seen[i] && m->syms[i].pos & KSPLICE_SYM_IN_TARGET)
			is_target_there = true;
	if (!is_target_there) {
		m->report.cause = KSPLICE_TARGET_NOT_LOADED;
		return -ENOENT;
	}

	for (i = 0; i < m->head->syms.nr; i++) {
		u32 pos = m->syms[i].pos & ~KSPLICE_SYM_IN_TARGET;

		if (pos ? seen[i] >= pos : seen[i] == 1)
			continue;
		m->report.symbol = ksplice_name(m, m->syms[i].name);
		m->report.kind = seen[i] > pos ? "ambiguous" : "missing";
		m->report.cause = seen[i] ? KSPLICE_BAD_SYSTEM_MAP : KSPLICE_FAILED_TO_FIND;
		return -ENOENT;
	}
	return 0;
}

/* A module that was there at the last match may be another one now. */
static void forget_target_symbols(struct ksplice_matching *m)
{
	u32 i;

	for (i = 0; i < m->head->syms.nr; i++) {
		if (!(m->syms[i].pos & KSPLICE_SYM_IN_TARGET))
			continue;
		m->found->addr[i] = 0;
		m->found->seen[i] = 0;
	}
}

/**
 * ksplice_walk_vmlinux - call a function for each symbol of vmlinux, in kallsyms order
 * @visit: the function, with KSPLICE_VISIT_PARAMETERS; another result than 0 ends the walk
 * @data: its first argument
 *
 * Return: the last result.
 */
int ksplice_walk_vmlinux(ksplice_visit_fn *visit, void *data)
{
	return walk_vmlinux(visit, data);
}

/**
 * ksplice_resolve - find the address of every symbol of the tables
 * @m: a run with checked tables
 *
 * Return: 0, or a negative error with the report filled in.
 */
int ksplice_resolve(struct ksplice_matching *m)
{
	struct ksplice_found *found = m->found;
	int err = 0;

	if (!found->has_vmlinux)
		err = ksplice_walk_vmlinux(visit_vmlinux, m);
	found->has_vmlinux = !err;
	forget_target_symbols(m);
	if (!err && m->walk_modules)
		err = m->walk_modules(m->target, visit_target, m);
	if (err) {
		m->report.cause = KSPLICE_UNEXPECTED;
		return err;
	}

	/* Where apply_returns() let returns jump to: a variable of arch/x86/kernel/cpu/bugs.c. */
	if (!ksplice_read(&m->return_thunk, m->own[KSPLICE_RETURN_THUNK], sizeof(m->return_thunk)))
		m->return_thunk = 0;
	return check_found(m);
}

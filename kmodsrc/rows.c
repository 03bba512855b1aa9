// SPDX-License-Identifier: GPL-2.0-only
/*
 * Rows of the kernel's own tables about code: the keys of jump labels, and where
 * a fault leads.  The same bytes may depend on another key.
 *
 * The tables of vmlinux are sorted at boot and do not change afterwards.  No
 * locks, see sites.c.
 */
#include <linux/jump_label.h>
#include <linux/kernel.h>
#include <asm/extable.h>
#include "field.h"
#include "sites.h"

/* The order of two addresses, as sort() has it. */
static int order(u64 a, u64 b)
{
	return a < b ? -1 : a > b;
}

/* jump_label_cmp(): by key, then by code.  The low bits of the key are flags. */
static int order_jump_entry(const struct ksplice_place *p, u64 at)
{
	u64 key = ksplice_symbol_value(p) & ~3ULL;
	struct jump_entry row;

	if (!ksplice_read(&row, at, sizeof(row)))
		return -1;
	return order(at + offsetof(typeof(row), key) + (row.key & ~3L), key) ?:
	       order(at + row.code, p->addr);
}

/* A branch is compiled as taken or as not taken; jump_label_init() sets the other flag. */
static bool is_jump_entry(const struct ksplice_place *p, u64 at)
{
	struct jump_entry row;

	return ksplice_read(&row, at, sizeof(row)) && !((ksplice_symbol_value(p) ^ row.key) & 1);
}

/* cmp_ex_sort(): by instruction. */
static int order_fixup(const struct ksplice_place *p, u64 at)
{
	struct exception_table_entry row;

	if (!ksplice_read(&row, at, sizeof(row)))
		return -1;
	return order(at + offsetof(typeof(row), insn) + row.insn, p->addr);
}

static bool is_fixup(const struct ksplice_place *p, u64 at)
{
	struct exception_table_entry row;

	return ksplice_read(&row, at, sizeof(row)) &&
	       at + offsetof(typeof(row), fixup) + row.fixup == ksplice_symbol_value(p) &&
	       (u32)row.data == p->site->feature;
}

static const struct {
	enum ksplice_own_sym begin;
	enum ksplice_own_sym end;
	size_t size;
	int (*order)(const struct ksplice_place *p, u64 at);
	bool (*is_same)(const struct ksplice_place *p, u64 at);
} tables[] = {
	[KSPLICE_SITE_KEY - KSPLICE_SITE_KEY] = {
		KSPLICE_JUMP_TABLE, KSPLICE_JUMP_TABLE_END, sizeof(struct jump_entry),
		order_jump_entry, is_jump_entry,
	},
	[KSPLICE_SITE_FIXUP - KSPLICE_SITE_KEY] = {
		KSPLICE_EX_TABLE, KSPLICE_EX_TABLE_END, sizeof(struct exception_table_entry),
		order_fixup, is_fixup,
	},
};

/**
 * ksplice_has_row - check that the kernel's table has what the old code has
 * @p: a site of kind KSPLICE_SITE_KEY or KSPLICE_SITE_FIXUP
 *
 * A kernel without symbols of data does not tell where its tables are: nothing
 * is compared there.
 */
bool ksplice_has_row(const struct ksplice_place *p)
{
	const typeof(*tables) *t = &tables[p->site->kind - KSPLICE_SITE_KEY];
	u64 begin = p->m->own[t->begin], low = 0, high;

	if (!begin || p->m->own[t->end] < begin)
		return true;
	high = (p->m->own[t->end] - begin) / t->size;
	while (low < high) {
		u64 middle = low + (high - low) / 2, at = begin + middle * t->size;
		int found = t->order(p, at);

		if (!found)
			return t->is_same(p, at);
		if (found < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads running code and data, and checks the relocated fields of code.
 *
 * No other file of the match reads the kernel; resolve.c walks kallsyms.  No
 * locks, see match.c.
 */
#include <linux/kernel.h>
#include <linux/pgtable.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "field.h"
#include "reloc.h"

/**
 * ksplice_read - read running code or data
 * @to: where to put it
 * @addr: an address from the tables or from running code, so any number
 * @len: number of bytes
 *
 * The kernel and its modules lie in the last 2 GiB; a read elsewhere
 * could reach a device.
 *
 * Return: true when all of it was read.
 */
bool ksplice_read(void *to, u64 addr, size_t len)
{
	return addr >= __START_KERNEL_map && addr < MODULES_END && len <= MODULES_END - addr &&
	       !copy_from_kernel_nofault(to, (void *)addr, len);
}

static bool is_same_content(u64 addr, const u8 *want, u32 len)
{
	u8 have[64];

	while (len) {
		u32 n = min_t(u32, len, sizeof(have));

		if (!ksplice_read(have, addr, n) || memcmp(have, want, n))
			return false;
		addr += n;
		want += n;
		len -= n;
	}
	return true;
}

/**
 * ksplice_forget_slots - forget what was learned from code that turned out not to match
 * @m: the run
 * @known: how many of @m->learned stay
 */
void ksplice_forget_slots(struct ksplice_matching *m, u32 known)
{
	while (m->nr_learned > known)
		m->slots[m->learned[--m->nr_learned]] = 0;
}

/**
 * ksplice_is_reloc_ok - check that a relocated field refers to what the tables say
 * @m: the run
 * @r: the relocation
 * @field: the field's running bytes
 * @addr: the field's run-time address
 */
bool ksplice_is_reloc_ok(struct ksplice_matching *m, const struct ksplice_reloc *r,
			 const u8 *field, u64 addr)
{
	u64 base = ksplice_reloc_value(r->type, field, addr) - r->add;

	switch (r->kind) {
	case KSPLICE_REF_SYM:
		return base == m->addr[r->ref];
	case KSPLICE_REF_BYTES:
		return is_same_content(base, m->blob + r->ref, r->len);
	default:
		if (base && !m->slots[r->ref]) {
			m->slots[r->ref] = base;
			m->learned[m->nr_learned++] = r->ref;
		}
		return base == m->slots[r->ref];
	}
}

static const struct ksplice_reloc *relocs_of(const struct ksplice_matching *m,
					     const struct ksplice_func *f)
{
	return m->relocs + f->reloc;
}

/* Index of the function's first relocation at or behind @off. */
static u32 first_reloc(const struct ksplice_matching *m, const struct ksplice_func *f, u32 off)
{
	u32 low = 0, high = f->nr_relocs;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (relocs_of(m, f)[middle].off < off)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool runs_as_compiled(const struct ksplice_place *p)
{
	const struct ksplice_reloc *r = relocs_of(p->m, p->func);
	u32 i, begin = p->site->off, end = begin + p->site->len, done = begin;

	for (i = first_reloc(p->m, p->func, begin); i < p->func->nr_relocs; i++) {
		u32 off = r[i].off, width = ksplice_reloc_width(r[i].type);

		if (off >= end)
			break;
		if (off + width > end ||
		    memcmp(p->run + done - begin, p->pre + done - begin, off - done) ||
		    !ksplice_is_reloc_ok(p->m, &r[i], p->run + off - begin,
					 p->addr + off - begin))
			return false;
		done = off + width;
	}
	return !memcmp(p->run + done - begin, p->pre + done - begin, end - done);
}

/**
 * ksplice_is_as_compiled - check that a site runs as compiler and linker left it
 * @p: the site
 */
bool ksplice_is_as_compiled(const struct ksplice_place *p)
{
	u32 known = p->m->nr_learned;

	if (runs_as_compiled(p))
		return true;
	ksplice_forget_slots(p->m, known);
	return false;
}

/**
 * ksplice_compiled_target - find what an instruction refers to in the old code
 * @p: the site that begins with it
 * @len: its length; it ends in a 32-bit displacement
 *
 * Return: an address, 0 when the tables do not say.
 */
u64 ksplice_compiled_target(const struct ksplice_place *p, u32 len)
{
	u32 field = p->site->off + len - sizeof(s32);
	u32 i = first_reloc(p->m, p->func, field);
	const struct ksplice_reloc *r = relocs_of(p->m, p->func) + i;

	if (i >= p->func->nr_relocs || r->off != field)
		return p->addr + len + ksplice_displacement(p->pre + len);
	return r->kind == KSPLICE_REF_SYM ? p->m->addr[r->ref] + r->add + sizeof(s32) : 0;
}

/**
 * ksplice_fill_fields - fill in the relocated fields of compiled bytes
 * @m: a run with resolved symbols
 * @f: the function
 * @off: where in it @bytes begin
 * @bytes: as the old code has them, with 0 in their fields
 * @len: number of bytes
 *
 * Fields that refer to no symbol are left as they are.
 */
void ksplice_fill_fields(const struct ksplice_matching *m, const struct ksplice_func *f, u32 off,
			 u8 *bytes, u32 len)
{
	static const u8 zero[sizeof(u64)];
	const struct ksplice_reloc *r = relocs_of(m, f);
	u32 i, end = off + len;

	for (i = first_reloc(m, f, off); i < f->nr_relocs && r[i].off < end; i++) {
		u64 field;

		if (r[i].kind != KSPLICE_REF_SYM)
			continue;
		field = m->addr[r[i].ref] + r[i].add -
			ksplice_reloc_value(r[i].type, zero, m->addr[f->sym] + r[i].off);
		memcpy(bytes + r[i].off - off, &field,
		       min(ksplice_reloc_width(r[i].type), end - r[i].off));
	}
}

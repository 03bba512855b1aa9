// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compares one function of the old code with the running kernel.
 *
 * Reads the kernel through ksplice_read() only and writes nothing but the run's
 * own memory.  No locks, see sites.c.
 */
#include <linux/elf.h>
#include <linux/kernel.h>
#include <linux/pgtable.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "match.h"

/**
 * ksplice_read - read what the kernel runs
 * @to: where to put it
 * @addr: an address that tables or running code led to, so any number
 * @len: number of bytes
 *
 * The kernel and its modules lie in the last 2 GiB; elsewhere a read could
 * meet a device.
 *
 * Return: true when all of it was read.
 */
bool ksplice_read(void *to, u64 addr, size_t len)
{
	return addr >= __START_KERNEL_map && addr < MODULES_END && len <= MODULES_END - addr &&
	       !copy_from_kernel_nofault(to, (void *)addr, len);
}

static u64 reloc_value(const struct ksplice_reloc *r, const u8 *field, u64 addr)
{
	u64 value = 0;

	memcpy(&value, field, ksplice_reloc_width(r->type));
	switch (r->type) {
	case R_X86_64_PC64:
		return value + addr;
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
		return (s32)value + addr;
	case R_X86_64_32S:
		return (s32)value;
	default:
		return value;
	}
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
 * ksplice_is_reloc_ok - does a relocated field hold what it must?
 * @m: the run
 * @r: the relocation
 * @field: the field's running bytes
 * @addr: the field's run-time address
 */
bool ksplice_is_reloc_ok(struct ksplice_matching *m, const struct ksplice_reloc *r,
			 const u8 *field, u64 addr)
{
	u64 base = reloc_value(r, field, addr) - r->add;

	switch (r->kind) {
	case KSPLICE_REF_SYM:
		return base == m->addr[r->ref];
	case KSPLICE_REF_BYTES:
		return is_same_content(base, m->blob + r->ref, r->len);
	default:
		if (!m->slots[r->ref])
			m->slots[r->ref] = base;
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

/**
 * ksplice_is_as_compiled - does a site run as the compiler and linker left it?
 * @p: the site
 */
bool ksplice_is_as_compiled(const struct ksplice_place *p)
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
 * ksplice_compiled_target - what an instruction refers to in the old code
 * @p: the site that it begins at
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

/* Name what differs after the first site there, so that an alternative speaks for what is in it. */
static const char *kind_at(const struct ksplice_matching *m, const struct ksplice_func *f, u32 off,
			   const char *otherwise)
{
	const struct ksplice_site *s = m->sites + f->site;
	u32 i;

	for (i = 0; i < f->nr_sites; i++, s++)
		if (s->off <= off && off < s->off + s->len)
			return ksplice_site_name(s->kind);
	return otherwise;
}

static int differ(struct ksplice_matching *m, const struct ksplice_func *f, u32 off, u32 len,
		  const char *kind)
{
	const struct ksplice_reloc *r = relocs_of(m, f);
	struct ksplice_report *report = &m->report;
	u32 i;

	report->cause = KSPLICE_NO_MATCH;
	report->kind = len ? kind_at(m, f, off, kind) : kind;
	report->function = ksplice_name(m, f->name);
	report->off = off;
	report->len = min3(len, f->size - off, (u32)KSPLICE_REPORT_BYTES);
	memcpy(report->expected, m->blob + f->bytes + off, report->len);
	memcpy(report->found, m->run + off, report->len);

	/* The old code has 0 in its fields; show what belongs there, where a symbol tells. */
	for (i = first_reloc(m, f, off); i < f->nr_relocs; i++) {
		static const u8 zero[sizeof(u64)];
		u64 field;

		if (r[i].off >= off + report->len)
			break;
		if (r[i].kind != KSPLICE_REF_SYM)
			continue;
		field = m->addr[r[i].ref] + r[i].add -
			reloc_value(&r[i], zero, m->addr[f->sym] + r[i].off);
		memcpy(report->expected + r[i].off - off, &field,
		       min(ksplice_reloc_width(r[i].type), off + report->len - r[i].off));
	}
	return -EINVAL;
}

/* An alternative that runs as compiled may have its padding of 0x90 made into longer nops. */
static void allow_padding(struct ksplice_matching *m, const struct ksplice_place *p)
{
	u32 i;

	for (i = p->site->len; i && p->pre[i - 1] == 0x90; i--)
		if (m->cover[p->site->off + i - 1] == KSPLICE_EXACT)
			m->cover[p->site->off + i - 1] = KSPLICE_NOPS;
}

static int compare_sites(struct ksplice_matching *m, const struct ksplice_func *f)
{
	const struct ksplice_site *s = m->sites + f->site;
	u32 i;

	for (i = 0; i < f->nr_sites; i++, s++) {
		struct ksplice_place p = {
			.m = m, .func = f, .site = s,
			.run = m->run + s->off,
			.pre = m->blob + f->bytes + s->off,
			.addr = m->addr[f->sym] + s->off,
		};
		int used;

		/* Inside a replacement that was found in place. */
		if (m->cover[s->off] == KSPLICE_DONE)
			continue;
		if (s->kind == KSPLICE_SITE_ALT) {
			if (ksplice_is_replaced(&p))
				memset(m->cover + s->off, KSPLICE_DONE, s->len);
			else
				allow_padding(m, &p);
			continue;
		}
		used = ksplice_check_site(&p);
		if (used < 0)
			return differ(m, f, s->off, s->len, ksplice_site_name(s->kind));
		memset(m->cover + s->off, KSPLICE_DONE, used);
		memset(m->cover + s->off + used, KSPLICE_NOPS, s->len - used);
	}
	return 0;
}

static int compare_relocs(struct ksplice_matching *m, const struct ksplice_func *f)
{
	const struct ksplice_reloc *r = relocs_of(m, f);
	u32 i;

	for (i = 0; i < f->nr_relocs; i++, r++) {
		u32 width = ksplice_reloc_width(r->type);

		if (m->cover[r->off] != KSPLICE_EXACT)
			continue;
		if (!ksplice_is_reloc_ok(m, r, m->run + r->off, m->addr[f->sym] + r->off))
			return differ(m, f, r->off, width,
				      r->kind == KSPLICE_REF_BYTES ? "content" : "relocation");
		memset(m->cover + r->off, KSPLICE_DONE, width);
	}
	return 0;
}

static int compare_bytes(struct ksplice_matching *m, const struct ksplice_func *f)
{
	const u8 *pre = m->blob + f->bytes;
	u32 i, end;

	for (i = 0; i < f->size; i = end) {
		for (end = i + 1; end < f->size && m->cover[end] == m->cover[i]; end++)
			;
		if (m->cover[i] == KSPLICE_DONE)
			continue;
		if (m->cover[i] == KSPLICE_NOPS) {
			if (!ksplice_is_nops(m->run + i, end - i))
				return differ(m, f, i, end - i, "bytes");
			continue;
		}
		if (!memcmp(m->run + i, pre + i, end - i))
			continue;
		while (m->run[i] == pre[i])
			i++;
		return differ(m, f, i, KSPLICE_REPORT_BYTES, "bytes");
	}
	return 0;
}

/**
 * ksplice_compare - compare one function
 * @m: a run with resolved symbols; @run and @cover hold the largest function
 * @func: the function
 *
 * Return: 0, or -EINVAL with the report filled in.
 */
int ksplice_compare(struct ksplice_matching *m, const struct ksplice_func *func)
{
	int err;

	if (!ksplice_read(m->run, m->addr[func->sym], func->size)) {
		memset(m->run, 0, func->size);
		return differ(m, func, 0, 0, "unreadable");
	}
	memset(m->cover, KSPLICE_EXACT, func->size);

	err = compare_sites(m, func);
	if (!err)
		err = compare_relocs(m, func);
	if (!err)
		err = compare_bytes(m, func);
	return err;
}

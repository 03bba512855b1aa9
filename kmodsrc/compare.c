// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compares one function of the old code with the running kernel.
 *
 * Writes nothing but the run's own memory.  No locks, see match.c.
 */
#include <linux/kernel.h>
#include <linux/string.h>
#include <asm/nops.h>
#include "field.h"
#include "insn.h"
#include "reloc.h"
#include "sites.h"
#include "steps.h"

/**
 * enum ksplice_cover - what is known about a byte of the running function
 * @KSPLICE_EXACT:	must equal the old code
 * @KSPLICE_DONE:	found legal as part of a patch site
 * @KSPLICE_NOPS:	must be part of a run of legal nops
 */
enum ksplice_cover {
	KSPLICE_EXACT = 0,
	KSPLICE_DONE,
	KSPLICE_NOPS,
};

/* The kind of the first site at @off: an alternative stands before the sites in it. */
static const char *kind_at(const struct ksplice_matching *m, const struct ksplice_func *f, u32 off,
			   const char *otherwise)
{
	const struct ksplice_site *s = m->sites + f->site;
	u32 i;

	for (i = 0; i < f->nr_sites; i++, s++)
		if (s->kind < KSPLICE_SITE_KEY && s->off <= off && off < s->off + s->len)
			return ksplice_site_name(s->kind);
	return otherwise;
}

static int differ(struct ksplice_matching *m, const struct ksplice_func *f, u32 off, u32 len,
		  const char *kind)
{
	struct ksplice_report *report = &m->report;

	report->cause = KSPLICE_NO_MATCH;
	report->kind = len ? kind_at(m, f, off, kind) : kind;
	report->function = ksplice_name(m, f->name);
	report->off = off;
	report->len = min3(len, f->size - off, (u32)KSPLICE_REPORT_BYTES);
	memcpy(report->expected, m->blob + f->bytes + off, report->len);
	memcpy(report->found, m->run + off, report->len);

	/* The old code has 0 in its fields; show what belongs there. */
	ksplice_fill_fields(m, f, off, report->expected, report->len);
	return -EINVAL;
}

/* An alternative that runs as compiled may have its padding made into longer nops. */
static void allow_padding(struct ksplice_matching *m, const struct ksplice_place *p)
{
	u32 i;

	for (i = p->site->len; i && p->pre[i - 1] == BYTES_NOP1; i--)
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

		if (s->kind >= KSPLICE_SITE_KEY) {
			if (ksplice_has_row(&p))
				continue;
			return differ(m, f, s->off, 0, ksplice_site_name(s->kind));
		}
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
	const struct ksplice_reloc *r = m->relocs + f->reloc;
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

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Checks the tables of the old code before anything reads them.
 *
 * After ksplice_check_tables() every offset, count and index in the blob may
 * be used without a further check.  No locks: the blob is read-only and the
 * run belongs to the caller.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ctype.h>
#include <linux/kallsyms.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/string.h>
#include "reloc.h"
#include "steps.h"

/**
 * struct owned - how many entries of two tables have an owner so far
 * @relocs:	relocations that belong to a function or an alternative
 * @sites:	patch sites that belong to a function
 *
 * Each entry belongs to exactly one owner, in the order of the tables: a function cannot be cut
 * short or dropped unnoticed, and checking takes linear time.
 */
struct owned {
	u32 relocs;
	u32 sites;
};

static bool is_inside(u32 off, u32 len, u32 size)
{
	return off <= size && len <= size - off;
}

/* The table that begins at *@at, which then is its end; NULL when it lies elsewhere. */
static const void *table_at(const struct ksplice_matching *m, const struct ksplice_table *t,
			    size_t entry, u32 *at)
{
	u64 bytes = (u64)t->nr * entry;

	if (t->off != *at || bytes > m->size - *at)
		return NULL;
	*at += bytes;
	return m->blob + t->off;
}

/* The blob ends in a 0, so a name that begins inside also ends inside. */
static bool is_name(const struct ksplice_matching *m, u32 off, size_t max)
{
	const char *name;
	size_t len;

	if (off >= m->size)
		return false;
	name = ksplice_name(m, off);
	for (len = 0; name[len]; len++)
		if (len >= max || !isascii(name[len]) || !isgraph(name[len]))
			return false;
	return len > 0;
}

static bool are_syms_ok(const struct ksplice_matching *m)
{
	const struct ksplice_sym *s = m->syms;
	u32 i;

	for (i = 0; i < m->head->syms.nr; i++) {
		int order = -1;

		if (!is_name(m, s[i].name, KSYM_NAME_LEN - 1))
			return false;
		if (i)
			order = strcmp(ksplice_name(m, s[i - 1].name), ksplice_name(m, s[i].name));
		if (order > 0 || (!order && s[i - 1].pos >= s[i].pos))
			return false;
		cond_resched();
	}
	return true;
}

static bool is_reloc_ok(const struct ksplice_matching *m, const struct ksplice_reloc *r)
{
	if (r->pad)
		return false;
	switch (r->kind) {
	case KSPLICE_REF_SYM:
		return r->ref < m->head->syms.nr;
	case KSPLICE_REF_BYTES:
		return r->len && is_inside(r->ref, r->len, m->size);
	case KSPLICE_REF_SLOT:
		return r->ref < m->head->nr_slots;
	default:
		return false;
	}
}

/*
 * The next relocations of the table, @nr of them from @first on, lie inside @size bytes, ascending,
 * without overlap.
 */
static bool are_relocs_ok(const struct ksplice_matching *m, struct owned *owned, u32 first, u32 nr,
			  u32 size)
{
	const struct ksplice_reloc *r = m->relocs + owned->relocs;
	u32 i, end = 0;

	if ((nr && first != owned->relocs) || nr > m->head->relocs.nr - owned->relocs)
		return false;
	owned->relocs += nr;
	for (i = 0; i < nr; i++) {
		u32 width = ksplice_reloc_width(r[i].type);

		if (!width || r[i].off < end || !is_inside(r[i].off, width, size) ||
		    !is_reloc_ok(m, &r[i]))
			return false;
		end = r[i].off + width;
		cond_resched();
	}
	return true;
}

static bool is_site_ok(const struct ksplice_matching *m, struct owned *owned,
		       const struct ksplice_func *f, const struct ksplice_site *s)
{
	if (!s->len || !is_inside(s->off, s->len, f->size))
		return false;
	if (s->kind != KSPLICE_SITE_ALT && (s->alt_len || s->nr_relocs))
		return false;

	switch (s->kind) {
	case KSPLICE_SITE_ALT:
		return s->alt_len <= s->len && is_inside(s->alt, s->alt_len, m->size) &&
		       (!(s->feature & KSPLICE_ALT_DIRECT_CALL) || s->len >= 6) &&
		       are_relocs_ok(m, owned, s->reloc, s->nr_relocs, s->alt_len);
	case KSPLICE_SITE_JUMP_LABEL:
		return (s->len == 2 || s->len == 5) && s->sym < m->head->syms.nr;
	case KSPLICE_SITE_STATIC_CALL:
		return (s->len == 5 || s->len == 6) &&
		       (s->sym == KSPLICE_NO_SYM || s->sym < m->head->syms.nr);
	case KSPLICE_SITE_RETPOLINE:
		return s->len == 5 || s->len == 6;
	case KSPLICE_SITE_FENTRY:
	case KSPLICE_SITE_RETURN:
	case KSPLICE_SITE_CALL:
		return s->len == 5;
	case KSPLICE_SITE_ENDBR:
		return s->len == 4;
	case KSPLICE_SITE_RUNTIME_PTR:
		return s->len == 8 && s->sym < m->head->syms.nr;
	case KSPLICE_SITE_RUNTIME_SHIFT:
		return s->len == 1 && s->sym < m->head->syms.nr;
	case KSPLICE_SITE_KEY:
	case KSPLICE_SITE_FIXUP:
		return !m->walk_modules && s->len == 1 && s->sym < m->head->syms.nr;
	case KSPLICE_SITE_LOCK:
		return s->len == 1;
	case KSPLICE_SITE_PARAVIRT:
		return s->len >= 5;
	default:
		return false;
	}
}

static bool is_func_ok(struct ksplice_matching *m, struct owned *owned,
		       const struct ksplice_func *f)
{
	const struct ksplice_site *s = m->sites + owned->sites;
	u32 i;

	if (!is_name(m, f->name, KSYM_NAME_LEN - 1) || f->sym >= m->head->syms.nr || !f->size ||
	    !is_inside(f->bytes, f->size, m->size) ||
	    !are_relocs_ok(m, owned, f->reloc, f->nr_relocs, f->size) ||
	    f->site != owned->sites || f->nr_sites > m->head->sites.nr - owned->sites)
		return false;
	owned->sites += f->nr_sites;
	m->largest = max(m->largest, f->size);

	for (i = 0; i < f->nr_sites; i++) {
		if (!is_site_ok(m, owned, f, &s[i]))
			return false;
		if (i && (s[i - 1].off > s[i].off ||
			  (s[i - 1].off == s[i].off && s[i - 1].kind > s[i].kind)))
			return false;
		cond_resched();
	}
	return true;
}

static bool are_tables_ok(struct ksplice_matching *m)
{
	const struct ksplice_old_header *h = (const void *)m->blob;
	struct owned owned = {};
	u32 i, at = sizeof(*h);

	if (m->size <= sizeof(*h) || m->size > INT_MAX || m->blob[m->size - 1])
		return false;
	if (h->magic != KSPLICE_OLD_MAGIC || h->version != KSPLICE_OLD_VERSION ||
	    h->size != m->size || h->nr_slots > h->relocs.nr || h->reserved)
		return false;

	m->head = h;
	m->syms = table_at(m, &h->syms, sizeof(*m->syms), &at);
	m->funcs = table_at(m, &h->funcs, sizeof(*m->funcs), &at);
	m->relocs = table_at(m, &h->relocs, sizeof(*m->relocs), &at);
	m->sites = table_at(m, &h->sites, sizeof(*m->sites), &at);
	if (!m->syms || !m->funcs || !m->relocs || !m->sites || !h->funcs.nr ||
	    !is_name(m, h->target, MODULE_NAME_LEN - 1) || !are_syms_ok(m))
		return false;
	/* Only the old code of a module knows how to walk modules. */
	if (!strcmp(ksplice_name(m, h->target), KSPLICE_VMLINUX) == !!m->walk_modules)
		return false;

	for (i = 0; i < h->funcs.nr; i++) {
		if (!is_func_ok(m, &owned, &m->funcs[i]))
			return false;
		cond_resched();
	}
	if (owned.relocs != h->relocs.nr || owned.sites != h->sites.nr)
		return false;
	m->target = ksplice_name(m, h->target);
	return true;
}

/**
 * ksplice_check_tables - check the whole blob and find its tables
 * @m: a run with @blob and @size set
 *
 * Return: 0, or -EINVAL with the report's cause set when the blob is damaged.
 */
int ksplice_check_tables(struct ksplice_matching *m)
{
	if (are_tables_ok(m))
		return 0;
	m->report.cause = KSPLICE_UNEXPECTED;
	pr_err("the tables of the old code are damaged\n");
	return -EINVAL;
}

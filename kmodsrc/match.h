/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside of the core module: run-pre matching.
 *
 * tables.c checks the blob, resolve.c finds its symbols, compare.c compares
 * one function, sites.c and alternatives.c know the legal forms of patch sites,
 * and match.c tells the story.
 */
#ifndef KSPLICE_MATCH_H
#define KSPLICE_MATCH_H

#include <linux/string.h>
#include <linux/types.h>
#include "format.h"
#include "ksplice.h"

#define KSPLICE_REPORT_BYTES	8

/**
 * struct ksplice_report - where and why matching failed
 * @cause:	abort cause, KSPLICE_OK while nothing failed
 * @kind:	what differs: "bytes", "relocation", the kind of a patch site, or
 *		"missing" and "ambiguous" for a symbol
 * @function:	function that differs, or NULL
 * @symbol:	symbol that was not found, or NULL
 * @off:	offset in the function
 * @len:	number of bytes in @expected and @found, may be 0
 * @expected:	what the old code has there
 * @found:	what the running kernel has there
 */
struct ksplice_report {
	enum ksplice_cause cause;
	const char *kind;
	const char *function;
	const char *symbol;
	u32 off;
	u32 len;
	u8 expected[KSPLICE_REPORT_BYTES];
	u8 found[KSPLICE_REPORT_BYTES];
};

/* Symbols that the engine itself asks for; names in resolve.c, same order. */
enum ksplice_own_sym {
	KSPLICE_STATIC_CALL_RETURN,
	KSPLICE_INDIRECT_THUNKS,
	KSPLICE_CALL_THUNKS,
	KSPLICE_JUMP_THUNKS,
	KSPLICE_ETEXT,
	KSPLICE_STEXT,
	KSPLICE_NOP_FUNC,
	KSPLICE_RETURN_THUNK,
	KSPLICE_NR_OWN_SYMS,
};

/**
 * struct ksplice_matching - one run of matching
 * @blob:	the tables
 * @size:	their size
 * @head:	their header, same address as @blob
 * @syms:	checked tables of the blob
 * @funcs:	same
 * @relocs:	same
 * @sites:	same
 * @target:	name of the target
 * @walk_modules: see struct ksplice_old
 * @mod:	the target while it is being loaded, or NULL
 * @largest:	size of the largest of @funcs
 * @starts: address of each of @funcs once all match; the caller's to free
 * @addr:	address of each of @syms
 * @seen:	how often each name was seen
 * @own:	addresses of enum ksplice_own_sym, 0 when this kernel lacks it
 * @return_thunk: where returns jump to in this boot, or 0
 * @slots:	learned bases, 0 when not seen yet
 * @run:	copy of the running function
 * @cover:	per byte of @run: an enum ksplice_cover
 * @report:	filled in on failure
 */
struct ksplice_matching {
	const u8 *blob;
	size_t size;
	const struct ksplice_old_header *head;
	const struct ksplice_sym *syms;
	const struct ksplice_func *funcs;
	const struct ksplice_reloc *relocs;
	const struct ksplice_site *sites;
	const char *target;
	ksplice_walk_fn *walk_modules;
	const struct module *mod;
	u32 largest;
	u64 *starts;
	/* working memory, zeroed by the caller */
	u64 *addr;
	u32 *seen;
	u64 own[KSPLICE_NR_OWN_SYMS];
	u64 return_thunk;
	u64 *slots;
	u8 *run;
	u8 *cover;
	struct ksplice_report report;
};

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

/**
 * struct ksplice_place - a patch site in the running kernel
 * @m:		the run
 * @func:	its function
 * @site:	its table entry
 * @run:	its running bytes
 * @pre:	its bytes as compiled
 * @addr:	its run-time address
 */
struct ksplice_place {
	struct ksplice_matching *m;
	const struct ksplice_func *func;
	const struct ksplice_site *site;
	const u8 *run;
	const u8 *pre;
	u64 addr;
};

static inline const char *ksplice_name(const struct ksplice_matching *m, u32 off)
{
	return (const char *)m->blob + off;
}

/* The 32-bit displacement of an instruction that ends at @end. */
static inline s32 ksplice_displacement(const u8 *end)
{
	s32 value;

	memcpy(&value, end - sizeof(value), sizeof(value));
	return value;
}

/* Where a running branch goes whose 32-bit displacement ends at @end. */
static inline u64 ksplice_branch_target(const struct ksplice_place *p, u32 end)
{
	return p->addr + end + ksplice_displacement(p->run + end);
}

/* Where a running branch of two bytes goes. */
static inline u64 ksplice_short_branch_target(const struct ksplice_place *p)
{
	return p->addr + 2 + (s64)(s8)p->run[1];
}

/* ALT_FLAG_DIRECT_CALL of 6.8 and later; before, the feature word has 16 bits. */
static inline bool ksplice_is_direct_call(const struct ksplice_site *site)
{
	return site->feature >> 16 & 2;
}

/* tables.c */
int ksplice_check_tables(struct ksplice_matching *m);

/* resolve.c */
int ksplice_resolve(struct ksplice_matching *m);

/* compare.c */
bool ksplice_read(void *to, u64 addr, size_t len);
int ksplice_compare(struct ksplice_matching *m, const struct ksplice_func *func);
bool ksplice_is_reloc_ok(struct ksplice_matching *m, const struct ksplice_reloc *r,
			 const u8 *field, u64 addr);
bool ksplice_is_as_compiled(const struct ksplice_place *p);
u64 ksplice_compiled_target(const struct ksplice_place *p, u32 len);

/* sites.c */
bool ksplice_is_nops(const u8 *bytes, u32 len);
bool ksplice_is_accounting(u64 target, u64 func);
int ksplice_check_site(const struct ksplice_place *p);
const char *ksplice_site_name(u8 kind);

/* alternatives.c */
bool ksplice_is_replaced(const struct ksplice_place *p);

/* match.c */
int ksplice_run_match(const struct ksplice_old *old, struct ksplice_matching *m);

#endif /* KSPLICE_MATCH_H */

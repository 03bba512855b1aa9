/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The state of one run of matching, which all its files share.
 */
#ifndef KSPLICE_MATCHING_H
#define KSPLICE_MATCHING_H

#include <linux/types.h>
#include "format.h"
#include "types.h"

struct module;

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

/* Symbols that matching itself needs; resolve.c has their names. */
enum ksplice_own_sym {
	KSPLICE_STATIC_CALL_RETURN,
	KSPLICE_INDIRECT_THUNKS,
	KSPLICE_CALL_THUNKS,
	KSPLICE_JUMP_THUNKS,
	KSPLICE_ETEXT,
	KSPLICE_STEXT,
	KSPLICE_NOP_FUNC,
	KSPLICE_RETURN_THUNK,
	KSPLICE_FTRACE_CALLER,
	KSPLICE_FTRACE_REGS_CALLER,
	KSPLICE_JUMP_TABLE,
	KSPLICE_JUMP_TABLE_END,
	KSPLICE_EX_TABLE,
	KSPLICE_EX_TABLE_END,
	KSPLICE_NR_OWN_SYMS,
};

/**
 * struct ksplice_found - where the symbols of the tables are, kept for the next match of a target
 * @addr: address of each
 * @seen: how often each name was found
 * @own: addresses of enum ksplice_own_sym, 0 when this kernel lacks it
 * @has_vmlinux: those of vmlinux were found; they stay where they are
 */
struct ksplice_found {
	u64 *addr;
	u32 *seen;
	u64 own[KSPLICE_NR_OWN_SYMS];
	bool has_vmlinux;
};

/**
 * struct ksplice_matching - one run of matching
 * @blob:	the tables
 * @size:	their size
 * @head:	their header, same address as @blob
 * @syms:	checked tables of the blob
 * @funcs:	likewise
 * @relocs:	likewise
 * @sites:	likewise
 * @target:	name of the target
 * @walk_modules: see struct ksplice_old
 * @mod:	the target while it is being loaded, or NULL
 * @largest:	size of the largest of @funcs
 * @starts: address of each of @funcs once all match; the caller's to free
 * @found:	see struct ksplice_found
 * @addr:	address of each of @syms, of @found
 * @own:	likewise
 * @return_thunk: where returns jump to in this boot, or 0
 * @slots:	learned bases, 0 until one is learned
 * @learned:	which of @slots were learned, in that order
 * @nr_learned:	their number
 * @run:	copy of the running function
 * @cover:	what is known about each byte of @run, see compare.c
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
	struct ksplice_found *found;
	const u64 *addr;
	const u64 *own;
	u64 return_thunk;
	u64 *slots;
	u32 *learned;
	u32 nr_learned;
	u8 *run;
	u8 *cover;
	struct ksplice_report report;
};

static inline const char *ksplice_name(const struct ksplice_matching *m, u32 off)
{
	return (const char *)m->blob + off;
}

#endif /* KSPLICE_MATCHING_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tables of the old code: what ksplicd/create/old_code/tables.py writes and
 * match.c reads.
 *
 * One blob per target, little endian, read-only, 8-byte aligned.  Every offset
 * counts from the first byte of the blob, whose last byte is 0.  Names are
 * printable ASCII without blanks.  The tables follow the header and each other
 * without a gap; every relocation and every site belongs to one function (a
 * relocation also to one alternative), in the order of the tables.  The kernel
 * part trusts nothing in it: each offset, count and index is checked against
 * the blob's size before use.
 *
 * Changing anything that is here changes KSPLICE_OLD_VERSION and a bundle's
 * api-version; what is added changes neither, since a bundle has the core that
 * reads its tables.
 */
#ifndef KSPLICE_FORMAT_H
#define KSPLICE_FORMAT_H

#include <linux/build_bug.h>
#include <linux/types.h>

#define KSPLICE_OLD_MAGIC	0x444c4f4b	/* "KOLD" */
#define KSPLICE_OLD_VERSION	1

/**
 * struct ksplice_table - where an array of the blob lies
 * @off:	offset of the first entry: the end of the table before
 * @nr:		number of entries
 */
struct ksplice_table {
	__u32 off;
	__u32 nr;
};

static_assert(sizeof(struct ksplice_table) == 8);

/**
 * struct ksplice_old_header - first bytes of the blob
 * @magic:	KSPLICE_OLD_MAGIC
 * @version:	KSPLICE_OLD_VERSION
 * @size:	size of the whole blob in bytes
 * @target:	offset of the target's name, "vmlinux" or a module
 * @nr_slots:	number of learned bases (KSPLICE_REF_SLOT)
 * @reserved:	0
 * @syms:	struct ksplice_sym[], ascending by name (strcmp), then pos
 * @funcs:	struct ksplice_func[]
 * @relocs:	struct ksplice_reloc[]
 * @sites:	struct ksplice_site[]
 */
struct ksplice_old_header {
	__u32 magic;
	__u32 version;
	__u32 size;
	__u32 target;
	__u32 nr_slots;
	__u32 reserved;
	struct ksplice_table syms;
	struct ksplice_table funcs;
	struct ksplice_table relocs;
	struct ksplice_table sites;
};

static_assert(sizeof(struct ksplice_old_header) == 56);

#define KSPLICE_SYM_IN_TARGET	0x80000000U
#define KSPLICE_NO_SYM		(~0U)

/**
 * struct ksplice_sym - a symbol of the running kernel
 * @name:	offset of its NUL-terminated name
 * @pos:	0: the name must be unique; n: the n-th symbol of that name in
 *		kallsyms order.  KSPLICE_SYM_IN_TARGET is set when the symbol
 *		belongs to the target module rather than to vmlinux.
 */
struct ksplice_sym {
	__u32 name;
	__u32 pos;
};

static_assert(sizeof(struct ksplice_sym) == 8);

/**
 * struct ksplice_func - one function of the old code
 * @name:	offset of its name, for reports
 * @sym:	index into syms: where it runs
 * @bytes:	offset of its code as the compiler wrote it
 * @size:	its size in bytes
 * @reloc:	index of its first relocation, ascending by offset, no overlap
 * @nr_relocs:	number of relocations
 * @site:	index of its first patch site, ascending by (offset, kind)
 * @nr_sites:	number of patch sites
 */
struct ksplice_func {
	__u32 name;
	__u32 sym;
	__u32 bytes;
	__u32 size;
	__u32 reloc;
	__u32 nr_relocs;
	__u32 site;
	__u32 nr_sites;
};

static_assert(sizeof(struct ksplice_func) == 32);

/**
 * enum ksplice_ref - what a relocation must point to
 * @KSPLICE_REF_SYM:	value == address(syms[ref]) + add
 * @KSPLICE_REF_BYTES:	@len bytes at (value - add) equal those at offset @ref
 *			(strings with their NUL, merged constants)
 * @KSPLICE_REF_SLOT:	(value - add) is the base of a section whose address no
 *			symbol gives: the first one seen is learned into slot
 *			@ref, all others must agree
 *
 * "value" is the field's content, sign-extended for R_X86_64_32S and the
 * PC-relative types, plus the field's own run-time address for the
 * PC-relative types.
 */
enum ksplice_ref {
	KSPLICE_REF_SYM = 0,
	KSPLICE_REF_BYTES = 1,
	KSPLICE_REF_SLOT = 2,
};

/**
 * struct ksplice_reloc - one relocated field
 * @off:	offset in the function, or in an alternative's replacement
 * @ref:	see enum ksplice_ref
 * @add:	see enum ksplice_ref
 * @type:	psABI relocation type: R_X86_64_64, _PC32, _PLT32, _32, _32S or
 *		_PC64
 * @kind:	enum ksplice_ref
 * @len:	number of bytes for KSPLICE_REF_BYTES
 * @pad:	0
 */
struct ksplice_reloc {
	__u32 off;
	__u32 ref;
	__s64 add;
	__u8 type;
	__u8 kind;
	__u16 len;
	__u32 pad;
};

static_assert(sizeof(struct ksplice_reloc) == 24);

/**
 * enum ksplice_site_kind - who may have rewritten the bytes, and into what
 * @KSPLICE_SITE_FENTRY:	__mcount_loc
 * @KSPLICE_SITE_ALT:		.altinstructions, one site per entry, in the
 *				order of the table
 * @KSPLICE_SITE_JUMP_LABEL:	__jump_table; target is syms[sym] + add
 * @KSPLICE_SITE_LOCK:		.smp_locks
 * @KSPLICE_SITE_RETURN:	.return_sites
 * @KSPLICE_SITE_RETPOLINE:	.retpoline_sites
 * @KSPLICE_SITE_STATIC_CALL:	.static_call_sites; the key is syms[sym] + add
 * @KSPLICE_SITE_PARAVIRT:	.parainstructions
 * @KSPLICE_SITE_ENDBR:		the landing pad of a function
 * @KSPLICE_SITE_RUNTIME_PTR:	runtime_ptr_*, the value of syms[sym]
 * @KSPLICE_SITE_RUNTIME_SHIFT:	runtime_shift_*, the low byte of syms[sym]
 * @KSPLICE_SITE_CALL:		.call_sites
 * @KSPLICE_SITE_KEY:		__jump_table of vmlinux: the key is syms[sym] + add, whose
 *				lowest bit says that the branch is compiled as taken
 * @KSPLICE_SITE_FIXUP:		__ex_table of vmlinux: a fault leads to syms[sym] + add
 *
 * Those from KSPLICE_SITE_KEY on say what tables of the kernel have about a
 * place, whose bytes are compared all the same.
 */
enum ksplice_site_kind {
	KSPLICE_SITE_FENTRY = 0,
	KSPLICE_SITE_ALT = 1,
	KSPLICE_SITE_JUMP_LABEL = 2,
	KSPLICE_SITE_LOCK = 3,
	KSPLICE_SITE_RETURN = 4,
	KSPLICE_SITE_RETPOLINE = 5,
	KSPLICE_SITE_STATIC_CALL = 6,
	KSPLICE_SITE_PARAVIRT = 7,
	KSPLICE_SITE_ENDBR = 8,
	KSPLICE_SITE_RUNTIME_PTR = 9,
	KSPLICE_SITE_RUNTIME_SHIFT = 10,
	KSPLICE_SITE_CALL = 11,
	KSPLICE_SITE_KEY = 12,
	KSPLICE_SITE_FIXUP = 13,
};

/* In @feature of an alternative: ALT_FLAG_DIRECT_CALL, of 6.8 and later. */
#define KSPLICE_ALT_DIRECT_CALL	0x20000U

/**
 * struct ksplice_site - a place that the kernel rewrites at run time
 * @off:	offset in the function
 * @kind:	enum ksplice_site_kind
 * @len:	bytes that may differ; of a row of a table, those it is about
 * @alt_len:	ALT: length of the replacement, may be 0
 * @nr_relocs:	ALT: relocations of the replacement
 * @alt:	ALT: offset of the replacement's bytes
 * @reloc:	ALT: index of its first relocation (offsets count from the
 *		replacement's first byte)
 * @sym:	JUMP_LABEL, STATIC_CALL, RUNTIME_*, KEY, FIXUP: index into syms, or
 *		KSPLICE_NO_SYM for a static call whose key has no symbol
 * @feature:	ALT: the entry's CPU feature word with its flags, of which only
 *		KSPLICE_ALT_DIRECT_CALL counts: every replacement is legal on every
 *		CPU.  FIXUP: what is done there, the entry's third word
 * @add:	JUMP_LABEL, STATIC_CALL, KEY, FIXUP: added to the symbol
 */
struct ksplice_site {
	__u32 off;
	__u8 kind;
	__u8 len;
	__u8 alt_len;
	__u8 nr_relocs;
	__u32 alt;
	__u32 reloc;
	__u32 sym;
	__u32 feature;
	__s64 add;
};

static_assert(sizeof(struct ksplice_site) == 32);

#endif /* KSPLICE_FORMAT_H */

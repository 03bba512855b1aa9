/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Running code and data, and the relocated fields of code.
 */
#ifndef KSPLICE_FIELD_H
#define KSPLICE_FIELD_H

#include <linux/string.h>
#include <linux/types.h>
#include "matching.h"

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

/* The 32-bit displacement of an instruction that ends at @end. */
static inline s32 ksplice_displacement(const u8 *end)
{
	s32 value;

	memcpy(&value, end - sizeof(value), sizeof(value));
	return value;
}

/* What the tables say of a site: an address. */
static inline u64 ksplice_symbol_value(const struct ksplice_place *p)
{
	return p->m->addr[p->site->sym] + p->site->add;
}

bool ksplice_read(void *to, u64 addr, size_t len);
void ksplice_forget_slots(struct ksplice_matching *m, u32 known);
bool ksplice_is_reloc_ok(struct ksplice_matching *m, const struct ksplice_reloc *r,
			 const u8 *field, u64 addr);
bool ksplice_is_as_compiled(const struct ksplice_place *p);
u64 ksplice_compiled_target(const struct ksplice_place *p, u32 len);
void ksplice_fill_fields(const struct ksplice_matching *m, const struct ksplice_func *f, u32 off,
			 u8 *bytes, u32 len);

#endif /* KSPLICE_FIELD_H */

// SPDX-License-Identifier: GPL-2.0-only
/*
 * The legal run-time forms of alternatives, after apply_alternatives() of
 * arch/x86/kernel/alternative.c.
 *
 * A check depends only on the running bytes, the old code and the tables.  No
 * locks, see sites.c.
 */
#include <linux/cache.h>
#include <linux/kernel.h>
#include <linux/string.h>
#include <asm/nops.h>
#include <asm/text-patching.h>
#include "field.h"
#include "insn.h"
#include "reloc.h"
#include "sites.h"

#define RIP_CALL_SIZE		6

/*
 * recompute_jump(), __apply_relocation(): a replacement that is one "jmp rel32"
 * is shortened, if it can be.
 */
static bool is_shortened_jump(const struct ksplice_place *p)
{
	const struct ksplice_reloc *r = p->m->relocs + p->site->reloc;
	const u8 *replacement = p->m->blob + p->site->alt;
	u32 end = JMP8_INSN_SIZE;

	if (p->site->alt_len != JMP32_INSN_SIZE || replacement[0] != JMP32_INSN_OPCODE ||
	    p->site->nr_relocs != 1 || r->off != 1 || r->kind != KSPLICE_REF_SYM ||
	    p->run[0] != JMP8_INSN_OPCODE ||
	    ksplice_short_branch_target(p) != p->m->addr[r->ref] + r->add + sizeof(s32))
		return false;
	if (p->run[end] == INT3_INSN_OPCODE) {
		if (memchr_inv(p->run + end, INT3_INSN_OPCODE, JMP32_INSN_SIZE - end))
			return false;
		end = JMP32_INSN_SIZE;
	}
	return ksplice_is_nops(p->run + end, p->site->len - end);
}

/* alt_replace_call(): in place of "call *pointer" a call of what it points to */
static bool is_direct_call(const struct ksplice_place *p)
{
	u64 pointer = ksplice_compiled_target(p, RIP_CALL_SIZE), func, target;

	if (p->pre[0] != INDIRECT_OPCODE || p->pre[1] != MODRM_CALL_RIP || !pointer ||
	    !ksplice_read(&func, pointer, sizeof(func)))
		return false;
	if (func == p->m->own[KSPLICE_NOP_FUNC])
		return ksplice_is_nops(p->run, p->site->len);
	target = ksplice_branch_target(p, CALL_INSN_SIZE);
	return p->run[0] == CALL_INSN_OPCODE &&
	       (target == func || ksplice_is_accounting(target, func)) &&
	       ksplice_is_nops(p->run + CALL_INSN_SIZE, p->site->len - CALL_INSN_SIZE);
}

/* A relocated field of a replacement, whose call patch_alt_call_sites() may have made count. */
static bool is_replaced_field_ok(const struct ksplice_place *p, const struct ksplice_reloc *r)
{
	if (ksplice_is_reloc_ok(p->m, r, p->run + r->off, p->addr + r->off))
		return true;
	return p->run[0] == CALL_INSN_OPCODE && r->off == 1 && r->kind == KSPLICE_REF_SYM &&
	       ksplice_is_accounting(ksplice_branch_target(p, CALL_INSN_SIZE),
				     p->m->addr[r->ref] + r->add + sizeof(s32));
}

/**
 * ksplice_is_replaced - check that an alternative runs its replacement
 * @p: a site of kind KSPLICE_SITE_ALT
 *
 * apply_alternatives() copies the replacement, makes its branch relative to
 * the new place and fills up with nops.
 */
bool ksplice_is_replaced(const struct ksplice_place *p)
{
	const struct ksplice_reloc *r = p->m->relocs + p->site->reloc;
	const u8 *replacement = p->m->blob + p->site->alt;
	u32 i, done = 0, end = 0, nr = p->site->nr_relocs, len = p->site->alt_len;
	u32 known = p->m->nr_learned;

	if (p->site->feature & KSPLICE_ALT_DIRECT_CALL)
		return is_direct_call(p);
	if (is_shortened_jump(p))
		return true;
	/* The kernel makes its trailing nops and those behind it into longer ones. */
	if (nr)
		end = r[nr - 1].off + ksplice_reloc_width(r[nr - 1].type);
	while (len > end && replacement[len - 1] == BYTES_NOP1)
		len--;

	/* Plain bytes first: a slot must not learn from another alternative. */
	for (i = 0; i <= nr; i++) {
		end = i < nr ? r[i].off : len;
		if (memcmp(p->run + done, replacement + done, end - done))
			return false;
		if (i < nr)
			done = end + ksplice_reloc_width(r[i].type);
	}
	if (!ksplice_is_nops(p->run + len, p->site->len - len))
		return false;
	for (i = 0; i < nr && is_replaced_field_ok(p, &r[i]); i++)
		;
	if (i < nr)
		ksplice_forget_slots(p->m, known);
	return i == nr;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * The legal run-time forms of patch sites, except alternatives (alternatives.c).
 *
 * One function per kind, each after the kernel function that rewrites the site.
 * A check depends only on the running bytes, the old code and the tables, and
 * accepts only old code that the kernel would rewrite this way.  No locks: a
 * site looks illegal while it is rewritten, and match.c compares it again.
 */
#include <linux/kernel.h>
#include <linux/pgtable.h>
#include <linux/static_call.h>
#include <linux/string.h>
#include <asm/nops.h>
#include <asm/nospec-branch.h>
#include <asm/text-patching.h>
#include "field.h"
#include "insn.h"
#include "sites.h"

#define LOCK_PREFIX_BYTE	0xf0
#define DS_PREFIX_BYTE		0x3e
#define CS_PREFIX_BYTE		0x2e
#define TWO_BYTE_ESCAPE		0x0f
#define JCC8_OPCODE		0x70
#define ILLEGAL			(-1)

static bool is_jcc32(const u8 *insn)
{
	return insn[0] == TWO_BYTE_ESCAPE && (insn[1] & 0xf0) == 0x80;
}

static bool is_nop_or(const u8 *bytes, u32 len, u8 opcode)
{
	return bytes[0] == opcode || ksplice_is_single_nop(bytes, len);
}

/*
 * ftrace_get_addr_new(): the callers of ftrace are in the kernel's image.  Its other
 * trampolines and those of BPF are in memory for modules, where only their owners know them.
 */
static bool is_tracer(const struct ksplice_matching *m, u64 target)
{
	return target == m->own[KSPLICE_FTRACE_CALLER] ||
	       target == m->own[KSPLICE_FTRACE_REGS_CALLER] ||
	       (target >= MODULES_VADDR && target < MODULES_END);
}

/* ftrace: a nop, or a call when a tracer, kprobe or live patch sits here. */
static int check_fentry(const struct ksplice_place *p)
{
	u32 len = p->site->len;

	if (!is_nop_or(p->pre, len, CALL_INSN_OPCODE))
		return ILLEGAL;
	if (ksplice_is_single_nop(p->run, len) || ksplice_is_as_compiled(p))
		return len;
	return p->run[0] == CALL_INSN_OPCODE && is_tracer(p->m, ksplice_branch_target(p, len)) ?
	       len : ILLEGAL;
}

/* __jump_label_patch() */
static int check_jump_label(const struct ksplice_place *p)
{
	u32 len = p->site->len;

	if (!is_nop_or(p->pre, len, len == JMP8_INSN_SIZE ? JMP8_INSN_OPCODE : JMP32_INSN_OPCODE))
		return ILLEGAL;
	if (ksplice_is_single_nop(p->run, len))
		return len;
	if (len == JMP8_INSN_SIZE && p->run[0] == JMP8_INSN_OPCODE &&
	    ksplice_short_branch_target(p) == ksplice_symbol_value(p))
		return len;
	if (len == JMP32_INSN_SIZE && p->run[0] == JMP32_INSN_OPCODE &&
	    ksplice_branch_target(p, len) == ksplice_symbol_value(p))
		return len;
	return ILLEGAL;
}

/* alternatives_smp_unlock() */
static int check_lock(const struct ksplice_place *p)
{
	if (p->pre[0] != LOCK_PREFIX_BYTE)
		return ILLEGAL;
	return p->run[0] == LOCK_PREFIX_BYTE || p->run[0] == DS_PREFIX_BYTE ? 1 : ILLEGAL;
}

static bool is_return(const struct ksplice_place *p)
{
	static const u8 ret[] = { RET_INSN_OPCODE, INT3_INSN_OPCODE, INT3_INSN_OPCODE,
				  INT3_INSN_OPCODE, INT3_INSN_OPCODE };

	return !memcmp(p->run, ret, sizeof(ret)) ||
	       (p->run[0] == JMP32_INSN_OPCODE && p->m->return_thunk &&
		ksplice_branch_target(p, JMP32_INSN_SIZE) == p->m->return_thunk);
}

/* patch_return() */
static int check_return(const struct ksplice_place *p)
{
	if (p->pre[0] != JMP32_INSN_OPCODE)
		return ILLEGAL;
	return is_return(p) || ksplice_is_as_compiled(p) ? p->site->len : ILLEGAL;
}

/* patch_retpoline() */
static int check_retpoline(const struct ksplice_place *p)
{
	u64 thunk = ksplice_compiled_target(p, p->site->len), target;
	u64 thunks = p->m->own[KSPLICE_INDIRECT_THUNKS];
	bool is_jcc = is_jcc32(p->pre), is_call;
	u32 len = p->site->len, reg, lfence;
	u8 opcode = p->pre[p->pre[0] == CS_PREFIX_BYTE];

	if (!is_jcc && opcode != CALL_INSN_OPCODE && opcode != JMP32_INSN_OPCODE)
		return ILLEGAL;
	if (ksplice_is_as_compiled(p))
		return len;
	if (!thunks || thunk < thunks || (thunk - thunks) / RETPOLINE_THUNK_SIZE > 15)
		return ILLEGAL;
	reg = (thunk - thunks) / RETPOLINE_THUNK_SIZE;
	is_call = !is_jcc && opcode == CALL_INSN_OPCODE;

	/* The same branch through a thunk that is safe from ITS, or counts calls. */
	target = ksplice_branch_target(p, len) - reg * RETPOLINE_THUNK_SIZE;
	if (!memcmp(p->run, p->pre, len - sizeof(s32)) &&
	    (ksplice_is_its_thunk(ksplice_branch_target(p, len), reg) ||
	     target == p->m->own[is_call ? KSPLICE_CALL_THUNKS : KSPLICE_JUMP_THUNKS]))
		return len;

	for (lfence = 0; lfence < 2; lfence++) {
		u8 form[16];
		u32 n = 0;

		if (is_jcc) {
			form[n++] = JCC8_OPCODE + ((p->pre[1] & 0xf) ^ 1);
			form[n++] = len - JMP8_INSN_SIZE;
		}
		if (lfence) {
			form[n++] = 0x0f;
			form[n++] = 0xae;
			form[n++] = 0xe8;
		}
		n += ksplice_put_indirect(form + n, is_call, reg);
		if (!is_call && n < len)
			form[n++] = INT3_INSN_OPCODE;
		if (n <= len && !memcmp(p->run, form, n))
			return n;
	}
	return ILLEGAL;
}

/*
 * Where the trampoline of a static call leads; 0: it returns.  Modules know some
 * keys by their trampoline only, which is rewritten like the sites.
 */
static bool read_trampoline(u64 *func, const struct ksplice_place *p, u64 trampoline)
{
	u8 insn[JMP32_INSN_SIZE];

	if (!trampoline || !ksplice_read(insn, trampoline, sizeof(insn)))
		return false;
	*func = 0;
	if (*insn == JMP32_INSN_OPCODE) {
		*func = trampoline + sizeof(insn) + ksplice_displacement(insn + sizeof(insn));
		if (*func == p->m->return_thunk)
			*func = 0;
	}
	return *insn == JMP32_INSN_OPCODE || *insn == RET_INSN_OPCODE;
}

/* True when the static call leads to @target now; 0: no branch. */
static bool is_static_callee(const struct ksplice_place *p, u64 target)
{
	u64 func;

	if (p->site->sym == KSPLICE_NO_SYM) {
		if (!read_trampoline(&func, p, ksplice_compiled_target(p, p->site->len)))
			return false;
	} else if (!ksplice_read(&func, ksplice_symbol_value(p), sizeof(func))) {
		/* struct static_call_key begins with its function */
		return false;
	}
	return func == target || ksplice_is_accounting(target, func);
}

/* __static_call_transform() */
static int check_static_call(const struct ksplice_place *p)
{
	static const u8 xor5rax[] = { 0x2e, 0x2e, 0x2e, 0x31, 0xc0 };
	u32 len = p->site->len;

	if (ksplice_is_as_compiled(p))
		return len;

	if (is_jcc32(p->pre)) {
		if (len != 6 || memcmp(p->run, p->pre, 2))
			return ILLEGAL;
		if (is_static_callee(p, ksplice_branch_target(p, len)))
			return len;
		if (is_static_callee(p, 0) &&
		    (ksplice_branch_target(p, len) == p->m->return_thunk ||
		     ksplice_branch_target(p, len) == p->m->own[KSPLICE_STATIC_CALL_RETURN]))
			return len;
		return ILLEGAL;
	}

	if (p->run[0] == p->pre[0] && is_static_callee(p, ksplice_branch_target(p, CALL_INSN_SIZE)))
		return CALL_INSN_SIZE;
	if (p->pre[0] == JMP32_INSN_OPCODE)
		return is_return(p) && is_static_callee(p, 0) ? JMP32_INSN_SIZE : ILLEGAL;
	if (p->pre[0] != CALL_INSN_OPCODE)
		return ILLEGAL;
	if (ksplice_is_single_nop(p->run, CALL_INSN_SIZE) && is_static_callee(p, 0))
		return CALL_INSN_SIZE;
	if (!memcmp(p->run, xor5rax, sizeof(xor5rax)) &&
	    is_static_callee(p, (unsigned long)&__static_call_return0))
		return CALL_INSN_SIZE;
	return ILLEGAL;
}

/* apply_paravirt(): a direct call and nops, or nothing but nops. */
static int check_paravirt(const struct ksplice_place *p)
{
	u64 target = ksplice_branch_target(p, CALL_INSN_SIZE);

	/* "call *pv_ops+N", with an absolute or a %rip-relative address */
	if (p->pre[0] != INDIRECT_OPCODE ||
	    (p->pre[1] != MODRM_CALL_ABSOLUTE && p->pre[1] != MODRM_CALL_RIP))
		return ILLEGAL;
	if (ksplice_is_nops(p->run, p->site->len))
		return p->site->len;
	if (p->run[0] == CALL_INSN_OPCODE && target >= p->m->own[KSPLICE_STEXT] &&
	    target < p->m->own[KSPLICE_ETEXT])
		return CALL_INSN_SIZE;
	return ILLEGAL;
}

/* poison_endbr(): "osp nopl (%rax)" where nobody jumps to */
static int check_endbr(const struct ksplice_place *p)
{
	static const u8 endbr[] = { 0xf3, 0x0f, 0x1e, 0xfa };
	static const u8 poison[] = { 0x66, 0x0f, 0x1f, 0x00 };

	if (memcmp(p->pre, endbr, sizeof(endbr)))
		return ILLEGAL;
	return !memcmp(p->run, endbr, sizeof(endbr)) || !memcmp(p->run, poison, sizeof(poison)) ?
	       p->site->len : ILLEGAL;
}

/* runtime_const_init(): what a variable of the kernel held at boot */
static int check_runtime(const struct ksplice_place *p)
{
	u8 value[8];

	if (!ksplice_read(value, ksplice_symbol_value(p), p->site->len))
		return ILLEGAL;
	return !memcmp(p->run, value, p->site->len) ? p->site->len : ILLEGAL;
}

/* patch_call() */
static int check_call(const struct ksplice_place *p)
{
	u32 len = p->site->len;

	if (p->pre[0] != CALL_INSN_OPCODE)
		return ILLEGAL;
	if (ksplice_is_as_compiled(p))
		return len;
	if (p->run[0] == CALL_INSN_OPCODE &&
	    ksplice_is_accounting(ksplice_branch_target(p, len), ksplice_compiled_target(p, len)))
		return len;
	return ILLEGAL;
}

static const struct {
	const char *name;
	int (*check)(const struct ksplice_place *p);
} kinds[] = {
	[KSPLICE_SITE_FENTRY] = { "fentry", check_fentry },
	[KSPLICE_SITE_ALT] = { "alternative", NULL },
	[KSPLICE_SITE_JUMP_LABEL] = { "jump_label", check_jump_label },
	[KSPLICE_SITE_LOCK] = { "lock", check_lock },
	[KSPLICE_SITE_RETURN] = { "return", check_return },
	[KSPLICE_SITE_RETPOLINE] = { "retpoline", check_retpoline },
	[KSPLICE_SITE_STATIC_CALL] = { "static_call", check_static_call },
	[KSPLICE_SITE_PARAVIRT] = { "paravirt", check_paravirt },
	[KSPLICE_SITE_ENDBR] = { "endbr", check_endbr },
	[KSPLICE_SITE_RUNTIME_PTR] = { "runtime_const", check_runtime },
	[KSPLICE_SITE_RUNTIME_SHIFT] = { "runtime_const", check_runtime },
	[KSPLICE_SITE_CALL] = { "call", check_call },
	[KSPLICE_SITE_KEY] = { "jump_label_key", NULL },
	[KSPLICE_SITE_FIXUP] = { "fixup", NULL },
};

const char *ksplice_site_name(u8 kind)
{
	return kinds[kind].name;
}

/**
 * ksplice_check_site - check a site that is neither an alternative nor a row of a table
 * @p: the site
 *
 * Return: the number of bytes that its instruction takes; nops must follow up
 * to the site's end.  Negative: no legal form.
 */
int ksplice_check_site(const struct ksplice_place *p)
{
	return kinds[p->site->kind].check(p);
}

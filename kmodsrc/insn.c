// SPDX-License-Identifier: GPL-2.0-only
/*
 * Instructions that the kernel puts in place of others, each after the kernel
 * function that writes it.
 *
 * No locks, see match.c.
 */
#include <linux/cache.h>
#include <linux/kernel.h>
#include <linux/string.h>
#include <asm/nops.h>
#include <asm/text-patching.h>
#include "compat.h"
#include "insn.h"

#define REX_B_BYTE		0x41

static const u8 nops[] = KSPLICE_ALL_NOPS;

/* add_nop(): in place of more than the longest nop, a jump over that many int3. */
static u32 jumped_length(const u8 *bytes, u32 room)
{
	u32 head, len;

	if (room >= JMP8_INSN_SIZE && bytes[0] == JMP8_INSN_OPCODE) {
		head = JMP8_INSN_SIZE;
		len = head + (s8)bytes[1];
	} else if (room >= JMP32_INSN_SIZE && bytes[0] == JMP32_INSN_OPCODE) {
		head = JMP32_INSN_SIZE;
		len = head + ksplice_displacement(bytes + JMP32_INSN_SIZE);
	} else {
		return 0;
	}
	if (len < head || len <= ASM_NOP_MAX || len > room)
		return 0;
	return memchr_inv(bytes + head, INT3_INSN_OPCODE, len - head) ? 0 : len;
}

/* Length of the kernel's nop that begins here, 0: none. */
static u32 nop_length(const u8 *bytes, u32 room)
{
	const u8 *nop = nops;
	u32 len;

	for (len = 1; len <= min_t(u32, ASM_NOP_MAX, room); nop += len++)
		if (!memcmp(bytes, nop, len))
			return len;
	return jumped_length(bytes, room);
}

bool ksplice_is_single_nop(const u8 *bytes, u32 len)
{
	return nop_length(bytes, len) == len;
}

/* True when the bytes are nothing but the kernel's nops, or there are none. */
bool ksplice_is_nops(const u8 *bytes, u32 len)
{
	while (len) {
		u32 n = nop_length(bytes, len);

		if (!n)
			return false;
		bytes += n;
		len -= n;
	}
	return true;
}

/* patch_dest(): true for the code before @func that counts a call, "sarq $5, %gs:...". */
bool ksplice_is_accounting(u64 target, u64 func)
{
	static const u8 want[] = { 0x65, 0x48, 0xc1 };
	u8 have[sizeof(want)];

	return target < func && func - target <= 16 &&
	       ksplice_read(have, target, sizeof(have)) &&
	       !memcmp(have, want, sizeof(want));
}

/* "[REX.B] call/jmp *%reg", as emit_indirect() writes it; returns its length. */
u32 ksplice_put_indirect(u8 *bytes, bool is_call, u32 reg)
{
	u32 n = 0;

	if (reg >= 8)
		bytes[n++] = REX_B_BYTE;
	bytes[n++] = INDIRECT_OPCODE;
	bytes[n++] = (is_call ? 0xd0 : 0xe0) + (reg & 7);
	return n;
}

/* its_init_thunk() and ITS_THUNK: "jmp *%reg; int3" */
bool ksplice_is_its_thunk(u64 addr, u32 reg)
{
	u8 want[4], have[4];
	u32 n = ksplice_put_indirect(want, false, reg);

	want[n++] = INT3_INSN_OPCODE;
	return ksplice_read(have, addr, n) && !memcmp(want, have, n);
}

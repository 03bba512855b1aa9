/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Instructions that the kernel puts in place of others: nops and branches.
 */
#ifndef KSPLICE_INSN_H
#define KSPLICE_INSN_H

#include <linux/types.h>
#include "field.h"

/* Of indirect calls and jumps, and what follows it in calls through a pointer in memory. */
#define INDIRECT_OPCODE		0xff
#define MODRM_CALL_ABSOLUTE	0x14
#define MODRM_CALL_RIP		0x15

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

bool ksplice_is_single_nop(const u8 *bytes, u32 len);
bool ksplice_is_nops(const u8 *bytes, u32 len);
bool ksplice_is_accounting(u64 target, u64 func);
u32 ksplice_put_indirect(u8 *bytes, bool is_call, u32 reg);
bool ksplice_is_its_thunk(u64 addr, u32 reg);

#endif /* KSPLICE_INSN_H */

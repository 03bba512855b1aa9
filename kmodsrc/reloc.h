/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The psABI relocation types that references have, those of x86-64.
 */
#ifndef KSPLICE_RELOC_H
#define KSPLICE_RELOC_H

#include <linux/elf.h>
#include <linux/string.h>
#include <linux/types.h>

/* Width of the field that a relocation of this type fills, 0: not one of ours. */
static inline u32 ksplice_reloc_width(u8 type)
{
	switch (type) {
	case R_X86_64_64:
	case R_X86_64_PC64:
		return 8;
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
	case R_X86_64_32:
	case R_X86_64_32S:
		return 4;
	default:
		return 0;
	}
}

/* What a field of this type at @addr refers to, see enum ksplice_ref. */
static inline u64 ksplice_reloc_value(u8 type, const u8 *field, u64 addr)
{
	u64 value = 0;

	memcpy(&value, field, ksplice_reloc_width(type));
	switch (type) {
	case R_X86_64_PC64:
		return value + addr;
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
		return (s32)value + addr;
	case R_X86_64_32S:
		return (s32)value;
	default:
		return value;
	}
}

#endif /* KSPLICE_RELOC_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What kmodsrc's matching takes from the kernel's headers, for a program.
 *
 * Values and prototypes are those of Linux 6.1.
 */
#ifndef KSPLICE_TEST_KERNEL_H
#define KSPLICE_TEST_KERNEL_H

#include <elf.h>
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asm/types.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int32_t s32;
typedef int64_t s64;

#define __maybe_unused __attribute__((unused))
#define __stringify_1(x) #x
#define __stringify(x) __stringify_1(x)
#define ARRAY_SIZE(x) (sizeof(x) / sizeof((x)[0]))
#define EXPORT_SYMBOL_GPL(x)

#define max(a, b) ({ typeof(a) a_ = (a); typeof(b) b_ = (b); a_ > b_ ? a_ : b_; })
#define min(a, b) ({ typeof(a) a_ = (a); typeof(b) b_ = (b); a_ < b_ ? a_ : b_; })
#define min3(a, b, c) min(min(a, b), c)
#define min_t(type, a, b) min((type)(a), (type)(b))

#define KSYM_NAME_LEN 512
#define MODULE_NAME_LEN 56
#define isascii(c) (((unsigned char)(c)) <= 0x7f)
#define isgraph(c) ((c) > 0x20 && (c) < 0x7f)

struct module {
	char name[MODULE_NAME_LEN];
};

static inline bool within_module_init(unsigned long addr, const struct module *mod)
{
	(void)addr;
	(void)mod;
	return false;
}

int kallsyms_on_each_symbol(int (*fn)(void *, const char *, struct module *, unsigned long),
			    void *data);
int module_kallsyms_on_each_symbol(int (*fn)(void *, const char *, struct module *, unsigned long),
				   void *data);

#define __START_KERNEL_map 0xffffffff80000000UL
#define MODULES_VADDR 0xffffffffc0000000UL
#define MODULES_END 0xffffffffff000000UL
long copy_from_kernel_nofault(void *to, const void *from, size_t size);

#define GFP_KERNEL 0
#define kvcalloc(n, size, flags) calloc(n, size)
#define kvmalloc(size, flags) malloc(size)
#define kvmalloc_array(n, size, flags) malloc((n) * (size))
#define kvfree(p) free((void *)(p))
#define cond_resched() do { } while (0)
void usleep_range(unsigned long low, unsigned long high);
#define pr_err(...) do { } while (0)

static inline void *memchr_inv(const void *p, int c, size_t n)
{
	for (const u8 *b = p; n; b++, n--)
		if (*b != (u8)c)
			return (void *)b;
	return NULL;
}

static inline u32 get_unaligned_le32(const void *p)
{
	u32 value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static inline u64 get_unaligned_le64(const void *p)
{
	u64 value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static inline void put_unaligned_le64(u64 value, void *p)
{
	memcpy(p, &value, sizeof(value));
}

/* asm/nops.h */
#define ASM_NOP_MAX 8
#define BYTES_NOP1 0x90
#define BYTES_NOP2 0x66, BYTES_NOP1
#define BYTES_NOP3 0x0f, 0x1f, 0x00
#define BYTES_NOP4 0x0f, 0x1f, 0x40, 0x00
#define BYTES_NOP5 0x0f, 0x1f, 0x44, 0x00, 0x00
#define BYTES_NOP6 0x66, BYTES_NOP5
#define BYTES_NOP7 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00
#define BYTES_NOP8 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00

/* asm/text-patching.h, asm/nospec-branch.h */
#define INT3_INSN_OPCODE 0xcc
#define RET_INSN_OPCODE 0xc3
#define CALL_INSN_SIZE 5
#define CALL_INSN_OPCODE 0xe8
#define JMP32_INSN_SIZE 5
#define JMP32_INSN_OPCODE 0xe9
#define JMP8_INSN_SIZE 2
#define JMP8_INSN_OPCODE 0xeb
#define RETPOLINE_THUNK_SIZE 32

long __static_call_return0(void);

/* linux/jump_label.h, asm/extable.h */
struct jump_entry {
	s32 code;
	s32 target;
	long key;
};

struct exception_table_entry {
	int insn, fixup, data;
};

#endif

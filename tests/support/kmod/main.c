// SPDX-License-Identifier: GPL-2.0-only
/*
 * Matches tables from standard input with a kernel from standard input.
 *
 *	u32 number of symbols, each: u64 address, u8 is in the target, u8 length, name
 *	u32 number of pieces, each: u64 address, u32 size, bytes
 *	u32 size, tables; again and again: u8 target is a module, u32 size, bytes
 *
 * Says the number of the abort cause for each, and what differs where.  For each
 * pair of arguments ADDRESS and SLEEPS there is an int3 until so often was slept.
 */
#include "stand_in.h"
#include "compat.h"
#include "match.h"

struct symbol {
	u64 addr;
	bool is_in_target;
	char name[256];
};

struct piece {
	u64 addr;
	u32 size;
	u8 *data;
};

static struct symbol *symbols;
static struct piece *pieces;
static u32 nr_symbols, nr_pieces;
static struct {
	u64 addr;
	unsigned long sleeps;
} pokes[4];
static int nr_pokes;
static unsigned long sleeps;

static bool get(void *to, size_t size)
{
	return fread(to, 1, size, stdin) == size;
}

static int walk(int (*fn)(void *, const char *, struct module *, unsigned long), void *data,
		bool is_in_target)
{
	for (u32 i = 0; i < nr_symbols; i++)
		if (symbols[i].is_in_target == is_in_target)
			fn(data, symbols[i].name, is_in_target ? &(struct module){ "romfs" } : NULL,
			   symbols[i].addr);
	return 0;
}

int kallsyms_on_each_symbol(int (*fn)(void *, const char *, struct module *, unsigned long),
			    void *data)
{
	return walk(fn, data, false);
}

/* What the kernel's name is in kmodsrc. */
int walk_vmlinux_(int (*fn)(void *, const char *, struct module *, unsigned long), void *data)
	KSPLICE_VMLINUX_SYMBOL(kallsyms_on_each_symbol);
int walk_vmlinux_(int (*fn)(void *, const char *, struct module *, unsigned long), void *data)
{
	return walk(fn, data, false);
}

static int walk_modules(const char *target, void *visit, void *data)
{
	(void)target;
	return walk((int (*)(void *, const char *, struct module *, unsigned long))visit, data, true);
}

long __static_call_return0(void)
{
	return 0;
}

long copy_from_kernel_nofault(void *to, const void *from, size_t size)
{
	u64 addr = (u64)from;

	for (u32 i = 0; i < nr_pieces; i++) {
		struct piece *p = &pieces[i];

		if (addr >= p->addr && addr - p->addr <= p->size && size <= p->size - (addr - p->addr)) {
			memcpy(to, p->data + (addr - p->addr), size);
			for (int j = 0; j < nr_pokes; j++)
				if (sleeps < pokes[j].sleeps && pokes[j].addr >= addr &&
				    pokes[j].addr - addr < size)
					((u8 *)to)[pokes[j].addr - addr] = INT3_INSN_OPCODE;
			return 0;
		}
	}
	return -EFAULT;
}

void usleep_range(unsigned long low, unsigned long high)
{
	(void)low;
	(void)high;
	sleeps++;
}

int main(int argc, char **argv)
{
	u32 size;
	u8 flag, length;

	for (; nr_pokes < (int)ARRAY_SIZE(pokes) && 2 * nr_pokes + 2 < argc; nr_pokes++) {
		pokes[nr_pokes].addr = strtoul(argv[2 * nr_pokes + 1], NULL, 0);
		pokes[nr_pokes].sleeps = strtoul(argv[2 * nr_pokes + 2], NULL, 0);
	}
	if (!get(&nr_symbols, sizeof(nr_symbols)))
		return 1;
	symbols = calloc(nr_symbols, sizeof(*symbols));
	for (u32 i = 0; i < nr_symbols; i++) {
		get(&symbols[i].addr, sizeof(u64));
		get(&flag, 1);
		get(&length, 1);
		get(symbols[i].name, length);
		symbols[i].is_in_target = flag;
	}
	get(&nr_pieces, sizeof(nr_pieces));
	pieces = calloc(nr_pieces, sizeof(*pieces));
	for (u32 i = 0; i < nr_pieces; i++) {
		get(&pieces[i].addr, sizeof(u64));
		get(&pieces[i].size, sizeof(u32));
		pieces[i].data = malloc(pieces[i].size);
		get(pieces[i].data, pieces[i].size);
	}
	while (get(&flag, 1) && get(&size, sizeof(size))) {
		struct ksplice_found found = {};
		/* exactly as large as it is, so that a byte too far is found */
		u8 *blob = malloc(size);
		struct ksplice_old old = {
			.blob = blob, .size = size, .walk_modules = flag ? walk_modules : NULL,
		};
		int err;

		get(blob, size);
		/* again, as of a module that is loaded again: with what was found, to the same end */
		for (int i = 0; i < 2; i++) {
			struct ksplice_matching m = {};

			sleeps = 0;
			err = ksplice_run_match(&old, &found, &m);
			if ((err == 0) != (m.report.cause == KSPLICE_OK))
				abort();
			if (i)
				printf("%d %s %s+0x%x\n", m.report.cause, m.report.kind ?: "-",
				       m.report.function ?: "-", m.report.off);
			free(m.starts);
		}
		ksplice_forget_found(&found);
		free(blob);
	}
	free(symbols);
	for (u32 i = 0; i < nr_pieces; i++)
		free(pieces[i].data);
	free(pieces);
	return 0;
}

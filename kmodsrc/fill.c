// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fills in what the new code refers to in vmlinux: all symbols in one walk over
 * kallsyms.
 *
 * livepatch fills in such references while a module is loaded, up to 6.1 with a
 * walk for each.  The bundle's builder puts those that nobody needs before the
 * module's init function into sections for an object that never comes
 * (ksplicd/create/modules/livepatch.py); livepatch passes over them.  The
 * kernel's own function writes them, as it does what refers to a module.
 *
 * No locks: called by the init function of the module that is filled, before
 * anything of that can run.  kallsyms of vmlinux never changes.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ctype.h>
#include <linux/elf.h>
#include <linux/kstrtox.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/moduleloader.h>
#include <linux/printk.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>
#include "compat.h"
#include "ksplice.h"
#include "match.h"
#include "module_walk.h"

extern typeof(apply_relocate_add)
	write_relocations KSPLICE_VMLINUX_SYMBOL(apply_relocate_add);

/* No module has a "-" in its name. */
#define SECTION_PREFIX	".klp.rela.ksplice-vmlinux."
#define SYMBOL_PREFIX	".klp.sym." KSPLICE_VMLINUX "."

/**
 * struct wanted - a symbol of vmlinux that the module refers to
 * @name: its name, which ends at a comma
 * @len: the length of the name
 * @pos: 0: the name must be unique; n: the n-th symbol of that name
 * @seen: how many symbols of that name were found
 * @sym: where its address belongs
 */
struct wanted {
	const char *name;
	size_t len;
	unsigned int pos;
	unsigned int seen;
	struct elf64_sym *sym;
};

/**
 * struct wishes - all of them
 * @of: sorted by name
 * @nr: their number
 */
struct wishes {
	struct wanted *of;
	size_t nr;
};

/* As strcmp(), with the name that is wanted as the second. */
static int compare_name(const char *name, size_t len, const struct wanted *w)
{
	int order = strncmp(name, w->name, min(len, w->len));

	return order ?: (len > w->len) - (len < w->len);
}

static int compare_wanted(const void *a, const void *b)
{
	const struct wanted *w = a;

	return compare_name(w->name, w->len, b);
}

static int visit(KSPLICE_VISIT_PARAMETERS)
{
	const struct wishes *all = data;
	size_t low = 0, high = all->nr, len = strlen(name);

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (compare_name(name, len, &all->of[middle]) > 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < all->nr && !compare_name(name, len, &all->of[low]); low++) {
		struct wanted *w = &all->of[low];

		if (++w->seen == max(w->pos, 1U))
			w->sym->st_value = addr;
	}
	return 0;
}

/* .klp.sym.vmlinux.NAME,POS */
static bool read_symbol(const char *name, struct wanted *w)
{
	const char *comma;

	if (strncmp(name, SYMBOL_PREFIX, strlen(SYMBOL_PREFIX)))
		return false;
	w->name = name + strlen(SYMBOL_PREFIX);
	comma = strchr(w->name, ',');
	if (!comma || kstrtouint(comma + 1, 10, &w->pos))
		return false;
	w->len = comma - w->name;
	return true;
}

static void collect(const struct module *mod, struct wishes *all)
{
	const struct mod_kallsyms *k = &mod->core_kallsyms;
	unsigned int i;

	for (i = 1; i < k->num_symtab; i++) {
		struct elf64_sym *sym = &k->symtab[i];
		struct wanted w = { .sym = sym };

		if (sym->st_shndx == SHN_LIVEPATCH && read_symbol(k->strtab + sym->st_name, &w))
			all->of[all->nr++] = w;
	}
	sort(all->of, all->nr, sizeof(*all->of), compare_wanted, NULL);
}

static int check_found(const struct wishes *all)
{
	const struct wanted *w;

	for (w = all->of; w < all->of + all->nr; w++) {
		if (w->pos ? w->seen >= w->pos : w->seen == 1)
			continue;
		pr_err("%.*s: %s, nothing is replaced\n", (int)w->len, w->name,
		       w->seen > w->pos ? "ambiguous" : "missing");
		ksplice_abort(w->seen ? KSPLICE_BAD_SYSTEM_MAP : KSPLICE_FAILED_TO_FIND);
		return -ENOENT;
	}
	return 0;
}

static int find_symbols(const struct module *mod)
{
	struct wishes all = { };
	int err = -ENOMEM;

	all.of = kvmalloc_array(mod->core_kallsyms.num_symtab, sizeof(*all.of), GFP_KERNEL);
	if (all.of) {
		collect(mod, &all);
		err = ksplice_walk_vmlinux(visit, &all) ?: check_found(&all);
	} else {
		ksplice_abort(KSPLICE_OUT_OF_MEMORY);
	}
	kvfree(all.of);
	return err;
}

static int write_sections(struct module *mod)
{
	const struct klp_modinfo *info = mod->klp_info;
	unsigned int i;
	int err;

	for (i = 1; i < info->hdr.e_shnum; i++) {
		const char *name = info->secstrings + info->sechdrs[i].sh_name;

		if (strncmp(name, SECTION_PREFIX, strlen(SECTION_PREFIX)))
			continue;
		err = write_relocations(info->sechdrs, mod->core_kallsyms.strtab, info->symndx, i,
					mod);
		if (err) {
			pr_err("%s: cannot be written\n", name);
			ksplice_abort(KSPLICE_UNEXPECTED);
			return err;
		}
		cond_resched();
	}
	return 0;
}

/**
 * ksplice_fill - fill in what a module refers to in vmlinux
 * @mod: the module, which calls this before all else
 *
 * Return: 0, or a negative error with abort_cause set.
 */
int ksplice_fill(struct module *mod)
{
	return find_symbols(mod) ?: write_sections(mod);
}
EXPORT_SYMBOL_GPL(ksplice_fill);

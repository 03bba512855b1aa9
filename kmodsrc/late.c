// SPDX-License-Identifier: GPL-2.0-only
/*
 * Modules that are patched when they are loaded, and may be unloaded and
 * loaded again while the update is applied.
 *
 * No locks: livepatch holds klp_mutex around every call.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/elf.h>
#include <linux/list.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/string.h>
#include "compat.h"
#include "ksplice.h"
#include "module_walk.h"
#include "new_code.h"
#include "reloc.h"

extern void *ksplice_poke(void *addr, const void *opcode, size_t len)
	KSPLICE_VMLINUX_SYMBOL(text_poke_copy);

static bool is_relocation_of(const struct klp_modinfo *info, const struct elf64_shdr *section,
			     const char *target)
{
	const char *name = info->secstrings + section->sh_name;
	size_t prefix = strlen(".klp.rela."), len = strlen(target);

	return section->sh_flags & SHF_RELA_LIVEPATCH && !strncmp(name + prefix, target, len) &&
	       name[prefix + len] == '.';
}

/**
 * ksplice_clear_relocations - make our references to a module empty again
 * @obj: the module
 *
 * When the module is loaded again, livepatch fills them in again, and refuses
 * the module when they are not empty.  Nobody runs the new code: either it was
 * never switched to, or everybody has left it.
 */
void ksplice_clear_relocations(const struct klp_object *obj)
{
	const struct klp_modinfo *info = THIS_MODULE->klp_info;
	static const u64 zero;
	u32 i, j;

	for (i = 1; i < info->hdr.e_shnum; i++) {
		const struct elf64_shdr *section = &info->sechdrs[i];
		const struct elf64_rela *r = (void *)section->sh_addr;
		void *base = (void *)info->sechdrs[section->sh_info].sh_addr;

		if (!obj->name || !is_relocation_of(info, section, obj->name))
			continue;
		for (j = 0; j < section->sh_size / sizeof(*r); j++)
			ksplice_poke(base + r[j].r_offset, &zero,
				     ksplice_reloc_width(ELF64_R_TYPE(r[j].r_info)));
	}
}

/*
 * Have livepatch find all functions of a target in its list, or none.
 *
 * The list is livepatch's own.  But a callback can only refuse the module that
 * is being loaded, and an administrator may rather have it without the update
 * than not at all (leave_unmatched).  klp_patch_object() patches what is in the
 * list, so an empty one makes it patch nothing, under the klp_mutex that is held
 * around every callback.  Nobody else looks into it before the functions are
 * back, in the order of klp_init_patch_early(): either post_patch or
 * post_unpatch follows.  Without "replace" there are no other functions.
 */
static void list_functions(struct klp_object *obj, bool is_shown)
{
	struct klp_func *func;

	INIT_LIST_HEAD(&obj->func_list);
	if (!is_shown)
		return;
	klp_for_each_func_static(obj, func)
		list_add_tail(&func->node, &obj->func_list);
}

/* A module that was matched may have been unloaded since. */
static int check_others(const struct klp_object *vmlinux)
{
	const struct klp_object *obj;

	for (obj = vmlinux + 1; obj->name; obj++) {
		if (obj->mod || !ksplice_note_target(obj->name, KSPLICE_TARGET_WAITING))
			continue;
		pr_err("%s: not loaded any more, nothing is replaced\n", obj->name);
		ksplice_abort(KSPLICE_TARGET_NOT_LOADED);
		return -ENOENT;
	}
	return 0;
}

/**
 * ksplice_admit_target - match a target that is about to be patched
 * @obj: the target; vmlinux is the first of all
 * @may_leave: it may be left unpatched
 *
 * Return: 0 to patch it, 1 when it is left alone, or a negative error.
 */
int ksplice_admit_target(struct klp_object *obj, bool may_leave)
{
	int left;

	if (!obj->name)
		return check_others(obj);
	left = ksplice_match_late(obj->name, obj->mod, ksplice_walk, may_leave);
	if (left > 0)
		list_functions(obj, false);
	return left;
}

/**
 * ksplice_note_patched - note that a target runs the new code
 * @obj: the target
 */
void ksplice_note_patched(const struct klp_object *obj)
{
	if (obj->name)
		ksplice_note_target(obj->name, KSPLICE_TARGET_MATCHED);
}

/**
 * ksplice_settle_unpatched - show livepatch a target that was left alone as not patched
 * @obj: the target
 *
 * ftrace has none of its functions: livepatch must not look for them there, but
 * needs them all to free them.  So this takes back what klp_patch_object() has
 * noted, which believes that it has patched the object.
 */
void ksplice_settle_unpatched(struct klp_object *obj)
{
	struct klp_func *func;

	list_functions(obj, true);
	klp_for_each_func(obj, func)
		func->transition = false;
	obj->patched = false;
}

/**
 * ksplice_release_target - clean up after a target that is not patched any more
 * @obj: the target
 * @is_undone: the update is undone; otherwise the module is unloaded, or cannot be patched
 *
 * After an undo the references are kept: new code may still run, after a forced
 * undo or through a pointer to it.
 */
void ksplice_release_target(struct klp_object *obj, bool is_undone)
{
	bool is_refused;

	if (!obj->name)
		return;
	list_functions(obj, true);
	if (is_undone)
		return;
	/* The module was being loaded: livepatch leaves the references of a refused one. */
	is_refused = obj->mod->klp_alive;
	if (KSPLICE_MUST_CLEAR_UNLOADED || is_refused)
		ksplice_clear_relocations(obj);
	ksplice_note_target(obj->name,
			    is_refused ? KSPLICE_TARGET_REFUSED : KSPLICE_TARGET_WAITING);
}

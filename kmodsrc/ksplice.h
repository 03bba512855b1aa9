/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the three modules of one update say to each other.
 *
 * KSPLICE_KID comes from the command line.  Exported names carry it, because
 * the cores of several updates are loaded together.
 */
#ifndef KSPLICE_H
#define KSPLICE_H

#include <linux/elf.h>
#include <linux/stringify.h>
#include <linux/types.h>

#define KSPLICE_PASTE_(kid, name)	ksplice_##kid##_##name
#define KSPLICE_PASTE(kid, name)	KSPLICE_PASTE_(kid, name)

#define ksplice_match		KSPLICE_PASTE(KSPLICE_KID, match)
#define ksplice_match_late	KSPLICE_PASTE(KSPLICE_KID, match_late)
#define ksplice_note_target	KSPLICE_PASTE(KSPLICE_KID, note_target)
#define ksplice_may_patch	KSPLICE_PASTE(KSPLICE_KID, may_patch)
#define ksplice_was_compared	KSPLICE_PASTE(KSPLICE_KID, was_compared)
#define ksplice_set_stage	KSPLICE_PASTE(KSPLICE_KID, set_stage)
#define ksplice_abort		KSPLICE_PASTE(KSPLICE_KID, abort)
#define ksplice_kobject		KSPLICE_PASTE(KSPLICE_KID, kobject)
#define ksplice_tripwire_hit	KSPLICE_PASTE(KSPLICE_KID, tripwire_hit)

struct kobject;
struct module;

/**
 * enum ksplice_stage - where the update is; the names are those in sysfs
 * @KSPLICE_PREPARING:	not in effect yet
 * @KSPLICE_APPLIED:	every task runs the new code
 * @KSPLICE_REVERSED:	every task is back on the old code
 */
enum ksplice_stage {
	KSPLICE_PREPARING,
	KSPLICE_APPLIED,
	KSPLICE_REVERSED,
};

/**
 * enum ksplice_cause - why the update was refused; Ksplice's own words
 * @KSPLICE_OK:			it was not
 * @KSPLICE_NO_MATCH:		the running code is not the old code
 * @KSPLICE_FAILED_TO_FIND:	a symbol is missing
 * @KSPLICE_BAD_SYSTEM_MAP:	a symbol is there, but not as often as expected
 * @KSPLICE_TARGET_NOT_LOADED:	the module to be patched is not loaded
 * @KSPLICE_OUT_OF_MEMORY:	no memory for the tables
 * @KSPLICE_CALL_FAILED:	livepatch or a hook returned an error
 * @KSPLICE_UNEXPECTED:		anything else, such as damaged tables
 */
enum ksplice_cause {
	KSPLICE_OK,
	KSPLICE_NO_MATCH,
	KSPLICE_FAILED_TO_FIND,
	KSPLICE_BAD_SYSTEM_MAP,
	KSPLICE_TARGET_NOT_LOADED,
	KSPLICE_OUT_OF_MEMORY,
	KSPLICE_CALL_FAILED,
	KSPLICE_UNEXPECTED,
};

/**
 * enum ksplice_target_state - what became of a target; the names are those in sysfs
 * @KSPLICE_TARGET_MATCHED:	it was compared, and is or will be patched
 * @KSPLICE_TARGET_WAITING:	it is not loaded
 * @KSPLICE_TARGET_REFUSED:	its last load was refused
 * @KSPLICE_TARGET_UNPATCHED:	it is loaded, does not match, and was left alone
 */
enum ksplice_target_state {
	KSPLICE_TARGET_MATCHED,
	KSPLICE_TARGET_WAITING,
	KSPLICE_TARGET_REFUSED,
	KSPLICE_TARGET_UNPATCHED,
};

/* Call @visit with the symbols of the module @target, or of all modules. */
typedef int ksplice_walk_fn(const char *target, void *visit, void *data);

/**
 * struct ksplice_old - the old code of one target, as its module holds it
 * @blob:	the tables, see format.h
 * @size:	their size in bytes
 * @walk_modules: calls module_kallsyms_on_each_symbol, or NULL for vmlinux
 * @is_late:	the target may be loaded later, and is matched then
 */
struct ksplice_old {
	const void *blob;
	size_t size;
	ksplice_walk_fn *walk_modules;
	bool is_late;
};

int ksplice_match(const struct ksplice_old *old);
int ksplice_match_late(const char *target, const struct module *mod, ksplice_walk_fn *walk_modules,
		       bool may_leave);
int ksplice_note_target(const char *target, enum ksplice_target_state state);
bool ksplice_may_patch(const char *target);
bool ksplice_was_compared(const char *target, unsigned long addr);
void ksplice_set_stage(enum ksplice_stage stage);
struct kobject *ksplice_kobject(void);
void ksplice_abort(enum ksplice_cause cause);

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

#endif /* KSPLICE_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Types and constants that several modules of one update use.
 */
#ifndef KSPLICE_TYPES_H
#define KSPLICE_TYPES_H

#include <linux/types.h>

/* The target that is always there; all others are modules. */
#define KSPLICE_VMLINUX		"vmlinux"

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
 * @KSPLICE_OK:			it was not refused
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

#endif /* KSPLICE_TYPES_H */

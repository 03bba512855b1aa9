// SPDX-License-Identifier: GPL-2.0-only
/*
 * Old code of one target: read-only tables and no code of their own.
 *
 * KSPLICE_BLOB, from the command line, is the file with the tables.
 * Loading this module is the match: it fails when the running code differs.
 * It may be unloaded as soon as it is loaded.  No locks: all here is constant.
 */
#include <linux/module.h>
#include "compat.h"
#include "ksplice.h"
#include "module_walk.h"

extern const char ksplice_blob[], ksplice_blob_end[];

asm(".pushsection .rodata.ksplice_blob, \"a\"\n"
	".balign 8\n"
	"ksplice_blob:\n"
	".incbin " __stringify(KSPLICE_BLOB) "\n"
	"ksplice_blob_end:\n"
	".popsection\n");

#ifdef KSPLICE_TARGET_IS_MODULE
#define WALK_MODULES	ksplice_walk

static bool late;
module_param(late, bool, 0444);
MODULE_PARM_DESC(late, "the target may be loaded later, and is matched then");
#else
static const bool late;
#define WALK_MODULES	NULL
#endif

static int __init old_init(void)
{
	const struct ksplice_old old = {
		.blob = ksplice_blob,
		.size = ksplice_blob_end - ksplice_blob,
		.walk_modules = WALK_MODULES,
		.is_late = late,
	};

	return ksplice_match(&old);
}

static void __exit old_exit(void)
{
}

module_init(old_init);
module_exit(old_exit);
MODULE_DESCRIPTION("Ksplice update " __stringify(KSPLICE_KID) ": old code");
MODULE_LICENSE("GPL");
#ifdef KSPLICE_TARGET_IS_MODULE
MODULE_INFO(livepatch, "Y");
#endif

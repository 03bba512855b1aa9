/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Static keys as ordinary tests, for the new code of modules.
 *
 * The module loader would use the jump table of new code before livepatch has
 * filled in the keys that the patched module owns, tracepoints among them.
 * With -include of this header there is no jump table: each branch reads its
 * key, which is right at any time and a few instructions slower.
 *
 * A branch is taken when "enabled" differs from "branch" (jump_label_type() of
 * kernel/jump_label.c); a key that is just being enabled counts as enabled
 * (static_key_count()).
 */
#ifndef KSPLICE_STATIC_KEYS_H
#define KSPLICE_STATIC_KEYS_H

#ifndef __ASSEMBLY__

/* Instead of the architecture's header, with what it includes. */
#define _ASM_X86_JUMP_LABEL_H
#include <linux/stringify.h>
#include <linux/types.h>
#include <asm/asm.h>
#include <asm/nops.h>

#define HAVE_JUMP_LABEL_BATCH

struct jump_entry;

int arch_jump_entry_size(struct jump_entry *entry);

#define arch_static_branch(key, branch)		(!!READ_ONCE((key)->enabled.counter) ^ !!(branch))
#define arch_static_branch_jump(key, branch)	arch_static_branch(key, branch)

#endif /* __ASSEMBLY__ */
#endif /* KSPLICE_STATIC_KEYS_H */

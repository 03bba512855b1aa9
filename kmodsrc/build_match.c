// SPDX-License-Identifier: GPL-2.0-only
/*
 * match.c and all that it calls, compiled as one file: what an update's author
 * waits for is the kernel's headers, which are read once this way (the way of
 * kernel/sched/build_utility.c).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "match.c"
#include "tables.c"
#include "resolve.c"
#include "compare.c"
#include "sites.c"
#include "alternatives.c"
#include "rows.c"
#include "insn.c"
#include "field.c"

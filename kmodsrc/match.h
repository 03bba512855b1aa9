/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Run-pre matching, as the core calls it.
 */
#ifndef KSPLICE_MATCH_H
#define KSPLICE_MATCH_H

#include "matching.h"
#include "module_walk.h"

/* match.c */
int ksplice_run_match(const struct ksplice_old *old, struct ksplice_found *found,
		      struct ksplice_matching *m);
void ksplice_forget_found(struct ksplice_found *found);

/* resolve.c */
typedef int ksplice_visit_fn(KSPLICE_VISIT_PARAMETERS);

int ksplice_walk_vmlinux(ksplice_visit_fn *visit, void *data);

#endif /* KSPLICE_MATCH_H */

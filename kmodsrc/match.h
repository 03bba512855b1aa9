/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Run-pre matching, as the core calls it.
 */
#ifndef KSPLICE_MATCH_H
#define KSPLICE_MATCH_H

#include "matching.h"

int ksplice_run_match(const struct ksplice_old *old, struct ksplice_matching *m);

#endif /* KSPLICE_MATCH_H */

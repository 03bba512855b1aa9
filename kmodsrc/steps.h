/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The steps of a match, in their order.
 */
#ifndef KSPLICE_STEPS_H
#define KSPLICE_STEPS_H

#include "matching.h"

/* tables.c */
int ksplice_check_tables(struct ksplice_matching *m);

/* resolve.c */
int ksplice_resolve(struct ksplice_matching *m);

/* compare.c */
int ksplice_compare(struct ksplice_matching *m, const struct ksplice_func *func);

#endif /* KSPLICE_STEPS_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The legal run-time forms of patch sites, and what tables of the kernel have.
 */
#ifndef KSPLICE_SITES_H
#define KSPLICE_SITES_H

#include <linux/types.h>
#include "field.h"

/* sites.c */
int ksplice_check_site(const struct ksplice_place *p);
const char *ksplice_site_name(u8 kind);

/* alternatives.c */
bool ksplice_is_replaced(const struct ksplice_place *p);

/* rows.c */
bool ksplice_has_row(const struct ksplice_place *p);

#endif /* KSPLICE_SITES_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How many modules have come and gone.
 */
#ifndef KSPLICE_COMINGS_H
#define KSPLICE_COMINGS_H

int ksplice_comings(void);
int ksplice_comings_init(void);
void ksplice_comings_exit(void);

#endif /* KSPLICE_COMINGS_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside of the core module: what core.c calls.
 */
#ifndef KSPLICE_CORE_H
#define KSPLICE_CORE_H

#include "ksplice.h"

struct attribute;
struct kobject;

/* targets.c */
extern const struct attribute *ksplice_target_attrs[];
void ksplice_targets_exit(void);

/* tripwire.c */
#ifdef KSPLICE_TRIPWIRES
int ksplice_tripwires_init(struct kobject *kobj);
void ksplice_tripwires_exit(void);
#else
static inline int ksplice_tripwires_init(struct kobject *kobj)
{
	return 0;
}

static inline void ksplice_tripwires_exit(void)
{
}
#endif

#endif /* KSPLICE_CORE_H */

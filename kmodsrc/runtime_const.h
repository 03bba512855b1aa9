/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Runtime constants as ordinary variables, for the new code of vmlinux.
 *
 * The kernel writes such constants into its code once, at boot (e3c92e81711d,
 * "runtime constants: add x86 architecture support", 6.11).  Code that comes
 * later reads the variables that they were made from.
 */
#ifndef KSPLICE_RUNTIME_CONST_H
#define KSPLICE_RUNTIME_CONST_H

#ifndef __ASSEMBLY__

/* Instead of the architecture's header. */
#define _ASM_RUNTIME_CONST_H

#define runtime_const_ptr(sym)				(sym)
#define runtime_const_shift_right_32(val, sym)		((u32)(val) >> (sym))
#define runtime_const_init(type, sym)			do { } while (0)

#endif /* __ASSEMBLY__ */
#endif /* KSPLICE_RUNTIME_CONST_H */

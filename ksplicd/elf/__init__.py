# SPDX-License-Identifier: GPL-2.0-only
"""ELF relocatable objects as a graph: read, edit, write.  Knows no kernels."""

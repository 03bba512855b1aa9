# SPDX-License-Identifier: GPL-2.0-only
"""ELF files: objects as a graph that is read, edited and written; finished files, only read.

It starts no process, opens no file and knows no kernels.  ``write_object(read_object(data)) ==
data`` holds for everything that kbuild makes.
"""

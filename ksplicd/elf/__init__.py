# SPDX-License-Identifier: GPL-2.0-only
"""ELF files: objects as a graph that is read, edited and written; finished files, only read.

It starts no process, opens no file and knows no kernels.  ``write_object(read_object(data)) ==
data`` holds for everything that kbuild makes.
"""

from ksplicd.elf.model import LivepatchRelocations, Object, Relocation, Section, Symbol
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object

__all__ = [
    "LivepatchRelocations",
    "Object",
    "Relocation",
    "Section",
    "Symbol",
    "read_object",
    "write_object",
]

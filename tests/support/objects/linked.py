# SPDX-License-Identifier: GPL-2.0-only
"""A small module file with everything that is read from modules."""

import struct

from ksplicd.elf.model import SHT_NOBITS, STB_GLOBAL, Object, Relocation, Section, Symbol
from ksplicd.elf.write import write_object
from ksplicd.elf.x86_64 import R_X86_64_PLT32


def module_file() -> bytes:
    """Return a file with one of each: code, a relocation, data without bytes, a symbol."""
    callee = Symbol("callee", bind=STB_GLOBAL)
    text = Section(".text", flags=6, data=b"\xe8\0\0\0\0\xc3")
    text.relocations.append(Relocation(1, R_X86_64_PLT32, callee, -4))
    note = Section(
        ".note.gnu.build-id", 7, 2, struct.pack("<III4s20s", 4, 20, 3, b"GNU", b"x" * 20)
    )
    bss = Section(".bss", SHT_NOBITS, 3, nobits_size=64)
    return write_object(Object("s", [text, note, bss], [Symbol("f", section=text), callee]))

# SPDX-License-Identifier: GPL-2.0-only
"""The names that an object takes from others.  Format: System V gABI, chapter 4.

All modules of a kernel are asked, so nothing else of them is read.
"""

import struct

from ksplicd.elf.model import SHN_UNDEF, SHT_SYMTAB
from ksplicd.elf.read import EHDR, SHDR, SYM
from ksplicd.errors import ElfError


def read_imports(data: bytes, name: str) -> set[str]:
    """Return the undefined symbols of an object; ``name`` is used in messages.

    Raises ``ElfError``.
    """
    try:
        return _read_imports(memoryview(data))
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as e:
        raise ElfError(f"{name}: damaged ELF object: {e}") from e


def _read_imports(data: memoryview) -> set[str]:
    fields = EHDR.unpack_from(data)
    if not fields[0].startswith(b"\x7fELF\x02\x01"):
        raise ValueError("not a 64-bit little-endian ELF file")
    start, size, count = fields[6], fields[11], fields[12]
    if size != SHDR.size:
        raise ValueError(f"section headers of {size} bytes")
    headers = [SHDR.unpack_from(data, start + i * size) for i in range(count)]
    found = set()
    for _, kind, _, _, offset, length, link, *_ in headers:
        if kind != SHT_SYMTAB:
            continue
        names = bytes(data[(at := headers[link][4]) : at + headers[link][5]])
        for at_name, _, _, section, _, _ in SYM.iter_unpack(data[offset : offset + length]):
            if section == SHN_UNDEF and at_name:
                found.add(names[at_name : names.index(b"\0", at_name)].decode())
    return found

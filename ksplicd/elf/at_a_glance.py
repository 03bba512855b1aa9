# SPDX-License-Identifier: GPL-2.0-only
"""What is asked of very many objects, without reading the rest of them.

Format: System V gABI, chapter 4.
"""

import struct
from collections.abc import Callable
from typing import TypeVar

from ksplicd.elf.model import SHN_UNDEF, SHT_SYMTAB
from ksplicd.elf.read import EHDR, SHDR, SYM
from ksplicd.errors import ElfError

_Answer = TypeVar("_Answer")


def read_imports(data: bytes, name: str) -> set[str]:
    """Return the undefined symbols of an object; ``name`` is used in messages.

    Raises ``ElfError``.
    """
    return _ask(_imports, data, name)


def read_section_names(data: bytes, name: str) -> set[str]:
    """Return the names of an object's sections; ``name`` is used in messages.

    Raises ``ElfError``.
    """
    return _ask(_section_names, data, name)


def _ask(question: Callable[[memoryview], _Answer], data: bytes, name: str) -> _Answer:
    try:
        return question(memoryview(data))
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError, ValueError) as e:
        raise ElfError(f"{name}: damaged ELF object: {e}") from e


def _imports(data: memoryview) -> set[str]:
    headers, _ = _headers(data)
    found = set()
    for _, kind, _, _, offset, length, link, *_ in headers:
        if kind != SHT_SYMTAB:
            continue
        names = bytes(data[(at := headers[link][4]) : at + headers[link][5]])
        for at_name, _, _, section, _, _ in SYM.iter_unpack(data[offset : offset + length]):
            if section == SHN_UNDEF and at_name:
                found.add(_text(names, at_name))
    return found


def _section_names(data: memoryview) -> set[str]:
    headers, of_names = _headers(data)
    if not headers:
        return set()
    names = bytes(data[(at := headers[of_names][4]) : at + headers[of_names][5]])
    return {_text(names, at_name) for at_name, *_ in headers}


def _headers(data: memoryview) -> tuple[list[tuple[int, ...]], int]:
    """Return the section headers, and which of them has their names."""
    fields = EHDR.unpack_from(data)
    if not fields[0].startswith(b"\x7fELF\x02\x01"):
        raise ValueError("not a 64-bit little-endian ELF file")
    start, size, count, of_names = fields[6], *fields[11:14]
    if size != SHDR.size:
        raise ValueError(f"section headers of {size} bytes")
    return [SHDR.unpack_from(data, start + i * size) for i in range(count)], of_names


def _text(names: bytes, at: int) -> str:
    return names[at : names.index(b"\0", at)].decode()

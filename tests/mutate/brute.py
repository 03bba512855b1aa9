# SPDX-License-Identifier: GPL-2.0-only
"""What an object means, without create's diff: bytes, and what each reference leads to.

Two objects with equal contents run the same code; the compiler's numbers in local names aside.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ksplicd.elf.model import Relocation, Section
from ksplicd.elf.read import read_object

_SUFFIX: Final = re.compile(r"(?<=[\w.])\.\d+(?=\.|$)")
_NUMBER: Final = re.compile(r"(?<=[\w.])\.\d+(?=\.|$)|(?<=_)\d+(?=_)|(?<=[a-z_])\d+$")
_COUNTED: Final = ("__UNIQUE_ID_", "__initcall_", "__addressable_")
"""Names that end in numbers of the preprocessor's counter."""

_KIND_OF_DATA: Final = re.compile(r"^\.(?:data(?:\.rel)?(?:\.ro)?(?:\.local)?|bss|rodata)(?=\.)")
_RELATIVE: Final = (2, 4)
"""R_X86_64_PC32 and R_X86_64_PLT32, which in code mostly count from the end of the four bytes."""

_LEFT_OUT: Final = (".comment", ".note", ".debug", ".discard", ".orc_")


def contents_of(path: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """Return digests by the name of what has them: of sections of each name, together.

    ``sizes``: bytes an entry, by table about code.  In what order a table has its entries follows
    from the order of the code, and says nothing.
    """
    obj = read_object(path.read_bytes(), path.name)
    names = {
        (s.section, s.value): name_without_number(s.name)
        for s in obj.symbols
        if s.section is not None and s.name
    }
    found: dict[str, list[str]] = {}
    for section in obj.sections:
        if section.is_alloc and not section.name.startswith(_LEFT_OUT):
            references = [_reference(section, r, names) for r in section.relocations]
            content = _content(section, references, sizes.get(section.name, 0))
            text = repr((content, section.size, section.align, section.flags))
            digest = hashlib.sha256(text.encode()).hexdigest()
            found.setdefault(name_without_number(section.name), []).append(digest)
    return {name: " ".join(sorted(digests)) for name, digests in found.items()}


def name_without_number(name: str) -> str:
    """Return a name without the numbers that the compiler gives: of ``__func__.3``, too."""
    numbers = _NUMBER if any(word in name for word in _COUNTED) else _SUFFIX
    return numbers.sub("", name)


_Reference = tuple[int, int, str, int]
"""Offset, type, what it leads to, and how far behind."""


def _content(section: Section, references: list[_Reference], entry: int) -> object:
    if section.is_strings:
        return sorted(section.data.split(b"\0"))
    if not entry:
        return section.data, references
    entries: list[tuple[bytes, list[_Reference]]] = [
        (section.data[at : at + entry], []) for at in range(0, section.size, entry)
    ]
    for offset, kind, leads_to, behind in references:
        entries[offset // entry][1].append((offset % entry, kind, leads_to, behind))
    return sorted(entries)


def _reference(
    owner: Section, r: Relocation, names: Mapping[tuple[Section, int], str]
) -> _Reference:
    """Return a reference by what it leads to: a text, a constant, or a symbol and a distance."""
    target, addend = r.symbol.section, r.addend
    if target is None:
        return r.offset, r.type, r.symbol.name, addend
    at = r.symbol.value + addend + (4 if owner.is_text and r.type in _RELATIVE else 0)
    if target.is_strings:
        text = target.data[at:].split(b"\0")[0] if 0 <= at < len(target.data) else b""
        return r.offset, r.type, repr(text), 0
    if target.is_merged_constants:
        return r.offset, r.type, repr(target.data[at : at + target.entsize]), 0
    name = names.get((target, r.symbol.value), "") if r.symbol.name else ""
    # whether a variable has a content says its own section
    section = _KIND_OF_DATA.sub("", name_without_number(target.name))
    return r.offset, r.type, f"{section}:{name}", addend

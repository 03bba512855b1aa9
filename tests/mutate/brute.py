# SPDX-License-Identifier: GPL-2.0-only
"""What an object means, without create's diff: bytes, and what each reference leads to.

Two objects with equal contents run the same code; the compiler's numbers in local names aside.
"""

import hashlib
import re
from pathlib import Path
from typing import Final

from ksplicd.elf.model import Relocation, Section
from ksplicd.elf.read import read_object

_SUFFIX: Final = re.compile(r"(?<=[\w.])\.\d+(?=\.|$)")
_NUMBER: Final = re.compile(r"(?<=[\w.])\.\d+(?=\.|$)|(?<=_)\d+(?=_)|(?<=[a-z_])\d+$")
_COUNTED: Final = ("__UNIQUE_ID_", "__initcall_", "__addressable_")
"""Names that end in numbers of the preprocessor's counter."""

_RELATIVE: Final = (2, 4)
"""R_X86_64_PC32 and R_X86_64_PLT32, which in code mostly count from the end of the four bytes."""

_LEFT_OUT: Final = (".comment", ".note", ".debug", ".discard", ".orc_")


def contents_of(path: Path) -> dict[str, str]:
    """Return digests by the name of what has them: of sections of each name, together."""
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
            data = _without_fields(section)
            text = repr((data, section.size, section.align, section.flags, references))
            digest = hashlib.sha256(text.encode()).hexdigest()
            found.setdefault(name_without_number(section.name), []).append(digest)
    return {name: " ".join(sorted(digests)) for name, digests in found.items()}


def name_without_number(name: str) -> str:
    """Return a name without the numbers that the compiler gives: of ``__func__.3``, too."""
    numbers = _NUMBER if any(word in name for word in _COUNTED) else _SUFFIX
    return numbers.sub("", name)


def _without_fields(section: Section) -> bytes:
    if section.is_strings:
        return b"\0".join(sorted(section.data.split(b"\0")))
    return section.data


def _reference(
    owner: Section, r: Relocation, names: dict[tuple[Section, int], str]
) -> tuple[int, int, str, int]:
    """Return a reference by what it leads to: a string's text, a symbol and a distance."""
    target, addend = r.symbol.section, r.addend
    if target is None:
        return r.offset, r.type, r.symbol.name, addend
    at = r.symbol.value + addend + (4 if owner.is_text and r.type in _RELATIVE else 0)
    if target.is_strings:
        text = target.data[at:].split(b"\0")[0] if 0 <= at < len(target.data) else b""
        return r.offset, r.type, repr(text), 0
    name = names.get((target, r.symbol.value), "") if r.symbol.name else ""
    return r.offset, r.type, f"{name_without_number(target.name)}:{name}", addend

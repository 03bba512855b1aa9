# SPDX-License-Identifier: GPL-2.0-only
"""What an object means, without create's diff: bytes, and what each reference leads to.

Two objects with equal contents run the same code; the compiler's numbers in local names aside.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ksplicd.elf.model import STT_FILE, STT_SECTION, Object, Relocation, Section
from ksplicd.elf.read import read_object

_SUFFIX: Final = re.compile(r"(?<=[\w.])\.\d+(?=\.|$)")
_NUMBER: Final = re.compile(r"(?<=[\w.])\.\d+(?=\.|$)|(?<=_)\d+(?=_)|(?<=[a-z_])\d+$")
_COUNTED: Final = ("__UNIQUE_ID_", "__initcall_", "__addressable_")
"""Names that end in numbers of the preprocessor's counter."""

_RELATIVE: Final = (2, 4)
"""R_X86_64_PC32 and R_X86_64_PLT32, which in code mostly count from the end of the four bytes."""

_NAMES: Final = ("__tracepoints_strings", "__tracepoints_str")
"""Strings, though the sections are not marked so."""

_LEFT_OUT: Final = (".comment", ".note", ".debug", ".discard", ".orc_")


def contents_of(path: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """Return digests by the name of what has them: of sections of each name, together.

    ``sizes``: bytes an entry, by table about code.  In what order a section has its things, or a
    table its entries, says nothing; nor do strings and constants without a name by themselves,
    which are seen where they are used.
    """
    obj = read_object(path.read_bytes(), path.name)
    names = Names(obj)
    found: dict[str, list[str]] = {}
    for section in obj.sections:
        if not section.is_alloc or section.name.startswith(_LEFT_OUT):
            continue
        if not section.is_strings and not section.is_merged_constants:
            content = _content(section, names, sizes.get(section.name, 0))
            size = 0 if section.name in _NAMES else section.size
            text = repr((content, size, section.align, section.flags))
            digest = hashlib.sha256(text.encode()).hexdigest()
            for name in _names_of(section, names):
                found.setdefault(name, []).append(digest)
    return {name: " ".join(sorted(digests)) for name, digests in found.items()}


def _names_of(section: Section, names: "Names") -> list[str]:
    """Return a section's name and, where it is that of one function, those with its other names."""
    own, known = name_without_number(section.name), names.at(section, 0)[0].split()
    prefix = next((own.removesuffix(n) for n in known if own.endswith(f".{n}")), None)
    return [own] if prefix is None else [f"{prefix}{n}" for n in known]


class Names:
    """What begins where in an object, by the names without numbers."""

    def __init__(self, obj: Object) -> None:
        found: dict[Section, dict[int, set[str]]] = {}
        for s in obj.symbols:
            if s.section is not None and s.name and s.type not in (STT_SECTION, STT_FILE):
                by_value = found.setdefault(s.section, {})
                by_value.setdefault(s.value, set()).add(name_without_number(s.name))
        self._names = {k: {at: " ".join(sorted(v)) for at, v in x.items()}
                       for k, x in found.items()}  # fmt: skip
        self._starts = {section: sorted(by_value) for section, by_value in found.items()}

    def starts(self, section: Section) -> list[int]:
        """Return where anything begins in a section, and its own begin."""
        return sorted({0, *self._starts.get(section, ())})

    def at(self, section: Section, offset: int) -> tuple[str, int]:
        """Return what begins last before a place, or at it, and how far behind the place is."""
        starts = self._starts.get(section, ())
        i = bisect_right(starts, offset) - 1
        if i < 0:
            return "", offset
        return self._names[section][starts[i]], offset - starts[i]


def name_without_number(name: str) -> str:
    """Return a name without the numbers that the compiler gives: of ``__func__.3``, too."""
    numbers = _NUMBER if any(word in name for word in _COUNTED) else _SUFFIX
    return numbers.sub("", name)


_Reference = tuple[int, int, str, int]
"""Offset, type, what it leads to, and how far behind."""


def _content(section: Section, names: Names, entry: int) -> object:
    """Return what the things of a section, or the entries of a table, are, sorted.

    Zeros at the end may be padding; the section's size says whether there are more.
    """
    if section.name in _NAMES:
        return sorted(filter(None, section.data.split(b"\0")))
    if not entry and names.starts(section) == [0] and not any(section.data):
        return sorted(_target(section, r, names) for r in section.relocations)  # a list of pointers
    starts = list(range(0, section.size, entry)) if entry else names.starts(section)
    parts: list[tuple[str, bytes, list[_Reference]]] = [
        (
            "" if entry or len(starts) == 1 else names.at(section, at)[0],
            _without_line(section, at, end),
            [],
        )
        for at, end in zip(starts, [*starts[1:], section.size], strict=True)
    ]
    for r in section.relocations:
        i = bisect_right(starts, r.offset) - 1
        kind, leads_to, behind = _target(section, r, names)
        parts[i][2].append((r.offset - starts[i], kind, leads_to, behind))
    return sorted(parts)


def _without_line(section: Section, start: int, end: int) -> bytes:
    """Return the bytes of a thing, without the line that it has in the source.

    Where a function has moved, that of a descriptor of pr_debug() (struct _ddebug) is another one,
    and that of a WARN() (struct bug_entry with file and line).
    """
    data = section.data[start:end]
    if section.name == "__dyndbg":
        data = data[:32] + data[36:]
    if section.name == "__bug_table" and len(data) == 12:
        data = data[:8] + data[10:]
    return data.rstrip(b"\0")


def _target(owner: Section, r: Relocation, names: Names) -> tuple[int, str, int]:
    """Return what a reference leads to: a text, a constant, or a symbol and a distance."""
    target = r.symbol.section
    if target is None:
        return r.type, r.symbol.name, r.addend
    tail = 4 if owner.is_text and r.type in _RELATIVE else 0
    at = r.symbol.value + r.addend + tail
    if target.is_strings:
        text = target.data[at:].split(b"\0")[0] if 0 <= at < len(target.data) else b""
        return r.type, repr(text), 0
    if target.is_merged_constants:
        return r.type, repr(target.data[at : at + target.entsize]), 0
    if r.symbol.type != STT_SECTION:
        return r.type, name_without_number(r.symbol.name), r.addend
    name, behind = names.at(target, at)
    # in what kind of section it is, its own says
    return r.type, name or name_without_number(target.name), behind - tail

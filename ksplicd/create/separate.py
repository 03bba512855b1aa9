# SPDX-License-Identifier: GPL-2.0-only
"""One datum a section, also where the source asks for an explicit section.

``-fdata-sections`` leaves what has a section attribute together (``__dyndbg``, ``.data.once``,
``.data..read_mostly``).  Taken apart, each datum can be paired, compared and carried by itself.
Code in explicit sections stays together: the assembler has resolved its local calls.
"""

from bisect import bisect_right
from collections.abc import Sequence

from ksplicd.create.place import Places
from ksplicd.create.special import is_special_section
from ksplicd.elf import Object, Relocation, Section, Symbol
from ksplicd.elf.model import SHT_GROUP, SHT_NOBITS, STT_NOTYPE, STT_OBJECT, STT_SECTION


def separate_data(obj: Object) -> None:
    """Give every datum of ``obj`` that shares a section one of its own, of the same name."""
    places = Places(obj)
    cuts = {s: data for s in obj.sections if is_separable(s) and (data := _data_in(places, s))}
    if not cuts:
        return
    # What a reference means is asked before anything moves.
    located = [
        (r, places.locate(owner, r).symbol)
        for owner in obj.sections
        for r in owner.relocations
        if r.symbol.section in cuts and r.symbol.type == STT_SECTION
    ]
    parts = {section: _cut(obj, section, data) for section, data in cuts.items()}
    for r, symbol in located:
        if symbol is not None and symbol.section is not None and symbol.section != r.symbol.section:
            # ``addend`` counts from the old section's start, where ``symbol`` no longer is.
            old = r.symbol.section
            assert old is not None
            start = parts[old][symbol.section]
            r.symbol, r.addend = obj.section_symbol(symbol.section), r.addend - start


def is_separable(section: Section) -> bool:
    """Tell whether a section is data that may be taken apart."""
    if not section.is_alloc or section.is_text or section.type == SHT_GROUP:
        return False
    if is_special_section(section) or section.is_strings or section.is_merged_constants:
        return False
    return not section.name.startswith(("__ksymtab", "___ksymtab", ".init", ".exit", ".discard"))


def _data_in(places: Places, section: Section) -> list[Symbol]:
    """Return the data of a section in order, empty when there are not two or they overlap."""
    data: list[Symbol] = []
    for s in places.symbols_in(section):
        if s.size and s.type in (STT_OBJECT, STT_NOTYPE):
            if data and s.value < data[-1].value + data[-1].size:
                if s.value != data[-1].value or s.size != data[-1].size:
                    return []
                continue  # an alias
            data.append(s)
    return data if len(data) > 1 else []


def _cut(obj: Object, section: Section, data: Sequence[Symbol]) -> dict[Section, int]:
    """Move each datum to a section of its own; return where each new section began."""
    starts = [s.value for s in data]
    new: list[Section] = []
    for s in data:
        content = b"" if section.type == SHT_NOBITS else section.data[s.value : s.value + s.size]
        new.append(
            Section(
                section.name, section.type, section.flags, content,
                _alignment(section.align, s.value), section.entsize,
                nobits_size=s.size if section.type == SHT_NOBITS else 0,
            )
        )  # fmt: skip

    def part_at(offset: int) -> int | None:
        i = bisect_right(starts, offset) - 1
        return i if i >= 0 and offset < starts[i] + data[i].size else None

    kept: list[Relocation] = []
    for r in section.relocations:
        i = part_at(r.offset)
        if i is None:
            kept.append(r)
        else:
            r.offset -= starts[i]
            new[i].relocations.append(r)
    section.relocations = kept
    for s in obj.symbols:
        if s.section is section and s.type != STT_SECTION:
            i = part_at(s.value)
            if i is not None:
                s.section, s.value = new[i], s.value - starts[i]
    at = obj.sections.index(section)
    obj.sections[at + 1 : at + 1] = new
    return dict(zip(new, starts, strict=True))


def _alignment(section_align: int, offset: int) -> int:
    """Return the alignment that an offset in an aligned section has."""
    lowest = offset & -offset
    return section_align if not lowest else min(section_align, lowest)

# SPDX-License-Identifier: GPL-2.0-only
"""Functions that only know other line numbers, because lines came or went above them.

``ASSERT_RTNL()`` hands ``__FILE__`` and ``__LINE__`` to a warning, ``might_sleep()`` to its check:
the line is an immediate beside a reference to the name of a source file or of the function.  In a
function that is otherwise the same, all lines have moved by the same distance.
"""

import re
from typing import Final

from ksplicd.create.correlate import relocations_in
from ksplicd.create.names import is_literal
from ksplicd.create.place import Places, string_at
from ksplicd.elf import Relocation, Section, Symbol
from ksplicd.elf.instructions import Role
from ksplicd.elf.x86_64 import R_X86_64_PC32, R_X86_64_PLT32

_SOURCE_FILE: Final = re.compile(rb"[\w./+-]+\.[ch]\0$")
_MOST_LINES: Final = 1 << 17


def is_line_shift(places: Places, function: Symbol, before: bytes, after: bytes) -> bool:
    """Tell whether two bodies of one size differ in line numbers alone.

    ``places``, ``function``: of the object that ``after`` is from.
    """
    section = function.section
    assert section is not None
    fields = places.fields_of(function)
    relocated = {r.offset for r in section.relocations}
    shifts: set[int] = set()
    left = {i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y}
    for at, field in fields.items():
        start = at - function.value
        if not left & set(range(start, start + field.size)):
            continue
        old, new = (
            int.from_bytes(x[start : start + field.size], "little") for x in (before, after)
        )
        if field.role is not Role.ADDRESS or field.size != 4 or at in relocated:
            return False
        if not (0 < old < _MOST_LINES and 0 < new < _MOST_LINES):
            return False
        if not _has_name_beside(places, section, function, at):
            return False
        shifts.add(new - old)
        left -= set(range(start, start + field.size))
    return not left and len(shifts) == 1


def _has_name_beside(places: Places, section: Section, function: Symbol, at: int) -> bool:
    """Tell whether the arguments of the call around ``at`` name a source file or a function."""
    arguments: list[Relocation] = []
    for r in relocations_in(function):
        if r.type in (R_X86_64_PC32, R_X86_64_PLT32) and places.is_branch(section, r):
            if r.offset > at:
                break
            arguments = []
        else:
            arguments.append(r)
    return any(_is_name(places, section, r) for r in arguments)


def _is_name(places: Places, section: Section, r: Relocation) -> bool:
    place = places.locate(section, r)
    if place.section is None:
        return False
    if place.section.is_strings:
        text = string_at(place.section, place.offset)
        return text is not None and _SOURCE_FILE.match(text) is not None
    return place.symbol is not None and is_literal(place.symbol)

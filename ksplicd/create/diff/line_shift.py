# SPDX-License-Identifier: GPL-2.0-only
"""Functions that only know other line numbers, because lines came or went above them.

``ASSERT_RTNL()`` hands ``__FILE__`` and ``__LINE__`` to a warning, ``might_sleep()`` to its check:
the line is an immediate beside a reference to the name of a source file or of the function.  In a
function that is otherwise the same, all lines have moved by the same distance: each number by that
of the line that its own instruction is from, which is near by.  ``show(__func__, 250)`` instead of
255 is a change.  Without debug information only the name of a source file is believed.
"""

import re
from bisect import bisect_right
from typing import Final

from ksplicd.create.objects.index import ObjectIndex, relocations_in, string_at
from ksplicd.create.objects.names import is_literal
from ksplicd.elf.debug_line import Rows
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import Relocation, Section, Symbol
from ksplicd.elf.x86_64 import R_X86_64_PC32, R_X86_64_PLT32

_SOURCE_FILE: Final = re.compile(rb"[\w./+-]+\.[ch]\0$")
_MOST_LINES: Final = 1 << 17
_STATEMENT: Final = 8
"""Lines that one statement may have."""


def is_line_shift(
    pre: ObjectIndex, old_function: Symbol, index: ObjectIndex, function: Symbol,
    before: bytes, after: bytes,
) -> bool:  # fmt: skip
    """Tell whether two bodies of one size differ in line numbers alone.

    ``before`` is the body of ``old_function``, ``after`` that of ``function``; relocated fields are
    zero.
    """
    section = function.section
    assert section is not None
    old_rows, new_rows = pre.rows_of(old_function), index.rows_of(function)
    has_lines = old_rows is not None and new_rows is not None
    fields = index.fields_of(function)
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
        if not _has_name_beside(index, section, function, at, or_function=has_lines):
            return False
        if old_rows is not None and new_rows is not None:
            places = _lines_at(old_rows, start), _lines_at(new_rows, start)
            if not _have_moved(old, new, *places):
                return False
        shifts.add(new - old)
        left -= set(range(start, start + field.size))
    return not left and len(shifts) == 1


def _lines_at(rows: Rows, offset: int) -> list[int]:
    """Return the lines of the instruction around an offset; several rows may be of one address."""
    starts = sorted({at for at, _ in rows})
    i = bisect_right(starts, offset) - 1
    return [line for at, line in rows if i >= 0 and at == starts[i]]


def _have_moved(old: int, new: int, before: list[int], after: list[int]) -> bool:
    """Tell whether a number has moved as far as a line that it is near to.

    ``before``, ``after``: the lines of its instruction.
    """
    if len(before) != len(after):
        before, after = before[-1:], after[-1:]
    return any(
        new - old == b - a and max(abs(old - a), abs(new - b)) <= _STATEMENT
        for a, b in zip(before, after, strict=True)
    )


def _has_name_beside(
    index: ObjectIndex, section: Section, function: Symbol, at: int, *, or_function: bool
) -> bool:
    """Tell whether the arguments of the call around ``at`` name a source file or a function."""
    arguments: list[Relocation] = []
    for r in relocations_in(function):
        if r.type in (R_X86_64_PC32, R_X86_64_PLT32) and index.is_branch(section, r):
            if r.offset > at:
                break
            arguments = []
        else:
            arguments.append(r)
    return any(_is_name(index, section, r, or_function=or_function) for r in arguments)


def _is_name(index: ObjectIndex, section: Section, r: Relocation, *, or_function: bool) -> bool:
    referent = index.locate(section, r)
    if referent.section is None:
        return False
    if referent.section.is_strings:
        text = string_at(referent.section, referent.offset)
        return text is not None and _SOURCE_FILE.match(text) is not None
    return or_function and referent.symbol is not None and is_literal(referent.symbol)

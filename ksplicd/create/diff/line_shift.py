# SPDX-License-Identifier: GPL-2.0-only
"""Functions that only know other line numbers, because lines came or went above them.

``ASSERT_RTNL()`` hands ``__FILE__`` and ``__LINE__`` to a warning, ``might_sleep()`` to its check:
the line is an immediate beside a reference to the name of a source file or of the function.  In a
function that is otherwise the same, all lines have moved by the same distance, and the numbers are
of lines that the function's code is from.  Without debug information only the name of a source file
is believed: ``show(__func__, 1000)`` has no line.
"""

import re
from collections.abc import Collection
from typing import Final

from ksplicd.create.objects.index import ObjectIndex, relocations_in, string_at
from ksplicd.create.objects.names import is_literal
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
    old_lines, new_lines = pre.lines_of(old_function), index.lines_of(function)
    has_lines = old_lines is not None and new_lines is not None
    if has_lines and old_lines == new_lines:
        return False  # nothing has moved
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
        if has_lines and not (_is_near(old, old_lines) and _is_near(new, new_lines)):
            return False
        shifts.add(new - old)
        left -= set(range(start, start + field.size))
    return not left and len(shifts) == 1


def _is_near(line: int, lines: Collection[int] | None) -> bool:
    """Tell whether a line is one of ``lines``, or of a statement that begins or ends there."""
    return any(abs(line - x) <= _STATEMENT for x in lines or ())


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

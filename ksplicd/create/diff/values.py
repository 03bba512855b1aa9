# SPDX-License-Identifier: GPL-2.0-only
"""Values in constant tables that change, such as a mode, a length, a flag.

The running kernel's table gets them while the update is applied (kmodsrc/redirect.c).  Whoever
reads them sees the old or the new one, since one aligned store writes each field; what would take
two is no such change.  Whether somebody has copied them is not known here
(``new_code/exchanged.py``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ksplicd.create.objects.names import is_read_only
from ksplicd.elf.debug_info import DebugInfo, Type
from ksplicd.elf.model import Section, Symbol

SIZES: Final = (1, 2, 4, 8)
"""Bytes that one store writes."""
_BITS: Final = 8
_LATER: Final = ".data.."
"""Beginning of the names of sections for what changes: ``.data..read_mostly``, ``.data..percpu``;
and of ``.data..ro_after_init``, which boot code writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueChange:
    """One field of a datum."""

    datum: Symbol
    """In the post object."""
    offset: int
    """From the beginning of the datum, a multiple of the field's size."""
    old: bytes
    new: bytes
    """As many bytes as ``old``: 1, 2, 4 or 8."""


def may_be_constant(s: Symbol) -> bool:
    """Tell whether a datum can be one that nobody writes while the kernel runs.

    In read-only memory, or a table with functions in it that nobody has declared const:
    ``static struct ctl_table``.
    """
    assert s.section is not None
    if is_read_only(s.section):
        return True
    if not s.section.name.startswith(".data") or s.section.name.startswith(_LATER):
        return False
    return any(_leads_to_code(r.symbol.section) for r in s.section.relocations)


def _leads_to_code(section: Section | None) -> bool:
    return section is not None and section.is_text


def value_changes(info: DebugInfo | None, a: Symbol, b: Symbol) -> list[ValueChange] | None:
    """Return the fields whose bytes differ in two data of one size; None when one cannot be told.

    ``info``: of the post object, which ``b`` is in.
    """
    before, after = _content(a), _content(b)
    differ = {i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y}
    name = b.name.partition(".")[0]
    types = {} if info is None else {v.type: None for v in info.variables if v.name == name}
    key = next((t for t in types if info is not None and info.size_of(t) == b.size), None)
    if info is None or key is None:
        return None
    found: dict[int, ValueChange] = {}
    for span in _spans(info, key, 0):
        mine = differ.intersection(span)
        differ -= mine
        place = _one_store(b, span, mine) if mine else None
        if mine and place is None:
            return None
        if place is not None:
            old, new = before[place.start : place.stop], after[place.start : place.stop]
            change = ValueChange(datum=b, offset=place.start, old=old, new=new)
            if found.setdefault(place.start, change) != change:
                return None
    return None if differ else list(found.values())


def _spans(info: DebugInfo, key: int, base: int, *, is_member: bool = False) -> Iterator[range]:
    """Yield the bytes that a reader takes for one field.

    A union is one, and so is a string, or an array of numbers in a structure.
    """
    t, size = info.stripped(key), info.size_of(key) or 0
    if t is None:
        return
    if t.is_record and not _is_union(t):
        for m in t.members:
            at = base * _BITS + m.offset
            if m.bits is None:
                yield from _spans(info, m.type, at // _BITS, is_member=True)
            else:
                yield range(at // _BITS, -(-(at + m.bits) // _BITS))
    elif t.is_array and not _is_one_field(info, t, is_member=is_member):
        element = info.size_of(t.type) or 0
        for at in range(base, base + size, element) if element else ():
            yield from _spans(info, t.type, at, is_member=is_member)
    else:
        yield range(base, base + size)


def _is_union(t: Type) -> bool:
    return len(t.members) > 1 and all(m.offset == 0 and m.bits is None for m in t.members)


def _is_one_field(info: DebugInfo, array: Type, *, is_member: bool) -> bool:
    element = info.stripped(array.type)
    if element is None or element.is_record or element.is_array:
        return False
    return is_member or element.name in ("char", "unsigned char", "signed char")


def _one_store(s: Symbol, span: range, bytes_in: set[int]) -> range | None:
    """Return the bytes that one aligned store writes to change some of a field."""
    assert s.section is not None
    is_aligned = s.section.align >= len(span) and not (s.value + span.start) % max(len(span), 1)
    if len(span) in SIZES and is_aligned:
        return span
    for size in SIZES:
        start = min(bytes_in) // size * size
        is_aligned = s.section.align >= size and not s.value % size
        if is_aligned and max(bytes_in) < start + size <= s.size:
            return range(start, start + size)
    return None


def _content(s: Symbol) -> bytes:
    assert s.section is not None
    return s.section.data[s.value : s.value + s.size]

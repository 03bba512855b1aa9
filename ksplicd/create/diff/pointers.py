# SPDX-License-Identifier: GPL-2.0-only
"""Tables of which only fields change, such as a new ``.release`` in operations, or a length.

The running kernel's table gets the new pointer while the update is applied (kmodsrc/redirect.c),
where there was another function or none.  A pointer that goes away is refused: somebody who has
tested it a moment ago is about to call it.  What changes besides are values (``values.py``).
"""

from dataclasses import dataclass
from typing import Final

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.values import ValueChange, may_be_constant, value_changes
from ksplicd.create.objects.index import Referent, relocations_in
from ksplicd.elf.model import SHT_NOBITS, Symbol
from ksplicd.elf.x86_64 import R_X86_64_64

_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class PointerChange:
    """One function pointer of a datum."""

    datum: Symbol
    """In the post object."""
    offset: int
    """From the beginning of the datum."""
    old: Symbol | None
    """In the pre object; None: there was none."""
    new: Symbol
    """In the post object."""


@dataclass(frozen=True, slots=True)
class FieldChanges:
    """What alone differs in a datum."""

    pointers: tuple[PointerChange, ...] = ()
    values: tuple[ValueChange, ...] = ()


def field_changes(comparison: Comparison, a: Symbol, b: Symbol) -> FieldChanges | None:
    """Return the fields in which two data differ; None when they differ in more."""
    if a.section is None or b.section is None or a.size != b.size:
        return None
    if SHT_NOBITS in (a.section.type, b.section.type):
        return None
    values: list[ValueChange] | None = []
    if _without_pointers(a) != _without_pointers(b):
        is_constant = may_be_constant(a) and may_be_constant(b)
        values = value_changes(comparison.post.debug_info, a, b) if is_constant else None
    pointers = _pointer_changes(comparison, a, b)
    if values is None or pointers is None or not (values or pointers):
        return None
    return FieldChanges(tuple(pointers), tuple(values))


def _pointer_changes(comparison: Comparison, a: Symbol, b: Symbol) -> list[PointerChange] | None:
    """Return the function pointers in which two data differ; None when others do."""
    assert a.section is not None
    assert b.section is not None
    before = {r.offset - a.value: r for r in relocations_in(a)}
    after = {r.offset - b.value: r for r in relocations_in(b)}
    if not before.keys() <= after.keys():
        return None
    changes = []
    for at, rb in after.items():
        ra, new = before.get(at), comparison.post.locate(b.section, rb)
        old = None if ra is None else comparison.pre.locate(a.section, ra)
        if old is not None and comparison.same_target(old, new):
            continue
        is_pointer = rb.type == R_X86_64_64 and not at % _SIZE and b.section.align >= _SIZE
        if not is_pointer or new.symbol is None or not _may_become(old, new):
            return None
        changes.append(PointerChange(b, at, old.symbol if old else None, new.symbol))
    return changes


def _may_become(old: Referent | None, new: Referent) -> bool:
    """Tell whether a pointer to functions changes to another one.

    For what another file defines the object does not have the type.  The old pointer's target
    has one; without an old one, the kernel's symbols rule out ``THIS_MODULE``.
    """
    if new.offset or new.symbol is None:
        return False
    if old is None:
        return new.symbol.is_function or new.symbol.is_undefined
    if old.offset or old.symbol is None:
        return False
    return old.symbol.is_function or (old.symbol.is_undefined and new.symbol.is_function)


def _without_pointers(s: Symbol) -> bytes:
    """Return the bytes of a datum; relocated fields are zero in an object file with addends."""
    assert s.section is not None
    return s.section.data[s.value : s.value + s.size]

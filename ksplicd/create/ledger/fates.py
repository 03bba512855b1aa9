# SPDX-License-Identifier: GPL-2.0-only
"""What became of the functions and data of a unit, and of the data by their content.

Data are compared here by their bytes and by what they point to, whatever the difference made of
them: what differs, and is neither copied nor exchanged, the running kernel has as it was.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from enum import Enum, auto

from ksplicd.create.diff.data import is_compared
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.objects.index import ObjectIndex, relocations_in, string_at
from ksplicd.create.objects.names import base_name, is_boot_section
from ksplicd.elf.model import STT_SECTION, Relocation, Symbol


class Fate(Enum):
    """What became of a function or a datum."""

    CHANGED = auto()
    COPIED = auto()
    """A constant that differs, of which the functions that read it bring their own copy."""
    NEW = auto()
    REMOVED = auto()
    LEFT = auto()
    """It differs, and the running kernel's stays as it is: a datum, or an ignored function."""
    BOOT = auto()
    """It is used only at boot or at unload, and differs or is new."""
    SAME = auto()
    BOOT_SAME = auto()


def fates_of_data(
    pre: ObjectIndex, post: ObjectIndex, change: UnitChange | None
) -> dict[str, frozenset[Fate]]:
    """Return what became of the data of each name; ``change``: None where nothing is in effect."""
    found: dict[str, set[Fate]] = defaultdict(set)
    twins = _twins(pre, post, change)
    known: dict[Symbol, Fate] = {}
    renamed: set[tuple[str, str]] = set()
    if change is not None:
        d = change.difference
        known = dict.fromkeys(d.copied_constants, Fate.COPIED)
        known |= {p.datum: Fate.CHANGED for p in d.pointers}
        known |= {v.datum: Fate.CHANGED for v in d.values}
        renamed = {(d.twins.pre_of[s].name, s.name) for s in d.changed}
    for s in _data(post):
        fate = known.get(s) or _fate(pre, twins.get(s), post, s)
        if fate is Fate.LEFT and is_same_content(pre, twins[s], post, s, renamed):
            fate = Fate.CHANGED  # it leads to a function that is redirected
        found[base_name(s.name)].add(fate)
    for s in _data(pre):
        if base_name(s.name) not in found:
            found[base_name(s.name)].add(Fate.REMOVED)
    return {name: frozenset(fates) for name, fates in found.items()}


def _fate(pre: ObjectIndex, twin: Symbol | None, post: ObjectIndex, s: Symbol) -> Fate:
    """Return what became of a datum of which no copy is made."""
    assert s.section is not None
    is_same = twin is not None and is_same_content(pre, twin, post, s)
    if is_boot_section(s.section):
        return Fate.BOOT_SAME if is_same else Fate.BOOT
    if twin is None:
        return Fate.NEW
    return Fate.SAME if is_same or not is_compared(s) else Fate.LEFT


def _twins(
    pre: ObjectIndex, post: ObjectIndex, change: UnitChange | None
) -> Mapping[Symbol, Symbol]:
    """Return by post datum that of the pre object; without a difference by names that are once."""
    if change is not None:
        return change.difference.twins.pre_of
    before, after = _by_name(pre), _by_name(post)
    return {
        found[0]: before[name][0]
        for name, found in after.items()
        if len(found) == len(before.get(name, ())) == 1
    }


def _by_name(index: ObjectIndex) -> dict[str, list[Symbol]]:
    found: dict[str, list[Symbol]] = defaultdict(list)
    for s in _data(index):
        found[base_name(s.name)].append(s)
    return found


def is_same_content(
    pre: ObjectIndex,
    a: Symbol,
    post: ObjectIndex,
    b: Symbol,
    renamed: Collection[tuple[str, str]] = (),
) -> bool:
    """Tell whether two data begin with the same: size, bytes, and what they point to by name.

    Of a string the text counts, of a constant of the compiler's (``.LC0``) nothing, of a thing of
    several names any.  ``renamed``: functions before and after that are one.
    """
    if a.size != b.size or _bytes_of(a) != _bytes_of(b):
        return False
    old, new = (
        {r.offset - s.value: _target(index, s, r) for r in relocations_in(s)}
        for index, s in ((pre, a), (post, b))
    )
    return old.keys() == new.keys() and all(
        (old[at][0] & new[at][0] or any(x in old[at][0] and y in new[at][0] for x, y in renamed))
        and old[at][1] == new[at][1]
        for at in old
    )


def _bytes_of(s: Symbol) -> bytes:
    assert s.section is not None
    return s.section.data[s.value : s.value + s.size]


def _target(index: ObjectIndex, s: Symbol, r: Relocation) -> tuple[frozenset[object], int]:
    """Return by which names, or texts, an entry's target is known, and the offset in it."""
    assert s.section is not None
    referent = index.locate(s.section, r)
    found = referent.symbol
    if found is not None and found.section is not None:
        here = (x for x in index.symbols_in(found.section) if x.value == found.value)
        return frozenset(_source_name(x) for x in (found, *here)), referent.offset
    if found is not None:
        return frozenset([found.name]), referent.offset
    if referent.section is not None and referent.section.is_strings:
        return frozenset([string_at(referent.section, referent.offset)]), 0
    return frozenset([None]), 0


def _source_name(s: Symbol) -> str:
    return s.name.partition(".")[0] if s.is_function else base_name(s.name)


def _data(index: ObjectIndex) -> Iterator[Symbol]:
    for s in index.obj.symbols:
        if s.section is None or not s.name or s.is_function or s.type == STT_SECTION:
            continue
        if s.section.is_alloc and not s.section.is_text:
            yield s

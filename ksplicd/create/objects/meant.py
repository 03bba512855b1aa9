# SPDX-License-Identifier: GPL-2.0-only
"""Which datum a reference means, where several lie in one section.

The assembler writes a reference to a static variable as one to its section, so that the end of
``table`` and the beginning of what comes next are one and the same (``.data..read_mostly+0x80``),
and ``table[i - 1]`` is an index from a place inside what comes before.  A global variable keeps its
name and is never meant by a section.  The instruction and what else its function refers to decide;
what they leave open is ``unclear``, and both data stay together.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.names import is_per_cpu
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import STB_LOCAL, STT_SECTION, Relocation, Section, Symbol

_SCALAR = 8
"""Bytes of the largest datum that nobody looks into by an index."""


class _Use(Enum):
    """How a reference is used."""

    DIRECT = auto()
    """What lies there is read or written."""
    INDEXED = auto()
    """A register is added first."""
    COMPARED = auto()
    """An address is compared with it: a loop's end, or one object with another."""
    ADDRESS = auto()
    """The address goes somewhere."""


@dataclass(frozen=True, slots=True)
class Datum:
    """One datum of a section, as the compiler laid it out."""

    start: int
    end: int
    symbol: Symbol


@dataclass(frozen=True, slots=True)
class Meant:
    """What a reference means: None when nothing fits."""

    datum: Datum | None
    other: Datum | None = None
    """What it may mean just as well."""


class MeantData:
    """Answers for one object that is not yet taken apart."""

    def __init__(self, index: ObjectIndex, data: Mapping[Section, Sequence[Datum]]) -> None:
        """``data``: the data of each section of several, in order and not overlapping."""
        self.index, self.data = index, data
        self._taken: dict[Symbol, set[Datum]] = {}

    def find(self, owner: Section, r: Relocation) -> Meant:
        """Return what relocation ``r`` of ``owner``, by a section of ``data``, means."""
        section = r.symbol.section
        assert section is not None
        assert r.symbol.type == STT_SECTION
        offset, use = r.addend + self.index.bias(owner, r), self.use(owner, r)
        if use is _Use.INDEXED and is_per_cpu(section):
            use = _Use.DIRECT  # the register has the processor's base
        at, before, behind = self.around(section, offset)
        if at is None:
            return self.beside(owner, r, use, before, behind)
        if before is not None and (before.end != offset or before.symbol.bind != STB_LOCAL):
            before = None
        if before is None and use is not _Use.INDEXED:
            return Meant(at)
        if at.symbol.bind != STB_LOCAL and before is not None:
            return Meant(before)
        match use:
            case _Use.DIRECT:
                return Meant(at)
            case _Use.INDEXED:
                return self.indexed(owner, r, at, before, behind)
            case _Use.COMPARED | _Use.ADDRESS:
                assert before is not None
                return self.at_border(owner, r, use, before, at)

    def around(
        self, section: Section, offset: int
    ) -> tuple[Datum | None, Datum | None, Datum | None]:
        """Return the data that has an offset, and those before and behind it."""
        data = self.data[section]
        i = bisect_right(data, offset, key=lambda d: d.start)
        inside = i > 0 and offset < data[i - 1].end
        before = i - 2 if inside else i - 1
        return (
            data[i - 1] if inside else None,
            data[before] if before >= 0 else None,
            data[i] if i < len(data) else None,
        )

    def beside(
        self, owner: Section, r: Relocation, use: _Use, before: Datum | None, behind: Datum | None
    ) -> Meant:
        """Return what a reference to padding means, or to what lies before or behind all data."""
        if use is _Use.DIRECT:
            return Meant(None)
        found = [d for d in (before, behind) if d is not None and d.symbol.bind == STB_LOCAL]
        taken = [d for d in found if d in self.taken_beside(owner, r)]
        if len(found) < 2 or len(taken) == 1:
            return Meant(next(iter(taken or found), None))
        assert before is not None
        assert behind is not None
        section = r.symbol.section
        assert section is not None
        is_end = before.end == r.addend + self.index.bias(owner, r)
        if use is not _Use.INDEXED and is_end:
            return Meant(before)
        if before.end - before.start <= _SCALAR:
            return Meant(behind)
        return Meant(before, behind) if is_end else Meant(behind, before)

    def indexed(
        self, owner: Section, r: Relocation, at: Datum, before: Datum | None, behind: Datum | None
    ) -> Meant:
        """Return what an index from inside ``at`` leads into.

        Nobody indexes a scalar, so that the index is from outside the array that is meant.
        """
        others = [d for d in (before, behind) if d is not None and d.symbol.bind == STB_LOCAL]
        others = [d for d in others if d.end - d.start > _SCALAR]
        taken = self.taken_beside(owner, r)
        if at.end - at.start <= _SCALAR and others:
            found = [d for d in others if d in taken] or others
            return Meant(found[0], found[1] if len(found) > 1 else None)
        found = [d for d in others if d in taken and at not in taken]
        return Meant(at, found[0] if found else None)

    def at_border(
        self, owner: Section, r: Relocation, use: _Use, before: Datum, at: Datum
    ) -> Meant:
        """Return whether the end of ``before`` or the beginning of ``at`` is meant.

        Only the end of an array is of use; a list's head is compared at each step of a loop.
        """
        if not self.may_be_array(before):
            return Meant(at)
        taken = self.taken_beside(owner, r)
        if use is _Use.COMPARED:
            if (before in taken) is not (at in taken):
                return Meant(before if before in taken else at)
            return Meant(before, at)
        is_open = before in taken and at not in taken
        return Meant(at, before if is_open else None)

    def use(self, owner: Section, r: Relocation) -> _Use:
        """Return how the reference is used; data hold addresses."""
        if not owner.is_text:
            return _Use.ADDRESS
        if self.index.is_indexed(owner, r):
            return _Use.INDEXED
        field = self.index.field_at(owner, r.offset)
        if field is None:
            return _Use.ADDRESS
        if field.role is Role.MEMORY:
            return _Use.DIRECT
        return _Use.COMPARED if field.is_compared else _Use.ADDRESS

    def taken_beside(self, owner: Section, r: Relocation) -> set[Datum]:
        """Return the data whose addresses the function or datum around a reference surely takes."""
        user = self.index.symbol_at(owner, r.offset)
        if user is None:
            return set()
        user = self.index.main_of(user)
        if user not in self._taken:
            self._taken[user] = self.find_taken(user)
        return self._taken[user]

    def find_taken(self, user: Symbol) -> set[Datum]:
        """Return the data whose addresses a function or datum surely takes."""
        found: set[Datum] = set()
        for part in (user, *self.index.cold_parts_of(user)):
            owner = part.section
            assert owner is not None
            end = part.value + max(part.size, 1)
            for r in owner.relocations:
                section = r.symbol.section
                if section is None or section not in self.data:
                    continue
                if not part.value <= r.offset < end:
                    continue
                if r.symbol.type != STT_SECTION or self.use(owner, r) is _Use.DIRECT:
                    continue
                offset = r.addend + self.index.bias(owner, r)
                at, before, _ = self.around(section, offset)
                if at is not None and (before is None or before.end != offset):
                    found.add(at)
        return found

    def may_be_array(self, datum: Datum) -> bool:
        """Tell whether a datum has elements, so that its end may be of use."""
        if datum.end - datum.start <= _SCALAR:
            return False
        debug = self.index.debug_info
        if debug is None:
            return True
        place = datum.symbol.section, datum.symbol.value
        types = [v.type for v in debug.variables if v.place == place]
        return not types or any(debug.is_array(t) for t in types)

# SPDX-License-Identifier: GPL-2.0-only
"""A function that is led to another one, because tables name that in its place.

It is right where nothing but those tables leads to the old function: not in the plain objects of
the units, before or after, but for functions that differ themselves, and not in the stock kernel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ksplicd.create.referee.meaning import function_names
from ksplicd.create.referee.unit import JudgedUnit
from ksplicd.create.referee.view import View
from ksplicd.elf.model import STB_LOCAL, Section, Symbol
from ksplicd.elf.x86_64 import RELOCATION_TYPES

_NOT_FOLLOWED = ("__mcount_loc", ".discard", ".orc_unwind", "__patchable_function_entries")
"""Beginnings of the names of sections by which nobody comes to a function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an update takes for granted when it leads one function to another."""

    unit: JudgedUnit
    """That has the old function."""
    old: Symbol
    """In the plain pre object."""
    new: frozenset[str]
    """The names of the new function."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the old function."""
        section = self.old.section
        assert section is not None
        return frozenset(self.unit.pre.names[section, self.old.value])


@dataclass(frozen=True, slots=True)
class _Reference:
    owner: Section
    offset: int
    user: Symbol | None


def why_wrong(units: Sequence[JudgedUnit], claim: Claim) -> Iterator[str]:
    """Yield a sentence for each thing that leads to the old function and must not."""
    is_local = claim.old.bind == STB_LOCAL
    where = f"{claim.unit.source}: {claim.old.name} is led to {min(claim.new)}"
    places: set[int] = set()
    for unit in units:
        if unit is not claim.unit and (is_local or unit.target != claim.unit.target):
            continue
        for r in _leading_to(unit.pre, claim, unit):
            if not r.owner.is_text:
                if not _names_new(unit, r, claim):
                    yield f"{where}, and {_name(r)} of {unit.source} names another in plain post"
                places |= _addresses(unit, r)
            elif r.user not in unit.standing.differing:
                yield f"{where}, and {_name(r)} of {unit.source} stays and leads there"
        for r in _leading_to(unit.new, claim, unit, is_post=True):
            yield f"{where}, and {_name(r)} of {unit.source} leads to it in plain post"
    yield from (f"{where}, and {why}" for why in _others(units, claim, places))


def _others(units: Sequence[JudgedUnit], claim: Claim, places: set[int]) -> Iterator[str]:
    """Yield who in the stock kernel leads to the old function, besides ``places``."""
    kernel, address = claim.unit.kernel, claim.unit.address_of(claim.old)
    if kernel is None or address is None:
        yield "it is not known who leads there"
        return
    if claim.old.bind != STB_LOCAL and (importers := kernel.importers(claim.old.name)):
        yield f"modules use it ({', '.join(importers[:3])})"
    known = [range(address, address + claim.old.size)]
    known += [
        range(at, at + f.size)
        for u in units if u.target == claim.unit.target
        for f in u.standing.differing
        if f.section is not None and f.section.is_text and (at := u.address_of(f)) is not None
    ]  # fmt: skip
    for at in kernel.references_to(address):
        if at not in places and not any(at in r for r in known):
            yield f"{at:#x} of the stock kernel leads to it"


def _leading_to(
    view: View, claim: Claim, unit: JudgedUnit, *, is_post: bool = False
) -> Iterator[_Reference]:
    """Yield what leads to the old function in one object, but for itself."""
    old = claim.old if unit is claim.unit else None
    if is_post and old is not None:
        old = unit.pairs.post_of.get(old)
    is_local = claim.old.bind == STB_LOCAL
    for owner in view.obj.sections:
        if not owner.is_alloc or owner.name.startswith(_NOT_FOLLOWED):
            continue
        if owner.name in view.sizes:
            continue
        for r in view.relocations.get(owner, []):
            kind = RELOCATION_TYPES.get(r.type)
            is_relative = kind is not None and kind.is_pc_relative and owner.is_text
            to = view.place(r, kind.size if kind is not None and is_relative else 0)
            target = None if to.section is None else view.symbol_at(to.section, to.offset)
            by_name = to.symbol is not None and to.symbol.name in claim.names and not is_local
            if not by_name and (target is None or target is not old):
                continue
            user = view.symbol_at(owner, r.offset)
            if user is None or user is not old:
                yield _Reference(owner, r.offset, user)


def _names_new(unit: JudgedUnit, r: _Reference, claim: Claim) -> bool:
    """Tell whether a table's twin in plain post names the new function at the same place."""
    if r.user is None:
        return False
    twin = unit.standing.pairs.post_of.get(r.user)
    if twin is None or twin.size != r.user.size:
        return False
    place = dict(unit.post.content(twin)[1]).get(r.offset - r.user.value)
    return place is not None and not claim.new.isdisjoint(function_names(unit.post, place))


def _addresses(unit: JudgedUnit, r: _Reference) -> set[int]:
    """Return where the stock kernel has a reference of data, as far as that is known."""
    if r.user is None:
        return set()
    known = unit.address_of(r.user)
    if known is None and unit.kernel is not None:
        found = unit.kernel.addresses(unit.target, r.user.name) or []
        known = found[0] if len(found) == 1 else None
    return set() if known is None else {known + r.offset - r.user.value}


def _name(r: _Reference) -> str:
    return r.user.name if r.user is not None else r.owner.name

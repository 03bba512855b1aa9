# SPDX-License-Identifier: GPL-2.0-only
"""Twins: which symbol of the post object is which symbol of the pre object.

Here are the pairing and what may be paired; how twins are found is in ``correlate.py``.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ksplicd.create.debug import phase
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.names import (
    base_name,
    has_no_identity,
    is_boot_section,
    is_content_alone,
    is_expendable,
    is_per_cpu,
)
from ksplicd.elf.model import SHF_WRITE, STB_LOCAL, STB_WEAK, Section, Symbol

LOG = phase("twins")

Place = tuple[Section, int]
"""Where a thing begins, which may have several names."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Twins:
    """A one-to-one pairing of the symbols of two objects, readable in both directions."""

    pre: ObjectIndex
    post: ObjectIndex
    pre_of: Mapping[Symbol, Symbol]
    post_of: Mapping[Symbol, Symbol]
    ambiguous: Mapping[Symbol, str]
    """Post symbols without a twin that may be one of several pre symbols, and which."""
    places: Mapping[Place, Place]
    """By place of the pre object that of the post object, where one thing is one thing still.

    Not of what was one and is several, or the other way round (``one_place.py``)."""

    def are_twins(self, pre: Symbol, post: Symbol) -> bool:
        """Tell whether the two are the same thing before and after, by whichever of its names."""
        if pre.section is None and post.section is None:
            return pre.name == post.name
        if self.post_of.get(pre) is post:
            return True
        before, after = place_of(pre), place_of(post)
        return before is not None and after is not None and self.places.get(before) == after

    def old_of(self, post: Symbol) -> Symbol | None:
        """Return what a post symbol is in the pre object: its twin, or that of an older name.

        ``MODULE_DEVICE_TABLE(pci, ids)`` gives ``ids`` a second name.
        """
        if (twin := self.pre_of.get(post)) is not None or post.section is None:
            return twin
        here = place_of(post)
        for s in self.post.symbols_in(post.section):
            twin = self.pre_of.get(s)
            before = place_of(twin) if twin is not None and place_of(s) == here else None
            if before is not None and self.places.get(before) == here:
                return twin
        return None


def place_of(s: Symbol) -> Place | None:
    """Return where a symbol's thing begins; None for what may be elsewhere, or has no bytes.

    A weak name may be that of another file's function; ``__key.2`` is empty without lockdep, and
    begins where the next variable does.
    """
    is_here = s.section is not None and s.size and s.bind != STB_WEAK
    return (s.section, s.value) if is_here and s.section is not None else None


class Pairing:
    """Twins while they are being found."""

    def __init__(self, pre: ObjectIndex, post: ObjectIndex) -> None:
        self.pre, self.post = pre, post
        self.pre_of: dict[Symbol, Symbol] = {}
        self.post_of: dict[Symbol, Symbol] = {}
        self.ambiguous: dict[Symbol, str] = {}
        self.closed: set[Symbol] = set()
        """Symbols of either object that are not to be paired by anything that is less certain."""

    def pair(self, pre: Symbol, post: Symbol, why: str = "") -> None:
        """Pair two symbols; the first pairing of a symbol stands.

        ``why``: the reason, where it is more than the name.
        """
        if self.closed & {pre, post}:
            return
        if pre not in self.post_of and post not in self.pre_of:
            self.post_of[pre] = post
            self.pre_of[post] = pre
            if why:
                LOG.debug("%s: %s is %s: %s", self.post.obj.name, post.name, pre.name, why)

    def part(self, pre: Symbol, post: Symbol, why: str) -> None:
        """Take a pairing back, for good."""
        del self.post_of[pre], self.pre_of[post]
        self.closed.update((pre, post))
        LOG.debug("%s: %s is new: %s", self.post.obj.name, post.name, why)

    def leave(self, symbols: Iterable[Symbol], candidates: Iterable[str], why: str) -> None:
        """Note post symbols that may be one of several pre symbols, the ``candidates``."""
        names = " or ".join(candidates)
        for s in symbols:
            self.ambiguous.setdefault(s, names)
            LOG.debug("%s: %s is ambiguous: %s", self.post.obj.name, s.name, why)

    def finish(self) -> Twins:
        """Return what was found."""
        return Twins(
            pre=self.pre,
            post=self.post,
            pre_of=self.pre_of,
            post_of=self.post_of,
            ambiguous=self.ambiguous,
            places=self._places(),
        )

    def _places(self) -> dict[Place, Place]:
        to, back = defaultdict[Place, set[Place]](set), defaultdict[Place, set[Place]](set)
        for a, b in self.post_of.items():
            before, after = place_of(a), place_of(b)
            if before is not None and after is not None:
                to[before].add(after)
                back[after].add(before)
        one = ((before, next(iter(found))) for before, found in to.items() if len(found) == 1)
        return {before: after for before, after in one if len(back[after]) == 1}


def is_numbered(symbol: Symbol) -> bool:
    """Tell whether the compiler numbered this name: static locals, clones and ``__UNIQUE_ID``."""
    return symbol.bind == STB_LOCAL and base_name(symbol.name) != symbol.name


def is_state(symbol: Symbol) -> bool:
    """Tell whether a symbol is a variable of a function whose content must not be mixed up."""
    section = symbol.section
    return (
        section is not None
        and bool(section.flags & SHF_WRITE)
        and not symbol.is_function
        and is_paired_by_use(symbol)
        and not is_expendable(symbol)
        and not has_no_identity(section)
        and not is_boot_section(section)
    )


def is_paired_by_use(symbol: Symbol) -> bool:
    """Tell whether references tell which symbol this is: numbered, and not content alone."""
    return is_numbered(symbol) and not is_content_alone(symbol)


def can_be_twins(pre: Symbol, post: Symbol) -> bool:
    """Tell whether two symbols of one name are of one kind.

    Code that was ``__init`` and no longer is (``.init.text`` → ``.text``) is new: the running
    kernel has thrown its twin away.  Per-CPU data and other data are reached in different ways.
    """
    a, b = pre.section, post.section
    return (
        a is not None
        and b is not None
        and pre.is_function == post.is_function
        and is_boot_section(a) == is_boot_section(b)
        and is_per_cpu(a) == is_per_cpu(b)
    )

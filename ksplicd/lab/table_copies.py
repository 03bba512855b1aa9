# SPDX-License-Identifier: GPL-2.0-only
"""Copies of a table in a guest's memory: what tells them from a mere equal word.

A copy has at the field's place what the table had or has there, and around it what the table has
around the field.  Whoever copied it may have changed some of that, so not all has to be the same.
Pure: words in, answers out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ksplicd.lab.guest_memory import WORD, Span
from ksplicd.model import VMLINUX

AROUND: Final = 64
"""Bytes on each side of the field that are compared."""

_FEW: Final = 2
_MANY_NUMBERS: Final = 4
_DIFFERENT_NUMBERS: Final = 3
_MOST_ANCHORS: Final = 8

# Documentation/arch/x86/x86_64/mm.rst: kernel addresses with five levels of page tables begin here,
# with four behind it.  Error pointers are above, two small numbers (0 or -1 the second) beside.
_FIRST: Final = 0xFF00_0000_0000_0000
_LAST: Final = 0xFFFF_FFFF_FF00_0000
_NUMBERS: Final = range(0xFFFF_FFFF_0000_0000, 0xFFFF_FFFF_8000_0000)


def is_pointer(word: int) -> bool:
    """Tell whether a word is an address of the kernel's."""
    return _FIRST <= word < _LAST and word not in _NUMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One word of a table that an update exchanges."""

    target: str
    """``vmlinux``, or the module that has the table."""
    table: str
    offset: int
    """In the table, in bytes; it need not be one of a whole word."""
    address: int
    """Of the word in the guest, virtual."""
    around: Span
    """What of the table is compared, in whole words."""

    @property
    def name(self) -> str:
        """What is exchanged, for people."""
        module = "" if self.target == VMLINUX else f" [{self.target}]"
        return f"{self.table}+{self.offset:#x}{module}"


def place_in(target: str, table: str, offset: int, begin: int, end: int | None) -> Place | None:
    """Return the place at an offset in a table at ``begin``; None: the table ends before it.

    ``end``: where the table ends, None when that is not known.
    """
    address = (begin + offset) // WORD * WORD
    last = address + WORD + AROUND if end is None else end // WORD * WORD
    if last < address + WORD:
        return None
    first = max(address - AROUND, -(-begin // WORD) * WORD)
    around = Span(min(first, address), min(last, address + WORD + AROUND))
    return Place(target=target, table=table, offset=offset, address=address, around=around)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A word beside the field."""

    values: frozenset[int]
    """What the table has there before the update and with it; the update may exchange it, too."""
    is_common: bool
    """Whether other tables have it, too, such as a generic function."""

    @property
    def is_pointer(self) -> bool:
        """Tell whether it is an address."""
        return any(map(is_pointer, self.values))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A place without an update and with it, and its neighbours."""

    place: Place
    old: int
    new: int
    neighbours: Mapping[int, Neighbour]
    """By distance from the word in bytes; words that are 0 are left out."""

    @property
    def is_changed(self) -> bool:
        """Tell whether the update has changed the word."""
        return self.old != self.new

    @property
    def is_lookable(self) -> bool:
        """Tell whether an exact copy would be known for one, with what was before as with new."""
        same = list(self.neighbours)
        return all(self._is_enough(word, same) for word in (self.old, self.new))

    @property
    def distances(self) -> range:
        """The distances of all words that are compared, that of the word itself too."""
        around = self.place.around
        return range(around.begin - self.place.address, around.end - self.place.address, WORD)

    @property
    def anchors(self) -> dict[int, frozenset[int]]:
        """Return the words by which copies are found, by distance from the exchanged word."""
        nearest = sorted(self.neighbours, key=abs)
        pointers = [d for d in nearest if self.neighbours[d].is_pointer]
        own = [d for d in pointers if not self.neighbours[d].is_common]
        found = {d: self.neighbours[d].values for d in own[:_MOST_ANCHORS]}
        if is_pointer(self.old) and is_pointer(self.new):
            return {0: frozenset({self.old, self.new})} | found
        if not pointers:  # all have to be the same, so one is enough: the rarest
            rarest = max(nearest, key=lambda d: max(self.neighbours[d].values), default=None)
            return {} if rarest is None else {rarest: self.neighbours[rarest].values}
        rest = [d for d in pointers if d not in own]
        return found | {d: self.neighbours[d].values for d in rest[: _MOST_ANCHORS - len(found)]}

    def same_neighbours(self, read: Callable[[int], int | None]) -> list[int]:
        """Return the distances at which a place has what the table has.

        ``read`` returns the word at a distance from the place.
        """
        return [d for d, beside in self.neighbours.items() if read(d) in beside.values]

    def is_copy(self, read: Callable[[int], int | None], is_new: Callable[[int], bool]) -> bool:
        """Tell whether a place holds a copy with the old content, or with something new.

        ``is_new``: whether a word leads into the new code.
        """
        word = read(0)
        if word is None:
            return False
        is_known = word in (self.old, self.new)
        if not is_known and not self.leads_to_new_code(read, is_new):
            return False
        return self._is_enough(word if is_known else 0, self.same_neighbours(read))

    def leads_to_new_code(
        self, read: Callable[[int], int | None], is_new: Callable[[int], bool]
    ) -> bool:
        """Tell whether any word of a place leads into the new code."""
        return any(is_new(word) for d in self.distances if (word := read(d)) is not None)

    def _is_enough(self, word: int, same: list[int]) -> bool:
        """Tell whether a place with ``word`` and these neighbours is a copy."""
        pointers = [d for d, beside in self.neighbours.items() if beside.is_pointer]
        equal = [d for d in same if d in pointers]
        own = [d for d in equal if not self.neighbours[d].is_common]
        is_telling = is_pointer(word)
        if len(own) >= (1 if is_telling else _FEW):
            return True
        if len(equal) >= _FEW and len(equal) * (3 if is_telling else 2) >= len(pointers):
            return True
        if len(pointers) >= _FEW or len(same) < len(self.neighbours):
            return False
        if is_telling or pointers:
            return len(same) + is_telling >= _FEW
        different = {value for d in same for value in self.neighbours[d].values}
        return len(same) >= _MANY_NUMBERS and len(different) >= _DIFFERENT_NUMBERS


def entry_of(place: Place, before: bytes, after: bytes, is_common: Callable[[int], bool]) -> Entry:
    """Return the entry at a place of a table.

    ``before`` and ``after`` are the bytes of the place's span without the update and with it.
    """
    old, new = memoryview(before).cast("Q"), memoryview(after).cast("Q")
    at = (place.address - place.around.begin) // WORD
    neighbours = {
        (i - at) * WORD: Neighbour(
            values=frozenset({old[i], new[i]}), is_common=is_common(old[i]) or is_common(new[i])
        )
        for i in range(len(old))
        if i != at and old[i] and new[i]
    }
    return Entry(place=place, old=old[at], new=new[at], neighbours=neighbours)

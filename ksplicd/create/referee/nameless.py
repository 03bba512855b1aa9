# SPDX-License-Identifier: GPL-2.0-only
"""Data without a name, such as a text with a NUL in it: compared by content.

Such a datum ends at the latest where the next thing begins: one with a name, or one to which
somebody refers.
"""

from bisect import bisect_right
from collections import defaultdict
from functools import cached_property
from typing import Final

from ksplicd.create.referee.view import Place, View
from ksplicd.elf.model import Section

_COMPARED: Final = 64
"""Bytes at most."""
_PC_RELATIVE: Final = 4
"""What a field of code counts from is mostly its end."""


class Nameless:
    """The data of an object that have no names."""

    def __init__(self, view: View) -> None:
        """Nothing is read yet."""
        self.view = view

    def is_at(self, place: Place) -> bool:
        """Tell whether a place of data is in nothing that has a name."""
        return place.section is not None and (
            self.view.symbol_at(place.section, place.offset) is None
        )

    def content(self, place: Place, size: int) -> bytes:
        """Return bytes at a place."""
        assert place.section is not None
        return self.view.bytes_of(place.section, place.offset, place.offset + size)[0]

    def size_at(self, place: Place) -> int:
        """Return how many bytes a datum at a place can have."""
        section = place.section
        assert section is not None
        ends = [section.size, place.offset + _COMPARED]
        _, behind = self.view.neighbours(section, place.offset)
        if behind is not None:
            ends.append(behind.value)
        known = self._referred[section]
        ends += known[bisect_right(known, place.offset) :][:1]
        return min(ends) - place.offset

    @cached_property
    def _referred(self) -> dict[Section, list[int]]:
        """By section, the offsets to which somebody refers, in order."""
        found: dict[Section, set[int]] = defaultdict(set)
        for section, relocations in self.view.relocations.items():
            for r in relocations:
                place = self.view.place(r, _PC_RELATIVE if section.is_text else 0)
                if place.section is not None:
                    found[place.section].add(place.offset)
        return defaultdict(list, {section: sorted(at) for section, at in found.items()})


def is_same_nameless(a: Nameless, p: Place, b: Nameless, q: Place) -> bool:
    """Tell whether two places of data without a name have the same content."""
    size = min(a.size_at(p), b.size_at(q))
    return a.content(p, size) == b.content(q, size)


def is_same_text(a: Nameless, p: Place, b: Nameless, q: Place) -> bool:
    """Tell the same of places that may be meant as an index before, or behind, something else.

    What is nothing but zeros may be the gap before an array.
    """
    if not (a.is_at(p) and b.is_at(q)):
        return False
    size = min(a.size_at(p), b.size_at(q))
    return is_same_nameless(a, p, b, q) and any(a.content(p, size))

# SPDX-License-Identifier: GPL-2.0-only
"""Search the memory of a guest for copies of what an update exchanges.

Every page that is not free is looked through once for the words by which copies are found; what is
around each is compared.  Pure: it reads a memory that stands still.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ksplicd.lab.guest_memory import Span
from ksplicd.lab.linked_data import LinkedData
from ksplicd.lab.table_copies import Entry, Place, entry_of
from ksplicd.lab.whereabouts import Whereabouts

_MOST: Final = 256
"""Copies of one entry that are looked for; there may be one in each of many objects."""


_SHARED: Final = 3
"""Places in static data from which on a word counts as one that other tables have, too."""


class InModule(NamedTuple):
    """A place in a module's data."""

    module: str
    section: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A place that has what an entry has."""

    entry: Entry
    physical: int
    address: int | None
    """Virtual, in the image or an area of vmalloc's; None in other memory."""
    same: Mapping[int, int]
    """The words of the neighbours that are the same, by distance."""
    where: str
    """For people."""
    is_new: bool
    """Whether it has what the update brings, or leads into its code."""


def make_entry(now: Whereabouts, place: Place, before: bytes) -> Entry | None:
    """Return the entry at a place whose span had ``before``; None: nothing has changed there."""
    after = now.read_span(place.around)
    if after is None or after == before:
        return None
    words = {*memoryview(before).cast("Q"), *memoryview(after).cast("Q")} - {0}
    count = Counter(map(now.memory.word, now.memory.find(words, now.data_of(place.around))))
    entry = entry_of(place, before, after, lambda word: count[word] >= _SHARED)
    return entry if entry.is_changed else None


def find_hits(
    now: Whereabouts, entries: Sequence[Entry], new_code: Sequence[Span], ours: Sequence[Span]
) -> Iterator[Hit]:
    """Yield the places, besides the tables themselves, that have what the entries have.

    ``new_code``: the memory of the update's new code; ``ours``: memory of the update's modules,
    which is left out, as are free pages.
    """
    by_word: dict[int, list[tuple[Entry, int]]] = {}
    for entry in entries:
        for distance, words in entry.anchors.items():
            for word in words:
                by_word.setdefault(word, []).append((entry, distance))
    if not by_word:
        return
    own = {now.translate(e.place.address) for e in entries}
    seen: set[tuple[Entry, int]] = set()
    count: dict[Entry, int] = {}
    for found in now.memory.find(by_word, now.flags.in_use()):
        for entry, distance in by_word.get(now.memory.word(found) or 0, ()):
            place = now.beside(found, -distance)
            if place is None or place in own or (entry, place) in seen:
                continue
            seen.add((entry, place))
            hit = _hit_at(now, entry, place, new_code)
            if hit is None or _is_in(hit.address, ours) or now.is_free(place):
                continue
            count[entry] = count.get(entry, 0) + 1
            if count[entry] <= _MOST:
                yield hit


def _hit_at(now: Whereabouts, entry: Entry, physical: int, new_code: Sequence[Span]) -> Hit | None:
    """Return the hit at a place; None: it is no copy."""

    def read(distance: int) -> int | None:
        there = now.beside(physical, distance)
        return None if there is None else now.memory.word(there)

    def is_of_new_code(word: int) -> bool:
        return _is_in(word, new_code)

    if not entry.is_copy(read, is_of_new_code):
        return None
    word = read(0)
    return Hit(
        entry=entry,
        physical=physical,
        address=now.virtual(physical),
        same={d: value for d in entry.same_neighbours(read) if (value := read(d)) is not None},
        where=now.describe(physical),
        is_new=word != entry.old or entry.leads_to_new_code(read, is_of_new_code),
    )


def _is_in(address: int | None, spans: Sequence[Span]) -> bool:
    return address is not None and any(s.begin <= address < s.end for s in spans)


def is_in_linked_kernel(hit: Hit, now: Whereabouts, stock: LinkedData) -> bool:
    """Tell whether a place in vmlinux had what it has when it was linked: it is another table."""
    if hit.address is None or not now.is_in_image(hit.address):
        return False
    offset, shift = hit.address - now.image.begin, now.image.begin - stock.base
    return all(stock.kernel_word(offset + d, shift) == word for d, word in hit.same.items())


def is_in_linked_module(
    hit: Hit, sections: Mapping[str, Mapping[str, int]], stock: LinkedData
) -> bool:
    """Tell whether a place in a stock module had content when that was linked, wherever it is so.

    ``sections``: by module, the addresses of its sections.
    """
    if hit.address is None:
        return False
    places = [_section_of(hit.address + d, sections) for d in hit.same]
    return all(p is not None and stock.is_in_module(p.module, p.section, p.offset) for p in places)


def _section_of(address: int, sections: Mapping[str, Mapping[str, int]]) -> InModule | None:
    """Return the last section that begins at an address or in front of it."""
    before = [
        (begin, module, section)
        for module, found in sections.items()
        for section, begin in found.items()
        if begin <= address
    ]
    if not before:
        return None
    begin, module, section = max(before)
    return InModule(module, section, address - begin)

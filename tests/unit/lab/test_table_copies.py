# SPDX-License-Identifier: GPL-2.0-only
"""What is a copy of a table, and what only has an equal word."""

import struct
from collections.abc import Sequence

import pytest

from ksplicd.lab.guest_memory import Span
from ksplicd.lab.table_copies import Entry, Place, entry_of, is_pointer, place_in

BASE = 0xFFFF_FFFF_A100_0000
OLD, NEW = BASE + 0x1000, 0xFFFF_FFFF_C080_0040
F, G, H = BASE + 0x2000, BASE + 0x2100, BASE + 0x2200
"""Functions that other tables have, too."""
NAME, DATA = BASE + 0x900000, BASE + 0xA00000


def entry(words: Sequence[int], at: int, new: int | Sequence[int]) -> Entry:
    """Return the entry of a word of a table; ``new``: the word, or all words, with the update."""
    after = list(words)
    if isinstance(new, int):
        after[at] = new
    else:
        after[:] = new
    place = place_in("vmlinux", "table", 8 * at, 0x1000, 0x1000 + 8 * len(words))
    assert place is not None
    part = slice((place.around.begin - 0x1000) // 8, (place.around.end - 0x1000) // 8)
    before = struct.pack(f"<{len(words[part])}Q", *words[part])
    return entry_of(
        place, before, struct.pack(f"<{len(after[part])}Q", *after[part]),
        lambda word: word in {F, G, H, OLD},
    )  # fmt: skip


def is_copy(e: Entry, at: int, words: Sequence[int], *, new_code: range = range(0)) -> bool:
    """Tell whether words are a copy; the word that is exchanged is at ``at``."""

    def read(distance: int) -> int | None:
        i = at + distance // 8
        return words[i] if 0 <= i < len(words) else None

    return e.is_copy(read, lambda word: word in new_code)


OPS = [0, F, G, 0, OLD, 0, H, 10]


def test_whole_copy_is_one_before_and_with_the_update() -> None:
    e = entry(OPS, 4, NEW)
    assert e.is_lookable
    assert e.anchors == {0: {OLD, NEW}}
    assert e.distances == range(-32, 32, 8)
    assert is_copy(e, 4, OPS)
    assert is_copy(e, 4, [*OPS[:4], NEW, *OPS[5:]])


def test_equal_pointer_alone_is_none() -> None:
    e = entry(OPS, 4, NEW)
    assert not is_copy(e, 4, [0, 0, 0, 0, OLD, 0, 0, 0])
    assert not is_copy(e, 4, [1, H, F, 2, OLD, 3, G, 4])
    assert not is_copy(e, 0, [OLD]), "it is the last word in the memory"
    assert not is_copy(e, 4, [0, F, 0, 0, OLD, 0, 0, 10]), "one function, which many tables have"


def test_neighbours_without_the_word_are_none() -> None:
    e = entry(OPS, 4, NEW)
    assert not is_copy(e, 4, [*OPS[:4], H, *OPS[5:]])
    assert not is_copy(e, 4, [*OPS[:4], 0, *OPS[5:]])


def test_other_pointer_into_the_new_code_is_one() -> None:
    e = entry(OPS, 4, NEW)
    words = [*OPS[:4], NEW + 0x100, *OPS[5:]]
    assert not is_copy(e, 4, words)
    assert is_copy(e, 4, words, new_code=range(NEW & ~0xFFF, NEW + 0x1000))


def test_copy_that_somebody_has_changed_in_part() -> None:
    """As a namespace's sysctl table, whose data are its own."""
    entries = [[NAME + 16 * i, DATA + 4 * i, 4, 0o644, 0, F, 0, 0] for i in range(3)]
    table = [word for words in entries for word in words]
    table[8 + 5] = OLD
    e = entry(table, 13, NEW)
    changed = [0xFFFF_8880_0000_0000 + i if i % 8 == 1 else word for i, word in enumerate(table)]
    assert is_copy(e, 13, changed)
    # one entry by itself: the next and the one before are other tables'
    assert is_copy(e, 13, [0] * 8 + changed[8:16] + [1] * 8)


def test_what_no_other_table_has_is_enough() -> None:
    e = entry([NAME, F, NAME + 8, OLD, NAME + 16, G], 3, NEW)
    assert is_copy(e, 1, [NAME + 8, OLD])
    assert is_copy(e, 0, [OLD, NAME + 16])
    assert not is_copy(e, 1, [NAME, OLD])
    assert not is_copy(e, 1, [F, OLD, G])


def test_function_that_comes_where_none_was() -> None:
    e = entry([F, 0, G, H], 1, NEW)
    assert e.is_lookable
    assert e.anchors == {-8: {F}, 8: {G}, 16: {H}}
    assert is_copy(e, 1, [F, 0, G, H])
    assert is_copy(e, 1, [F, NEW, G, H])
    assert is_copy(e, 1, [F, 0, G, 0])
    assert not is_copy(e, 1, [F, 0, 0, 0])
    assert not is_copy(e, 1, [F, H, G, H])


def test_pointers_that_are_the_tables_own_come_first() -> None:
    e = entry([F, G, 0, NAME, H], 2, NEW)
    assert list(e.anchors) == [8, -8, -16, 16]
    many = entry([F, G, H, F, G, H, F, G, 0, NAME, F, G, H, F, G, H], 8, NEW)
    assert next(iter(many.anchors)) == 8
    assert len(many.anchors) == 8


def test_both_of_two_exchanged_words_may_be_new() -> None:
    words = [F, OLD, OLD + 16, G]
    e = entry(words, 1, [F, NEW, NEW + 16, G])
    assert is_copy(e, 1, [F, OLD, OLD + 16, G])
    assert is_copy(e, 1, [F, OLD, NEW + 16, G])
    assert is_copy(e, 1, [0, NEW, NEW + 16, G])


def test_value_of_a_table_with_pointers() -> None:
    e = entry([NAME, DATA, 0o644, F], 2, 0o600)
    assert e.is_lookable
    assert set(e.anchors) == {-8, -16, 8}
    assert is_copy(e, 2, [NAME, DATA, 0o644, F])
    assert is_copy(e, 2, [NAME, DATA, 0o600, F])
    assert not is_copy(e, 2, [NAME, DATA, 0o640, F])
    assert not is_copy(e, 2, [0, DATA, 0o644, 0])


def test_table_of_numbers() -> None:
    words = [3, 0x1_0000_0004, 7, 0, 5, 0x10_0000, 9]
    e = entry(words, 2, 8)
    assert e.is_lookable
    assert e.anchors == {-8: {0x1_0000_0004}}
    assert is_copy(e, 2, words)
    assert not is_copy(e, 2, [*words[:6], 10])
    assert not is_copy(e, 2, [0] * 7)


@pytest.mark.parametrize(
    "words",
    [[0, 5, 0], [1, 5, 1, 1, 1], [1, 5, 2, 3], [0, 5, F, 0], [5, 0, 0, 0, 0, 0, 0, 0, 0, 3]],
)
def test_too_little_to_tell_a_copy_by(words: list[int]) -> None:
    at = words.index(5)
    e = entry(words, at, 6)
    assert not e.is_lookable
    assert not is_copy(e, at, words)


def test_pointer_alone_cannot_be_looked_for() -> None:
    assert not entry([0, OLD, 0], 1, NEW).is_lookable
    assert entry([0, OLD, 3], 1, NEW).is_lookable
    assert not entry([0, 0, F], 1, NEW).is_lookable


def test_what_is_too_far_away_is_not_compared() -> None:
    e = entry([F, *[0] * 8, OLD, *[0] * 8, NAME], 9, NEW)
    assert e.neighbours == {}
    assert entry([0, 5, 0], 1, 6).anchors == {}


@pytest.mark.parametrize(
    ("word", "is_one"),
    [
        (0, False), (5, False), (BASE, True), (0xFFFF_8880_0000_0000, True),
        (0xFF11_0000_0000_0000, True), (0xFFFF_FFFF_FFFF_FFEA, False),
        (0xFFFF_FFFF_0000_0002, False), (0xFFFF_FFFF_FFFF_FFFF, False),
        (0x7FFF_FFFF_FFFF, False), (0xFFFF_FFFF_C000_0000, True),
    ],
)  # fmt: skip
def test_pointers_of_the_kernel(word: int, *, is_one: bool) -> None:
    assert is_pointer(word) == is_one


def place(offset: int, begin: int, end: int | None) -> Place | None:
    return place_in("romfs", "ops", offset, begin, end)


def test_place_in_a_table() -> None:
    found = place(0x104, 0x1000, 0x1200)
    assert found is not None
    assert found.name == "ops+0x104 [romfs]"
    assert (found.address, found.around) == (0x1100, Span(0x10C0, 0x1148))
    first = place(0, 0x1000, 0x1010)
    assert first is not None
    assert first.around == Span(0x1000, 0x1010)
    last = place(8, 0x1004, 0x1017)
    assert last is not None
    assert (last.address, last.around) == (0x1008, Span(0x1008, 0x1010))
    endless = place(0, 0x1000, None)
    assert endless is not None
    assert endless.around == Span(0x1000, 0x1048)


@pytest.mark.parametrize(("offset", "end"), [(0x200, 0x1200), (0x1FC, 0x11FC), (1 << 31, 0x1200)])
def test_table_that_ends_before_the_place(offset: int, end: int) -> None:
    assert place(offset, 0x1000, end) is None

# SPDX-License-Identifier: GPL-2.0-only
"""Copies of a table in a memory that was made up."""

import random
from pathlib import Path

import pytest

from ksplicd.elf.model import Object, Relocation, Section, Symbol
from ksplicd.elf.write import write_object
from ksplicd.elf.x86_64 import R_X86_64_64
from ksplicd.lab.copy_search import (
    Hit,
    find_hits,
    is_in_linked_kernel,
    is_in_linked_module,
    make_entry,
)
from ksplicd.lab.guest_memory import Span
from ksplicd.lab.linked_data import LinkedData
from ksplicd.lab.table_copies import Entry, place_in
from ksplicd.lab.whereabouts import Whereabouts
from tests.support.guest.made_memory import (
    IMAGE,
    LINKED,
    MODULE,
    TEXT,
    VMALLOC,
    MadeMemory,
    linked_image,
)

OLD, OTHER, THIRD = TEXT + 0x1000, TEXT + 0x1100, TEXT + 0x1200
NEW = VMALLOC + 0x10040
NEW_CODE = Span(VMALLOC + 0x10000, VMALLOC + 0x12000)
TABLE = (10, OTHER, 0, OLD, THIRD, 77)
AT = 3
UPDATED = (*TABLE[:AT], NEW, *TABLE[AT + 1 :])
PHYSICAL = IMAGE + 0x9000


@pytest.fixture
def made() -> MadeMemory:
    made = MadeMemory()
    made.put(PHYSICAL, *TABLE)
    return made


def applied(made: MadeMemory) -> tuple[Whereabouts, Entry]:
    """Apply the update; return the memory with it, and what was exchanged."""
    place = place_in("vmlinux", "table", 8 * AT, TEXT + 0x9000, TEXT + 0x9080)
    assert place is not None
    before = made.whereabouts().read_span(place.around)
    assert before is not None
    made.put(PHYSICAL, *UPDATED)
    now = made.whereabouts()
    entry = make_entry(now, place, before)
    assert entry is not None
    return now, entry


def hits(made: MadeMemory, ours: list[Span] | None = None) -> list[Hit]:
    now, entry = applied(made)
    return [*find_hits(now, [entry], [NEW_CODE], ours or [])]


def test_table_that_nobody_copies_has_no_copy(made: MadeMemory) -> None:
    made.put(0x60000, OLD, OLD, NEW, OTHER, THIRD)
    made.put(0x61000, *TABLE[:AT], OTHER, *TABLE[AT + 1 :])
    assert hits(made) == []


def test_copies_of_both_contents_are_found(made: MadeMemory) -> None:
    made.put(0x60040, *TABLE)
    made.put(0x61008, *UPDATED)
    made.add_slab(0x61000, "net_namespace", 0x62000)
    made.put(0x63FD0, *TABLE[:6])  # up to the page's last word
    found = hits(made)
    assert [(h.physical - 8 * AT, h.is_new, h.where) for h in found] == [
        (0x60040, False, "physical address 0x60058"),
        (0x61008, True, "slab cache net_namespace (physical address 0x61020)"),
        (0x63FD0, False, "physical address 0x63fe8"),
    ]


def test_free_pages_are_left_out(made: MadeMemory) -> None:
    made.put(0x60000, *TABLE)
    made.put(0x61000, *TABLE)
    assert len(hits(made)) == 2
    made.put(PHYSICAL, *TABLE)
    made.free(0x60000)
    made.keep(0x61000)
    assert hits(made) == []
    made.put(PHYSICAL, *TABLE)
    made.put(0x71870, 0x1_FFFF_FFFF)  # its struct: somebody uses it
    assert [h.physical for h in hits(made)] == [0x61018]


def test_our_own_modules_are_left_out(made: MadeMemory) -> None:
    made.add_area(NEW_CODE.begin, [0x60000, 0x61000], "move_module")
    made.put(0x61100, *TABLE)
    assert len(hits(made)) == 1
    made.put(PHYSICAL, *TABLE)
    assert hits(made, [NEW_CODE]) == []


def test_copy_over_two_pages_that_are_not_side_by_side(made: MadeMemory) -> None:
    made.add_area(VMALLOC, [0x62000, 0x60000], "kvmalloc_node")
    made.put(0x62FF0, *TABLE[:2])
    made.put(0x60000, *TABLE[2:])
    (found,) = hits(made)
    assert found.address == VMALLOC + 0x1008
    assert found.where == "vmalloc memory of kvmalloc_node (physical address 0x60008)"
    made.put(PHYSICAL, *TABLE)
    made.put(0x60000, 0, 0, 0, 0)
    made.put(0x63000, 0, OLD)  # behind the rest in the physical memory only
    made.add_area(VMALLOC + 0x20000, [0x64000, 0x63000], "kvmalloc_node")
    assert hits(made) == []


def test_any_pointer_to_new_code_counts_in_a_copy(made: MadeMemory) -> None:
    made.put(0x60000, *TABLE[:AT], NEW + 8, *TABLE[AT + 1 :])
    made.put(0x61000, *TABLE[:AT], NEW_CODE.end, *TABLE[AT + 1 :])
    made.put(0x62000, 10, OTHER, NEW + 8, OLD, THIRD, 77)
    made.put(0x63000, 10, OTHER, NEW + 8, 5, THIRD, 77)
    made.put(0x64000, 10, OTHER, 0, 5, THIRD, 77)
    assert [(h.physical, h.is_new) for h in hits(made)] == [
        (0x60018, True), (0x62018, True), (0x63018, True),
    ]  # fmt: skip


def test_word_that_nobody_changed_is_no_entry(made: MadeMemory) -> None:
    now, entry = applied(made)
    content = now.read_span(entry.place.around)
    assert content is not None
    assert make_entry(now, entry.place, content) is None


def test_pointer_that_many_tables_have_is_not_enough(made: MadeMemory) -> None:
    for i in range(3):
        made.put(IMAGE + 0xB000 + 64 * i, OTHER)
    made.put(0x60000, 0, OTHER, 0, OLD, 0, 0)
    made.put(0x61000, 0, 0, 0, OLD, THIRD, 0)
    assert [h.physical for h in hits(made)] == [0x61018]


def test_other_table_was_there_when_the_kernel_was_linked(made: MadeMemory, tmp_path: Path) -> None:
    """A static variable that a copy was put into was not."""
    made.put(IMAGE + 0xA000, *TABLE)
    made.put(IMAGE + 0xC000, *TABLE)
    vmlinuz = tmp_path / "vmlinuz"
    words = [word - TEXT + LINKED if word >= TEXT else word for word in TABLE]
    vmlinuz.write_bytes(linked_image({0xC000 + 8 * i: word for i, word in enumerate(words)}))
    stock = LinkedData(vmlinuz, tmp_path)
    now, entry = applied(made)
    found = {
        h.where.partition(" ")[0]: is_in_linked_kernel(h, now, stock)
        for h in find_hits(now, [entry], [], [])
    }
    assert found == {"buffer+0x18": False, "buffer+0x2018": True}


def test_other_table_was_there_when_its_module_was_linked(made: MadeMemory, tmp_path: Path) -> None:
    made.add_area(MODULE, [0x60000, 0x61000], "move_module")
    made.put(0x60000, *TABLE)
    made.put(0x61000, *TABLE)
    data = Section(".data", flags=3, data=bytes([10, *bytes(39), 77, *bytes(7)]))
    function = Symbol("other_function")
    for offset in (8, 24, 32):
        data.relocations.append(Relocation(offset, R_X86_64_64, function, 0))
    bss = Section(".bss", 8, 3, nobits_size=0x1000)
    (tmp_path / "kernel").mkdir()
    module = write_object(Object("romfs", [data, bss], [function]))
    (tmp_path / "kernel/romfs.ko").write_bytes(module)
    stock = LinkedData(tmp_path / "vmlinuz", tmp_path)
    sections = {"romfs": {".data": MODULE, ".bss": MODULE + 0x1000}}
    first, second = hits(made)
    assert is_in_linked_module(first, sections, stock)
    assert not is_in_linked_module(second, sections, stock)
    assert not is_in_linked_module(first, {}, stock)
    assert not is_in_linked_module(first, {"ours": sections["romfs"]}, stock)


def test_very_many_copies_end(made: MadeMemory) -> None:
    for i in range(600):
        made.put(0x60000 + 64 * i, *TABLE)
    assert len(hits(made)) == 256


def test_whatever_is_in_the_memory_is_searched(made: MadeMemory) -> None:
    rng = random.Random(3)
    made.add_area(VMALLOC, [0x60000, 0x62000], "kvmalloc_node")
    words = [*TABLE, *UPDATED, 0, 1, (1 << 64) - 1]
    for at in range(0x60000, 0x7FFF8, 8):
        made.put_word(at, rng.choice(words))
    made.slabs = ["", "\0"]
    now, entry = applied(made)
    for hit in find_hits(now, [entry], [NEW_CODE], []):
        assert now.memory.word(hit.physical) in {OLD, NEW} or hit.is_new
        assert len(hit.same) >= 1

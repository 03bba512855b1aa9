# SPDX-License-Identifier: GPL-2.0-only
"""What is said of copies, from before an update until after undo."""

from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.lab.copy_watch import CopyWatch, Table, When, tables_of
from ksplicd.lab.linked_data import LinkedData
from ksplicd.model import Manifest, PatchedPointer
from tests.support.bundles import samples
from tests.support.guest.made_memory import (
    IMAGE,
    TEXT,
    VMALLOC,
    MadeGuest,
    MadeMemory,
    linked_image,
)

OLD, OTHER, THIRD = TEXT + 0x1000, TEXT + 0x1100, TEXT + 0x1200
AREA = VMALLOC + 0x10000
NEW = AREA + 0x40
TABLE = (10, OTHER, 0, OLD, THIRD, 77)
UPDATED = (10, OTHER, 0, NEW, THIRD, 77)
PHYSICAL = IMAGE + 0x9000


class InGuest:
    """An update that is applied and undone by hand."""

    core, new = "ksplice_x", "ksplice_x_new"

    def __init__(self) -> None:
        self.stays = False

    def keeps_code(self) -> bool:
        return self.stays


def manifest_with(*tables: tuple[str, int]) -> Manifest:
    """Return a manifest that exchanges something at offsets in tables."""
    manifest = samples.manifest()
    pointers = tuple(PatchedPointer(table=t, offset=at, unit="a.c") for t, at in tables)
    return replace(manifest, targets=(replace(manifest.targets[0], pointers=pointers),))


class Watched:
    """A guest, an update, and the watch over both."""

    def __init__(self, tmp_path: Path, *tables: tuple[str, int]) -> None:
        self.made, self.update = MadeMemory(), InGuest()
        self.made.put(PHYSICAL, *TABLE)
        self.guest = MadeGuest(self.made)
        vmlinuz = tmp_path / "vmlinuz"
        vmlinuz.write_bytes(linked_image({}))
        manifest = manifest_with(*(tables or (("table", 24),)))
        self.watch = CopyWatch(self.guest, self.update, manifest, LinkedData(vmlinuz, tmp_path))

    def apply(self) -> None:
        self.made.add_area(AREA, [0x78000], "move_module")
        self.guest.sections["ksplice_x_new .text"] = AREA
        self.made.put(PHYSICAL, *UPDATED)

    def undo(self) -> None:
        if not self.update.stays:
            self.made.areas.pop()
            self.guest.sections.clear()
        self.made.put(PHYSICAL, *TABLE)

    def look(self, when: When) -> list[str]:
        """Return the faults that are new."""
        before = len(self.watch.faults)
        self.watch.look(when)
        return self.watch.faults[before:]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_tables_of_an_update() -> None:
    assert tables_of(samples.manifest()) == ()
    manifest = manifest_with(("ops", 8), ("ops", 8), ("ops", 16))
    assert [str(t) for t in tables_of(manifest)] == ["ops+0x8", "ops+0x10"]
    assert str(Table(target="romfs", name="ops", offset=8)) == "ops+0x8 [romfs]"


def test_update_that_exchanges_nothing_in_tables_asks_nothing(tmp_path: Path) -> None:
    update, guest = InGuest(), MadeGuest(MadeMemory())
    watch = CopyWatch(guest, update, samples.manifest(), LinkedData(tmp_path, tmp_path))
    watch.look(When.APPLIED)
    watch.look(When.UNDONE)
    assert (watch.faults, watch.notes, guest.commands) == ([], [], [])


def test_table_without_copies(watched: Watched) -> None:
    watched.apply()
    assert watched.look(When.APPLIED) == []
    watched.undo()
    assert watched.look(When.UNDONE) == []
    assert watched.watch.notes == []
    # addresses are hidden again from whom they were hidden
    restrict = [c for c in watched.guest.commands if "kptr_restrict" in c]
    assert [c.split()[1] for c in restrict] == ["1", "0"] * 3


def test_copies_are_told_when_they_are_found(watched: Watched) -> None:
    watched.made.put(0x60000, *TABLE)
    watched.apply()
    watched.made.put(0x61000, *UPDATED)
    assert watched.look(When.APPLIED) == [
        (
            "with the update a copy of table+0x18 is in physical address 0x60018, with the old"
            " content: the update has no effect there"
        ),
        (
            "with the update a copy of table+0x18 is in physical address 0x61018, with the new"
            " content, which undo does not take back"
        ),
    ]
    watched.undo()
    watched.made.put(0x62000, *TABLE)
    assert watched.look(When.UNDONE) == [
        (
            "after undo a copy of table+0x18 is in physical address 0x61018, with what the update"
            " has brought: its code may still run"
        ),
        (
            "after undo a copy of table+0x18 is in physical address 0x62018: it was made meanwhile,"
            " and the update would have no effect there"
        ),
    ]


def test_other_module_where_the_new_code_was(watched: Watched) -> None:
    """Its memory is looked through, and pointers to it are not the update's."""
    watched.apply()
    watched.look(When.APPLIED)
    watched.undo()
    watched.made.add_area(AREA, [0x79000], "move_module")
    watched.made.put(0x79100, *TABLE)
    watched.made.put(0x60000, 10, OTHER, AREA + 0x80, OLD, THIRD, 77)
    assert [f.partition(": ")[0] for f in watched.look(When.UNDONE)] == [
        f"after undo a copy of table+0x18 is in {where}" for where in (
            "physical address 0x60018",
            "vmalloc memory of move_module (physical address 0x79118)",
        )
    ]  # fmt: skip


def test_new_code_that_stays_is_no_copy(watched: Watched) -> None:
    watched.update.stays = True
    watched.apply()
    watched.made.put(0x78100, *UPDATED)
    assert watched.look(When.APPLIED) == []
    watched.undo()
    assert watched.look(When.UNDONE) == []


def test_update_that_changes_nothing(watched: Watched) -> None:
    assert watched.look(When.APPLIED) == [
        "with the update table+0x18 is as it was: nothing was exchanged"
    ]


def test_undo_that_takes_nothing_back(watched: Watched) -> None:
    watched.apply()
    assert watched.look(When.APPLIED) == []
    assert watched.look(When.UNDONE) == ["after undo table+0x18 still has the new content"]


def test_table_of_an_ambiguous_name(watched: Watched, tmp_path: Path) -> None:
    """It is the one that changes, whatever number the compiler has given it."""
    watched = Watched(tmp_path, ("table.7", 24))
    watched.made.symbols["table.3"] = (TEXT + 0xB000, "d")
    watched.made.put(0x60000, *TABLE)
    watched.apply()
    (found,) = watched.look(When.APPLIED)
    assert found.startswith("with the update a copy of table.7+0x18 is in physical address 0x60018")


def test_symbol_in_the_middle_of_a_table(watched: Watched, tmp_path: Path) -> None:
    made = watched.made
    made.symbols["in_the_middle"] = (TEXT + 0x9008, "d")
    watch = CopyWatch(
        watched.guest, watched.update, manifest_with(("table", 24)), LinkedData(tmp_path, tmp_path)
    )
    watched.apply()
    watch.look(When.APPLIED)
    assert (watch.faults, watch.notes) == ([], [])


def test_table_with_nothing_to_tell_copies_by(watched: Watched, tmp_path: Path) -> None:
    watched.made.put(PHYSICAL, 0, 0, 0, OLD, 0, 0)
    made = watched.made
    watch = CopyWatch(
        watched.guest, watched.update, manifest_with(("table", 24)), LinkedData(tmp_path, tmp_path)
    )
    made.put(PHYSICAL, 0, 0, 0, NEW, 0, 0)
    watch.look(When.APPLIED)
    assert watch.faults == []
    assert watch.notes == [
        (
            "table+0x18: copies of it were not looked for, because it has too little around it to"
            " tell them by"
        )
    ]


def test_very_many_copies_are_counted(watched: Watched) -> None:
    for i in range(20):
        watched.made.put(0x60000 + 64 * i, *TABLE)
    watched.apply()
    found = watched.look(When.APPLIED)
    assert len(found) == 9
    assert found[-1] == "with the update there are 12 more copies of table+0x18"

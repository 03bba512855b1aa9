# SPDX-License-Identifier: GPL-2.0-only
"""The memory of a guest, by address; nothing in it is trusted."""

import random
import struct
from pathlib import Path

import pytest

from ksplicd.errors import LabError
from ksplicd.lab.guest_memory import (
    KPF_BUDDY,
    LARGEST,
    PAGE,
    GuestMemory,
    PageFlags,
    PageTables,
    Span,
    mapped,
)


def test_reads_only_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "ram"
    file.write_bytes(bytes(range(256)) * 32)
    with mapped(file) as memory:
        assert memory.size == 2 * PAGE
        assert memory.read(255, 3) == b"\xff\0\1"
        assert memory.word(8) == int.from_bytes(bytes(range(8, 16)), "little")
        assert memory.read(2 * PAGE - 1, 2) is None
        assert memory.read(-1, 2) is None
        assert [memory.word(at) for at in (-8, 4, 2 * PAGE, 1 << 60)] == [None] * 4


@pytest.mark.parametrize("size", [PAGE - 8, PAGE + 1])
def test_memory_has_whole_pages(size: int) -> None:
    with pytest.raises(LabError, match="cannot be read from outside"):
        GuestMemory(bytes(size))


def test_memory_in_two_pieces_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ram"
    with file.open("wb") as f:
        f.truncate(LARGEST + PAGE)
    with pytest.raises(LabError, match="cannot be read"), mapped(file):
        pass


def test_finds_words_in_the_spans_that_are_given() -> None:
    data = bytearray(4 * PAGE)
    for at in (8, PAGE, 2 * PAGE + 24, 4 * PAGE - 8):
        struct.pack_into("<Q", data, at, 77)
    struct.pack_into("<Q", data, 104 + 4, 77)  # at no address that 8 divides
    struct.pack_into("<Q", data, PAGE + 8, 78)
    memory = GuestMemory(bytes(data))
    assert [*memory.find([77], [Span(0, 4 * PAGE)])] == [8, PAGE, 2 * PAGE + 24, 4 * PAGE - 8]
    spans = [Span(PAGE, 2 * PAGE), Span(3 * PAGE, 1 << 40)]
    assert [*memory.find([77, 78], spans)] == [PAGE, PAGE + 8, 4 * PAGE - 8]
    assert [*memory.find([79], spans)] == []
    assert [*memory.find([], spans)] == []


def test_free_pages_are_not_in_use() -> None:
    flags = [0, 1, KPF_BUDDY, 1 << 20, 0, 1 << 23, 1 << 7]
    found = PageFlags(struct.pack("<7Q", *flags))
    assert found.in_use() == [
        Span(0, 2 * PAGE), Span(4 * PAGE, 5 * PAGE), Span(6 * PAGE, 7 * PAGE),
    ]  # fmt: skip
    assert found.of(6 * PAGE + 5) == 1 << 7
    assert found.of(7 * PAGE) == found.of(-1) == 1 << 20


@pytest.mark.parametrize("data", [b"", b"1234567"])
def test_without_flags_no_page_is_in_use(data: bytes) -> None:
    assert PageFlags(data).in_use() == []


class Tables:
    """Page tables with one entry at each level."""

    def __init__(self, levels: int, *, large_at: int = 0) -> None:
        data = bytearray(16 * PAGE)
        self.address = 0xFFFF_C900_1234_5678 if levels == 4 else 0xFFA0_0000_1234_5678
        for level in reversed(range(large_at, levels)):
            table = (levels - level) * PAGE
            index = self.address >> 12 + 9 * level & 511
            is_last = level == large_at
            entry = 1 << 30 if is_last and large_at else table + PAGE
            flags = 1 | (1 << 63) | (0x80 if is_last and large_at else 0)
            struct.pack_into("<Q", data, table + 8 * index, entry | flags)
        self.memory = GuestMemory(bytes(data))
        self.tables = PageTables(self.memory, PAGE, levels)


@pytest.mark.parametrize("levels", [4, 5])
def test_page_tables_are_followed(levels: int) -> None:
    made = Tables(levels)
    assert made.tables.translate(made.address) == (levels + 1) * PAGE + 0x678
    assert made.tables.translate(made.address + PAGE) is None
    assert made.tables.translate(0) is None


@pytest.mark.parametrize(("level", "bits"), [(1, 21), (2, 30)])
def test_large_pages(level: int, bits: int) -> None:
    made = Tables(4, large_at=level)
    assert made.tables.translate(made.address) == (1 << 30) + (made.address & (1 << bits) - 1)


def test_tables_that_lead_nowhere() -> None:
    """Whatever is in the memory, an address is looked up in a few steps."""
    rng = random.Random(1)
    for _ in range(50):
        words = [rng.getrandbits(64) | rng.getrandbits(1) for _ in range(8 * PAGE // 8)]
        words[:512] = [rng.randrange(16) * PAGE | rng.choice([0, 1, 0x81]) for _ in range(512)]
        memory = GuestMemory(struct.pack(f"<{len(words)}Q", *words))
        for _ in range(50):
            tables = PageTables(memory, rng.choice([0, PAGE, 1 << 50]), rng.choice([4, 5]))
            found = tables.translate(rng.getrandbits(64))
            assert found is None or 0 <= found < 1 << 52


def test_a_table_that_is_its_own_entry_ends() -> None:
    memory = GuestMemory(struct.pack("<512Q", *[1] * 512))
    assert PageTables(memory, 0, 4).translate(0xFFFF_FFFF_FFFF_FFFF) == PAGE - 1

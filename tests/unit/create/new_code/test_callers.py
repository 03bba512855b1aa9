# SPDX-License-Identifier: GPL-2.0-only
import struct
from pathlib import Path
from typing import cast

import pytest

from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.new_code.callers import Branches, closure
from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.system_map import MapSymbol, SymbolMap
from ksplicd.create.stock.unit import StockUnit
from ksplicd.elf.linked import Segment
from ksplicd.elf.model import Symbol
from ksplicd.errors import UnsupportedChangeError
from tests.support.objects.pair import FakeUnit, compare

LOW = 0xFFFFFFFF81000000


def branch(opcode: bytes, at: int, to: int) -> bytes:
    return opcode + struct.pack("<i", to - at - len(opcode) - 4)


def test_branches_of_each_kind_in_the_image() -> None:
    code = b"".join([
        branch(b"\xe8", 0, 0x40), branch(b"\xe9", 5, 0x80), branch(b"\x0f\x84", 10, 0x40),
        b"\x90" * 0x40, branch(b"\xe8", 0x50, 0x40), branch(b"\xe8", 0x55, -0x100), b"\xe8\0\0\0",
    ])  # fmt: skip
    ends = MapSymbol(LOW, "T", "_stext"), MapSymbol(LOW + len(code), "T", "_etext")
    image = KernelImage(code, (Segment(LOW, memoryview(code)),), "00")
    branches = Branches(image, SymbolMap(ends))
    assert branches.to(LOW + 0x40) == [LOW, LOW + 10, LOW + 0x50]
    assert branches.to(LOW + 0x80) == [LOW + 5]
    assert branches.to(LOW - 0x100) == [LOW + 0x55]
    assert branches.to(LOW + 0x41) == []


CHAIN = """
noinline int inner(int x) {{ return hidden(x) + {}; }}
noinline int outer(int x) {{ return inner(x) * 2; }}
"""


def close(tmp_path: Path, unknown: set[str], probeable: set[str]) -> tuple[list[str], set[str]]:
    """Return what is called by another name, and what is left to kprobes.

    ``unknown``: of which not all callers are found.
    """
    change = UnitChange.of("unit.c", compare(tmp_path, CHAIN.format(1), CHAIN.format(2)))
    unit = FakeUnit(probeable=frozenset(probeable))
    left: set[str] = set()

    def find(_: StockUnit, s: Symbol) -> list[UnitChange]:
        if s.name in unknown:
            raise UnsupportedChangeError(f"{s.name}: not all callers are found")
        return []

    while True:
        found = closure([change], {change.key: cast(StockUnit, unit)}, find, left)
        if found is not None:
            return sorted(found[1]), left


def test_callers_of_what_is_left_to_a_kprobe_stay_as_they_are(tmp_path: Path) -> None:
    """Else other files would call their new form, which the update does not have."""
    assert close(tmp_path, set(), {"inner"}) == (["inner", "outer"], set())
    assert close(tmp_path, {"inner"}, {"inner"}) == ([], {"inner"})
    assert close(tmp_path, {"inner", "outer"}, {"inner"}) == ([], {"inner"})
    assert close(tmp_path, {"outer"}, {"outer"}) == (["inner"], {"outer"})
    with pytest.raises(UnsupportedChangeError, match=r"^outer: not all"):
        close(tmp_path, {"outer"}, {"inner"})

# SPDX-License-Identifier: GPL-2.0-only
import struct

from ksplicd.create.new_code.callers import Branches
from ksplicd.create.stock.image import KernelImage, Segment
from ksplicd.create.stock.system_map import MapSymbol, SymbolMap

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

# SPDX-License-Identifier: GPL-2.0-only
"""References in an image that has no relocations."""

import struct

import pytest

from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.references import code_of, lists_of, references_to
from ksplicd.create.stock.system_map import MapSymbol, SymbolMap
from ksplicd.elf.linked import Segment

BASE = 0xFFFFFFFF81000000
TARGET = BASE + 0x100


def image(data: bytes) -> KernelImage:
    return KernelImage(data, (Segment(BASE, memoryview(data)),), "00")


def relative(opcode: bytes, at: int) -> bytes:
    """Return an instruction at an offset whose last field counts to the target."""
    return opcode + struct.pack("<i", TARGET - (BASE + at + len(opcode) + 4))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (relative(b"\xe8", 0x11), 0x12),  # call
        (relative(b"\xe9", 0x12), 0x13),  # jmp
        (relative(b"\x0f\x84", 0x13), 0x15),  # je
        (relative(b"\x48\x8d\x3d", 0x14), 0x17),  # lea (%rip),%rdi
        (b"\x48\xc7\xc7" + struct.pack("<I", TARGET & 0xFFFFFFFF), 0x18),  # mov $,%rdi
        (struct.pack("<Q", TARGET), 0x18),  # a pointer
    ],
)
def test_each_form(text: bytes, field: int) -> None:
    at = field - next(i for i in range(5) if len(text) - i in (4, 8) and text[i:])
    data = (bytes(at) + text).ljust(0x200, b"\xcc")
    assert references_to(image(data), TARGET) == [BASE + field]


def test_what_only_looks_like_one() -> None:
    """The bytes of ``lea -0xb8(%rax),%rbp``, and the padding in front of a function."""
    data = bytearray(0xB900)
    target = 0x40
    data[0xB793:0xB79A] = b"\x48\x8d\xa8\x48\xff\xff\xff"
    assert int.from_bytes(data[0xB795:0xB799], "little", signed=True) + 0xB799 == target + 1
    assert references_to(image(bytes(data)), BASE + target + 1) == []
    assert references_to(image(b"\x0f\x1f\x80" + bytes(0x100)), BASE + 7) == []


def test_where_is_searched() -> None:
    call, pointer = relative(b"\xe8", 0x10), struct.pack("<Q", TARGET)
    data = (bytes(0x10) + call).ljust(0x20, b"\xcc") + pointer + bytes(0x100)
    code, lists = [range(BASE, BASE + 0x20)], [range(BASE + 0x20, BASE + 0x28)]
    assert references_to(image(data), TARGET, code) == [BASE + 0x20, BASE + 0x11]
    assert references_to(image(data), TARGET, code, lists) == [BASE + 0x11]
    assert references_to(image(data), TARGET, [range(BASE, BASE + 0x10)], lists) == []


def test_where_a_kernel_has_what() -> None:
    names = "_stext", "_etext", "__init_begin", "__init_end", "__start_mcount_loc"
    symbols = [MapSymbol(BASE + i, "T", name) for i, name in enumerate(names)]
    assert code_of(SymbolMap(symbols)) == [range(BASE, BASE + 1), range(BASE + 2, BASE + 3)]
    assert lists_of(SymbolMap(symbols)) == []
    assert code_of(SymbolMap([])) is None

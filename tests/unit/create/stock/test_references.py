# SPDX-License-Identifier: GPL-2.0-only
"""References in an image that has no relocations."""

import struct

import pytest

from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.references import (
    code_of,
    freed_of,
    is_operand,
    lists_of,
    references_to,
)
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


@pytest.mark.parametrize("opcode", [b"\xe8", b"\xe9", b"\x0f\x84", b"\x48\x8d\x3d"])
def test_code_that_has_run_calls_no_more(opcode: bytes) -> None:
    """What it has called it calls no more; an address that it took may be kept."""
    data = (bytes(0x20) + relative(opcode, 0x20)).ljust(0x200, b"\xcc")
    field = BASE + 0x20 + len(opcode)
    kept = [field] if opcode[0] == 0x48 else []
    assert references_to(image(data), TARGET, freed=[range(BASE, BASE + 0x40)]) == kept
    assert references_to(image(data), TARGET, freed=[range(BASE + 0x40, BASE + 0x60)]) == [field]


def test_where_a_kernel_has_what() -> None:
    names = "_stext", "_etext", "__init_begin", "__init_end", "__start_mcount_loc"
    symbols = [MapSymbol(BASE + i, "T", name) for i, name in enumerate(names)]
    assert code_of(SymbolMap(symbols)) == [range(BASE, BASE + 1), range(BASE + 2, BASE + 3)]
    assert freed_of(SymbolMap(symbols)) == [range(BASE + 2, BASE + 3)]
    assert lists_of(SymbolMap(symbols)) == []
    assert code_of(SymbolMap([])) is None


def test_an_operand_is_told_from_bytes_that_look_like_one() -> None:
    """``mov $target,%rdi`` from its start on; and the same bytes across two instructions."""
    address = 0xFFFFFFFF8148C7C7
    symbols = SymbolMap([MapSymbol(BASE, "T", "f")])
    operand = struct.pack("<I", address & 0xFFFFFFFF)
    real = b"\x90\x48\xc7\xc7" + operand + bytes(0x20)
    assert is_operand(image(real), symbols, BASE + 4)
    # mov $0x...,%eax; mov %rax,%rdi
    other = b"\xb8\x00\x00\x00" + operand[:1] + b"\xc7\xc7" + operand[3:] + bytes(0x20)
    assert not is_operand(image(other), symbols, BASE + 4)
    assert is_operand(image(b"\x06" + real[1:]), symbols, BASE + 4), "it cannot be decoded"
    assert is_operand(image(real), SymbolMap([]), BASE + 4)


def test_four_bytes_of_data_are_no_reference() -> None:
    """Not in a kernel, whose map says where its code is."""
    data = bytes(0x40) + struct.pack("<I", TARGET & 0xFFFFFFFF) + bytes(0x100)
    assert references_to(image(data), TARGET) == [BASE + 0x40]
    assert references_to(image(data), TARGET, [range(BASE, BASE + 0x40)]) == []
    code = [range(BASE, BASE + 0x80)]
    assert references_to(image(data), TARGET, code, (), (), lambda _: False) == []

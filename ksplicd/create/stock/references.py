# SPDX-License-Identifier: GPL-2.0-only
"""Where a stock image refers to an address: it is looked through byte by byte.

A finished kernel has no relocations.  So everything that can be a reference counts as one: the
address itself with eight or four bytes, and in code the distance from the end of an instruction.
"""

import re
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.elf.instructions import UndecodableError, read_fields

_CODE = ("_stext", "_etext"), ("__init_begin", "__init_end")
"""Symbols between which a kernel has code (arch/x86/kernel/vmlinux.lds.S)."""
_BEFORE_FIELD: Final = re.compile(
    rb"[\xe8\xe9]|\x0f[\x80-\x8f]|[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]", re.DOTALL
)
"""call, jmp and jcc, and each ModRM byte that counts from %rip (mod 0, r/m 5).

The displacement of ``lea -0xb8(%rax),%rbp`` looks like a short way back."""
_FIELD: Final = struct.Struct("<i")
_FAR: Final = 1 << 14
"""Bytes from a symbol on that are decoded."""
_LONGEST: Final = 16
"""Bytes, of which an instruction has at most 15."""
_FREED = (("__init_begin", "__init_end"),)
_LISTS = (("__start_mcount_loc", "__stop_mcount_loc"),)
"""Symbols of lists of addresses by which nobody calls: the tracer's, of every function."""


def references_to(
    image: KernelImage,
    address: int,
    code: Sequence[range] | None = None,
    lists: Collection[range] = (),
    freed: Collection[range] = (),
    is_operand: Callable[[int], bool] = lambda _: True,
) -> list[int]:
    """Return where an image holds an address: itself, or counted from where it stands.

    ``code``: where four bytes can be either, else everywhere; ``lists``: what is left out;
    ``freed``: code that is gone when the kernel or the module runs, of which calls and jumps are
    left out, but not the addresses that it may have handed over; ``is_operand``: whether four
    bytes of code at an address can be one.  The field of an instruction counts from its end, mostly
    four bytes behind the field's start.
    """
    found: dict[int, None] = {}
    for segment in image.segments:
        data, base = bytes(segment.data), segment.address
        pattern, short = struct.pack("<Q", address), struct.pack("<I", address & 0xFFFF_FFFF)
        found.update(dict.fromkeys(base + at for at in _positions(data, pattern, 0, len(data))))
        whole = range(base, base + len(data))
        for part in [whole] if code is None else code:
            low, high = max(part.start - base, 0), min(part.stop - base, len(data))
            if low >= high:
                continue
            operands = (base + at for at in _positions(data, short, low, high))
            found.update(dict.fromkeys(at for at in operands if at in found or is_operand(at)))
            fields = _relative(data, low, high, address - base)
            found.update(
                dict.fromkeys(
                    base + at for at in fields
                    if not (any(base + at in known for known in freed) and _is_branch(data, at))
                )
            )  # fmt: skip
    return [at for at in found if not any(at in known for known in lists)]


def _positions(data: bytes, pattern: bytes, low: int, high: int) -> Iterator[int]:
    at = data.find(pattern, low, high)
    while at >= 0:
        yield at
        at = data.find(pattern, at + 1, high)


def is_operand(image: KernelImage, symbols: SymbolMap, at: int) -> bool:
    """Tell whether an instruction has a field at an address; what cannot be told counts as one.

    Decoded from the last uniquely named symbol on.
    """
    nearest = symbols.nearest_unique(at)
    if nearest is None or at - nearest[1] > _FAR:
        return True
    start = at - nearest[1]
    code = image.read(nearest[1], start + _LONGEST)
    for end in range(start + 4, start + _LONGEST) if code is not None else ():
        try:
            return start in read_fields(code or b"", 0, end)
        except UndecodableError:
            continue
    return True


def _relative(data: bytes, low: int, high: int, to: int) -> Iterator[int]:
    """Yield where a field of an instruction counts to an offset from its end.

    Not where it counts to what follows it: that is the padding in front of a function.
    """
    for m in _BEFORE_FIELD.finditer(data, low, max(high - 4, low)):
        at = m.end()
        (distance,) = _FIELD.unpack_from(data, at)
        if at + 4 + distance == to and distance:
            yield at


def _is_branch(data: bytes, at: int) -> bool:
    """Tell whether the field at an offset is that of a call, jmp or jcc."""
    return data[at - 1] in b"\xe8\xe9" or (data[at - 2] == 0x0F and data[at - 1] & 0xF0 == 0x80)


def code_of(symbols: SymbolMap) -> list[range] | None:
    """Return where a kernel has code, by its map; None when that does not say: everywhere."""
    found = _ranges(symbols, _CODE)
    return found if symbols.addresses("_stext") else None


def freed_of(symbols: SymbolMap) -> list[range]:
    """Return what a kernel frees when it has booted, by its map."""
    return _ranges(symbols, _FREED)


def lists_of(symbols: SymbolMap) -> list[range]:
    """Return the lists of addresses that are no references, by a kernel's map."""
    return _ranges(symbols, _LISTS)


def _ranges(symbols: SymbolMap, borders: Sequence[tuple[str, str]]) -> list[range]:
    found = [(symbols.addresses(low), symbols.addresses(high)) for low, high in borders]
    return [range(low[0], high[0]) for low, high in found if low and high]

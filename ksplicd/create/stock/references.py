# SPDX-License-Identifier: GPL-2.0-only
"""Where a stock image refers to an address: it is looked through byte by byte.

A finished kernel has no relocations.  So everything that can be a reference counts as one: the
address itself with eight or four bytes, and in code the distance from the end of an instruction.
"""

import struct
from collections.abc import Collection, Iterator, Sequence

from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.system_map import SymbolMap

_CODE = ("_stext", "_etext"), ("__init_begin", "__init_end")
"""Symbols between which a kernel has code (arch/x86/kernel/vmlinux.lds.S)."""
_LISTS = (("__start_mcount_loc", "__stop_mcount_loc"),)
"""Symbols of lists of addresses by which nobody calls: the tracer's, of every function."""


def references_to(
    image: KernelImage,
    address: int,
    code: Sequence[range] | None = None,
    lists: Collection[range] = (),
) -> list[int]:
    """Return where an image holds an address: itself, or counted from where it stands.

    ``code``: where the latter is looked for, else everywhere; ``lists``: what is left out.  The
    field of an instruction counts from its end, mostly four bytes behind the field's start.
    """
    found: dict[int, None] = {}
    for segment in image.segments:
        data, base = bytes(segment.data), segment.address
        for pattern in (struct.pack("<Q", address), struct.pack("<I", address & 0xFFFF_FFFF)):
            at = data.find(pattern)
            while at >= 0:
                found[base + at] = None
                at = data.find(pattern, at + 1)
        whole = range(base, base + len(data))
        for part in [whole] if code is None else code:
            low, high = max(part.start - base, 0), min(part.stop - base, len(data))
            found.update(
                dict.fromkeys(base + at for at in _relative(data, low, high, address - base))
            )
    return [at for at in found if not any(at in known for known in lists)]


def _relative(data: bytes, low: int, high: int, to: int) -> Iterator[int]:
    """Yield where a field of an instruction counts to an offset from its end.

    Not where it counts to what follows it: that is the padding in front of a function.
    """
    for start in range(low, min(low + 4, high)):
        words = memoryview(data[start : start + (high - start) // 4 * 4]).cast("i")
        wanted = to - start - 4
        for i, word in enumerate(words):
            if word + 4 * i == wanted and word and _is_field(data, start + 4 * i):
                yield start + 4 * i


def _is_field(data: bytes, at: int) -> bool:
    """Tell whether four bytes can be the displacement of a branch, or of what counts from %rip.

    ``lea -0xb8(%rax),%rbp`` has bytes that look like a short way back.
    """
    before, last = data[at - 2 : at - 1], data[at - 1 : at]
    if not last:
        return False
    is_branch = last in (b"\xe8", b"\xe9") or (before == b"\x0f" and last[0] & 0xF0 == 0x80)
    return is_branch or last[0] & 0xC7 == 5  # ModRM: mod 0, r/m 5


def code_of(symbols: SymbolMap) -> list[range] | None:
    """Return where a kernel has code, by its map; None when that does not say: everywhere."""
    found = _ranges(symbols, _CODE)
    return found if symbols.addresses("_stext") else None


def lists_of(symbols: SymbolMap) -> list[range]:
    """Return the lists of addresses that are no references, by a kernel's map."""
    return _ranges(symbols, _LISTS)


def _ranges(symbols: SymbolMap, borders: Sequence[tuple[str, str]]) -> list[range]:
    found = [(symbols.addresses(low), symbols.addresses(high)) for low, high in borders]
    return [range(low[0], high[0]) for low, high in found if low and high]

# SPDX-License-Identifier: GPL-2.0-only
"""The physical memory of a guest, read from outside: bytes by address, page tables, free pages.

The guest's memory is a file that the host maps; the guest has to stand still while it is read.
Nothing in it is trusted: what lies outside of the memory reads as nothing.  What the kernel keeps
at an address is not known here (``whereabouts.py``).
"""

import contextlib
import mmap
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ksplicd.errors import LabError

PAGE: Final = 4096
WORD: Final = 8
_WORDS: Final = PAGE // WORD
LARGEST: Final = 2 << 30
"""Bytes of memory that QEMU's q35 has in one piece from address 0 on (hw/i386/pc_q35.c)."""

# include/uapi/linux/kernel-page-flags.h, include/linux/kernel-page-flags.h
KPF_SLAB: Final = 1 << 7
KPF_BUDDY: Final = 1 << 10
KPF_RESERVED: Final = 1 << 32
"""Since boot: the kernel's image, without what it gave back of it."""
_KPF_NOPAGE: Final = 1 << 20
_KPF_OFFLINE: Final = 1 << 23

# arch/x86/include/asm/pgtable_types.h, arch/x86/include/asm/page_types.h
_PRESENT: Final = 1
_LARGE: Final = 1 << 7
_ADDRESS: Final = ((1 << 52) - 1) & ~(PAGE - 1)
_BITS_OF_INDEX: Final = 9
_LARGEST_LEAF: Final = 2
"""Levels above a page at which an entry may be a page itself: 2 MiB and 1 GiB."""


class Span(NamedTuple):
    """Addresses from ``begin`` up to, and without, ``end``."""

    begin: int
    end: int


class GuestMemory:
    """Memory by physical address."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        """Take the whole memory from address 0 on.  Raises ``LabError`` when it has other parts."""
        if len(data) % PAGE or len(data) > LARGEST:
            raise LabError(f"a guest of {len(data):#x} bytes of memory cannot be read from outside")
        self._bytes = memoryview(data)
        self._words = self._bytes.cast("Q")

    @property
    def size(self) -> int:
        """The size in bytes."""
        return len(self._bytes)

    def read(self, address: int, size: int) -> bytes | None:
        """Return ``size`` bytes at ``address``; None when not all of them are memory."""
        if address < 0 or size < 0 or address + size > self.size:
            return None
        return bytes(self._bytes[address : address + size])

    def word(self, address: int) -> int | None:
        """Return the word of 8 bytes at an address that 8 divides; None when that is no memory."""
        if address < 0 or address % WORD or address >= self.size:
            return None
        return self._words[address // WORD]

    def find(self, words: Collection[int], spans: Sequence[Span]) -> Iterator[int]:
        """Yield the addresses, in ``spans`` of whole pages, at which one of ``words`` stands."""
        wanted = frozenset(words)
        for span in spans:
            for page in range(span.begin // PAGE, min(span.end, self.size) // PAGE):
                first = page * _WORDS
                content = self._words[first : first + _WORDS]
                if wanted.isdisjoint(content):
                    continue
                for i, word in enumerate(content):
                    if word in wanted:
                        yield (first + i) * WORD

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._bytes.release()


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[GuestMemory]:
    """Map the file of a guest's memory for as long as the context lasts."""
    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        memory = GuestMemory(data)
        try:
            yield memory
        finally:
            memory.close()


class PageFlags:
    """What /proc/kpageflags says of each page (Documentation/admin-guide/mm/pagemap.rst)."""

    def __init__(self, data: bytes) -> None:
        self._flags = struct.unpack(f"<{len(data) // WORD}Q", data[: len(data) // WORD * WORD])

    def of(self, address: int) -> int:
        """Return the flags of the page at a physical address."""
        page = address // PAGE
        return self._flags[page] if 0 <= page < len(self._flags) else _KPF_NOPAGE

    def in_use(self) -> list[Span]:
        """Return the memory that is not free, in whole pages.

        Pages that a processor keeps for its next allocations count as in use here.
        """
        spans: list[Span] = []
        begin = None
        for page, flags in enumerate((*self._flags, _KPF_NOPAGE)):
            is_used = not flags & (KPF_BUDDY | _KPF_NOPAGE | _KPF_OFFLINE)
            if is_used and begin is None:
                begin = page
            elif not is_used and begin is not None:
                spans.append(Span(begin * PAGE, page * PAGE))
                begin = None
        return spans


class PageTables:
    """The page tables of the guest's kernel."""

    def __init__(self, memory: GuestMemory, root: int, levels: int) -> None:
        """Take the physical address of the topmost table, and how many levels there are, 4 or 5."""
        self._memory, self._root, self._levels = memory, root, levels

    def translate(self, address: int) -> int | None:
        """Return the physical address of a virtual one; None when nothing is mapped there."""
        table = self._root
        for level in reversed(range(self._levels)):
            shift = PAGE.bit_length() - 1 + _BITS_OF_INDEX * level
            index = address >> shift & (_WORDS - 1)
            entry = self._memory.word(table + index * WORD)
            if entry is None or not entry & _PRESENT:
                return None
            table = entry & _ADDRESS
            if level == 0 or (level <= _LARGEST_LEAF and entry & _LARGE):
                inside = (1 << shift) - 1
                return (table & ~inside) | (address & inside)
        return None

    def read(self, address: int, size: int) -> bytes | None:
        """Return ``size`` bytes at a virtual address; None when not all of them are mapped."""
        return read_mapped(self._memory, self.translate, address, size)


def read_mapped(
    memory: GuestMemory, translate: Callable[[int], int | None], address: int, size: int
) -> bytes | None:
    """Return bytes at a virtual address, page by page; None when not all of them are mapped.

    ``translate``: returns the physical address of a virtual one.
    """
    found = bytearray()
    while len(found) < size:
        here = address + len(found)
        part = min(size - len(found), PAGE - here % PAGE)
        physical = translate(here)
        content = None if physical is None else memory.read(physical, part)
        if content is None:
            return None
        found += content
    return bytes(found)

# SPDX-License-Identifier: GPL-2.0-only
"""Where things lie in the memory of a guest: symbols by address, and what is at a physical address.

Read from what the guest's kernel says of itself (kallsyms, iomem, vmallocinfo, cpuinfo, slabinfo)
and from its page tables.  Lines that are not as the kernel writes them are skipped: a place is
then named less well.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from ksplicd.errors import LabError
from ksplicd.lab.guest_memory import (
    KPF_BUDDY,
    KPF_RESERVED,
    KPF_SLAB,
    PAGE,
    WORD,
    GuestMemory,
    PageFlags,
    PageTables,
    Span,
    read_mapped,
)
from ksplicd.model import VMLINUX

_SYMBOL: Final = re.compile(
    r"^([0-9a-f]{16}) [A-Za-z] ([^\s]{1,511})(?:\t\[([^\s\]]{1,63})\])?$", re.MULTILINE
)
_CODE: Final = re.compile(r"^\s*([0-9a-f]{1,16})-[0-9a-f]{1,16} : Kernel code$", re.MULTILINE)
_AREA: Final = re.compile(
    r"^0x([0-9a-f]{16})-0x([0-9a-f]{16})\s+\d+(?: ([^\s/+]+)\+0x[0-9a-f]+/0x[0-9a-f]+)?(.*)$",
    re.MULTILINE,
)
_NOT_MEMORY: Final = (" ioremap", " unpurged vm_area")
_SLAB: Final = re.compile(r"^(\S+)\s+\d+\s+\d+\s", re.MULTILINE)
_NUMBER: Final = re.compile(r"\.\d+$")
"""What the compiler adds to the name of a function's static variable."""
_MODULE: Final = re.compile(r"[A-Za-z0-9_-]+")
_STACK_MAKERS: Final = frozenset({"dup_task_struct", "copy_process", "alloc_thread_stack_node"})
_PAGE_STRUCT: Final = 64
"""Bytes of struct page (include/linux/mm_types.h, with CONFIG_MEMCG)."""
_LIST: Final = 8
"""Offset of lru, a list_head, in struct page."""
_COUNT: Final = 52
"""Offset of _refcount."""
_HEAD: Final = 8
"""Offset of compound_head; bit 0 is set in all pages but the first."""
_LOOKED_AT: Final = 512
"""Bytes of a kmem_cache in which its name is looked for."""
_LONGEST_NAME: Final = 64


class Known(NamedTuple):
    """One symbol of the running kernel."""

    address: int
    name: str
    module: str
    """``vmlinux``, or a module's name."""


class KernelSymbols:
    """What /proc/kallsyms says, of some two hundred thousand symbols."""

    def __init__(self, kallsyms: str) -> None:
        self._symbols = sorted(set(_SYMBOL.findall(kallsyms)))  # all addresses have 16 digits
        self._addresses = [int(s[0], 16) for s in self._symbols]

    def addresses(self, name: str, target: str = VMLINUX) -> list[int]:
        """Return all addresses of a name in vmlinux or a module."""
        module = "" if target == VMLINUX else target
        return [
            address
            for address, s in zip(self._addresses, self._symbols, strict=True)
            if s[1] == name and s[2] == module
        ]

    def addresses_like(self, stem: str, target: str = VMLINUX) -> list[int]:
        """Return all addresses of a name in vmlinux or a module, with or without a number."""
        module = "" if target == VMLINUX else target
        return [
            address
            for address, s in zip(self._addresses, self._symbols, strict=True)
            if s[1].startswith(stem) and s[2] == module and _NUMBER.sub("", s[1]) == stem
        ]

    def address(self, name: str) -> int:
        """Return the address of a symbol of vmlinux.  Raises ``LabError`` unless there is one."""
        found = self.addresses(name)
        if len(found) != 1:
            raise LabError(f"the guest's /proc/kallsyms has {len(found)} symbols named {name}")
        return found[0]

    def nearest(self, address: int) -> Known | None:
        """Return the last symbol that begins at an address or in front of it."""
        i = bisect_right(self._addresses, address)
        if not i:
            return None
        _, name, module = self._symbols[i - 1]
        return Known(self._addresses[i - 1], name, module or VMLINUX)

    def next_address(self, address: int) -> int | None:
        """Return where the next symbol behind an address begins."""
        i = bisect_right(self._addresses, address)
        return self._addresses[i] if i < len(self._addresses) else None


class Area(NamedTuple):
    """An area of vmalloc's; ``by`` is the function that asked for it, empty when unknown."""

    begin: int
    end: int
    by: str


def read_areas(vmallocinfo: str) -> list[Area]:
    """Return the areas that hold memory, in order."""
    found = []
    for begin, end, by, rest in _AREA.findall(vmallocinfo):
        low, high = int(begin, 16), int(end, 16)
        if low < high and not any(word in f" {rest}" for word in _NOT_MEMORY):
            found.append(Area(low, high, by))
    return sorted(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """What the guest's kernel says of its memory: files of /proc, as they are."""

    iomem: str
    vmallocinfo: str
    cpuinfo: str
    slabinfo: str
    kpageflags: bytes


class Whereabouts:
    """The memory of one guest at one moment."""

    def __init__(self, memory: GuestMemory, reports: Reports, symbols: KernelSymbols) -> None:
        """Raises ``LabError`` when it is not known where the kernel lies."""
        self.memory, self.symbols = memory, symbols
        self.flags = PageFlags(reports.kpageflags)
        self.areas = read_areas(reports.vmallocinfo)
        self._slabs = frozenset(_SLAB.findall(reports.slabinfo))
        code = _CODE.search(reports.iomem)
        if code is None:
            raise LabError("the guest's /proc/iomem does not say where the kernel lies")
        text = symbols.address("_text")
        self._shift = text - int(code[1], 16)
        self.image = Span(text, symbols.address("_end"))
        root = symbols.address("init_top_pgt") - self._shift
        # the flag goes where the kernel has four levels (arch/x86/kernel/cpu/common.c)
        levels = 5 if re.search(r"^flags\s.*\bla57\b", reports.cpuinfo, re.MULTILINE) else 4
        self._tables = PageTables(memory, root, levels)

    def translate(self, address: int) -> int | None:
        """Return the physical address of a virtual one; None when nothing is mapped there."""
        if self.image.begin <= address < self.image.end:
            return address - self._shift
        return self._tables.translate(address)

    def virtual(self, physical: int) -> int | None:
        """Return the address in the kernel's image or in vmalloc's areas; None: in neither."""
        # what is free of the image after boot (init, gaps) has other uses
        if self.flags.of(physical) & KPF_RESERVED and self.is_in_image(physical + self._shift):
            return physical + self._shift
        page = self._pages.get(physical // PAGE)
        return None if page is None else page * PAGE + physical % PAGE

    def is_in_image(self, address: int) -> bool:
        """Tell whether a virtual address is one of vmlinux itself."""
        return self.image.begin <= address < self.image.end

    def area_of(self, address: int) -> Area | None:
        """Return the area of vmalloc's that a virtual address is in."""
        i = bisect_right(self.areas, Area(address, 1 << 64, ""))
        return self.areas[i - 1] if i and address < self.areas[i - 1].end else None

    def read(self, address: int, size: int) -> bytes | None:
        """Return bytes at a virtual address; None when not all of them are mapped."""
        return read_mapped(self.memory, self.translate, address, size)

    def beside(self, physical: int, distance: int) -> int | None:
        """Return the physical address at a distance from another, as the kernel sees them lie.

        None: nothing lies there.
        """
        if (physical + distance) // PAGE != physical // PAGE:
            address = self.virtual(physical)
            if address is not None:
                return self.translate(address + distance)
        return physical + distance

    def read_span(self, span: Span) -> bytes | None:
        """Return the bytes of a span of virtual addresses; None when not all are mapped."""
        return self.read(span.begin, span.end - span.begin)

    def read_word(self, address: int) -> int | None:
        """Return the word at a virtual address; None when nothing is mapped there."""
        words = self._words_at(address, WORD)
        return words[0] if words else None

    def data_of(self, place: Span) -> list[Span]:
        """Return the pages of the image, and of the module, if any, that a place is in."""
        begin, end = self.image.begin - self._shift, self.image.end - self._shift
        spans = [Span(begin // PAGE * PAGE, -(-end // PAGE) * PAGE)]
        area = self.area_of(place.begin)
        for address in range(area.begin, area.end, PAGE) if area else ():
            page = self._tables.translate(address)
            if page is not None:
                spans.append(Span(page, page + PAGE))
        return spans

    def is_free(self, physical: int) -> bool:
        """Tell whether a page is free, or one that a processor keeps for its next allocations.

        Nobody uses such a page, and it is in a list; ``PageFlags`` does not know it.
        """
        if self.flags.of(physical) & KPF_BUDDY:
            return True
        page = self._page_struct(physical)
        words = () if page is None else self._words_at(page, _PAGE_STRUCT)
        if self.flags.of(physical) or not words or page is None:
            return False
        following, before = words[_LIST // WORD], words[_LIST // WORD + 1]
        is_in_list = self.read_word(following + WORD) == self.read_word(before) == page + _LIST
        return is_in_list and words[_COUNT // WORD] >> 32 == 0

    def is_taken(self, span: Span) -> bool:
        """Tell whether an area of vmalloc's is in a span of virtual addresses."""
        return any(a.begin < span.end and span.begin < a.end for a in self.areas)

    def module_of(self, address: int | None) -> str | None:
        """Return the module whose memory a virtual address is in; None: it is in no module's."""
        area = None if address is None else self.area_of(address)
        s = None if address is None else self.symbols.nearest(address)
        if s is None or area is None or s.address < area.begin or not _MODULE.fullmatch(s.module):
            return None
        return s.module

    def describe(self, physical: int) -> str:
        """Return what is at a physical address, for people."""
        where = f"physical address {physical:#x}"
        address = self.virtual(physical)
        if address is None:
            if self.flags.of(physical) & KPF_SLAB:
                name = self._slab_of(physical)
                return f"slab cache {name} ({where})" if name else f"a slab cache ({where})"
            return where
        area = self.area_of(address)
        s = self.symbols.nearest(address)
        if s is not None and (area is None or s.address >= area.begin):
            module = "" if s.module == VMLINUX else f" [{s.module}]"
            return f"{s.name}+{address - s.address:#x}{module} ({where})"
        if area is not None and area.by in _STACK_MAKERS:
            return f"a task's kernel stack ({where})"
        of = f" of {area.by}" if area is not None and area.by else ""
        return f"vmalloc memory{of} ({where})"

    @cached_property
    def _pages(self) -> dict[int, int]:
        """By number of a physical page, that of the page in vmalloc's areas."""
        found: dict[int, int] = {}
        left = self.memory.size // PAGE
        for area in self.areas:
            pages = (area.end - area.begin) // PAGE
            if pages > left:  # more than there is: the kernel has written something else
                continue
            left -= pages
            for address in range(area.begin, area.end, PAGE):
                physical = self._tables.translate(address)
                if physical is not None:
                    found[physical // PAGE] = address // PAGE
        return found

    def _slab_of(self, physical: int) -> str:
        """Return the name of the slab cache that a page belongs to; empty when it is not found.

        The page's struct points to its kmem_cache, which points to its name; which of their words
        do is found by the name, which /proc/slabinfo has.
        """
        page = self._page_struct(physical)
        direct = self._variable("page_offset_base")
        if page is None or direct is None:
            return ""
        head = self._words_at(page + _HEAD, WORD)
        if head and head[0] & 1:
            page = head[0] - 1
        for cache in self._words_at(page, _PAGE_STRUCT):
            if not direct <= cache < direct + self.memory.size:
                continue
            for name in self._words_at(cache, _LOOKED_AT):
                text = self._text_at(name, direct)
                if text in self._slabs:
                    return text
        return ""

    def _page_struct(self, physical: int) -> int | None:
        """Return the address of a page's struct; None when it is not known where they are."""
        pages = self._variable("vmemmap_base")
        return None if pages is None else pages + physical // PAGE * _PAGE_STRUCT

    def _variable(self, name: str) -> int | None:
        addresses = self.symbols.addresses(name)
        words = self._words_at(addresses[0], WORD) if len(addresses) == 1 else ()
        return words[0] if words else None

    def _words_at(self, address: int, size: int) -> tuple[int, ...]:
        content = self.read(address, size)
        return () if content is None else tuple(memoryview(content).cast("Q"))

    def _text_at(self, address: int, direct: int) -> str:
        is_known = self.is_in_image(address) or direct <= address < direct + self.memory.size
        content = self.read(address, _LONGEST_NAME) if is_known else None
        return (content or b"").partition(b"\0")[0].decode("ascii", "replace")

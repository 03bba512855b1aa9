# SPDX-License-Identifier: GPL-2.0-only
"""The memory of a guest that never ran: a kernel's image, vmalloc areas, slabs and page tables."""

import contextlib
import struct
from collections.abc import Iterator
from typing import Final

from ksplicd.lab.guest_memory import KPF_BUDDY, KPF_RESERVED, KPF_SLAB, PAGE, GuestMemory
from ksplicd.lab.running_guest import Result
from ksplicd.lab.whereabouts import KernelSymbols, Reports, Whereabouts

SIZE: Final = 1 << 20
TEXT: Final = 0xFFFF_FFFF_A120_0000
"""Where the made-up kernel runs; it was linked to 0xffffffff81000000."""
IMAGE: Final = 0x10000
"""Where that is in the physical memory."""
IMAGE_SIZE: Final = 0x20000
MODULE: Final = 0xFFFF_FFFF_C050_0000
VMALLOC: Final = 0xFFFF_B0DC_C000_0000
DIRECT: Final = 0xFFFF_8F40_0000_0000
PAGES: Final = 0xFFFF_D9C0_0000_0000

_TABLES: Final = 0x80000
"""Where the page tables are, one after the other."""
_KERNEL_TABLE: Final = 0x2F000

_SYMBOLS: Final = {
    "_text": (TEXT, "T"),
    "old_function": (TEXT + 0x1000, "t"),
    "other_function": (TEXT + 0x1100, "t"),
    "third_function": (TEXT + 0x1200, "T"),
    "page_offset_base": (TEXT + 0x8000, "D"),
    "vmemmap_base": (TEXT + 0x8008, "D"),
    "table": (TEXT + 0x9000, "d"),
    "behind_table": (TEXT + 0x9080, "d"),
    "buffer": (TEXT + 0xA000, "b"),
    "init_top_pgt": (TEXT + _KERNEL_TABLE - IMAGE, "D"),
    "_end": (TEXT + IMAGE_SIZE, "B"),
}
IOMEM: Final = """\
00001000-0009fbff : System RAM
00100000-2fffffff : System RAM
  00010000-00017fff : Kernel code
  00018000-0002ffff : Kernel rodata
"""


class MadeMemory:
    """A memory to be filled, and what its kernel says of it."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.flags = [0] * (SIZE // PAGE)
        for page in range(IMAGE // PAGE, (IMAGE + IMAGE_SIZE) // PAGE):
            self.flags[page] = KPF_RESERVED
        self.symbols = dict(_SYMBOLS)
        self.of_modules: list[str] = []
        self.areas: list[str] = []
        self.slabs: list[str] = ["kmalloc-96", "net_namespace"]
        self.iomem, self.cpuinfo = IOMEM, "flags\t\t: fpu lm\n"
        self._free_table = _TABLES
        self.put_word(IMAGE + 0x8000, DIRECT)
        self.put_word(IMAGE + 0x8008, PAGES)

    def put_word(self, address: int, word: int) -> None:
        """Write a word at a physical address."""
        struct.pack_into("<Q", self.data, address, word)

    def put(self, address: int, *words: int) -> None:
        """Write words at a physical address."""
        for i, word in enumerate(words):
            self.put_word(address + 8 * i, word)

    def map(self, virtual: int, physical: int) -> None:
        """Map a page."""
        table = _KERNEL_TABLE
        for shift in (39, 30, 21):
            at = table + 8 * (virtual >> shift & 511)
            (entry,) = struct.unpack_from("<Q", self.data, at)
            if not entry:
                entry = self._free_table | 0x63
                self.put_word(at, entry)
                self._free_table += PAGE
            table = entry & ~0xFFF
        self.put_word(table + 8 * (virtual >> 12 & 511), physical | 0x8000_0000_0000_0163)

    def add_area(self, virtual: int, physical: list[int], by: str) -> None:
        """Map an area of vmalloc's, a physical page for each of its own, and a guard behind."""
        for i, page in enumerate(physical):
            self.map(virtual + i * PAGE, page)
        end = virtual + (len(physical) + 1) * PAGE
        self.areas.append(
            f"0x{virtual:016x}-0x{end:016x} {end - virtual:7} {by}+0x10/0x20 pages=1 vmalloc N0=1"
        )

    def add_slab(self, physical: int, name: str, cache: int) -> None:
        """Make a page one of a slab cache, whose kmem_cache is at another physical address."""
        self.flags[physical // PAGE] |= KPF_SLAB
        page = PAGES + physical // PAGE * 64
        self.map(page // PAGE * PAGE, 0x70000 + (page // PAGE * PAGE - PAGES))
        self.put(0x70000 + page - PAGES, 0x100, 0, 0, DIRECT + cache)
        self.map((DIRECT + cache) // PAGE * PAGE, cache // PAGE * PAGE)
        self.put_word(cache + 0x60, DIRECT + cache + 0x100)
        self.data[cache + 0x100 : cache + 0x101 + len(name)] = name.encode() + b"\0"

    def free(self, physical: int) -> None:
        """Make a page a free one."""
        self.flags[physical // PAGE] |= KPF_BUDDY

    def keep(self, physical: int) -> None:
        """Make a page one that a processor keeps, in a list whose head is in the image."""
        page = PAGES + physical // PAGE * 64
        self.map(page // PAGE * PAGE, 0x70000 + (page // PAGE * PAGE - PAGES))
        head = TEXT + 0x8100
        self.put(0x70000 + page - PAGES, 0x100, head, head, 0, 0, 0, 0xFFFF_FFFF, 0)
        self.put(IMAGE + 0x8100, page + 8, page + 8)

    @property
    def kallsyms(self) -> str:
        """What the kernel's file of that name says."""
        lines = [f"{a:016x} {kind} {name}" for name, (a, kind) in self.symbols.items()]
        return "\n".join([*lines, *self.of_modules])

    @property
    def reports(self) -> Reports:
        """What other files say."""
        return Reports(
            iomem=self.iomem,
            vmallocinfo="\n".join(self.areas),
            cpuinfo=self.cpuinfo,
            slabinfo="slabinfo - version: 2.1\n# name <active_objs> <num_objs>\n"
            + "".join(f"{name}  10  20  96 42 1\n" for name in self.slabs),
            kpageflags=struct.pack(f"<{len(self.flags)}Q", *self.flags),
        )

    def whereabouts(self) -> Whereabouts:
        """Return the memory as it is now."""
        memory = GuestMemory(bytes(self.data))
        return Whereabouts(memory, self.reports, KernelSymbols(self.kallsyms))


class MadeGuest:
    """A guest that has such a memory, for who looks at it."""

    def __init__(self, made: MadeMemory) -> None:
        self.made = made
        self.sections: dict[str, int] = {}
        """By module and section, such as ``ksplice_x_new .text``, the address."""
        self.commands: list[str] = []
        self.is_stopped = False

    def read(self, path: str, *, if_there: bool = False) -> str:
        """Return what the kernel's file says."""
        assert not self.is_stopped
        assert if_there == (path == "/proc/slabinfo")
        name = path.rpartition("/")[2]
        if name in ("kallsyms", "kptr_restrict"):
            return self.made.kallsyms if name == "kallsyms" else "0"
        text = getattr(self.made.reports, name)
        assert isinstance(text, str)
        return text

    def get(self, path: str) -> bytes:
        """Return the flags of the pages."""
        assert path == "/run/ksplice-kpageflags"
        return self.made.reports.kpageflags

    def run(self, command: str) -> Result:
        """Name the sections of loaded modules; note other commands."""
        assert not self.is_stopped
        self.commands.append(command)
        said = ""
        if command.startswith("for m in "):
            modules = command.partition(";")[0].split()[3:]
            said = "".join(
                f"{name} {address:#x}\n"
                for name, address in self.sections.items()
                if name.split()[0] in modules
            )
        return Result(status=0, out=said, err="")

    @contextlib.contextmanager
    def stopped(self) -> Iterator[GuestMemory]:
        """Give the memory as it is."""
        self.is_stopped = True
        yield GuestMemory(bytes(self.made.data))
        self.is_stopped = False


LINKED: Final = 0xFFFF_FFFF_8100_0000


def linked_image(words: dict[int, int]) -> bytes:
    """Return the ELF file of the kernel; ``words`` by offset from its begin, the others are 0."""
    content = bytearray(IMAGE_SIZE)
    for offset, word in words.items():
        struct.pack_into("<Q", content, offset, word)
    note = struct.pack("<III4s20s", 4, 20, 3, b"GNU", b"x" * 20)
    begin = 64 + 2 * 56
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1", 2, 62, 1, LINKED, 64, 0, 0, 64, 56, 2, 64, 0, 0,
    )  # fmt: skip
    load = struct.pack("<IIQQQQQQ", 1, 7, begin, LINKED, 0, len(content), len(content), PAGE)
    notes = struct.pack("<IIQQQQQQ", 4, 4, begin + len(content), 0, 0, len(note), len(note), 4)
    return header + load + notes + bytes(content) + note

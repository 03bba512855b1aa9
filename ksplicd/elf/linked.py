# SPDX-License-Identifier: GPL-2.0-only
"""Finished ELF files, which are only read: kernel images and modules.  By pyelftools.

Headers, names and the place of everything come from pyelftools.  Two things are unpacked here from
the bytes that it finds.  Symbols and relocations, because it makes an object of each field: those
of xfs.ko (14,000 and 111,000) take it 2.4 s, and 0.2 s so.  Notes, because it takes Xen's for
GNU's: an image has both.  What is edited and written back is an ``Object`` (``read.py``).
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ksplicd.elf.model import SHF_RELA_LIVEPATCH, SHN_LORESERVE
from ksplicd.elf.read import MAX_ALIGN, MAX_SECTIONS, MAX_SIZE, RELA, SYM
from ksplicd.errors import ElfError, ToolError
from ksplicd.notes import BUILD_ID_SECTION, find_build_id

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

_IDENT: Final = b"\x7fELF\x02\x01"
_PROGRAM_HEADER: Final = 56
_SECTION_HEADER: Final = 64
"""Sizes in bytes (gABI, chapters 5 and 4)."""

_DAMAGED: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RecursionError,
    TypeError, ValueError, struct.error,
)  # fmt: skip
"""What pyelftools raises for damaged files besides its own two."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Bytes that are loaded at an address."""

    address: int
    data: memoryview


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LinkedSection:
    """One section."""

    name: str
    type: str
    """As the gABI names it, such as ``SHT_NOBITS``."""
    flags: int
    size: int
    """Bytes when loaded."""
    align: int
    link: int
    info: int
    data: memoryview
    """Empty for SHT_NOBITS."""


class LinkedSymbol(NamedTuple):
    """One symbol; ``section`` is an index, or one of the reserved numbers (SHN_ABS)."""

    name: str
    value: int
    bind: int
    type: int
    section: int


class LinkedRelocation(NamedTuple):
    """One relocation; ``symbol`` is an index in the symbol table."""

    offset: int
    type: int
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LinkedFile:
    """An image or a module."""

    name: str
    """For messages."""
    type: str
    machine: str
    """As the gABI names them, such as ``ET_REL`` and ``EM_X86_64``."""
    segments: tuple[Segment, ...]
    sections: tuple[LinkedSection, ...]
    """By index; the first is the null section."""
    build_id: str
    """GNU build id in hex, empty when there is none."""

    def check_module(self) -> None:
        """Raise ``ElfError`` when this is no module whose sections can be laid out."""
        if (self.type, self.machine) != ("ET_REL", "EM_X86_64"):
            raise ElfError(
                f"{self.name}: not an x86-64 relocatable object ({self.type}, {self.machine})"
            )
        for s in self.sections:
            if s.align > MAX_ALIGN or s.align & (s.align - 1):
                raise ElfError(
                    f"{self.name}: {s.name}: alignment {s.align:#x} is no power of two up to"
                    f" {MAX_ALIGN:#x}"
                )
            if s.size > MAX_SIZE:
                raise ElfError(
                    f"{self.name}: {s.name}: {s.size:#x} bytes are more than a kernel has"
                )

    def find_section(self, name: str) -> LinkedSection | None:
        """Return the first section called ``name``."""
        return next((s for s in self.sections if s.name == name), None)

    def read_symbols(self) -> list[LinkedSymbol]:
        """Return the symbols by index; the first is the null symbol.  Raises ``ElfError``."""
        tables = [s for s in self.sections if s.type == "SHT_SYMTAB"]
        if not tables:
            return []
        found = []
        try:
            (table,) = tables
            names = bytes(self.sections[table.link].data)
            for name, info, _, shndx, value, size in SYM.iter_unpack(table.data):
                text = names[name : names.index(b"\0", name)].decode()
                if 0 < shndx < SHN_LORESERVE and value + size > self.sections[shndx].size:
                    raise ValueError(f"{text} ends behind its section's end")
                found.append(LinkedSymbol(text, value, info >> 4, info & 15, shndx))
        except (struct.error, IndexError, ValueError) as e:
            raise ElfError(f"{self.name}: damaged symbol table: {e}") from e
        return found

    def read_relocations(self, index: int) -> list[LinkedRelocation]:
        """Return the relocations of a section, but not livepatch's.  Raises ``ElfError``."""
        section = self.sections[index]
        tables = [
            s for s in self.sections
            if s.type == "SHT_RELA" and s.info == index and not s.flags & SHF_RELA_LIVEPATCH
        ]  # fmt: skip
        if not tables:
            return []
        found = []
        symbols = sum(s.size // SYM.size for s in self.sections if s.type == "SHT_SYMTAB")
        try:
            (table,) = tables
            for offset, info, addend in RELA.iter_unpack(table.data):
                if offset > section.size:
                    raise ValueError(f"offset {offset:#x} is behind the section's end")
                if info >> 32 >= symbols:
                    raise ValueError(f"symbol {info >> 32} of {symbols}")
                found.append(LinkedRelocation(offset, info & 0xFFFF_FFFF, info >> 32, addend))
        except (struct.error, ValueError) as e:
            raise ElfError(f"{self.name}: {section.name}: damaged relocations: {e}") from e
        return found


def read_linked(data: bytes, name: str) -> LinkedFile:
    """Read an image or a module; ``name`` is used in messages.

    Raises ``ElfError``, and ``ToolError`` when pyelftools is not installed.
    """
    with _opened(data, name) as elf:
        segments = [
            (s["p_type"], s["p_vaddr"], _content(data, s["p_offset"], s["p_filesz"]))
            for s in elf.iter_segments()
        ]
        sections = tuple(
            LinkedSection(
                name=s.name,
                type=str(s["sh_type"]),
                flags=s["sh_flags"],
                size=s["sh_size"],
                align=s["sh_addralign"],
                link=s["sh_link"],
                info=s["sh_info"],
                data=_content(
                    data,
                    s["sh_offset"],
                    0 if s["sh_type"] in ("SHT_NULL", "SHT_NOBITS") else s["sh_size"],
                ),
            )
            for s in elf.iter_sections()
        )
        notes = [content for kind, _, content in segments if kind == "PT_NOTE"]
        notes += [s.data for s in sections if s.name == BUILD_ID_SECTION]
        return LinkedFile(
            name=name,
            type=str(elf["e_type"]),
            machine=str(elf["e_machine"]),
            segments=tuple(
                Segment(address, content)
                for kind, address, content in segments
                if kind == "PT_LOAD"
            ),
            sections=sections,
            build_id=next(filter(None, (find_build_id(bytes(n)) for n in notes)), ""),
        )


@contextmanager
def _opened(data: bytes, name: str) -> Iterator["ELFFile"]:
    """Have pyelftools read a file's header, and make ``ElfError`` of all that it raises."""
    # Imported here: it takes 0.1 s, and hosts do without.
    try:
        from elftools.common.exceptions import ELFError
        from elftools.construct import ConstructError
        from elftools.elf.elffile import ELFFile
    except ImportError as e:
        raise ToolError(
            f"{name}: reading it needs the Python package pyelftools; install python3-pyelftools"
        ) from e
    if not data.startswith(_IDENT):
        raise ElfError(f"{name}: not a 64-bit little-endian ELF file")
    try:
        elf = ELFFile(io.BytesIO(data))
        # Headers of no size, and of any number, are headers to go on with for ever.
        if elf.num_segments() and elf["e_phentsize"] != _PROGRAM_HEADER:
            raise ElfError(f"{name}: program headers of {elf['e_phentsize']} bytes")
        if elf.num_sections() and elf["e_shentsize"] != _SECTION_HEADER:
            raise ElfError(f"{name}: section headers of {elf['e_shentsize']} bytes")
        for what, number in (("segments", elf.num_segments()), ("sections", elf.num_sections())):
            if number > MAX_SECTIONS:
                raise ElfError(f"{name}: {number} {what}")
        yield elf
    except (ELFError, ConstructError, *_DAMAGED) as e:
        raise ElfError(f"{name}: truncated or damaged ELF file: {e}") from e


def _content(data: bytes, offset: int, size: int) -> memoryview:
    if offset + size > len(data):
        raise ValueError(f"{size:#x} bytes at {offset:#x} end behind the end of the file")
    return memoryview(data)[offset : offset + size]

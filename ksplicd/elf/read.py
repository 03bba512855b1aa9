# SPDX-License-Identifier: GPL-2.0-only
"""Bytes to graph.  Format: System V gABI, chapter 4.

Reads what compilers, objtool and ``ld -r`` write for x86-64; anything else is refused with the
object's name and the header that is wrong.
"""

import struct
from dataclasses import dataclass
from typing import Final

from ksplicd.elf.model import (
    SHF_COMPRESSED,
    SHF_RELA_LIVEPATCH,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHN_XINDEX,
    SHT_GROUP,
    SHT_NOBITS,
    SHT_NULL,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    Layout,
    LivepatchRelocations,
    Object,
    Relocation,
    Section,
    Symbol,
)
from ksplicd.elf.x86_64 import EM_X86_64
from ksplicd.errors import ElfError

EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
SHDR: Final = struct.Struct("<IIQQQQIIQQ")
SYM: Final = struct.Struct("<IBBHQQ")
RELA: Final = struct.Struct("<QQq")
ET_REL: Final = 1
MAX_SECTIONS: Final = SHN_LORESERVE - 1
MAX_ALIGN: Final = 1 << 21
"""A large page's size; no section of a kernel has more."""
MAX_SIZE: Final = 1 << 30
"""Bytes; more than the area of the kernel's image (KERNEL_IMAGE_SIZE in page_64_types.h)."""
_FILE_ALIGN: Final = 8
"""Of sections in a file, by assemblers since binutils 2.43, whatever their addresses have."""


_Kind = tuple[str, Section | None]
"""What a section header is of: see ``Layout.index_order``."""


@dataclass(slots=True)
class _Header:
    """A section header with the content it points to."""

    name: str
    name_offset: int
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int
    data: bytes

    @property
    def is_off(self) -> bool:
        """Whether its offset is not aligned like its address."""
        return bool(self.align and self.offset % self.align)


def read_object(data: bytes, name: str = "object") -> Object:
    """Return the graph of a relocatable object; ``name`` is used in messages.

    Raises ``ElfError``.
    """
    try:
        return _Reader(data, name).read()
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError, ValueError) as e:
        raise ElfError(f"{name}: damaged ELF object: {e}") from e


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


class _Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.symtab = self.shstrndx = SHN_UNDEF
        self.content: list[Section | None] = []
        """By index; None for what is not in the graph."""
        self.name_offsets: dict[Symbol | Section | _Kind, int] = {}
        self.rela_headers: dict[Section, tuple[str, int, int]] = {}

    def refuse(self, why: str) -> ElfError:
        return ElfError(f"{self.name}: {why}")

    def read(self) -> Object:
        headers = self.read_headers()
        self.symtab = self.find_symtab(headers)
        symtab = headers[self.symtab]
        self.content = self.make_sections(headers, skip={self.symtab, symtab.link, self.shstrndx})
        indexes = next((h.data for h in headers if h.type == SHT_SYMTAB_SHNDX), b"")
        symbols = self.read_symbols(symtab.data, indexes, headers[symtab.link].data)
        obj = Object(self.name, [s for s in self.content if s is not None], symbols)
        kinds = self.fill_sections(obj, headers)
        for header, (kind, section) in zip(headers, kinds, strict=True):
            if kind == "content" and section is not None:
                self.name_offsets[section] = header.name_offset
            elif kind not in ("null", "livepatch"):
                self.name_offsets[kind, section] = header.name_offset
        obj.layout = self.make_layout(headers, kinds)
        return obj

    def find_symtab(self, headers: list[_Header]) -> int:
        """Return the index of the symbol table; what has no label has none (vdso-note.o)."""
        found = [i for i, h in enumerate(headers) if h.type == SHT_SYMTAB]
        if len(found) > 1:
            raise self.refuse(f"{len(found)} symbol tables instead of one")
        return found[0] if found else SHN_UNDEF

    def fill_sections(self, obj: Object, headers: list[_Header]) -> list[_Kind]:
        """Link the sections and give them their relocations; return what each header is of."""
        symbols = [Symbol(""), *obj.symbols]
        kinds: list[_Kind] = [("null", None)]
        for i, header in enumerate(headers[1:], 1):
            section = self.content[i]
            if i == self.symtab:
                kinds.append(("symtab", None))
            elif i == self.shstrndx:
                kinds.append(("shstrtab", None))
            elif i == headers[self.symtab].link:
                kinds.append(("strtab", None))
            elif header.type == SHT_SYMTAB_SHNDX:
                kinds.append(("indexes", None))
            elif section is not None:
                self.link_section(section, header, symbols)
                kinds.append(("content", section))
            else:
                kinds.append(self.fill_relocations(obj, header, symbols))
        return kinds

    def fill_relocations(self, obj: Object, header: _Header, symbols: list[Symbol]) -> _Kind:
        """Give a section its relocations, or the object livepatch's."""
        target = self.content[header.info]
        if target is None:
            raise self.refuse(f"{header.name}: relocates no section")
        relocations = self.read_relocations(header, target, symbols)
        if header.flags & SHF_RELA_LIVEPATCH:
            obj.livepatch.append(LivepatchRelocations(header.name, target, relocations))
            return "livepatch", None
        if target.relocations:
            raise self.refuse(f"{header.name}: second relocation section of {target.name}")
        target.relocations = relocations
        self.rela_headers[target] = (header.name, header.flags, header.align)
        return "rela", target

    def make_layout(self, headers: list[_Header], kinds: list[_Kind]) -> Layout:
        """Return what ``write`` needs to give the same bytes back."""
        symtab = headers[self.symtab]
        by_offset = sorted(  # of two at one place the first is empty
            range(1, len(headers)), key=lambda i: (headers[i].offset, len(headers[i].data), i)
        )
        return Layout(
            header=self.data[: EHDR.size],
            index_order=kinds[1:],
            file_order=[kinds[i] for i in by_offset],
            rela_headers=self.rela_headers,
            strtab=headers[symtab.link].data,
            shstrtab=headers[self.shstrndx].data,
            name_offsets=self.name_offsets,
            symtab_align=symtab.align,
            offset_align=_FILE_ALIGN if any(h.is_off for h in headers) else MAX_ALIGN,
            linked_to_symtab=frozenset(
                s
                for h, s in zip(headers, self.content, strict=True)
                if s is not None and s.type != SHT_GROUP and self.symtab and h.link == self.symtab
            ),
        )

    def read_headers(self) -> list[_Header]:
        if len(self.data) < EHDR.size or self.data[:6] != b"\x7fELF\x02\x01":
            raise self.refuse("not a little-endian 64-bit ELF file")
        (_, e_type, machine, _, _, _, shoff, _, _, _, _, shentsize, shnum, shstrndx) = (
            EHDR.unpack_from(self.data)
        )
        if e_type != ET_REL or machine != EM_X86_64:
            raise self.refuse(
                f"not an x86-64 relocatable object (type {e_type}, machine {machine})"
            )
        if shentsize != SHDR.size or not shoff:
            raise self.refuse("section headers of a kind that is not read here")
        # Numbers that have no room in the file's header are in the first section's.
        first = SHDR.unpack_from(self.data, shoff)
        shnum = shnum or first[5]
        shstrndx = first[6] if shstrndx == SHN_XINDEX else shstrndx
        if not 0 < shstrndx < shnum or shoff + shnum * SHDR.size > len(self.data):
            raise self.refuse("section headers that are damaged or cut off")
        raw = [SHDR.unpack_from(self.data, shoff + i * SHDR.size) for i in range(shnum)]
        self.shstrndx = shstrndx
        names = self.data[raw[shstrndx][4] : raw[shstrndx][4] + raw[shstrndx][5]]
        headers = []
        for n, t, flags, _addr, offset, size, link, info, align, entsize in raw:
            if align > MAX_ALIGN or align & (align - 1):
                raise self.refuse(
                    f"{_string(names, n)}: alignment {align:#x} is no power of two up to"
                    f" {MAX_ALIGN:#x}"
                )
            if size > MAX_SIZE:
                raise self.refuse(
                    f"{_string(names, n)}: {size:#x} bytes are more than a kernel has"
                )
            data = b""
            if t not in (SHT_NOBITS, SHT_NULL):
                data = self.data[offset : offset + size]
                if len(data) != size:
                    raise self.refuse(f"{_string(names, n)}: ends behind the end of the file")
            headers.append(
                _Header(
                    _string(names, n), n, t, flags, offset, size, link, info, align, entsize, data
                )
            )
        return headers

    def make_sections(self, headers: list[_Header], skip: set[int]) -> list[Section | None]:
        content: list[Section | None] = []
        for i, h in enumerate(headers):
            if h.type in (SHT_NULL, SHT_RELA, SHT_SYMTAB_SHNDX) or i in skip:
                content.append(None)
                continue
            section = Section(
                h.name, h.type, h.flags, h.data, h.align, h.entsize,
                nobits_size=h.size if h.type == SHT_NOBITS else 0,
            )  # fmt: skip
            content.append(section)
        return content

    def link_section(self, section: Section, header: _Header, symbols: list[Symbol]) -> None:
        if section.type == SHT_GROUP:
            if section.is_alloc:
                raise self.refuse(f"{section.name}: a section group that is loaded")
            section.signature = symbols[header.info]
            words = struct.unpack(f"<{len(section.data) // 4}I", section.data)
            members = [self.content[i] for i in words[1:]]
            section.members = [m for m in members if m is not None]
        elif header.link and section.type not in (SHT_STRTAB,):
            section.link = self.content[header.link]

    def read_symbols(self, table: bytes, indexes: bytes, strtab: bytes) -> list[Symbol]:
        symbols = []
        entries = list(SYM.iter_unpack(table))[1:]
        for i, (name, info, other, shndx, value, size) in enumerate(entries, 1):
            section = self.content[shndx] if 0 < shndx < SHN_LORESERVE else None
            if shndx == SHN_XINDEX:  # gABI, chapter 4: SHT_SYMTAB_SHNDX
                section = self.content[struct.unpack_from("<I", indexes, 4 * i)[0]]
            symbol = Symbol(
                _string(strtab, name), value, size, info >> 4, info & 15, other, section,
                SHN_UNDEF if section else shndx,
            )  # fmt: skip
            if section is None and (0 < shndx < SHN_LORESERVE or shndx == SHN_XINDEX):
                raise self.refuse(f"symbol {symbol.name}: lies in no content section")
            if section is not None and value + size > section.size:
                raise self.refuse(f"symbol {symbol.name}: ends behind {section.name}'s end")
            self.name_offsets[symbol] = name
            symbols.append(symbol)
        return symbols

    def read_relocations(
        self, header: _Header, target: Section, symbols: list[Symbol]
    ) -> list[Relocation]:
        relocations = [
            Relocation(offset, info & 0xFFFFFFFF, symbols[info >> 32], addend)
            for offset, info, addend in RELA.iter_unpack(header.data)
        ]
        for r in relocations:
            is_compressed = target.flags & SHF_COMPRESSED or target.name.startswith(".zdebug")
            if r.offset > target.size and not is_compressed:
                raise self.refuse(f"{header.name}: offset {r.offset:#x} behind the section's end")
        return relocations

# SPDX-License-Identifier: GPL-2.0-only
"""The graph: an object has sections and symbols, a section has its relocations.

Sections and symbols are compared by identity, so they can be keys.  String tables, the symbol table
and relocation sections are not in the graph: ``write`` makes them, and keeps the layout that
``read`` found for what is still there.
"""

from dataclasses import dataclass, field
from typing import Final

SHT_NULL: Final = 0
SHT_PROGBITS: Final = 1
SHT_SYMTAB: Final = 2
SHT_STRTAB: Final = 3
SHT_RELA: Final = 4
SHT_NOBITS: Final = 8
SHT_GROUP: Final = 17
SHT_SYMTAB_SHNDX: Final = 18

SHF_WRITE: Final = 0x1
SHF_ALLOC: Final = 0x2
SHF_EXECINSTR: Final = 0x4
SHF_MERGE: Final = 0x10
SHF_STRINGS: Final = 0x20
SHF_INFO_LINK: Final = 0x40
SHF_LINK_ORDER: Final = 0x80
SHF_GROUP: Final = 0x200
SHF_COMPRESSED: Final = 0x800
SHF_RELA_LIVEPATCH: Final = 0x00100000
"""include/uapi/linux/elf.h"""

SHN_UNDEF: Final = 0
SHN_LORESERVE: Final = 0xFF00
SHN_LIVEPATCH: Final = 0xFF20
"""include/uapi/linux/elf.h"""
SHN_XINDEX: Final = 0xFFFF

STB_LOCAL: Final = 0
STB_GLOBAL: Final = 1
STB_WEAK: Final = 2

STT_NOTYPE: Final = 0
STT_OBJECT: Final = 1
STT_FUNC: Final = 2
STT_SECTION: Final = 3
STT_FILE: Final = 4


@dataclass(slots=True, eq=False)
class Relocation:
    """One entry of a ``.rela`` section."""

    offset: int
    type: int
    symbol: "Symbol"
    addend: int


@dataclass(slots=True, eq=False)
class Section:
    """One section with its content and its relocations, the latter in file order."""

    name: str
    type: int = SHT_PROGBITS
    flags: int = 0
    data: bytes = b""
    align: int = 1
    entsize: int = 0
    nobits_size: int = 0
    """Size in bytes of a SHT_NOBITS section, which has no data."""
    link: "Section | None" = None
    """sh_link where it names a section of the graph (SHF_LINK_ORDER)."""
    relocations: list[Relocation] = field(default_factory=list)
    members: list["Section"] = field(default_factory=list)
    """SHT_GROUP: the sections of the group, which do not include their ``.rela``."""
    signature: "Symbol | None" = None
    """SHT_GROUP: the symbol that names the group."""

    @property
    def size(self) -> int:
        """Size in bytes when loaded."""
        return self.nobits_size if self.type == SHT_NOBITS else len(self.data)

    @property
    def is_alloc(self) -> bool:
        """Tell whether the section takes part in the running kernel."""
        return bool(self.flags & SHF_ALLOC)

    @property
    def is_text(self) -> bool:
        """Tell whether the section holds code."""
        return bool(self.flags & SHF_EXECINSTR)

    @property
    def is_strings(self) -> bool:
        """Tell whether the linker merges this section's NUL-terminated strings."""
        return bool(self.flags & SHF_MERGE and self.flags & SHF_STRINGS)

    @property
    def is_merged_constants(self) -> bool:
        """Tell whether the linker merges its fixed-size constants (``.rodata.cst16``)."""
        return bool(self.flags & SHF_MERGE and not self.flags & SHF_STRINGS)

    def __repr__(self) -> str:
        return f"<Section {self.name} {self.size:#x}>"


@dataclass(slots=True, eq=False)
class Symbol:
    """One symbol.  ``section`` is None for undefined, absolute, common and livepatch symbols."""

    name: str
    value: int = 0
    size: int = 0
    bind: int = STB_LOCAL
    type: int = STT_NOTYPE
    other: int = 0
    """st_other: the visibility."""
    section: Section | None = None
    shndx: int = SHN_UNDEF
    """st_shndx when ``section`` is None."""

    @property
    def is_undefined(self) -> bool:
        """Tell whether another object has to define the symbol."""
        return self.section is None and self.shndx == SHN_UNDEF

    @property
    def is_function(self) -> bool:
        """Tell whether the symbol is a defined function."""
        return self.type == STT_FUNC and self.section is not None

    def __repr__(self) -> str:
        where = self.section.name if self.section else f"{self.shndx:#x}"
        return f"<Symbol {self.name} {where}+{self.value:#x}>"


@dataclass(slots=True, eq=False)
class LivepatchRelocations:
    """A ``.klp.rela.OBJECT.SECTION`` section (Documentation/livepatch/module-elf-format.rst)."""

    name: str
    target: Section
    relocations: list[Relocation]


@dataclass(slots=True, eq=False)
class Layout:
    """What ``write`` must know to give back the bytes that ``read`` saw."""

    header: bytes
    index_order: list[tuple[str, Section | None]]
    """(kind, section) by section index from 1; kind: content, rela, symtab, strtab, shstrtab."""
    file_order: list[tuple[str, Section | None]]
    rela_headers: dict[Section, tuple[str, int, int]]
    """By target section: name, flags and align of its ``.rela`` section."""
    strtab: bytes
    shstrtab: bytes
    name_offsets: dict[Symbol | Section | tuple[str, Section | None], int]
    symtab_align: int
    offset_align: int
    """What a section's offset in the file is aligned to at most: 8 by newer assemblers."""
    linked_to_symtab: frozenset[Section]
    """Sections other than groups whose sh_link is the symbol table (``.llvm_addrsig``)."""


@dataclass(slots=True, eq=False)
class Object:
    """A relocatable object: ``.o`` or ``.ko``.  ``symbols`` does not hold the null symbol."""

    name: str
    sections: list[Section] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)
    livepatch: list[LivepatchRelocations] = field(default_factory=list)
    layout: Layout | None = None

    def find_section(self, name: str) -> Section | None:
        """Return the first section called ``name``."""
        return next((s for s in self.sections if s.name == name), None)

    def functions(self) -> list[Symbol]:
        """Return the function symbols that this object defines and that have a size."""
        return [s for s in self.symbols if s.is_function and s.size]

    def section_symbol(self, section: Section) -> Symbol:
        """Return the STT_SECTION symbol of ``section``; one is added where there is none."""
        for symbol in self.symbols:
            if symbol.type == STT_SECTION and symbol.section is section:
                return symbol
        symbol = Symbol("", type=STT_SECTION, section=section)
        self.symbols.insert(0, symbol)
        return symbol

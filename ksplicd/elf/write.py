# SPDX-License-Identifier: GPL-2.0-only
"""Graph to bytes.

Order, names and string tables of what came from ``read`` are kept; what is new is appended.  Local
symbols stand before the others, as the gABI wants.
"""

import struct
from dataclasses import dataclass
from typing import Final

from ksplicd.elf.model import (
    SHF_ALLOC,
    SHF_INFO_LINK,
    SHF_RELA_LIVEPATCH,
    SHN_UNDEF,
    SHT_GROUP,
    SHT_NOBITS,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    STB_LOCAL,
    LivepatchRelocations,
    Object,
    Relocation,
    Section,
    Symbol,
)
from ksplicd.elf.read import EHDR, MAX_SECTIONS, RELA, SHDR, SYM
from ksplicd.elf.x86_64 import EM_X86_64
from ksplicd.errors import ElfError

_TABLES: Final = ("symtab", "strtab", "shstrtab")

Slot = tuple[str, Section | LivepatchRelocations | None]
"""One section of the file: (kind, what it is made from)."""


class _Strings:
    """A string table that keeps what it had and appends what is new."""

    def __init__(self, table: bytes) -> None:
        self.table = bytearray(table or b"\0")
        self.added: dict[str, int] = {"": 0}

    def offset(self, name: str, hint: int | None) -> int:
        raw = name.encode() + b"\0"
        if hint is not None and self.table[hint : hint + len(raw)] == raw:
            return hint
        if name not in self.added:
            self.added[name] = len(self.table)
            self.table += raw
        return self.added[name]


@dataclass(slots=True)
class _Out:
    """A section as it will be written."""

    name: int
    type: int
    flags: int
    data: bytes
    align: int
    entsize: int
    size: int
    link: int = 0
    info: int = 0
    offset: int = 0


def write_object(obj: Object) -> bytes:
    """Return the object as a file.  Raises ``ElfError`` when the graph cannot be written."""
    return _Writer(obj).write()


class _Writer:
    def __init__(self, obj: Object) -> None:
        self.obj = obj
        layout = obj.layout
        self.hints = layout.name_offsets if layout else {}
        order = layout.index_order if layout else [(kind, None) for kind in _TABLES]
        self.has_symbols = bool(obj.symbols) or ("symtab", None) in order
        # clang keeps the names of symbols and sections in one table, ``.strtab``.
        self.has_one_table = ("symtab", None) in order and ("strtab", None) not in order
        self.shstrtab = _Strings(layout.shstrtab if layout else b"")
        self.strtab = (
            self.shstrtab if self.has_one_table else _Strings(layout.strtab if layout else b"")
        )
        local = [s for s in obj.symbols if s.bind == STB_LOCAL]
        self.symbols = local + [s for s in obj.symbols if s.bind != STB_LOCAL]
        self.first_global = 1 + len(local)
        self.symbol_index = {s: i for i, s in enumerate(self.symbols, 1)}
        self.slots = self.order(layout.index_order if layout else [])
        if len(self.slots) >= MAX_SECTIONS:
            raise ElfError(f"{obj.name}: {len(self.slots)} sections are too many to write")
        self.index: dict[Slot, int] = {slot: i for i, slot in enumerate(self.slots, 1)}

    def wanted(self) -> list[Slot]:
        """Return every section that the file must have."""
        slots: list[Slot] = [("content", s) for s in self.obj.sections]
        layout = self.obj.layout
        for s in self.obj.sections:
            if s.relocations or (layout and s in layout.rela_headers):
                slots.append(("rela", s))
        slots += [("livepatch", klp) for klp in self.obj.livepatch]
        unwanted = {"strtab"} if self.has_one_table else set()
        if not self.has_symbols:
            unwanted = {"symtab", "strtab"}
        return slots + [(kind, None) for kind in _TABLES if kind not in unwanted]

    def order(self, known: list[tuple[str, Section | None]]) -> list[Slot]:
        wanted = dict.fromkeys(self.wanted())
        kept: list[Slot] = [slot for slot in known if slot in wanted]
        for slot in kept:
            del wanted[slot]
        return kept + list(wanted)

    def write(self) -> bytes:
        strings: dict[str, bytes] = {}
        symtab = self.make_symtab()  # fills strtab
        outs = {slot: self.make(slot) for slot in self.slots}  # fills shstrtab
        strings["symtab"] = symtab
        strings["strtab"] = bytes(self.strtab.table)
        strings["shstrtab"] = bytes(self.shstrtab.table)
        for kind, data in strings.items():
            if (kind, None) in outs:
                outs[kind, None].data = data
                outs[kind, None].size = len(data)

        body = bytearray(EHDR.size)
        layout = self.obj.layout
        for slot in self.order(layout.file_order if layout else []):
            out = outs[slot]
            align = min(out.align, layout.offset_align) if layout else out.align
            body += b"\0" * (-len(body) % max(align, 1))
            out.offset = len(body)
            body += out.data
        body += b"\0" * (-len(body) % 8)
        shoff = len(body)
        body += bytes(SHDR.size)
        for slot in self.slots:
            o = outs[slot]
            body += SHDR.pack(
                o.name, o.type, o.flags, 0, o.offset, o.size, o.link, o.info, o.align, o.entsize
            )
        body[: EHDR.size] = self.make_header(shoff)
        return bytes(body)

    def make_header(self, shoff: int) -> bytes:
        layout = self.obj.layout
        ident = layout.header[:16] if layout else b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        return EHDR.pack(
            ident, 1, EM_X86_64, 1, 0, 0, shoff, 0, EHDR.size, 0, 0, SHDR.size,
            len(self.slots) + 1, self.index["shstrtab", None],
        )  # fmt: skip

    def make(self, slot: Slot) -> _Out:
        kind, what = slot
        if kind == "content":
            assert isinstance(what, Section)
            return self.make_content(what)
        if kind == "rela":
            assert isinstance(what, Section)
            return self.make_rela(what)
        if kind == "livepatch":
            assert isinstance(what, LivepatchRelocations)
            flags = SHF_INFO_LINK | SHF_ALLOC | SHF_RELA_LIVEPATCH
            return self.make_rela_out(what.name, None, flags, 8, what.target, what.relocations)
        known = ".strtab" if kind == "shstrtab" and self.has_one_table else f".{kind}"
        name = self.shstrtab.offset(known, self.hints.get((kind, None)))
        if kind == "symtab":
            align = self.obj.layout.symtab_align if self.obj.layout else 8
            out = _Out(name, SHT_SYMTAB, 0, b"", align, SYM.size, 0)
            out.link = self.index["shstrtab" if self.has_one_table else "strtab", None]
            out.info = self.first_global
            return out
        return _Out(name, SHT_STRTAB, 0, b"", 1, 0, 0)

    def make_content(self, s: Section) -> _Out:
        name = self.shstrtab.offset(s.name, self.hints.get(s))
        data = b"" if s.type == SHT_NOBITS else s.data
        out = _Out(name, s.type, s.flags, data, s.align, s.entsize, s.size)
        if s.link is not None:
            out.link = self.index["content", s.link]
        if self.obj.layout and s in self.obj.layout.linked_to_symtab:
            out.link = self.index["symtab", None]
        if s.type == SHT_GROUP:
            assert s.signature is not None
            out.link = self.index["symtab", None]
            out.info = self.symbol_index[s.signature]
            out.data = self.make_group(s)
            out.size = len(out.data)
        return out

    def make_group(self, group: Section) -> bytes:
        indexes = []
        for member in group.members:
            indexes.append(self.index["content", member])
            if ("rela", member) in self.index:
                indexes.append(self.index["rela", member])
        return group.data[:4] + struct.pack(f"<{len(indexes)}I", *indexes)

    def make_rela(self, s: Section) -> _Out:
        layout = self.obj.layout
        if layout and s in layout.rela_headers:
            name, flags, align = layout.rela_headers[s]
        else:
            name, flags, align = f".rela{s.name}", SHF_INFO_LINK, 8
        hint = self.hints.get(("rela", s))
        return self.make_rela_out(name, hint, flags, align, s, s.relocations)

    def make_rela_out(
        self,
        name: str,
        hint: int | None,
        flags: int,
        align: int,
        target: Section,
        relocations: list[Relocation],
    ) -> _Out:
        index = self.symbol_index
        try:
            data = b"".join(
                RELA.pack(r.offset, (index[r.symbol] if r.symbol.name or r.symbol in index else 0)
                          << 32 | r.type, r.addend)
                for r in relocations
            )  # fmt: skip
        except KeyError as e:
            raise ElfError(f"{self.obj.name}: {name}: {e.args[0]} is not in the object") from e
        out = _Out(self.shstrtab.offset(name, hint), SHT_RELA, flags, data, align, RELA.size, 0)
        out.size = len(data)
        out.link = self.index["symtab", None]
        out.info = self.index["content", target]
        return out

    def make_symtab(self) -> bytes:
        table = bytearray(SYM.size)
        for s in self.symbols:
            shndx = s.shndx if s.section is None else self.section_index(s)
            table += SYM.pack(
                self.strtab.offset(s.name, self.hints.get(s)),
                s.bind << 4 | s.type, s.other, shndx, s.value, s.size,
            )  # fmt: skip
        return bytes(table)

    def section_index(self, symbol: Symbol) -> int:
        assert symbol.section is not None
        index = self.index.get(("content", symbol.section), SHN_UNDEF)
        if index == SHN_UNDEF:
            raise ElfError(f"{self.obj.name}: {symbol} lies in a section that is not in the object")
        return index

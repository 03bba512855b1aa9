# SPDX-License-Identifier: GPL-2.0-only
"""The old code's tables: every function of the touched units, for the kernel to compare.

Writes what kmodsrc/format.h describes.  All thinking is done here: the kernel gets symbols, bytes
and numbers.  The same input gives the same bytes.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ksplicd.create.objects.names import is_prefix
from ksplicd.create.old_code.sites import ROWS, Site, SiteKind, read_sites
from ksplicd.create.stock.match import UnitMatch, is_merged_reference, merged_content
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.create.stock.unit import StockUnit
from ksplicd.elf.model import STB_GLOBAL, STT_SECTION, Relocation, Section, Symbol
from ksplicd.elf.x86_64 import RELOCATION_TYPES
from ksplicd.errors import ImageMismatchError
from ksplicd.model import VMLINUX

# The structures and constants of kmodsrc/format.h, in its order.
MAGIC: Final = 0x444C4F4B
VERSION: Final = 1
HEADER: Final = struct.Struct("<6I8I")
SYM: Final = struct.Struct("<2I")
FUNC: Final = struct.Struct("<8I")
RELOC: Final = struct.Struct("<IIqBBHI")
SITE: Final = struct.Struct("<IBBBBIIIIq")
NO_SYM: Final = 0xFFFFFFFF
REF_SYM: Final = 0
REF_BYTES: Final = 1
REF_SLOT: Final = 2

_MAX_CONTENT: Final = 0xFFFF
_CALL_TRAMPOLINES: Final = ".static_call.text"
"""Rewritten whenever a static call changes: never compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldUnit:
    """One touched unit: where the stock image has it, and its patch sites."""

    match: UnitMatch
    sites: dict[Section, list[Site]]


class _Func(NamedTuple):
    name: str
    sym: int
    code: bytes
    reloc: int
    nr_relocs: int
    site: int
    nr_sites: int


class _Reloc(NamedTuple):
    offset: int
    kind: int
    """REF_SYM, REF_BYTES or REF_SLOT."""
    ref: int
    content: bytes
    addend: int
    type: int


class _Site(NamedTuple):
    offset: int
    kind: SiteKind
    size: int
    alternative: bytes
    reloc: int
    nr_relocs: int
    sym: int | None
    addend: int
    feature: int


class _Writer:
    """Collects the tables of one target.

    Symbols are numbered as they are met; ``blob`` sorts them and renumbers.
    """

    def __init__(self, symbols: SymbolMap, *, has_rows: bool) -> None:
        self.symbols = symbols
        self.has_rows = has_rows
        self.syms: dict[tuple[bytes, int], int] = {}
        self.slots: dict[tuple[str, Symbol | Section], int] = {}
        self.funcs: list[_Func] = []
        self.relocs: list[_Reloc] = []
        self.sites: list[_Site] = []

    # --- references -----------------------------------------------------------------------------

    def sym(self, name: str, position: int) -> int:
        return self.syms.setdefault((name.encode("ascii"), position), len(self.syms))

    def sym_of(self, match: UnitMatch, symbol: Symbol, addend: int) -> tuple[int, int] | None:
        """Return (number, addend) for a reference, None when kallsyms cannot tell.

        What has no name is told by the uniquely named symbol before it: the image is linked in one
        piece, so that any symbol tells where all of it is.
        """
        address = match.address_of(symbol)
        if symbol.type != STT_SECTION and symbol.name:
            known = self.symbols.addresses(symbol.name)
            at = known[0] if address is None and len(known) == 1 else address
            if at is not None and (position := self.symbols.position(symbol.name, at)) is not None:
                return self.sym(symbol.name, position), addend
        if address is None or (found := self.symbols.nearest_unique(address + addend)) is None:
            return None
        name, start = found
        position = self.symbols.position(name, start)
        assert position is not None
        return self.sym(name, position), address + addend - start

    def variable(self, match: UnitMatch, name: str) -> tuple[int, int]:
        """Return (number, 0) for a variable that the object may not mention."""
        if not self.symbols.is_unique(name):
            raise ImageMismatchError(f"{match.obj.name}: kallsyms do not tell where {name} is")
        position = self.symbols.position(name, self.symbols.addresses(name)[0])
        assert position is not None
        return self.sym(name, position), 0

    def slot(self, match: UnitMatch, symbol: Symbol) -> tuple[int, int]:
        """Return (slot, offset) of a base that the kernel learns."""
        key = (match.obj.name, symbol.section or symbol)
        return (
            self.slots.setdefault(key, len(self.slots)),
            symbol.value if symbol.section is not None else 0,
        )

    def reloc(self, match: UnitMatch, r: Relocation, offset: int) -> _Reloc:
        content, start = merged_content(r) if is_merged_reference(r) else (None, 0)
        if content is not None:
            return _Reloc(offset, REF_BYTES, 0, content[:_MAX_CONTENT], start, r.type)
        if not is_merged_reference(r):
            found = self.sym_of(match, r.symbol, r.addend)
            if found is not None:
                return _Reloc(offset, REF_SYM, found[0], b"", found[1], r.type)
        number, value = self.slot(match, r.symbol)
        return _Reloc(offset, REF_SLOT, number, b"", value + r.addend, r.type)

    def add_relocs(
        self, match: UnitMatch, section: Section, start: int, size: int
    ) -> tuple[int, int]:
        """Add the relocations of a range; return (index of the first, count)."""
        first = len(self.relocs)
        self.relocs += [
            self.reloc(match, r, r.offset - start)
            for r in sorted(section.relocations, key=lambda r: r.offset)
            if start <= r.offset < start + size and RELOCATION_TYPES[r.type].size
        ]
        return first, len(self.relocs) - first

    # --- functions ------------------------------------------------------------------------------

    def add_function(self, unit: OldUnit, f: Symbol, address: int) -> None:
        section, match = f.section, unit.match
        assert section is not None
        position = self.symbols.position(f.name, address)
        if position is None:
            raise ImageMismatchError(
                f"{match.obj.name}: {f.name}: the symbol map does not have it at {address:#x}"
            )
        relocs = self.add_relocs(match, section, f.value, f.size)
        first_site = len(self.sites)
        for site in unit.sites.get(section, []):
            if f.value <= site.offset < f.value + f.size:
                self.add_site(match, site, site.offset - f.value)
        code = section.data[f.value : f.value + f.size]
        sites = first_site, len(self.sites) - first_site
        self.funcs.append(_Func(f.name, self.sym(f.name, position), code, *relocs, *sites))

    def add_site(self, match: UnitMatch, site: Site, offset: int) -> None:
        code, relocs, where = b"", (0, 0), None
        if (r := site.alternative) is not None:
            code = r.section.data[r.offset : r.offset + r.size]
            relocs = self.add_relocs(match, r.section, r.offset, r.size)
        if (ref := site.reference) is not None:
            where = self.sym_of(match, ref.symbol, ref.addend)
        if site.variable:
            where = self.variable(match, site.variable)
        if where is None and site.kind == SiteKind.JUMP_LABEL:
            raise ImageMismatchError(
                f"{match.obj.name}: a jump label's target is in code that the image does not have"
            )
        # Of modules, and where kallsyms cannot tell, rows are not compared: docs/not-compared.md.
        if site.kind in ROWS and (where is None or not self.has_rows):
            return
        sym, addend = where or (None, 0)
        self.sites.append(
            _Site(offset, site.kind, site.size, code, *relocs, sym, addend, site.feature)
        )

    # --- the blob -------------------------------------------------------------------------------

    def blob(self, target: str) -> bytes:
        keys = sorted(self.syms)
        number = {self.syms[key]: i for i, key in enumerate(keys)}
        pool = _Pool(
            HEADER.size + SYM.size * len(keys) + FUNC.size * len(self.funcs)
            + RELOC.size * len(self.relocs) + SITE.size * len(self.sites)
        )  # fmt: skip
        tables = [
            [SYM.pack(pool.put(name + b"\0"), position) for name, position in keys],
            [
                FUNC.pack(
                    pool.put(f.name.encode("ascii") + b"\0"), number[f.sym], pool.add(f.code),
                    len(f.code), f.reloc, f.nr_relocs, f.site, f.nr_sites,
                )
                for f in self.funcs
            ],
            [
                RELOC.pack(
                    r.offset,
                    number[r.ref] if r.kind == REF_SYM
                    else r.ref if r.kind == REF_SLOT else pool.put(r.content),
                    r.addend, r.type, r.kind, len(r.content), 0,
                )
                for r in self.relocs
            ],
            [
                SITE.pack(
                    s.offset, s.kind, s.size, len(s.alternative), s.nr_relocs,
                    pool.put(s.alternative), s.reloc, NO_SYM if s.sym is None else number[s.sym],
                    s.feature, s.addend,
                )
                for s in self.sites
            ],
        ]  # fmt: skip
        name = pool.put(target.encode("ascii") + b"\0")
        body = b"".join(entry for table in tables for entry in table) + pool.data
        # The last byte of a blob is 0.
        body += bytes(8 - (HEADER.size + len(body)) % 8)
        places, at = [], HEADER.size
        for table in tables:
            places += [at, len(table)]
            at += sum(map(len, table))
        header = HEADER.pack(
            MAGIC, VERSION, HEADER.size + len(body), name, len(self.slots), 0, *places
        )
        return header + body


class _Pool:
    """Bytes behind the tables."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.data = bytearray()
        self._known: dict[bytes, int] = {}

    def add(self, content: bytes) -> int:
        """Return the offset in the blob where ``content`` lies, alone."""
        self.data += content
        return self.start + len(self.data) - len(content)

    def put(self, content: bytes) -> int:
        """Return the offset of ``content``, shared with all that is equal."""
        if content not in self._known:
            self._known[content] = self.add(content)
        return self._known[content]


def old_code_of(units: Iterable[StockUnit]) -> dict[str, bytes]:
    """Return the tables of each target's old-code module: all functions of its units.

    Raises ``ImageMismatchError``, and ``ElfError`` when a special section does not fit its object.
    """
    found: dict[str, list[OldUnit]] = {}
    symbols = {}
    for unit in units:
        sites = read_sites(unit.plain)
        found.setdefault(unit.target, []).append(OldUnit(match=unit.match, sites=sites))
        symbols[unit.target] = unit.symbols
    return {
        target: write_old_code(target, of_target, symbols[target])
        for target, of_target in found.items()
    }


def write_old_code(target: str, units: Sequence[OldUnit], symbols: SymbolMap) -> bytes:
    """Return the tables for ``target``: all functions of ``units`` that run after boot.

    Raises ``ImageMismatchError`` when the units have no such function, or kallsyms does not name
    one of them.
    """
    writer = _Writer(symbols, has_rows=target == VMLINUX)
    for unit in units:
        for f, address in compared_functions(unit.match, symbols):
            writer.add_function(unit, f, address)
    if not writer.funcs:
        names = ", ".join(u.match.obj.name for u in units)
        raise ImageMismatchError(f"{names}: no function of theirs runs after boot")
    return writer.blob(target)


def compared_functions(match: UnitMatch, symbols: SymbolMap) -> list[tuple[Symbol, int]]:
    """Return the functions of a unit that a running kernel can be compared with.

    Not those in memory that is freed after boot, not static call trampolines.  Of several names
    for one piece of code one is taken: the longest piece, then a unique name, then a global one.
    """
    init = [symbols.addresses(name) for name in ("__init_begin", "__init_end")]
    freed = range(init[0][0], init[1][0]) if all(len(a) == 1 for a in init) else range(0)
    best: dict[int, Symbol] = {}
    for f, address in match.functions.items():
        assert f.section is not None
        if address in freed or is_prefix(f) or f.section.name.startswith(_CALL_TRAMPOLINES):
            continue
        other = best.get(address)
        if other is None or _preference(f, symbols) > _preference(other, symbols):
            best[address] = f
    return [(f, address) for address, f in best.items()]


def _preference(f: Symbol, symbols: SymbolMap) -> tuple[int, bool, bool]:
    return f.size, symbols.is_unique(f.name), f.bind == STB_GLOBAL

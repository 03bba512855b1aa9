# SPDX-License-Identifier: GPL-2.0-only
"""The old code's tables, taken apart again for tests to read and damage."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ksplicd.create.old_code.sites import ROWS, SiteKind
from ksplicd.create.old_code.tables import FUNC, HEADER, RELOC, SITE, SYM


class Reloc(NamedTuple):
    """One struct ksplice_reloc, and where in the blob it is."""

    at: int
    offset: int
    ref: int
    addend: int
    type: int
    kind: int
    length: int


class Site(NamedTuple):
    """One struct ksplice_site, and where in the blob it is."""

    at: int
    offset: int
    kind: SiteKind
    size: int
    alt_size: int
    nr_relocs: int
    alt: int
    reloc: int
    sym: int
    feature: int
    addend: int


@dataclass(frozen=True)
class Function:
    """One struct ksplice_func with what belongs to it."""

    name: str
    sym: tuple[str, int]
    at: int
    code: bytes
    relocs: list[Reloc]
    sites: list[Site]

    def is_plain(self, offset: int) -> bool:
        """Tell whether no relocation and no site covers the byte."""
        return not any(r.offset <= offset < r.offset + 8 for r in self.relocs) and not any(
            s.offset <= offset < s.offset + s.size for s in self.sites if s.kind not in ROWS
        )


class Blob:
    """A blob that can be read and changed in place."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        head = HEADER.unpack_from(data)
        self.magic, self.version, self.size, target, self.nr_slots, _ = head[:6]
        self.syms_at, self.nr_syms, self.funcs_at, self.nr_funcs = head[6:10]
        self.relocs_at, self.nr_relocs, self.sites_at, self.nr_sites = head[10:]
        self.target = self.string(target)

    def string(self, at: int) -> str:
        return self.data[at : self.data.index(b"\0", at)].decode("ascii")

    def sym(self, index: int) -> tuple[str, int]:
        name, position = SYM.unpack_from(self.data, self.syms_at + index * SYM.size)
        return self.string(name), position

    def reloc(self, index: int) -> Reloc:
        at = self.relocs_at + index * RELOC.size
        return Reloc(at, *RELOC.unpack_from(self.data, at)[:-1])

    def site(self, index: int) -> Site:
        at = self.sites_at + index * SITE.size
        offset, kind, *rest = SITE.unpack_from(self.data, at)
        return Site(at, offset, SiteKind(kind), *rest)

    def functions(self) -> Iterator[Function]:
        for i in range(self.nr_funcs):
            name, sym, at, size, reloc, nr_relocs, site, nr_sites = FUNC.unpack_from(
                self.data, self.funcs_at + i * FUNC.size
            )
            yield Function(
                name=self.string(name),
                sym=self.sym(sym),
                at=at,
                code=bytes(self.data[at : at + size]),
                relocs=[self.reloc(r) for r in range(reloc, reloc + nr_relocs)],
                sites=[self.site(s) for s in range(site, site + nr_sites)],
            )

    def function(self, name: str) -> Function:
        return next(f for f in self.functions() if f.name == name)

    def set_addend(self, entry: Reloc | Site, addend: int) -> None:
        """Let a relocation or a jump label point elsewhere."""
        where = 8 if isinstance(entry, Reloc) else SITE.size - 8
        self.data[entry.at + where : entry.at + where + 8] = addend.to_bytes(
            8, "little", signed=True
        )

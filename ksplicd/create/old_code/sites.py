# SPDX-License-Identifier: GPL-2.0-only
"""Patch sites: the places in an object's code that the running kernel rewrites.

They are read from the object's own special sections, one row a table.  What a site may become is
known to ``kmodsrc/sites.c`` and ``alternatives.c`` only.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.special import (
    Entry,
    lengths_of,
    replacement_of,
)
from ksplicd.elf.model import Section, Symbol
from ksplicd.elf.x86_64 import ENDBR64
from ksplicd.errors import ElfError


class SiteKind(IntEnum):
    """Who rewrites a site: enum ksplice_site_kind of kmodsrc/format.h."""

    FENTRY = 0
    ALT = 1
    JUMP_LABEL = 2
    LOCK = 3
    RETURN = 4
    RETPOLINE = 5
    STATIC_CALL = 6
    PARAVIRT = 7
    ENDBR = 8
    RUNTIME_PTR = 9
    RUNTIME_SHIFT = 10
    CALL = 11
    KEY = 12
    FIXUP = 13


@dataclass(frozen=True, slots=True)
class AlternativeCode:
    """Code that the kernel may copy over a site, of ``.altinstr_replacement``."""

    section: Section
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Reference:
    """``addend`` bytes from ``symbol``."""

    symbol: Symbol
    addend: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One site; ``offset`` counts from the start of its section."""

    kind: SiteKind
    offset: int
    size: int
    """Bytes that may be rewritten."""
    alternative: AlternativeCode | None = None
    """ALT: None when it is nothing but nops."""
    feature: int = 0
    """ALT: the CPU feature word with its flags.  FIXUP: the third word of the entry."""
    reference: Reference | None = None
    """JUMP_LABEL: where it jumps to.  STATIC_CALL: its key.  KEY: the key, with the lowest bit set
    when the branch is compiled as taken.  FIXUP: where a fault leads."""
    variable: str = ""
    """RUNTIME_*: the kernel's variable whose value at boot is the constant."""


def _fixed(kind: SiteKind, size: int) -> Callable[[Entry, bytes, int], Site]:
    return lambda entry, code, offset: Site(kind=kind, offset=offset, size=size)


def _reference(entry: Entry, at: int) -> Reference | None:
    """Return what the field ``at`` bytes into the entry refers to."""
    for r in entry.relocations:
        if r.offset == entry.start + at:
            return Reference(r.symbol, r.addend)
    return None


def _alternative(entry: Entry, code: bytes, offset: int) -> Site:
    found = replacement_of(entry)
    return Site(
        kind=SiteKind.ALT,
        offset=offset,
        size=lengths_of(entry)[0],
        alternative=AlternativeCode(*found) if found else None,
        feature=int.from_bytes(entry.data[8:-2], "little"),
    )


def _jump_label(entry: Entry, code: bytes, offset: int) -> Site:
    is_short = code[0] == 0xEB or code[:2] == b"\x66\x90"
    return Site(
        kind=SiteKind.JUMP_LABEL,
        offset=offset,
        size=2 if is_short else 5,
        reference=_reference(entry, 4),
    )


def _retpoline(entry: Entry, code: bytes, offset: int) -> Site:
    # A cs prefix or the first byte of a Jcc makes the instruction one longer.
    return Site(kind=SiteKind.RETPOLINE, offset=offset, size=6 if code[0] in (0x2E, 0x0F) else 5)


def _static_call(entry: Entry, code: bytes, offset: int) -> Site:
    key = _reference(entry, 4)
    # The low bits are flags: STATIC_CALL_SITE_TAIL, STATIC_CALL_SITE_INIT.  A module that does not
    # know the key has the trampoline there until the loader looks it up.
    is_key = key is not None and key.symbol.name.startswith("__SCK__")
    return Site(
        kind=SiteKind.STATIC_CALL,
        offset=offset,
        size=6 if code[0] == 0x0F else 5,
        reference=Reference(key.symbol, key.addend & ~3) if key and is_key else None,
    )


def _paravirt(entry: Entry, code: bytes, offset: int) -> Site:
    # struct paravirt_patch_site: the address, then type and length, one byte each.
    return Site(kind=SiteKind.PARAVIRT, offset=offset, size=entry.data[9])


_READERS: Final = {
    "__mcount_loc": _fixed(SiteKind.FENTRY, 5),
    ".altinstructions": _alternative,
    "__jump_table": _jump_label,
    ".smp_locks": _fixed(SiteKind.LOCK, 1),
    ".return_sites": _fixed(SiteKind.RETURN, 5),
    ".retpoline_sites": _retpoline,
    ".static_call_sites": _static_call,
    ".parainstructions": _paravirt,
    ".call_sites": _fixed(SiteKind.CALL, 5),
}


def _key(entry: Entry) -> tuple[Reference | None, int]:
    # objtool's mark, 2, is cleared by the kernel.
    key = _reference(entry, 8)
    return (Reference(key.symbol, key.addend & ~2) if key else None), 0


def _fixup(entry: Entry) -> tuple[Reference | None, int]:
    # Before 5.16 the third field was a handler's address.
    is_known = entry.size == 12 and _reference(entry, 8) is None
    return (_reference(entry, 4) if is_known else None), int.from_bytes(entry.data[8:12], "little")


_ROW_READERS: Final = {
    "__jump_table": (SiteKind.KEY, _key),
    "__ex_table": (SiteKind.FIXUP, _fixup),
}
ROWS: Final = frozenset(kind for kind, _ in _ROW_READERS.values())
"""Not places that the kernel rewrites, but what its tables have about one."""

_RUNTIME: Final = {
    "runtime_ptr_": (SiteKind.RUNTIME_PTR, 8),
    "runtime_shift_": (SiteKind.RUNTIME_SHIFT, 1),
}
"""Beginning of the names of tables of 32-bit offsets; the variable follows (runtime-const.h)."""


def read_sites(index: ObjectIndex) -> dict[Section, list[Site]]:
    """Return the patch sites of each code section, ascending by offset, then kind.

    Several alternatives of one place stay in the order of their table, in which the kernel applies
    them.  Raises ``ElfError`` when a table does not fit the object.
    """
    obj = index.obj
    sites: dict[Section, list[Site]] = defaultdict(list)
    for table in obj.sections:
        reader = _READERS.get(table.name)
        if reader is None:
            continue
        for entry in index.entries_in(table):
            code = _reference(entry, 0)
            section = code.symbol.section if code else None
            if code is None or section is None:
                raise ElfError(f"{obj.name}: {table.name}: entry {entry.index} names no code")
            offset = code.symbol.value + code.addend
            site = reader(entry, section.data[offset : offset + 8], offset)
            if not 0 <= offset <= section.size - site.size:
                raise ElfError(f"{obj.name}: {table.name}: entry {entry.index} is outside its code")
            sites[section].append(site)
    for table in obj.sections:
        for section, site in (*_runtime_constants(table), *_rows(index, table)):
            sites[section].append(site)
    for f in obj.functions():
        if f.section is not None and f.section.data.startswith(ENDBR64, f.value):
            sites[f.section].append(Site(kind=SiteKind.ENDBR, offset=f.value, size=len(ENDBR64)))
    return {
        section: _settle(sorted(dict.fromkeys(found), key=lambda s: (s.offset, s.kind)))
        for section, found in sites.items()
    }


def _runtime_constants(table: Section) -> Iterator[tuple[Section, Site]]:
    for prefix, (kind, size) in _RUNTIME.items():
        if table.name.startswith(prefix):
            for r in table.relocations:
                section, offset = r.symbol.section, r.symbol.value + r.addend
                assert section is not None
                variable = table.name.removeprefix(prefix)
                yield section, Site(kind=kind, offset=offset, size=size, variable=variable)


def _rows(index: ObjectIndex, table: Section) -> Iterator[tuple[Section, Site]]:
    if table.name not in _ROW_READERS:
        return
    kind, read = _ROW_READERS[table.name]
    for entry in index.entries_in(table):
        code = _reference(entry, 0)
        reference, word = read(entry)
        if reference is not None and code is not None and (section := code.symbol.section):
            offset = code.symbol.value + code.addend
            yield (
                section,
                Site(kind=kind, offset=offset, size=1, reference=reference, feature=word),
            )


def _settle(sites: list[Site]) -> list[Site]:
    """Leave out calls that are of fentry, and give all alternatives of a place the largest's size.

    So does apply_alternatives().
    """
    fentry = {s.offset for s in sites if s.kind == SiteKind.FENTRY}
    sites = [s for s in sites if s.kind != SiteKind.CALL or s.offset not in fentry]
    size: dict[int, int] = defaultdict(int)
    for s in sites:
        if s.kind == SiteKind.ALT:
            size[s.offset] = max(size[s.offset], s.size)
    return [replace(s, size=size[s.offset]) if s.kind == SiteKind.ALT else s for s in sites]

# SPDX-License-Identifier: GPL-2.0-only
"""Derives what the kernel part must answer to tables of old code, from the kernel's memory.

It is written from ``kmodsrc/format.h``, not from the C.  It reads the tables independently, and
looks every claim up in a copy of the running kernel.  Patch sites are the exception: their legal
forms are known only when a function's sites are those of tables known to match.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from ksplicd.create.old_code.sites import ROWS, SiteKind
from ksplicd.create.old_code.tables import FUNC, HEADER, MAGIC, NO_SYM, RELOC, SITE, SYM, VERSION

IN_TARGET: Final = 1 << 31
_WIDTHS: Final = {1: 8, 24: 8, 2: 4, 4: 4, 10: 4, 11: 4}
"""Of the relocations R_X86_64_64, PC64, PC32, PLT32, 32 and 32S (psABI, table 4.9)."""
_RELATIVE: Final = (24, 2, 4)
_UNSIGNED: Final = (1, 24, 10)
_SYM, _BYTES, _SLOT = range(3)
_NAME_LIMITS: Final = 511, 55
"""KSYM_NAME_LEN - 1 and MODULE_NAME_LEN - 1 of Linux 6.1."""
_SIZES: Final[Mapping[SiteKind, tuple[int, ...]]] = {
    SiteKind.FENTRY: (5,), SiteKind.JUMP_LABEL: (2, 5), SiteKind.LOCK: (1,),
    SiteKind.RETURN: (5,), SiteKind.RETPOLINE: (5, 6), SiteKind.STATIC_CALL: (5, 6),
    SiteKind.PARAVIRT: tuple(range(5, 256)), SiteKind.ENDBR: (4,), SiteKind.RUNTIME_PTR: (8,),
    SiteKind.RUNTIME_SHIFT: (1,), SiteKind.CALL: (5,), SiteKind.ALT: tuple(range(1, 256)),
    SiteKind.KEY: (1,), SiteKind.FIXUP: (1,),
}  # fmt: skip
_NEEDS_SYM: Final = (SiteKind.JUMP_LABEL, SiteKind.RUNTIME_PTR, SiteKind.RUNTIME_SHIFT, *ROWS)


class Verdict(StrEnum):
    """What the kernel part must do."""

    DAMAGED = "refuse the tables"
    ABSENT = "miss the target"
    NO_SYMBOL = "refuse a symbol"
    DIFFERENT = "refuse the code"
    SAME = "match"
    EITHER = "either"


class DamagedError(Exception):
    """The tables break a rule of format.h."""


class Ref(NamedTuple):
    """A relocation: where, how wide, of which type, and what it claims."""

    offset: int
    width: int
    type: int
    kind: int
    meaning: tuple[str, int] | bytes | int
    addend: int


class Place(NamedTuple):
    """A patch site with all that it means."""

    offset: int
    size: int
    kind: SiteKind
    replacement: bytes
    refs: tuple[Ref, ...]
    key: tuple[tuple[str, int] | None, int]
    word: int
    is_direct_call: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the tables say of one function."""

    sym: tuple[str, int]
    code: bytes
    refs: tuple[Ref, ...]
    places: tuple[Place, ...]

    def in_place(self, offset: int) -> bool:
        """Tell whether a patch site covers the byte."""
        return any(
            p.offset <= offset < p.offset + p.size for p in self.places if p.kind not in ROWS
        )

    def at_places(self) -> tuple[object, ...]:
        """Return all that the legality of the patch sites depends on."""
        refs = [r for r in self.refs if any(map(self.in_place, range(r.offset, r.offset + 8)))]
        code = [self.code[p.offset : p.offset + p.size] for p in self.places]
        return self.places, refs, code


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A copy of a running kernel."""

    symbols: Mapping[str, list[int]]
    target_symbols: Mapping[str, list[int]]
    """Those of the target, when it is a module."""
    pieces: list[tuple[int, bytes]]
    """(address, bytes), ascending."""

    def address(self, sym: tuple[str, int]) -> int | None:
        name, position = sym
        known = (self.target_symbols if position & IN_TARGET else self.symbols).get(name, [])
        position &= IN_TARGET - 1
        if position:
            return known[position - 1] if len(known) >= position else None
        return known[0] if len(known) == 1 else None

    def has_any(self, syms: Iterable[tuple[str, int]]) -> bool:
        """Tell whether the target has a symbol of that name: it is there."""
        return any(at & IN_TARGET and name in self.target_symbols for name, at in syms)

    def read(self, address: int, size: int) -> bytes | None:
        at = bisect.bisect_right(self.pieces, address, key=lambda piece: piece[0]) - 1
        if at < 0:
            return None
        start, data = self.pieces[at]
        found = data[address - start : address - start + size]
        return found if len(found) == size else None


def read_symbols(kallsyms: str, target: str) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return the addresses of vmlinux's symbols by name, and of the module ``target``'s."""
    vmlinux: dict[str, list[int]] = defaultdict(list)
    module: dict[str, list[int]] = defaultdict(list)
    for line in kallsyms.splitlines():
        address, _, name, *owner = line.split()
        if not owner:
            vmlinux[name].append(int(address, 16))
        elif owner == [f"[{target}]"]:
            module[name].append(int(address, 16))
    return dict(vmlinux), dict(module)


def judge(tables: bytes, good: bytes, memory: Memory, *, is_module: bool) -> Verdict:
    """Return what must become of ``tables``; ``good``: tables that match."""
    try:
        reader = _Reader(tables, is_module=is_module)
        claims = reader.claims()
    except DamagedError:
        return Verdict.DAMAGED
    known_reader = _Reader(good, is_module=is_module)
    known = known_reader.claims()
    if reader.target != known_reader.target or (is_module and not memory.has_any(reader.syms)):
        return Verdict.ABSENT
    if any(memory.address(sym) is None for sym in reader.syms):
        return Verdict.NO_SYMBOL
    if claims == known:
        return Verdict.SAME
    truths = [_is_true(claim, memory) for claim in claims]
    if False in truths:
        return Verdict.DIFFERENT
    places = {claim.sym: claim.at_places() for claim in known}
    if None in truths or any(places.get(c.sym) != c.at_places() for c in claims):
        return Verdict.EITHER
    return Verdict.SAME


def _is_true(claim: Claim, memory: Memory) -> bool | None:
    """Tell whether what is claimed outside of patch sites is so; None: not known."""
    start = memory.address(claim.sym)
    assert start is not None
    run = memory.read(start, len(claim.code))
    if run is None:
        return False
    fields = {i for r in claim.refs for i in range(r.offset, r.offset + r.width)}
    if any(
        a != b and i not in fields and not claim.in_place(i)
        for i, (a, b) in enumerate(zip(run, claim.code, strict=True))
    ):
        return False
    answers = [
        _is_ref_true(r, run, start, memory) for r in claim.refs if not claim.in_place(r.offset)
    ]
    return False if False in answers else None if None in answers else True


def _is_ref_true(r: Ref, run: bytes, start: int, memory: Memory) -> bool | None:
    value = int.from_bytes(
        run[r.offset : r.offset + r.width], "little", signed=r.type not in _UNSIGNED
    )
    if r.type in _RELATIVE:
        value += start + r.offset
    base = (value - r.addend) % (1 << 64)
    match r.meaning:
        case bytes(content):
            return memory.read(base, len(content)) == content
        case int():
            return None
        case sym:
            return base == memory.address(sym)


class _Reader:
    """Reads tables, or raises ``DamagedError``."""

    def __init__(self, data: bytes, *, is_module: bool) -> None:
        self.data = data
        head = HEADER.unpack_from(data)
        magic, version, size, target, self.nr_slots, reserved = head[:6]
        self.check((magic, version, size, reserved) == (MAGIC, VERSION, len(data), 0))
        self.check(not data[-1])
        at, tables = HEADER.size, []
        for (offset, number), entry in zip(
            zip(head[6::2], head[7::2], strict=True), (SYM, FUNC, RELOC, SITE), strict=True
        ):
            self.check(offset == at and number <= (len(data) - at) // entry.size)
            at += number * entry.size
            tables.append(list(entry.iter_unpack(data[offset:at])))
        syms, self.funcs, self.relocs, self.sites = tables
        self.check(bool(self.funcs) and self.nr_slots <= len(self.relocs))
        self.target = self.name(target, _NAME_LIMITS[1])
        self.check((self.target == "vmlinux") is not is_module)
        self.syms = [(self.name(name), position) for name, position in syms]
        keys = [(name.encode(), position) for name, position in self.syms]
        self.check(keys == sorted(set(keys)))
        self.next_reloc = self.next_site = 0

    @staticmethod
    def check(is_ok: bool) -> None:  # noqa: FBT001
        if not is_ok:
            raise DamagedError

    def name(self, at: int, limit: int = _NAME_LIMITS[0]) -> str:
        self.check(at < len(self.data))
        text = self.data[at : self.data.index(b"\0", at)]
        self.check(0 < len(text) <= limit and all(0x21 <= c <= 0x7E for c in text))
        return text.decode()

    def bytes(self, at: int, size: int) -> bytes:
        self.check(at <= len(self.data) and size <= len(self.data) - at)
        return self.data[at : at + size]

    def sym(self, index: int) -> tuple[str, int]:
        self.check(index < len(self.syms))
        return self.syms[index]

    def refs(self, first: int, number: int, size: int) -> tuple[Ref, ...]:
        self.check(number <= len(self.relocs) - self.next_reloc)
        self.check(not number or first == self.next_reloc)
        self.next_reloc += number
        found: list[Ref] = []
        for offset, ref, addend, kind_of, kind, length, pad in self.relocs[first:][:number]:
            width = _WIDTHS.get(kind_of, 0)
            begin = found[-1].offset + found[-1].width if found else 0
            self.check(bool(width) and begin <= offset <= size - width and not pad)
            self.check(kind in {_SYM, _BYTES, _SLOT})
            meaning: tuple[str, int] | bytes | int = ref
            if kind == _SYM:
                meaning = self.sym(ref)
            elif kind == _BYTES:
                self.check(length > 0)
                meaning = self.bytes(ref, length)
            else:
                self.check(ref < self.nr_slots)
            found.append(Ref(offset, width, kind_of, kind, meaning, addend))
        return tuple(found)

    def place(self, entry: tuple[int, ...], size: int) -> Place:
        offset, number, length, alt_size, nr_relocs, alt, reloc, sym, feature, addend = entry
        self.check(number in list(SiteKind))
        kind = SiteKind(number)
        self.check(length in _SIZES[kind] and offset <= size - length)
        self.check(kind not in ROWS or self.target == "vmlinux")
        replacement, key = b"", None
        refs: tuple[Ref, ...] = ()
        is_direct_call = bool(feature >> 16 & 2)
        if kind == SiteKind.ALT:
            self.check(alt_size <= length and not (is_direct_call and length < 6))
            replacement = self.bytes(alt, alt_size)
            refs = self.refs(reloc, nr_relocs, alt_size)
        else:
            self.check(not alt_size and not nr_relocs)
        if kind in _NEEDS_SYM or (kind == SiteKind.STATIC_CALL and sym != NO_SYM):
            key = self.sym(sym)
        if kind not in {*_NEEDS_SYM, SiteKind.STATIC_CALL}:
            addend = 0
        where = key, addend if key is not None else 0
        word = feature if kind == SiteKind.FIXUP else 0
        return Place(offset, length, kind, replacement, refs, where, word, is_direct_call)

    def claims(self) -> list[Claim]:
        found = []
        for name, sym, at, size, reloc, nr_relocs, site, nr_sites in self.funcs:
            self.name(name)
            self.check(size > 0)
            code, place = self.bytes(at, size), self.sym(sym)
            refs = self.refs(reloc, nr_relocs, size)
            self.check(site == self.next_site and nr_sites <= len(self.sites) - site)
            self.next_site += nr_sites
            places = tuple(self.place(s, size) for s in self.sites[site : self.next_site])
            order = [(p.offset, p.kind) for p in places]
            self.check(order == sorted(order))
            found.append(Claim(sym=place, code=code, refs=refs, places=places))
        self.check((self.next_reloc, self.next_site) == (len(self.relocs), len(self.sites)))
        return found

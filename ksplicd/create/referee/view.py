# SPDX-License-Identifier: GPL-2.0-only
"""One object as the referee reads it: its functions as instructions, its references as places.

Nothing is decided here.  Instructions are given so that two functions of one meaning are alike
wherever they lie: jumps have their long form, paddings are left out, and what refers to anything
is zero and named beside.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ksplicd.elf.debug_variables import PlacedVariable, read_placed_variables
from ksplicd.elf.instructions import Field, Role, UndecodableError, read_instructions
from ksplicd.elf.model import (
    SHT_NOBITS,
    STB_LOCAL,
    STT_FILE,
    STT_FUNC,
    STT_NOTYPE,
    STT_OBJECT,
    STT_SECTION,
    Object,
    Relocation,
    Section,
    Symbol,
)
from ksplicd.elf.x86_64 import R_X86_64_PLT32, RELOCATION_TYPES

REPLACEMENTS: Final = ".altinstr_replacement"
ALTERNATIVES: Final = ".altinstructions"
_FOLLOWS_CODE: Final = frozenset(
    {
        ".orc_unwind", ".orc_unwind_ip", ".call_sites", ".ibt_endbr_seal", ".cfi_sites",
        ".kcfi_traps", "__patchable_function_entries",
    }
)  # fmt: skip
"""Tables that say nothing but what the code says already."""

_IGNORED: Final = {"__bug_table": {8: (), 12: (4, 8), 16: (8, 12), 24: (8, 16)}}
"""By table and size of an entry, the fields that name a place of the source: file and line."""

_LENGTHS: Final = {12: 10, 13: 10, 14: 12}
"""Offset of an alternative's two lengths by its size (arch/x86/include/asm/alternative.h)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reference leads: into a section of the object, or to what is not in it."""

    section: Section | None
    offset: int
    """In the section; from the symbol where there is no section."""
    symbol: Symbol | None = None
    """What is not in the object."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference, and what it is for."""

    role: Role
    place: Place


@dataclass(frozen=True, slots=True)
class Operation:
    """One instruction."""

    code: bytes
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Body:
    """The instructions of a function, or of a piece of one."""

    section: Section
    start: int
    end: int
    operations: tuple[Operation, ...]
    index: Mapping[int, int]
    """By offset in the section, which operation begins there, or follows a padding there."""

    def __contains__(self, place: Place) -> bool:
        """Tell whether a place lies in it."""
        return place.section is self.section and self.start <= place.offset < self.end


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One entry of a table about code."""

    table: str
    code: Place
    """What it belongs to."""
    data: bytes
    references: tuple[tuple[int, Place], ...]
    """What its other fields refer to, by their offsets in the entry."""
    replacement: tuple[Section, int, int] | None
    """Of an alternative: section, start and end of what may be copied over its code."""


class View:
    """One object.  Functions and data are known by one symbol a place: see ``symbol_at``."""

    def __init__(self, obj: Object, sizes: Mapping[str, int]) -> None:
        """``sizes``: bytes an entry, by table about code."""
        self.obj, self.sizes = obj, sizes
        self.relocations: dict[Section, list[Relocation]] = defaultdict(list)
        for section in obj.sections:
            self.relocations[section] += section.relocations
        for klp in obj.livepatch:
            self.relocations[klp.target] += klp.relocations
        for found in self.relocations.values():
            found.sort(key=lambda r: r.offset)
        self._offsets = {s: [r.offset for r in found] for s, found in self.relocations.items()}
        self.names: dict[tuple[Section, int], list[str]] = defaultdict(list)
        """By place, the names of what begins there."""
        self.empty: dict[tuple[Section, int], list[Symbol]] = defaultdict(list)
        """By place, the variables without bytes: ``__key.2`` lies where the next one begins."""
        by_section: dict[Section, dict[int, Symbol]] = defaultdict(dict)
        for s in obj.symbols:
            if s.section is None or not s.name or s.type in (STT_SECTION, STT_FILE):
                continue
            if s.name.startswith(("__pfx_", "__cfi_")) or s.name.startswith(".L"):
                continue
            self.names[s.section, s.value].append(s.name)
            if s.type == STT_OBJECT and not s.size:
                self.empty[s.section, s.value].append(s)
            known = by_section[s.section].get(s.value)
            if known is None or _rank(s) > _rank(known):
                by_section[s.section][s.value] = s
        self._symbols = {k: [v[at] for at in sorted(v)] for k, v in by_section.items()}
        self._starts = {k: [s.value for s in v] for k, v in self._symbols.items()}
        self._bodies: dict[tuple[Section, int, int], Body] = {}
        self._entries: dict[Section, list[TableEntry]] | None = None

    # --- symbols --------------------------------------------------------------------------------

    def symbols_in(self, section: Section) -> list[Symbol]:
        """Return the symbols of a section, one a place."""
        return self._symbols.get(section, [])

    def symbols(self) -> Iterable[Symbol]:
        """Yield the symbols of all sections, one a place."""
        for found in self._symbols.values():
            yield from found

    def symbol_at(self, section: Section, offset: int) -> Symbol | None:
        """Return the symbol whose bytes include a place."""
        symbols = self._symbols.get(section, [])
        i = bisect_right(self._starts.get(section, []), offset) - 1
        while i >= 0:
            s = symbols[i]
            if offset < s.value + max(s.size, 1):
                return s
            if s.size:
                return None
            i -= 1  # a label
        return None

    def neighbours(self, section: Section, offset: int) -> tuple[Symbol | None, Symbol | None]:
        """Return the last symbol that begins before a place, and the first that does behind it."""
        starts, symbols = self._starts.get(section, []), self._symbols.get(section, [])
        before, behind = bisect_left(starts, offset) - 1, bisect_right(starts, offset)
        return (
            symbols[before] if before >= 0 else None,
            symbols[behind] if behind < len(symbols) else None,
        )

    @cached_property
    def variables(self) -> Sequence[PlacedVariable]:
        """The variables that the debug information places, none where there is none."""
        return read_placed_variables(self.obj) or ()

    # --- references -----------------------------------------------------------------------------

    def relocations_in(self, section: Section, start: int, end: int) -> list[Relocation]:
        """Return the relocations of a part of a section, livepatch's too."""
        offsets = self._offsets.get(section, [])
        found = self.relocations.get(section, [])
        return found[bisect_left(offsets, start) : bisect_left(offsets, end)]

    @staticmethod
    def place(r: Relocation, tail: int = 0) -> Place:
        """Return where a relocation leads; ``tail``: what a PC-relative field counts from."""
        s = r.symbol
        if s.section is None:
            return Place(None, r.addend + tail, s)
        return Place(s.section, s.value + r.addend + tail)

    def text_at(self, section: Section, offset: int) -> bytes | None:
        """Return the string at a place with its NUL, None when there is none."""
        width = max(section.entsize, 1)
        if not 0 <= offset < section.size:
            return None
        end = section.data.find(bytes(width), offset)
        while end >= 0 and (end - offset) % width:
            end = section.data.find(bytes(width), end + 1)
        return None if end < 0 else section.data[offset : end + width]

    # --- code -----------------------------------------------------------------------------------

    def body(self, s: Symbol) -> Body:
        """Return the instructions of a function."""
        assert s.section is not None
        return self.code(s.section, s.value, s.value + s.size)

    def bodies(self, s: Symbol) -> list[Body]:
        """Return the instructions of a function and of its cold part, where there is one."""
        if not s.size:
            return []
        body = self.body(s)
        for operation in body.operations:
            for r in operation.references:
                section = r.place.section
                part = self.symbol_at(section, r.place.offset) if section is not None else None
                if part is not None and part is not s and is_cold(part):
                    return [body, self.body(part)]
        return [body]

    def code(self, section: Section, start: int, end: int) -> Body:
        """Return the instructions of a part of a code section."""
        key = section, start, end
        if key not in self._bodies:
            self._bodies[key] = self._read_code(section, start, end)
        return self._bodies[key]

    def piece(self, section: Section, start: int) -> Body:
        """Return code without a name: what runs from a place until a jump away."""
        end = start
        for _ in range(_PIECE):
            at = end
            end = next(
                (e for e in range(at + 1, min(at + 16, section.size) + 1)
                 if _is_instruction(section.data, at, e)),
                section.size,
            )  # fmt: skip
            if end >= section.size or section.data[at] in _LEAVES:
                break
        return self.code(section, start, end)

    def _read_code(self, section: Section, start: int, end: int) -> Body:
        relocations = self.relocations_in(section, start, end)
        try:
            instructions = [
                (i.start, i.end, i.fields) for i in read_instructions(section.data, start, end)
            ]
        except UndecodableError:
            instructions = [(start, end, {})]
        operations: list[Operation] = []
        index: dict[int, int] = {}
        at = 0
        for begin, behind, fields in instructions:
            inside = []
            while at < len(relocations) and relocations[at].offset < behind:
                inside.append(relocations[at])
                at += 1
            index[begin] = len(operations)
            if inside or not _is_padding(section.data, begin, behind):
                code = section.data[begin:behind]
                operations.append(self._operation(section, begin, code, fields, inside))
        return Body(section, start, end, tuple(operations), index)

    def _operation(
        self,
        section: Section,
        start: int,
        content: bytes,
        fields: Mapping[int, Field],
        relocations: Iterable[Relocation],
    ) -> Operation:
        code = bytearray(content)
        references = []
        relocated = set()
        for r in relocations:
            kind = RELOCATION_TYPES.get(r.type)
            size = kind.size if kind else 4
            if not size:
                continue
            relocated.add(r.offset)
            field = fields.get(r.offset)
            tail = 0
            if kind and kind.is_pc_relative:
                tail = field.tail if field else size
            role = (
                field.role if field else Role.BRANCH if r.type == R_X86_64_PLT32 else Role.ADDRESS
            )
            references.append(Reference(role, self.place(r, tail)))
            at = r.offset - start
            code[at : at + size] = bytes(len(code[at : at + size]))
        for offset, field in fields.items():
            if field.role is not Role.BRANCH or offset in relocated:
                continue
            at = offset - start
            raw = int.from_bytes(code[at : at + field.size], "little", signed=True)
            references.append(Reference(Role.BRANCH, Place(section, offset + field.tail + raw)))
            code[at : at + field.size] = bytes(field.size)
        return Operation(_long_form(bytes(code)), tuple(references))

    # --- data -----------------------------------------------------------------------------------

    def content(self, s: Symbol) -> tuple[bytes, list[tuple[int, Place]]]:
        """Return a datum's bytes, zero where they refer to anything, and what they refer to."""
        assert s.section is not None
        return self.bytes_of(s.section, s.value, s.value + s.size)

    def bytes_of(
        self, section: Section, start: int, end: int
    ) -> tuple[bytes, list[tuple[int, Place]]]:
        """Return the content of a part of a section likewise."""
        if section.type == SHT_NOBITS:
            return bytes(end - start), []
        data = bytearray(section.data[start:end])
        references = []
        for r in self.relocations_in(section, start, end):
            kind = RELOCATION_TYPES.get(r.type)
            size = kind.size if kind else 4
            at = r.offset - start
            data[at : at + size] = bytes(len(data[at : at + size]))
            if size:
                references.append((at, self.place(r)))
        return bytes(data), references

    # --- tables about code ----------------------------------------------------------------------

    def entries_of(self, body: Body) -> list[TableEntry]:
        """Return the entries that belong to a piece of code."""
        if self._entries is None:
            self._entries = defaultdict(list)
            for section in self.obj.sections:
                for entry in self._read_table(section):
                    if entry.code.section is not None:
                        self._entries[entry.code.section].append(entry)
        return [e for e in self._entries.get(body.section, []) if e.code in body]

    def _read_table(self, section: Section) -> Iterable[TableEntry]:
        size = self.sizes.get(section.name, 0)
        if not size or section.name in _FOLLOWS_CODE or section.size % size:
            return
        for start in range(0, section.size, size):
            data, references = self.bytes_of(section, start, start + size)
            if not references:
                continue
            ignored = _IGNORED.get(section.name, {}).get(size, ())
            masked = bytearray(data)
            for at in ignored[1:]:
                masked[at : at + 2] = bytes(2)
            replacement = None
            if section.name == ALTERNATIVES:
                references, replacement = _part_replacement(data, references)
            others = tuple((at, place) for at, place in references[1:] if at not in ignored)
            yield TableEntry(section.name, references[0][1], bytes(masked), others, replacement)


_PIECE: Final = 64
"""Instructions of a piece of code, at most."""
_LEAVES: Final = frozenset(b"\xe9\xeb\xc3\xcc")
"""jmp, ret, int3"""


def is_cold(s: Symbol) -> bool:
    """Tell whether a symbol is the unlikely half of a function, such as ``do_exit.cold``."""
    return s.name.endswith((".cold", ".cold.ksplice"))


def _rank(s: Symbol) -> tuple[bool, bool, bool, bool, int]:
    """Return by what the one of several symbols of a place is chosen."""
    is_typed = s.type in (STT_FUNC, STT_OBJECT)
    is_global = s.bind != STB_LOCAL and s.type != STT_NOTYPE
    # An update's own names (aliases.py) stand beside those of the source.
    return bool(s.size), is_typed, not s.name.startswith("ksplice_"), is_global, s.size


def _is_instruction(code: bytes, start: int, end: int) -> bool:
    try:
        return len(read_instructions(code, start, end)) == 1
    except UndecodableError:
        return False


def _is_padding(code: bytes, start: int, end: int) -> bool:
    """Tell whether an instruction does nothing: nop, xchg %ax,%ax, nopw 0(%rax,%rax,1)."""
    word = code[start:end].lstrip(b"\x66\x2e")
    return word == b"\x90" or word[:2] == b"\x0f\x1f"


def _long_form(code: bytes) -> bytes:
    """Return a jump with its long displacement; the assembler takes the short one where it can."""
    if len(code) == 2 and code[0] == 0xEB:
        return b"\xe9" + bytes(4)
    if len(code) == 2 and code[0] & 0xF0 == 0x70:
        return bytes([0x0F, 0x80 | code[0] & 0xF]) + bytes(4)
    return code


def _part_replacement(
    data: bytes, references: list[tuple[int, Place]]
) -> tuple[list[tuple[int, Place]], tuple[Section, int, int] | None]:
    """Return an alternative's references without its replacement, and the replacement."""
    length = data[_LENGTHS[len(data)] + 1] if len(data) in _LENGTHS else 0
    others = [(at, place) for at, place in references if at != 4]
    where = next((place for at, place in references if at == 4), None)
    if where is None or where.section is None or not length:
        return others, None
    return others, (where.section, where.offset, where.offset + length)

# SPDX-License-Identifier: GPL-2.0-only
"""What a relocation means: the thing it points to, whatever way the assembler wrote it down.

The same reference may be a symbol plus addend or a section plus offset, and a PC-relative addend
depends on the instruction around it.  A referent is the thing itself.  What a kernel has of it is
not known here.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ksplicd.create.objects.names import is_cold_part, is_prefix, main_name
from ksplicd.create.objects.special import Entry, EntrySizes, is_special_section, read_entries
from ksplicd.elf.debug_info import DebugInfo
from ksplicd.elf.debug_line import Places, Rows, line_places, read_rows
from ksplicd.elf.dwarf import read_debug_info
from ksplicd.elf.instructions import Field, Role, UndecodableError, read_fields
from ksplicd.elf.model import (
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


@dataclass(frozen=True, slots=True)
class Referent:
    """Where a relocation points: ``offset`` bytes into ``symbol``, or into ``section``."""

    symbol: Symbol | None
    section: Section | None
    offset: int

    def __str__(self) -> str:
        name = self.symbol.name if self.symbol else self.section.name if self.section else "?"
        return f"{name}+{self.offset:#x}" if self.offset else name


@dataclass(frozen=True, slots=True, kw_only=True)
class AsCompiled:
    """What is known of an object only before it is taken apart."""

    nameless_code: Mapping[str, Sequence[Section]] = field(default_factory=dict)
    """Sections of code that have no function, by name."""
    places: Mapping[Symbol, tuple[Section, int]] = field(default_factory=dict)
    """Of data and functions that shared a section: the section, and where in it they began."""
    line_places: Places | None = None
    """Where the addresses of the line table led."""
    unclear: Mapping[Relocation, tuple[Symbol, Symbol]] = field(default_factory=dict)
    """References that may mean either of two data, such as the end of one and the next one."""


class ObjectIndex:
    """Answers where the relocations of one object point, and which table entries its code has.

    The object stays as it is while there is an index of it.
    """

    def __init__(
        self,
        obj: Object,
        sizes: EntrySizes,
        as_compiled: AsCompiled | None = None,
    ) -> None:
        self.obj, self.sizes = obj, sizes
        self.as_compiled = as_compiled or AsCompiled()
        """Empty where nothing was taken apart."""
        by_section: dict[Section, list[Symbol]] = defaultdict(list)
        for s in obj.symbols:
            if s.section is not None and s.name and s.type not in (STT_SECTION, STT_FILE):
                by_section[s.section].append(s)
        # Of two names for one address the sized, typed one is meant: it comes last.
        self._by_section = {
            section: sorted(symbols, key=lambda s: (s.value, s.type != STT_NOTYPE, s.size))
            for section, symbols in by_section.items()
        }
        self._values = {k: [s.value for s in v] for k, v in self._by_section.items()}
        self._fields: dict[tuple[Section, int], dict[int, Field]] = {}

    def symbols_in(self, section: Section) -> list[Symbol]:
        """Return the named symbols of ``section`` by value."""
        return self._by_section.get(section, [])

    def functions_in(self, section: Section) -> list[Symbol]:
        """Return the functions of ``section``, one an address, without the padding before."""
        found = {
            s.value: s for s in self.symbols_in(section) if s.is_function and not is_prefix(s)
        }  # fmt: skip
        return list(found.values())

    def main_of(self, function: Symbol) -> Symbol:
        """Return the function that a cold part belongs to; others, and lost parts, themselves."""
        return self._mains.get(function, function)

    def cold_parts_of(self, function: Symbol) -> list[Symbol]:
        """Return the cold parts of a function, by whichever of its names."""
        return [
            part for part, main in self._mains.items()
            if (main.section, main.value) == (function.section, function.value)
        ]  # fmt: skip

    @cached_property
    def _mains(self) -> dict[Symbol, Symbol]:
        """The function of each cold part: of several of that name the one that refers to it."""
        by_name: dict[str, list[Symbol]] = defaultdict(list)
        for s in self.obj.functions():
            by_name[s.name].append(s)
        found = {}
        for part in filter(lambda s: is_cold_part(s.name), self.obj.functions()):
            mains = by_name[main_name(part.name)]
            if len(mains) > 1:
                mains = [m for m in mains if self.refers(m, part)]
            if mains:
                found[part] = mains[0]
        return found

    def rows_of(self, function: Symbol) -> Rows | None:
        """Return (offset in the function, line) of its code, None without debug information."""
        if self._rows is None or function.section is None:
            return None
        section, start = self.as_compiled.places.get(function, (function.section, function.value))
        inside = (row for row in self._rows.get(section, ()) if start <= row[0])
        return [(at - start, line) for at, line in inside if at < start + function.size]

    @cached_property
    def _rows(self) -> Mapping[Section, Rows] | None:
        places = self.as_compiled.line_places or line_places(self.obj)
        return None if places is None else read_rows(self.obj, places)

    @cached_property
    def debug_info(self) -> DebugInfo | None:
        """The types and variables of the source, None without debug information.

        Raises ``ElfError`` when it cannot be read.
        """
        return read_debug_info(self.obj)

    def entries_in(self, section: Section) -> list[Entry]:
        """Return the entries of a special section.  Raises ``ElfError``."""
        return read_entries(section, self.sizes[section.name])

    @cached_property
    def entries_by_code(self) -> Mapping[Section, Sequence[Entry]]:
        """The entries of every table that is found by its code, by the code's section."""
        found: dict[Section, list[Entry]] = defaultdict(list)
        for section in self.obj.sections:
            if not is_special_section(section) or section.name == ".orc_unwind":
                continue
            for entry in self.entries_in(section):
                if entry.owner is not None:
                    found[entry.owner].append(entry)
        return found

    def refers(self, function: Symbol, other: Symbol) -> bool:
        """Tell whether the section of a function refers to another symbol."""
        owner = function.section
        return owner is not None and any(
            self.locate(owner, r).symbol is other for r in owner.relocations
        )

    def functions_using(self, symbol: Symbol) -> set[Symbol]:
        """Return the functions whose code, cold parts included, refers to a symbol."""
        return self._functions_using.get(symbol, set())

    @cached_property
    def _functions_using(self) -> Mapping[Symbol, set[Symbol]]:
        found: dict[Symbol, set[Symbol]] = defaultdict(set)
        for owner in filter(lambda x: x.is_text, self.obj.sections):
            for r in owner.relocations:
                user, used = self.symbol_at(owner, r.offset), self.locate(owner, r).symbol
                if user is not None and used is not None:
                    found[used].add(self.main_of(user))
        return found

    def only_datum_in(self, section: Section) -> Symbol | None:
        """Return the datum that a section was made for, None when there are several or none."""
        sized = [s for s in self.symbols_in(section) if s.size and s.type in (STT_OBJECT, STT_FUNC)]
        starts = {s.value for s in sized if not is_prefix(s)}
        return sized[-1] if len(starts) == 1 else None

    def symbol_at(self, section: Section, offset: int) -> Symbol | None:
        """Return the symbol whose bytes include ``offset`` of ``section``."""
        symbols = self._by_section.get(section, [])
        i = bisect_right(self._values.get(section, []), offset) - 1
        while i >= 0:
            s = symbols[i]
            if s.value <= offset < s.value + max(s.size, 1):
                return s
            if s.size and s.type in (STT_OBJECT, STT_FUNC):
                return None
            i -= 1
        return None

    def locate(self, owner: Section, r: Relocation) -> Referent:
        """Return what relocation ``r`` of ``owner`` points to."""
        symbol, section = r.symbol, r.symbol.section
        offset = r.addend + self.bias(owner, r)
        if section is None:
            return Referent(symbol, None, offset)
        if symbol.type != STT_SECTION:
            if section.is_strings or symbol.name.startswith(".L"):
                return Referent(None, section, symbol.value + offset)
            return Referent(symbol, section, offset)
        if section.is_strings:
            return Referent(None, section, offset)
        # A loop's bound lies behind its array (``.rodata.mask_maps+0x100``), a biased index before
        # it: where there is one datum, it is the one that is meant.
        found = self.symbol_at(section, offset) or self.only_datum_in(section)
        if found is None:
            return Referent(None, section, offset)
        return Referent(found, section, offset - found.value)

    def meanings(self, owner: Section, r: Relocation) -> list[Referent]:
        """Return what relocation ``r`` of ``owner`` points to, of two data where that is open."""
        found = self.locate(owner, r)
        symbol, start = found.symbol, found.symbol.value if found.symbol else 0
        others = (s for s in self.as_compiled.unclear.get(r, ()) if s is not symbol)
        return [found, *(Referent(s, s.section, start + found.offset - s.value) for s in others)]

    # --- the instruction around a field ---------------------------------------------------------

    def bias(self, owner: Section, r: Relocation) -> int:
        """Return the distance from a PC-relative field to the end of its instruction."""
        kind = RELOCATION_TYPES.get(r.type)
        if kind is None or not kind.is_pc_relative or not owner.is_text:
            return 0
        field = self.field_at(owner, r.offset)
        return field.tail if field is not None else kind.size

    def role(self, owner: Section, r: Relocation) -> Role:
        """Return what the relocated field is for; data hold addresses."""
        if not owner.is_text:
            return Role.ADDRESS
        field = self.field_at(owner, r.offset)
        if field is not None:
            return field.role
        return Role.BRANCH if r.type == R_X86_64_PLT32 else Role.ADDRESS

    def is_branch(self, owner: Section, r: Relocation) -> bool:
        """Tell whether the relocated field is the displacement of a call, jmp or jcc."""
        return self.role(owner, r) is Role.BRANCH

    def is_indexed(self, owner: Section, r: Relocation) -> bool:
        """Tell whether code adds a register to what ``r`` makes."""
        field = self.field_at(owner, r.offset) if owner.is_text else None
        return field is not None and (field.is_indexed or field.is_summand)

    def field_at(self, section: Section, offset: int) -> Field | None:
        """Return the address field of code at ``offset``, None when it is not known."""
        function = self.symbol_at(section, offset)
        if function is not None and function.is_function:
            return self.fields_of(function).get(offset)
        # a fragment of code without a name
        return self._read_fields(section, 0, section.size).get(offset)

    def fields_of(self, function: Symbol) -> dict[int, Field]:
        """Return the address fields of a function by offset in its section."""
        assert function.section is not None
        end = function.value + function.size
        return self._read_fields(function.section, function.value, end)

    def _read_fields(self, section: Section, start: int, end: int) -> dict[int, Field]:
        key = section, start
        if key not in self._fields:
            try:
                self._fields[key] = read_fields(section.data, start, end)
            except UndecodableError:
                self._fields[key] = {}
        return self._fields[key]


def relocations_in(symbol: Symbol) -> list[Relocation]:
    """Return the relocations inside a symbol's bytes, by offset."""
    assert symbol.section is not None
    end = symbol.value + max(symbol.size, 1)
    inside = (r for r in symbol.section.relocations if symbol.value <= r.offset < end)
    return sorted(inside, key=lambda r: r.offset)


def code_section_of(symbol: Symbol) -> Section:
    """Return the section of a defined symbol."""
    assert symbol.section is not None
    return symbol.section


def string_at(section: Section, offset: int) -> bytes | None:
    """Return the string at ``offset`` of a string section with its NUL, None when outside."""
    width = max(section.entsize, 1)  # 2 for the UTF-16 strings of EFI code
    if not 0 <= offset <= section.size - width:
        return None
    end = section.data.find(bytes(width), offset)
    while end >= 0 and (end - offset) % width:
        end = section.data.find(bytes(width), end + 1)
    return None if end < 0 else section.data[offset : end + width]


def start_of_string(section: Section, offset: int) -> int:
    """Return where the string of a string section begins that has ``offset`` in it."""
    width = max(section.entsize, 1)
    start = offset - offset % width
    while start >= width and section.data[start - width : start] != bytes(width):
        start -= width
    return start

# SPDX-License-Identifier: GPL-2.0-only
"""Where the debug information says that each variable lies, and in which function it is declared.

Of a relocatable object, as gcc and clang write it for C (DWARF 2 to 5, 32-bit format).  Only what
has a fixed address is returned: globals, statics, and statics of functions, which the symbol table
knows by names that the compiler numbers (``inner.1``).  Types are skipped (dwarf.py reads those).
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from ksplicd.elf.dwarf import debug_content, find_debug, read_sleb, read_uleb
from ksplicd.elf.model import Object, Section
from ksplicd.errors import ElfError

# DWARF 5, sections 7.5.3 and 7.5.4: tags and attributes
_BLOCK, _INLINED, _FUNCTION, _VARIABLE, _UNIT = 0x0B, 0x1D, 0x2E, 0x34, 0x11
_SCOPES: Final = frozenset({_BLOCK, _INLINED, _FUNCTION, _UNIT})
_SIBLING, _LOCATION, _NAME, _ORIGIN, _LINE, _COLUMN, _SPECIFICATION = (
    0x01, 0x02, 0x03, 0x31, 0x3B, 0x39, 0x47,
)  # fmt: skip
_WANTED: Final = frozenset({_SIBLING, _LOCATION, _NAME, _ORIGIN, _LINE, _COLUMN, _SPECIFICATION})

# Section 7.5.6: forms, by how long they are
_FIXED: Final = {
    0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x0E: 4, 0x10: 4, 0x11: 1, 0x12: 2,
    0x13: 4, 0x14: 8, 0x17: 4, 0x19: 0, 0x1C: 4, 0x1D: 4, 0x1E: 16, 0x1F: 4, 0x20: 8, 0x21: 0,
    0x24: 8, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4,
}  # fmt: skip
_ULEB: Final = frozenset({0x0D, 0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23})
"""The signed form is as long as the unsigned one of its bytes; no wanted attribute has it."""
_STRING, _STRP, _LINE_STRP, _IMPLICIT = 0x08, 0x0E, 0x1F, 0x21
_BLOCKS: Final = {0x0A: 1, 0x03: 2, 0x04: 4}
_ULEB_BLOCKS: Final = frozenset({0x09, 0x18})
_OP_ADDR: Final = 0x03


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedVariable:
    """A variable with an address."""

    name: str
    """As the source has it."""
    function: str
    """The function that declares it, by its name in the source; empty for a file's."""
    line: int
    """Of the declaration; 0 when it is not said."""
    column: int
    section: Section
    offset: int
    """In the section."""


def read_placed_variables(obj: Object) -> list[PlacedVariable] | None:
    """Return the variables with an address, None when the object has no debug information.

    Raises ``ElfError`` when that is damaged or of a kind that is not read here.
    """
    info = find_debug(obj, ".debug_info")
    if info is None:
        return None
    try:
        reader = _Reader(obj, info)
        at = 0
        while at < len(reader.data):
            at = reader.read_unit(at)
        return reader.placed()
    except (struct.error, IndexError, KeyError, ValueError, zlib.error) as e:
        raise ElfError(f"{obj.name}: debug information cannot be read: {e!r}") from e


_Plan = tuple[int, bool, list[tuple[int, int, int]], int | None]
"""Tag, whether it has children, (attribute, form, implicit value)s, size when nothing is wanted."""


@dataclass(slots=True)
class _Entry:
    """What is kept of an entry."""

    tag: int
    name: str
    origin: int
    line: int
    column: int
    location: int
    """Offset of the address in ``.debug_info``, 0 when it has none."""
    parent: int
    """Offset of the entry around it."""


class _Reader:
    def __init__(self, obj: Object, info: Section) -> None:
        self.data = debug_content(info)
        self.by_offset = {r.offset: r for r in info.relocations}
        self.tables = {
            _STRP: debug_content(find_debug(obj, ".debug_str")),
            _LINE_STRP: debug_content(find_debug(obj, ".debug_line_str")),
        }
        self.abbreviations = debug_content(find_debug(obj, ".debug_abbrev"))
        self.entries: dict[int, _Entry] = {}

    def placed(self) -> list[PlacedVariable]:
        """Return the variables that the entries read so far place."""
        found = []
        for entry in self.entries.values():
            r = self.by_offset.get(entry.location) if entry.location else None
            if entry.tag != _VARIABLE or r is None or r.symbol.section is None:
                continue
            origin = self.origin_of(entry)
            found.append(
                PlacedVariable(
                    name=origin.name, function=self.function_of(entry), line=origin.line,
                    column=origin.column, section=r.symbol.section,
                    offset=r.symbol.value + r.addend,
                )
            )  # fmt: skip
        return found

    def origin_of(self, entry: _Entry) -> _Entry:
        """Return the entry that has the name: a copy only refers to it."""
        for _ in range(8):
            if entry.name or entry.origin not in self.entries:
                break
            entry = self.entries[entry.origin]
        return entry

    def function_of(self, entry: _Entry) -> str:
        """Return the name of the innermost function around an entry."""
        while entry.parent in self.entries:
            entry = self.entries[entry.parent]
            if entry.tag in (_FUNCTION, _INLINED):
                return self.origin_of(entry).name
        return ""

    def read_unit(self, start: int) -> int:
        """Read the unit at ``start`` (section 7.5.1.1) and return where it ends."""
        length: int
        length, version = struct.unpack_from("<IH", self.data, start)
        if length >= 0xFFFFFFF0 or not 2 <= version <= 5:
            raise ValueError(f"DWARF {version}, length {length:#x}")
        header, abbreviations_at = (12, 8) if version >= 5 else (11, 6)
        r = self.by_offset.get(start + abbreviations_at)
        raw = int.from_bytes(self.data[start + abbreviations_at :][:4], "little")
        plans = self.read_abbreviations(r.symbol.value + r.addend if r else raw)
        end = start + 4 + length
        self.read_entries(start, start + header, end, plans)
        return end

    def read_abbreviations(self, at: int) -> dict[int, _Plan]:
        data = self.abbreviations
        plans: dict[int, _Plan] = {}
        while True:
            code, at = read_uleb(data, at)
            if not code:
                return plans
            tag, at = read_uleb(data, at)
            has_children = bool(data[at])
            at += 1
            fields: list[tuple[int, int, int]] = []
            while True:
                attribute, at = read_uleb(data, at)
                form, at = read_uleb(data, at)
                implicit = 0
                if form == _IMPLICIT:
                    implicit, at = read_sleb(data, at)
                if not attribute and not form:
                    break
                fields.append((attribute, form, implicit))
            is_kept = tag in _SCOPES or tag == _VARIABLE
            sizes = [_FIXED.get(form) for _, form, _ in fields]
            is_skipped = not is_kept and not has_children and None not in sizes
            fixed = sum(s for s in sizes if s is not None) if is_skipped else None
            plans[code] = tag, has_children, fields, fixed

    def read_entries(self, unit: int, at: int, end: int, plans: dict[int, _Plan]) -> None:
        data = self.data
        parents = [0]
        while at < end:
            entry = at
            code, at = (data[at], at + 1) if data[at] < 0x80 else read_uleb(data, at)
            if not code:
                parents.pop()
                if len(parents) == 1:
                    return
                continue
            tag, has_children, fields, fixed = plans[code]
            if fixed is not None:
                at += fixed
                continue
            values, name, at = self.read_fields(fields, at)
            is_kept = tag in _SCOPES or tag == _VARIABLE
            if is_kept:
                origin = values.get(_ORIGIN, values.get(_SPECIFICATION))
                self.entries[entry] = _Entry(
                    tag, name, -1 if origin is None else unit + origin, values.get(_LINE, 0),
                    values.get(_COLUMN, 0), values.get(_LOCATION, 0), parents[-1],
                )  # fmt: skip
            if has_children:
                if not is_kept and _SIBLING in values:  # a type: nothing in it has an address
                    at = unit + values[_SIBLING]
                else:
                    parents.append(entry)

    def read_fields(
        self, fields: list[tuple[int, int, int]], at: int
    ) -> tuple[dict[int, int], str, int]:
        """Return the wanted attributes, the name apart from the others, and what follows."""
        data = self.data
        values: dict[int, int] = {}
        name = ""
        for attribute, form, implicit in fields:
            start = at
            size = _FIXED.get(form)
            if size is not None:
                at += size
                if attribute not in _WANTED:
                    continue
                value = int.from_bytes(data[start:at], "little") if form != _IMPLICIT else implicit
            elif form in _ULEB:
                value, at = read_uleb(data, at)
            elif form == _STRING:
                value, at = start, data.index(b"\0", at) + 1
            else:
                value, at = self.read_block(form, at)
            if attribute == _NAME:
                name = self.text(form, start, value)
            elif attribute == _LOCATION and form not in _ULEB_BLOCKS and form not in _BLOCKS:
                continue  # a list of registers and stack slots
            elif attribute in _WANTED:
                values[attribute] = value
        return values, name, at

    def read_block(self, form: int, at: int) -> tuple[int, int]:
        """Return the offset of an address (DW_OP_addr alone), else 0, and what follows."""
        if form in _BLOCKS:
            n = _BLOCKS[form]
            length, at = int.from_bytes(self.data[at : at + n], "little"), at + n
        elif form in _ULEB_BLOCKS:
            length, at = read_uleb(self.data, at)
        else:
            raise ValueError(f"form {form:#x}")
        is_address = length == 9 and self.data[at] == _OP_ADDR
        return (at + 1 if is_address else 0), at + length

    def text(self, form: int, start: int, value: int) -> str:
        """Return a name, which is in one of the string tables or in place."""
        if form == _STRING:
            table = self.data
        elif form in self.tables:
            table = self.tables[form]
            r = self.by_offset.get(start)
            value = r.symbol.value + r.addend if r else value
        else:
            return ""  # an index of strings, in objects split from their debug information
        return table[value : table.index(b"\0", value)].decode(errors="replace")

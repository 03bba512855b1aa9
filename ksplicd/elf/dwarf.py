# SPDX-License-Identifier: GPL-2.0-only
"""Reads the debug information of an object into the types of debug_info.py.

Of a relocatable object, as gcc and clang write it for C (DWARF 2 to 5, 32-bit format), and of that
only the layout of structures.  A kernel unit has some thirty thousand entries, which take 0.06 s;
why no library reads them is docs/decisions/0056.
"""

import struct
import zlib
from dataclasses import replace
from functools import cached_property
from typing import Final

from ksplicd.elf.debug_info import TYPES, DebugInfo, Member, Type, Variable
from ksplicd.elf.model import SHF_COMPRESSED, Object, Section
from ksplicd.errors import ElfError

# DWARF 5, section 7.5.3: tags
_PARAMETER, _MEMBER, _SUBRANGE, _SUBPROGRAM, _VARIABLE = 0x05, 0x0D, 0x21, 0x2E, 0x34
_ENUMERATOR: Final = 0x28
_DETAILS: Final = frozenset({_MEMBER, _SUBRANGE, _ENUMERATOR})
"""Entries that say more of the type around them."""

# Section 7.5.1: unit types
_UNITS: Final = (1, 3)
"""Compilation units, whole and partial."""
_SKELETON: Final = 4

# Section 7.5.4: attributes
_NAME, _BYTE_SIZE, _BIT_SIZE, _UPPER_BOUND, _ORIGIN, _COUNT, _LOCATION, _DECLARATION = (
    0x03, 0x0B, 0x0D, 0x2F, 0x31, 0x37, 0x38, 0x3C,
)  # fmt: skip
_TYPE, _BIT_OFFSET, _ALIGNMENT, _PLACE = 0x49, 0x6B, 0x88, 0x02
_CONST_VALUE, _BITS_FROM_TOP, _SPECIFICATION = 0x1C, 0x0C, 0x47
_WANTED: Final = frozenset(
    {_NAME, _BYTE_SIZE, _BIT_SIZE, _UPPER_BOUND, _ORIGIN, _COUNT, _LOCATION, _DECLARATION, _TYPE,
     _BIT_OFFSET, _ALIGNMENT, _CONST_VALUE, _BITS_FROM_TOP, _SPECIFICATION}
)  # fmt: skip

# Section 7.5.6: forms, by how long they are
_FIXED: Final = {
    0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x0E: 4, 0x10: 4, 0x11: 1, 0x12: 2,
    0x13: 4, 0x14: 8, 0x17: 4, 0x19: 0, 0x1C: 4, 0x1D: 4, 0x1E: 16, 0x1F: 4, 0x20: 8, 0x21: 0,
    0x24: 8, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4,
}  # fmt: skip
_ULEB: Final = frozenset({0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23})
_SLEB, _STRING, _LINE_STRP, _IMPLICIT, _FLAG_PRESENT = 0x0D, 0x08, 0x1F, 0x21, 0x19
_BLOCKS: Final = {0x0A: 1, 0x03: 2, 0x04: 4}
_ULEB_BLOCKS: Final = frozenset({0x09, 0x18})
_STRX: Final = frozenset({0x1A, 0x25, 0x26, 0x27, 0x28})
_PLUS_UCONST: Final = 0x23
_ADDR: Final = 0x03
_ADDRESS: Final = -1
"""Key among the attributes: where in ``.debug_info`` the address of a location is."""
_ZLIB: Final = 1
"""ELFCOMPRESS_ZLIB; zstd is 2."""


def read_debug_info(obj: Object) -> DebugInfo | None:
    """Return what the debug information of an object tells, None when it has none.

    With -gsplit-dwarf (CONFIG_DEBUG_INFO_SPLIT) it is in another file.  Raises ``ElfError`` when it
    is damaged or of a kind that is not read here.
    """
    info = find_debug(obj, ".debug_info")
    if info is None:
        return None
    try:
        reader = _Reader(obj, info)
        return None if reader.is_elsewhere() else reader.read()
    except ValueError as e:
        raise ElfError(f"{obj.name}: debug information cannot be read: {e}") from e
    except (struct.error, IndexError, KeyError, zlib.error) as e:
        raise ElfError(f"{obj.name}: debug information is damaged: {e!r}") from e


_Plan = tuple[int, bool, list[tuple[int, int, int]], int | None]
"""Tag, whether it has children, (attribute, form, implicit value)s, size when that is fixed."""


_Name = tuple[int, int] | None
"""Form and value of a name attribute."""


class _Reader:
    def __init__(self, obj: Object, info: Section) -> None:
        self.obj = obj
        self.data = debug_content(info)
        self.relocations = {r.offset: r for r in info.relocations}
        self.values = {r.offset: r.symbol.value + r.addend for r in info.relocations}
        self.strings = debug_content(find_debug(obj, ".debug_str"))
        self.line_strings = debug_content(find_debug(obj, ".debug_line_str"))
        self.abbreviations = debug_content(find_debug(obj, ".debug_abbrev"))
        self.out = DebugInfo()
        self.origins: list[tuple[int, int]] = []
        self.declared: dict[int, Variable] = {}

    def is_elsewhere(self) -> bool:
        """Tell whether the first unit is a skeleton, as all are then."""
        _, version, kind = struct.unpack_from("<IHB", self.data)
        return bool(version >= 5 and kind == _SKELETON)

    def read(self) -> DebugInfo:
        at = 0
        while at < len(self.data):
            at = self.read_unit(at)
        self.out.nodes.sort()
        # An out-of-line copy has its name from the entry that all inlined ones come from.
        names = {node: name for name, nodes in self.out.functions.items() for node in nodes}
        for origin, node in self.origins:
            if origin in names:
                self.out.functions[names[origin]].append(node)
        return self.out

    def read_unit(self, start: int) -> int:
        """Read the unit at ``start`` (section 7.5.1.1) and return where it ends."""
        length: int
        version: int
        length, version = struct.unpack_from("<IH", self.data, start)
        if length >= 0xFFFFFFF0 or not 2 <= version <= 5:
            raise ValueError(f"DWARF {version}, length {length:#x}")
        if version >= 5 and self.data[start + 6] not in _UNITS:
            raise ValueError(f"unit type {self.data[start + 6]} (-fdebug-types-section?)")
        header, abbreviations_at = (12, 8) if version >= 5 else (11, 6)
        plans = self.read_abbreviations(self.values.get(start + abbreviations_at, 0))
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
            fixed: int | None = 0
            while True:
                attribute, at = read_uleb(data, at)
                form, at = read_uleb(data, at)
                implicit = 0
                if form == _IMPLICIT:
                    implicit, at = read_sleb(data, at)
                if not attribute and not form:
                    break
                fields.append((attribute, form, implicit))
                size = _FIXED.get(form)
                fixed = None if fixed is None or size is None else fixed + size
            if fixed is not None and tag not in TYPES and tag not in _DETAILS:
                wanted = [f for f in fields if f[0] in (_TYPE, _ORIGIN, _SPECIFICATION)]
                if not wanted and tag != _SUBPROGRAM:
                    fields = []  # nothing in it is looked at
            plans[code] = tag, has_children, fields, fixed

    def read_entries(self, unit: int, at: int, end: int, plans: dict[int, _Plan]) -> None:
        data, out = self.data, self.out
        open_types: list[Type | None] = []
        while at < end:
            entry = at
            code = data[at]
            at += 1
            if code >= 0x80:
                code, at = read_uleb(data, entry)
            if not code:
                open_types.pop()
                if not open_types:
                    return
                continue
            tag, has_children, fields, fixed = plans[code]
            if len(open_types) == 1:
                out.nodes.append(entry)
            made: Type | None = None
            if not fields and fixed is not None:
                at += fixed
            else:
                values, name, at = self.read_fields(fields, at)
                for attribute in (_TYPE, _ORIGIN, _SPECIFICATION):
                    if attribute in values:
                        values[attribute] += unit
                parent = open_types[-1] if open_types else None
                made = self.add(entry, tag, values, name, parent, len(open_types))
            if has_children:
                open_types.append(made)

    def add(
        self, entry: int, tag: int, values: dict[int, int], name: _Name, parent: Type | None,
        depth: int,
    ) -> Type | None:  # fmt: skip
        """Add what the entry tells and return the type that it is."""
        if tag in TYPES:
            made = Type(tag, self.text(name), values.get(_BYTE_SIZE), values.get(_TYPE, 0))
            if not values.get(_DECLARATION):
                self.out.types[entry] = made
            else:
                self.out.declared[entry] = made.name
            return made
        if tag == _MEMBER and parent is not None:
            offset = values.get(_BIT_OFFSET, values.get(_LOCATION, 0) * 8)
            bits = values.get(_BIT_SIZE)
            if _BITS_FROM_TOP in values and bits is not None:  # DWARF 3, section 5.6.6
                offset += values.get(_BYTE_SIZE, 4) * 8 - values[_BITS_FROM_TOP] - bits
            parent.members.append(Member(self.text(name), offset, bits, values.get(_TYPE, 0)))
        elif tag == _ENUMERATOR and parent is not None:
            parent.enumerators.append((self.text(name), values.get(_CONST_VALUE, 0)))
        elif tag == _SUBRANGE and parent is not None:
            parent.count *= values.get(_COUNT, values.get(_UPPER_BOUND, -1) + 1)
        elif tag == _VARIABLE and values.get(_SPECIFICATION) in self.declared:
            # What a header declares without its size; the definition has a type of its own then.
            declared = self.declared[values[_SPECIFICATION]]
            address = self.relocations.get(values.get(_ADDRESS, -1))
            self.out.variables.append(
                replace(
                    declared, type=values.get(_TYPE, declared.type), node=self.out.nodes[-1],
                    relocation=address,
                )
            )  # fmt: skip
        elif tag in (_VARIABLE, _PARAMETER) and _TYPE in values:
            node, is_parameter = self.out.nodes[-1], tag == _PARAMETER
            address = self.relocations.get(values.get(_ADDRESS, -1))
            alignment = values.get(_ALIGNMENT, 1)
            self.out.variables.append(
                Variable(self.text(name), values[_TYPE], node, is_parameter, address, alignment)
            )
            if values.get(_DECLARATION):
                self.declared[entry] = self.out.variables[-1]
        elif tag == _SUBPROGRAM and depth == 1:
            if _ORIGIN in values:
                self.origins.append((values[_ORIGIN], entry))
            else:
                self.out.functions.setdefault(self.text(name), []).append(entry)
        return None

    def read_fields(
        self, fields: list[tuple[int, int, int]], at: int
    ) -> tuple[dict[int, int], _Name, int]:
        """Return the wanted attributes, the name apart from the others, and what follows."""
        data = self.data
        values: dict[int, int] = {}
        name: _Name = None
        for attribute, form, implicit in fields:
            start = at
            size = _FIXED.get(form)
            if size is not None:
                at += size
                if attribute not in _WANTED:
                    continue
                value = int.from_bytes(data[start:at], "little")
                if form == _IMPLICIT:
                    value = implicit
                elif form == _FLAG_PRESENT:
                    value = 1
            elif form in _ULEB:
                value, at = read_uleb(data, at)
            elif form == _SLEB:
                value, at = read_sleb(data, at)
            elif form == _STRING:
                value, at = start, data.index(b"\0", at) + 1
            else:
                value, at = self.read_block(form, at)
                if attribute == _PLACE and data[at - 9] == _ADDR and at - start > 9:
                    values[_ADDRESS] = at - 8
            if attribute == _NAME:
                name = form, self.values.get(start, value)
            elif attribute in _WANTED:
                values[attribute] = value
        return values, name, at

    def read_block(self, form: int, at: int) -> tuple[int, int]:
        """Return the constant of an expression (DW_OP_plus_uconst), else -1, and what follows."""
        if form in _BLOCKS:
            n = _BLOCKS[form]
            length, at = int.from_bytes(self.data[at : at + n], "little"), at + n
        elif form in _ULEB_BLOCKS:
            length, at = read_uleb(self.data, at)
        else:
            raise ValueError(f"form {form:#x}")
        value = -1
        if length > 1 and self.data[at] == _PLUS_UCONST:
            value, _ = read_uleb(self.data, at + 1)
        return value, at + length

    def text(self, name: _Name) -> str:
        """Return a name, which is in one of the string tables or in place."""
        if name is None:
            return ""
        form, value = name
        if form in _STRX:
            return _string(self.strings, self.indexed[8 + 4 * value])
        table = {_STRING: self.data, _LINE_STRP: self.line_strings}.get(form, self.strings)
        return _string(table, value)

    @cached_property
    def indexed(self) -> dict[int, int]:
        """Offsets of strings by offset in their index, whose header has 8 bytes (section 7.26)."""
        section = self.obj.find_section(".debug_str_offsets")
        assert section is not None
        return {r.offset: r.symbol.value + r.addend for r in section.relocations}


def find_debug(obj: Object, name: str) -> Section | None:
    """Return a debug section, also as -gz=zlib-gnu calls it: ``.zdebug_info``."""
    return obj.find_section(name) or obj.find_section(f".z{name[1:]}")


def debug_content(section: Section | None) -> bytes:
    """Return the content of a debug section, which may be compressed (gABI, Elf64_Chdr)."""
    if section is None:
        return b""
    if section.name.startswith(".zdebug"):  # "ZLIB" and the size, big-endian
        return zlib.decompress(section.data[12:])
    if not section.flags & SHF_COMPRESSED:
        return section.data
    (kind,) = struct.unpack_from("<I", section.data)
    if kind != _ZLIB:
        raise ValueError(
            f"{section.name} is compressed in a way (ELFCOMPRESS {kind}) that is not read here;"
            " use `objcopy --decompress-debug-sections`"
        )
    return zlib.decompress(section.data[24:])


def read_uleb(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned number (section 7.6) and what follows."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def read_sleb(data: bytes, at: int) -> tuple[int, int]:
    """Return a signed number (section 7.6) and what follows."""
    start = at
    value, at = read_uleb(data, at)
    bits = 7 * (at - start)
    return value - (1 << bits) if value >> (bits - 1) else value, at


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode(errors="replace")

# SPDX-License-Identifier: GPL-2.0-only
"""From which lines of which files the code of each section is: ``.debug_line`` with its files.

Reads relocatable objects (DWARF 2 to 5, section 6.2), and of the table no addresses: each sequence
belongs to the section that its first address is relocated to.
"""

import struct
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from posixpath import join, normpath
from typing import Final

from ksplicd.elf.dwarf import debug_content, find_debug, read_sleb, read_uleb
from ksplicd.elf.model import Object, Section
from ksplicd.errors import ElfError

# Sections 7.22, 6.2.5 and 6.2.4.1: opcodes, content types
_COPY, _ADVANCE_LINE, _SET_FILE, _FIXED_ADVANCE_PC = 0x01, 0x03, 0x04, 0x09
_END_SEQUENCE, _SET_ADDRESS = 0x01, 0x02
_PATH, _DIRECTORY = 0x1, 0x2

# Section 7.5.6: the forms of a file table's fields
_STRING, _LINE_STRP, _STRP, _UDATA, _DATA16, _BLOCK = 0x08, 0x1F, 0x0E, 0x0F, 0x1E, 0x09
_SIZES: Final = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, _DATA16: 16}

LinesByFile = Mapping[str, set[int]]
"""By path as the compiler noted it, joined and normalised, the lines of it."""


def read_line_table(obj: Object) -> Mapping[Section, LinesByFile] | None:
    """Return the lines that the code of each section is from, None when the object does not tell.

    Raises ``ElfError`` when the table is damaged.
    """
    table = find_debug(obj, ".debug_line")
    if table is None:
        return None
    try:
        reader = _Reader(obj, table)
        at = 0
        while at < len(reader.data):
            at = reader.read_unit(at)
    except (struct.error, IndexError, ValueError, KeyError, ZeroDivisionError, zlib.error) as e:
        raise ElfError(f"{obj.name}: .debug_line is damaged: {e!r}") from e
    return reader.found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What the program of a unit needs of its header."""

    line_base: int
    line_range: int
    opcode_base: int
    operands: bytes
    files: list[str]


@dataclass(slots=True)
class _Reader:
    obj: Object
    table: Section
    data: bytes = b""
    places: dict[int, tuple[Section | None, int]] = field(default_factory=dict)
    """By offset in the table, what is relocated there: a section and an offset in it."""
    line_strings: bytes = b""
    strings: bytes = b""
    found: dict[Section, dict[str, set[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data = debug_content(self.table)
        self.places = {
            r.offset: (r.symbol.section, r.symbol.value + r.addend) for r in self.table.relocations
        }
        self.line_strings = debug_content(find_debug(self.obj, ".debug_line_str"))
        self.strings = debug_content(find_debug(self.obj, ".debug_str"))

    def read_unit(self, start: int) -> int:
        """Read the unit at ``start`` (section 6.2.4) and return where it ends."""
        length: int
        length, version = struct.unpack_from("<IH", self.data, start)
        if length >= 0xFFFFFFF0 or not 2 <= version <= 5:
            raise ValueError(f"DWARF {version}, length {length:#x}")
        at = start + (8 if version >= 5 else 6)
        program = at + 4 + int.from_bytes(self.data[at : at + 4], "little")
        at += 7 if version >= 4 else 6
        line_base, line_range, opcode_base = struct.unpack_from("<bBB", self.data, at)
        at += 3
        operands = self.data[at : at + opcode_base - 1]
        at += opcode_base - 1
        files = self.read_files(at) if version >= 5 else self.read_old_files(at)
        header = _Header(
            line_base=line_base, line_range=line_range, opcode_base=opcode_base, operands=operands,
            files=files,
        )  # fmt: skip
        end = start + 4 + length
        self.run(program, end, header)
        return end

    def read_files(self, at: int) -> list[str]:
        """Return the files of a table of DWARF 5 (section 6.2.4, items 13 to 22)."""
        folders, at = self.read_entries(at)
        top = folders[0][0] if folders else ""
        files, _ = self.read_entries(at)
        return [normpath(join(top, folders[f][0] if folders else "", name)) for name, f in files]

    def read_entries(self, at: int) -> tuple[list[tuple[str, int]], int]:
        """Return (path, folder) of each entry of a list, and what follows."""
        formats = []
        n = self.data[at]
        at += 1
        for _ in range(n):
            content, at = read_uleb(self.data, at)
            form, at = read_uleb(self.data, at)
            formats.append((content, form))
        count, at = read_uleb(self.data, at)
        found = []
        for _ in range(count):
            path, folder = "", 0
            for content, form in formats:
                text, value, at = self.read_field(form, at)
                path = text if content == _PATH else path
                folder = value if content == _DIRECTORY else folder
            found.append((path, folder))
        return found, at

    def read_field(self, form: int, at: int) -> tuple[str, int, int]:
        """Return a field as text and as a number, and what follows."""
        if form == _STRING:
            end = self.data.index(b"\0", at)
            return self.data[at:end].decode(errors="replace"), 0, end + 1
        if form in (_LINE_STRP, _STRP):
            table = self.line_strings if form == _LINE_STRP else self.strings
            raw = int.from_bytes(self.data[at : at + 4], "little")
            offset = self.places[at][1] if at in self.places else raw
            text = table[offset : table.index(b"\0", offset)].decode(errors="replace")
            return text, 0, at + 4
        if form == _UDATA:
            value, at = read_uleb(self.data, at)
            return "", value, at
        if form == _BLOCK:
            length, at = read_uleb(self.data, at)
            return "", 0, at + length
        size = _SIZES[form]
        return "", int.from_bytes(self.data[at : at + size], "little"), at + size

    def read_old_files(self, at: int) -> list[str]:
        """Return the files of a table up to DWARF 4 (section 6.2.4, items 11 and 12)."""
        folders, files = [""], [""]
        while self.data[at]:
            end = self.data.index(b"\0", at)
            folders.append(self.data[at:end].decode(errors="replace"))
            at = end + 1
        at += 1
        while self.data[at]:
            end = self.data.index(b"\0", at)
            name = self.data[at:end].decode(errors="replace")
            folder, at = read_uleb(self.data, end + 1)
            _, at = read_uleb(self.data, at)
            _, at = read_uleb(self.data, at)
            files.append(normpath(join(folders[folder], name)))
        return files

    def run(self, at: int, end: int, header: _Header) -> None:
        """Run a line number program: of its registers only file and line."""
        section: Section | None = None
        file = line = 1
        while at < end:
            opcode = self.data[at]
            at += 1
            is_row = False
            if opcode >= header.opcode_base:
                line += header.line_base + (opcode - header.opcode_base) % header.line_range
                is_row = True
            elif not opcode:
                length, at = read_uleb(self.data, at)
                if self.data[at] == _SET_ADDRESS:
                    section = self.places.get(at + 1, (None, 0))[0]
                elif self.data[at] == _END_SEQUENCE:
                    section, file, line = None, 1, 1
                at += length
            elif opcode == _ADVANCE_LINE:
                step, at = read_sleb(self.data, at)
                line += step
            elif opcode == _SET_FILE:
                file, at = read_uleb(self.data, at)
            elif opcode == _FIXED_ADVANCE_PC:
                at += 2
            else:
                is_row = opcode == _COPY
                for _ in range(header.operands[opcode - 1]):
                    _, at = read_uleb(self.data, at)
            if is_row and section is not None:
                by_file = self.found.setdefault(section, defaultdict(set))
                by_file[header.files[file]].add(line)

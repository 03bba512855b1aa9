# SPDX-License-Identifier: GPL-2.0-only
"""From which lines of the source the code of a section is, instruction by instruction.

Reads ``.debug_line`` of relocatable objects (DWARF 2 to 5, section 6.2), and of that no files: each
sequence belongs to the section that its first address is relocated to.
"""

import struct
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ksplicd.elf.dwarf import debug_content, find_debug, read_sleb, read_uleb
from ksplicd.elf.model import Object, Section
from ksplicd.errors import ElfError

# Sections 7.22 and 6.2.5: opcodes
_COPY, _ADVANCE_PC, _ADVANCE_LINE, _CONST_ADD_PC, _FIXED_ADVANCE_PC = 0x01, 0x02, 0x03, 0x08, 0x09
_END_SEQUENCE, _SET_ADDRESS = 0x01, 0x02
_POINTER_SIZE: Final = 8

Places = Mapping[int, tuple[Section | None, int]]
"""By offset in the table, the section to which an address is relocated, and where in it."""
Rows = list[tuple[int, int]]
"""(offset in the section, line), in the order of the table."""


def line_places(obj: Object) -> Places | None:
    """Return where the addresses of an object's line table lead, None when it has no table."""
    table = find_debug(obj, ".debug_line")
    if table is None:
        return None
    return {r.offset: (r.symbol.section, r.symbol.value + r.addend) for r in table.relocations}


def read_rows(obj: Object, places: Places) -> dict[Section, Rows]:
    """Return the rows of each section's code.  Raises ``ElfError`` when the table is damaged."""
    table = find_debug(obj, ".debug_line")
    assert table is not None
    try:
        reader = _Reader(debug_content(table), places)
        at = 0
        while at < len(reader.data):
            at = reader.read_unit(at)
    except (struct.error, IndexError, ValueError, ZeroDivisionError, zlib.error) as e:
        raise ElfError(f"{obj.name}: .debug_line is damaged: {e!r}") from e
    return dict(reader.found)


@dataclass(slots=True)
class _Reader:
    data: bytes
    places: Places
    found: dict[Section, Rows] = field(default_factory=lambda: defaultdict(list))

    def read_unit(self, start: int) -> int:
        """Read the program of the unit at ``start`` (section 6.2.4) and return where it ends."""
        length: int
        length, version = struct.unpack_from("<IH", self.data, start)
        if length >= 0xFFFFFFF0 or not 2 <= version <= 5:
            raise ValueError(f"DWARF {version}, length {length:#x}")
        at = start + (8 if version >= 5 else 6)
        program = at + 4 + int.from_bytes(self.data[at : at + 4], "little")
        at += 7 if version >= 4 else 6
        line_base, line_range, opcode_base = struct.unpack_from("<bBB", self.data, at)
        operands = self.data[at + 3 : at + 2 + opcode_base]
        end = start + 4 + length
        self.run(program, end, line_base, line_range, opcode_base, operands)
        return end

    def run(
        self, at: int, end: int, line_base: int, line_range: int, opcode_base: int, operands: bytes
    ) -> None:
        """Run a line number program: of its registers only address and line.

        An instruction of x86 may begin at any byte, so that addresses advance by bytes.
        """
        section: Section | None = None
        address, line = 0, 1
        while at < end:
            opcode = self.data[at]
            at += 1
            is_row = False
            if opcode >= opcode_base:
                step, more = divmod(opcode - opcode_base, line_range)
                address, line, is_row = address + step, line + line_base + more, True
            elif not opcode:
                length, at = read_uleb(self.data, at)
                if self.data[at] == _SET_ADDRESS and length == 1 + _POINTER_SIZE:
                    section, address = self.places.get(at + 1, (None, 0))
                elif self.data[at] == _END_SEQUENCE:
                    section, line = None, 1
                at += length
            elif opcode == _ADVANCE_LINE:
                step, at = read_sleb(self.data, at)
                line += step
            elif opcode == _FIXED_ADVANCE_PC:
                address += int.from_bytes(self.data[at : at + 2], "little")
                at += 2
            elif opcode == _CONST_ADD_PC:
                address += (255 - opcode_base) // line_range
            elif opcode == _ADVANCE_PC:
                step, at = read_uleb(self.data, at)
                address += step
            else:
                is_row = opcode == _COPY
                for _ in range(operands[opcode - 1]):
                    _, at = read_uleb(self.data, at)
            if is_row and section is not None:
                self.found[section].append((address, line))

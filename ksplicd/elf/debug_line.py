# SPDX-License-Identifier: GPL-2.0-only
"""Which lines of the source the code of a section comes from.

Reads ``.debug_line`` of relocatable objects (DWARF 2 to 5, section 6.2), and of that no files and
no addresses: each sequence belongs to the section that its first address is relocated to.
"""

import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from ksplicd.elf.dwarf import debug_content, find_debug, read_sleb, read_uleb
from ksplicd.elf.model import Object, Section
from ksplicd.errors import ElfError

# Sections 7.22 and 6.2.5: opcodes
_COPY, _ADVANCE_LINE, _FIXED_ADVANCE_PC = 0x01, 0x03, 0x09
_END_SEQUENCE, _SET_ADDRESS = 0x01, 0x02
_POINTER_SIZE: Final = 8


def read_lines(obj: Object) -> dict[Section, set[int]] | None:
    """Return the lines of each section's code, None when the object does not tell.

    Raises ``ElfError`` when the table is damaged.
    """
    table = find_debug(obj, ".debug_line")
    if table is None:
        return None
    try:
        reader = _Reader(
            debug_content(table), {r.offset: r.symbol.section for r in table.relocations}
        )
        at = 0
        while at < len(reader.data):
            at = reader.read_unit(at)
    except (struct.error, IndexError, ValueError, ZeroDivisionError, zlib.error) as e:
        raise ElfError(f"{obj.name}: .debug_line is damaged: {e!r}") from e
    return dict(reader.found)


@dataclass(slots=True)
class _Reader:
    data: bytes
    sections: dict[int, Section | None]
    """By the offset of an address in the table, the section that it is relocated to."""
    found: dict[Section, set[int]] = field(default_factory=lambda: defaultdict(set))

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
        """Run a line number program: of its registers only the line's."""
        section: Section | None = None
        line = 1
        while at < end:
            opcode = self.data[at]
            at += 1
            is_row = False
            if opcode >= opcode_base:
                line += line_base + (opcode - opcode_base) % line_range
                is_row = True
            elif not opcode:
                length, at = read_uleb(self.data, at)
                if self.data[at] == _SET_ADDRESS and length == 1 + _POINTER_SIZE:
                    section = self.sections.get(at + 1)
                elif self.data[at] == _END_SEQUENCE:
                    section, line = None, 1
                at += length
            elif opcode == _ADVANCE_LINE:
                step, at = read_sleb(self.data, at)
                line += step
            elif opcode == _FIXED_ADVANCE_PC:
                at += 2
            else:
                is_row = opcode == _COPY
                for _ in range(operands[opcode - 1]):
                    _, at = read_uleb(self.data, at)
            if is_row and section is not None:
                self.found[section].add(line)

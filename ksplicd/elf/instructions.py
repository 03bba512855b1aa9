# SPDX-License-Identifier: GPL-2.0-only
"""Where the instructions of x86-64 code end, and what their address fields are for.

A length decoder, not a disassembler: prefixes, opcode, ModRM, SIB, displacement and immediate, as
in Intel SDM volume 2, chapter 2 and appendix A.  It knows the one-byte map, 0F, 0F 38, 0F 3A, VEX
and EVEX in 64-bit mode, which is all that compilers and objtool put into kernel objects.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_LEGACY: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")


def _bytes(text: str) -> frozenset[int]:
    """Return the opcodes of ``"00-03 63"``."""
    found: set[int] = set()
    for word in text.split():
        first, _, last = word.partition("-")
        found.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(found)


_MODRM: Final = _bytes(
    "00-03 08-0b 10-13 18-1b 20-23 28-2b 30-33 38-3b 63 69 6b 80 81 83-8f c0 c1 c6 c7 d0-d3 d8-df"
    " f6 f7 fe ff"
)
_IMM8: Final = _bytes("04 0c 14 1c 24 2c 34 3c 6a 6b 80 83 a8 b0-b7 c0 c1 c6 cd e4-e7")
_IMM_OPERAND: Final = _bytes("05 0d 15 1d 25 2d 35 3d 68 69 81 a9 c7")
"""Two bytes with an operand-size prefix, four otherwise."""
_REL8: Final = _bytes("70-7f e0-e3 eb")
_REL32: Final = _bytes("e8 e9")
_INVALID: Final = _bytes("06 07 0e 16 17 1e 1f 27 2f 37 3f 60 61 82 9a ce d4-d6 ea")
_MODRM_0F: Final = _bytes(
    "00-03 0d 0f-23 28-2f 40-76 78-7f 90-9f a3-a7 ab-af b0-c7 d0-ff"
)  # fmt: skip
_IMM8_0F: Final = _bytes("0f 70-73 a4 ac ba c2 c4-c6")
_REL32_0F: Final = _bytes("80-8f")
_INVALID_0F: Final = _bytes("04 0a 0c 24-27 36 39 3b-3f")
_LEA: Final = 0x8D


_CMP: Final = 7
"""``reg`` of the ModRM byte by which 81 and 83 are a cmp; 0x3d is one of eax."""


class Role(StrEnum):
    """What an address field is for."""

    BRANCH = "branch"
    """The displacement of a call, jmp or jcc."""
    MEMORY = "memory"
    """The displacement of an operand in memory: what lies there is read or written."""
    ADDRESS = "address"
    """An immediate, or the displacement of a lea: the address itself is a value."""


@dataclass(frozen=True, slots=True)
class Field:
    """An address field of at least four bytes, or the displacement of a short branch."""

    role: Role
    size: int
    tail: int
    """Bytes from the field's start to the end of its instruction, from where it counts when it is
    PC-relative."""
    number: int = 0
    """The instruction's opcode map: 0 for the one-byte map, 1 for 0F, 2 for 0F 38, 3 for 0F 3A."""
    opcode: int = 0
    modrm: int = -1
    """The ModRM byte; -1 when the instruction has none."""
    is_indexed: bool = False
    """Whether a register is added to a displacement: the datum may begin before or behind."""

    @property
    def is_compared(self) -> bool:
        """Tell whether the field is an immediate that a cmp holds a value against."""
        if self.role is not Role.ADDRESS or self.number:
            return False
        return self.opcode == 0x3D or (self.opcode == 0x81 and self.modrm >> 3 & 7 == _CMP)

    @property
    def is_stored(self) -> bool:
        """Tell whether the field is an immediate that goes into memory, the stack included."""
        if self.role is not Role.ADDRESS or self.number:
            return False
        return self.opcode == 0x68 or (self.opcode == 0xC7 and self.modrm >> 6 != 3)

    @property
    def is_summand(self) -> bool:
        """Tell whether the field is an immediate that is added to a register, or subtracted."""
        if self.role is not Role.ADDRESS or self.number or self.is_compared:
            return False
        return self.opcode in (0x05, 0x2D, 0x81)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: where it lies, its address fields by offset, and its operation."""

    start: int
    end: int
    fields: dict[int, Field]
    number: int
    """Its opcode map, as in ``Field``."""
    opcode: int
    rex: int
    """Its REX prefix, 0 when there is none; not read of VEX and EVEX."""
    modrm: int
    """-1 when there is none."""
    is_wide_vector: bool = False
    """Whether VEX or EVEX encodes it, so that the registers are not those of ``rex``."""


class UndecodableError(Exception):
    """The bytes are no code that we know: data between functions, or a new extension."""


def read_fields(code: bytes, start: int, end: int) -> dict[int, Field]:
    """Return the address fields of the instructions in ``code[start:end]``, by offset.

    Raises ``UndecodableError``.
    """
    fields: dict[int, Field] = {}
    at = start
    try:
        while at < end:
            at = _read_instruction(code, at, fields)
    except IndexError:
        raise UndecodableError(f"instruction at {at:#x} ends behind the code") from None
    if at != end:
        raise UndecodableError(f"last instruction ends at {at:#x}, not {end:#x}")
    return fields


def read_instructions(code: bytes, start: int, end: int) -> list[Instruction]:
    """Return the instructions in ``code[start:end]``.  Raises ``UndecodableError``."""
    found: list[Instruction] = []
    at = start
    try:
        while at < end:
            at = _read_instruction(code, at, {}, found)
    except IndexError:
        raise UndecodableError(f"instruction at {at:#x} ends behind the code") from None
    if at != end:
        raise UndecodableError(f"last instruction ends at {at:#x}, not {end:#x}")
    return found


def _read_instruction(
    code: bytes, at: int, fields: dict[int, Field], found: list[Instruction] | None = None
) -> int:
    """Add the fields of the instruction at ``at`` and return where it ends.

    ``found``: gets the instruction itself.

    Raises ``IndexError`` at the end of the code, ``UndecodableError``.
    """
    start = at
    narrow = wide = short_address = False
    rex = 0
    while (byte := code[at]) in _LEGACY:
        narrow |= byte == 0x66
        short_address |= byte == 0x67
        at += 1
    if byte & 0xF0 == 0x40:
        wide = bool(byte & 8)
        rex = byte
        at += 1
        byte = code[at]
    is_vector = byte in (0xC5, 0xC4, 0x62)
    number, at = _read_map(code, at)
    opcode = code[at]
    at += 1
    if (number == 0 and opcode in _INVALID) or (number == 1 and opcode in _INVALID_0F):
        raise UndecodableError(f"no instruction at {start:#x}: {code[start:at].hex()}")

    has_modrm = (
        opcode in _MODRM if number == 0
        else opcode in _MODRM_0F if number == 1
        else True
    )  # fmt: skip
    displacement = 0, 0
    reg, modrm, is_indexed = 0, -1, False
    if has_modrm:
        modrm = code[at]
        reg = modrm >> 3 & 7
        is_indexed = _has_register(code, at, rex)
        displacement, at = _read_modrm(code, at)
    size, role = _immediate(number, opcode, reg, narrow=narrow, wide=wide, short=short_address)
    end = at + size
    if displacement[1] == 4:
        is_address = number == 0 and opcode == _LEA
        kind = Role.ADDRESS if is_address else Role.MEMORY
        tail = end - displacement[0]
        fields[displacement[0]] = Field(kind, 4, tail, number, opcode, modrm, is_indexed)
    if size >= 4 or role is Role.BRANCH:
        fields[at] = Field(role, size, size, number, opcode, modrm)
    if end > len(code):
        raise IndexError
    if found is not None:
        found.append(Instruction(start, end, fields, number, opcode, rex, modrm, is_vector))
    return end


def _read_map(code: bytes, at: int) -> tuple[int, int]:
    """Return the opcode map, as VEX and EVEX count them but 0 for the one-byte map, and what
    follows what names it.
    """
    match code[at]:
        case 0x0F:
            number = {0x38: 2, 0x3A: 3}.get(code[at + 1], 1)
            return number, at + 1 + (number > 1)
        case 0xC5:
            return 1, at + 2
        case 0xC4:
            return code[at + 1] & 0x1F, at + 3
        case 0x62:
            return code[at + 1] & 7, at + 4
        case _:
            return 0, at


def _read_modrm(code: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Return (offset, size) of the displacement, and what follows it."""
    mod, rm = code[at] >> 6, code[at] & 7
    at += 1
    if mod == 3:
        return (at, 0), at
    size = (0, 1, 4)[mod]
    if rm == 4:
        if mod == 0 and code[at] & 7 == 5:
            size = 4
        at += 1
    elif mod == 0 and rm == 5:
        size = 4  # RIP-relative
    return (at, size), at + size


def _has_register(code: bytes, at: int, rex: int) -> bool:
    """Tell whether the operand in memory at a ModRM byte has a base or an index register."""
    mod, rm = code[at] >> 6, code[at] & 7
    if mod == 3:
        return False
    if rm == 4:
        sib = code[at + 1]
        has_index = sib >> 3 & 7 != 4 or rex & 2 != 0  # 4 is none, and r12 with REX.X
        return mod != 0 or sib & 7 != 5 or has_index
    return mod != 0 or rm != 5


def _immediate(
    number: int, opcode: int, reg: int, *, narrow: bool, wide: bool, short: bool
) -> tuple[int, Role]:
    """Return size and role of what follows the operands."""
    operand = 2 if narrow and not wide else 4
    if number == 0:
        if opcode in _IMM8 or (opcode == 0xF6 and reg < 2):
            return 1, Role.ADDRESS
        if opcode in _IMM_OPERAND or (opcode == 0xF7 and reg < 2):
            return operand, Role.ADDRESS
        if opcode in _REL8:
            return 1, Role.BRANCH
        if opcode in _REL32:
            return 4, Role.BRANCH
        if 0xB8 <= opcode <= 0xBF:
            return 8 if wide else operand, Role.ADDRESS
        if 0xA0 <= opcode <= 0xA3:
            return 4 if short else 8, Role.MEMORY
        size = {0xC2: 2, 0xCA: 2, 0xC8: 3}.get(opcode, 0)
        return size, Role.ADDRESS
    if number == 1:
        if opcode in _REL32_0F:
            return 4, Role.BRANCH
        return int(opcode in _IMM8_0F), Role.ADDRESS
    return int(number == 3), Role.ADDRESS

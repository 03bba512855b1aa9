# SPDX-License-Identifier: GPL-2.0-only
"""The x86-64 psABI's relocation types, as far as kernel objects use them.

Numbers and calculations: System V ABI, AMD64 Architecture Processor Supplement, table 4.9.
"""

from dataclasses import dataclass
from typing import Final

EM_X86_64: Final = 62

R_X86_64_NONE: Final = 0
R_X86_64_64: Final = 1
R_X86_64_PC32: Final = 2
R_X86_64_PLT32: Final = 4
R_X86_64_32: Final = 10
R_X86_64_32S: Final = 11
R_X86_64_PC64: Final = 24


@dataclass(frozen=True, slots=True)
class RelocationType:
    """How a relocated field is stored."""

    name: str
    size: int
    """Bytes."""
    is_pc_relative: bool
    is_signed: bool


RELOCATION_TYPES: Final = {
    R_X86_64_NONE: RelocationType("R_X86_64_NONE", 0, is_pc_relative=False, is_signed=False),
    R_X86_64_64: RelocationType("R_X86_64_64", 8, is_pc_relative=False, is_signed=False),
    R_X86_64_PC32: RelocationType("R_X86_64_PC32", 4, is_pc_relative=True, is_signed=True),
    R_X86_64_PLT32: RelocationType("R_X86_64_PLT32", 4, is_pc_relative=True, is_signed=True),
    R_X86_64_32: RelocationType("R_X86_64_32", 4, is_pc_relative=False, is_signed=False),
    R_X86_64_32S: RelocationType("R_X86_64_32S", 4, is_pc_relative=False, is_signed=True),
    R_X86_64_PC64: RelocationType("R_X86_64_PC64", 8, is_pc_relative=True, is_signed=True),
}
"""What the module loader applies (arch/x86/kernel/module.c, ``__write_relocate_add``)."""

_IMM8: Final = frozenset({0x6B, 0x80, 0x82, 0x83, 0xC0, 0xC1, 0xC6})
_IMM_OPERAND: Final = frozenset({0x69, 0x81, 0xC7})
_IMM8_0F: Final = frozenset(
    {0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6}
)  # fmt: skip


def immediate_size(code: bytes, field: int) -> int:
    """Return how many bytes of immediate follow the 32-bit displacement at ``field``.

    A PC-relative field is relative to the end of its instruction, so that the place it means is
    the relocation's symbol plus addend plus 4 plus this.  Knows the RIP-relative forms of the one-
    and two-byte opcode maps (Intel SDM volume 2, appendix A); branches have no immediate.
    """
    if field < 2 or code[field - 1] & 0xC7 != 0x05:
        return 0
    opcode, reg = code[field - 2], code[field - 1] >> 3 & 7
    if field >= 3 and code[field - 3] == 0x0F:
        return 1 if opcode in _IMM8_0F else 0
    if opcode in _IMM8 or (opcode == 0xF6 and reg < 2):
        return 1
    if opcode in _IMM_OPERAND or (opcode == 0xF7 and reg < 2):
        return 2 if 0x66 in code[max(0, field - 4) : field - 2] else 4
    return 0


def is_branch(code: bytes, field: int) -> bool:
    """Tell whether the displacement at ``field`` belongs to a call, jmp or jcc."""
    if field >= 1 and code[field - 1] in (0xE8, 0xE9):
        return True
    return field >= 2 and code[field - 2] == 0x0F and code[field - 1] & 0xF0 == 0x80

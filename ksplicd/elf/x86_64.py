# SPDX-License-Identifier: GPL-2.0-only
"""The x86-64 psABI's relocation types, as far as kernel objects use them.

Numbers and calculations: System V ABI, AMD64 Architecture Processor Supplement, table 4.9.
"""

from dataclasses import dataclass
from typing import Final

EM_X86_64: Final = 62

ENDBR64: Final = b"\xf3\x0f\x1e\xfa"
"""The landing pad of an indirect branch (Intel SDM, volume 2, ENDBR64)."""

ADDRESS_MASK: Final = (1 << 64) - 1
"""What sums of addresses are taken with, as the processor wraps them."""

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

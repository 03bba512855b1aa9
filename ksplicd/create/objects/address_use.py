# SPDX-License-Identifier: GPL-2.0-only
"""What code does with the address of a datum, beyond looking into it or passing it on.

An address that is stored, returned or compared is an identity: who has a copy of the datum instead
of the one that others know gets another one.  An instruction tells it at once
(``movq $ops, 8(%rbx)``), or the register into which the address was loaded is followed.
"""

from enum import StrEnum
from typing import Final

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.elf.instructions import (
    Instruction,
    Role,
    UndecodableError,
    read_instructions,
)
from ksplicd.elf.model import Relocation, Section

_RAX, _RSP = 0, 4
_CLOBBERED: Final = frozenset({0, 1, 2, 6, 7, 8, 9, 10, 11})
"""Registers that a call leaves with another content: rax, rcx, rdx, rsi, rdi, r8 to r11."""
_PUSH: Final = 0x68
_LEA, _STORE, _LOAD, _RET, _CALL, _INDIRECT = 0x8D, 0x89, 0x8B, 0xC3, 0xE8, 0xFF
_JUMPS: Final = (0xE9, 0xEB)
_WIDE: Final = 8
"""REX.W"""
_CMP: Final = (0x39, 0x3B)
_SETS: Final = frozenset(
    {(0, 0x8B), (0, 0x63), (1, 0xB6), (1, 0xB7), (1, 0xBE), (1, 0xBF), (1, 0xAF), (0, 0x33)}
)
"""Opcodes that give ``reg`` another content: mov, movs, movz, imul, xor."""
_RETURN_THUNK: Final = "__x86_return_thunk"


class AddressUse(StrEnum):
    """How an address becomes more than a way to the content."""

    STORED = "stores"
    COMPARED = "compares"
    RETURNED = "returns"


def address_use(index: ObjectIndex, owner: Section, r: Relocation) -> AddressUse | None:
    """Return what code does with the address that relocation ``r`` of it makes.

    None: it only looks into the datum, or passes the address to a function.  What is stored on the
    stack counts as passed.
    """
    field = index.field_at(owner, r.offset)
    if field is None or field.role is not Role.ADDRESS:
        return None
    if field.is_compared:
        return AddressUse.COMPARED
    function = index.symbol_at(owner, r.offset)
    if function is None or not function.is_function:
        return None
    try:
        code = read_instructions(owner.data, function.value, function.value + function.size)
    except UndecodableError:
        return AddressUse.STORED  # nobody knows
    at = next(i for i, x in enumerate(code) if x.start <= r.offset < x.end)
    if field.is_stored:
        is_passed = field.opcode == _PUSH or _names_stack(owner.data, code[at])
        return None if is_passed else AddressUse.STORED
    register = _loaded(code[at])
    if register is None:
        return None
    return _Walk(owner, code).follow(at + 1, frozenset({register}))


class _Walk:
    """Follows the registers that have an address through the instructions of one function."""

    def __init__(self, owner: Section, code: list[Instruction]) -> None:
        self.data, self.code = owner.data, code
        self.at = {x.start: i for i, x in enumerate(code)}
        self.relocated = {r.offset: r.symbol.name for r in owner.relocations}

    def follow(self, start: int, holders: frozenset[int]) -> AddressUse | None:
        """Return the first thing that becomes of an address in ``holders``, on any way."""
        todo, seen = [(start, holders)], set[tuple[int, frozenset[int]]]()
        while todo:
            i, holders = todo.pop()
            while i < len(self.code) and holders and (i, holders) not in seen:
                seen.add((i, holders))
                x = self.code[i]
                if use := self.use(x, holders):
                    return use
                if (target := self.target(x)) is not None:
                    todo.append((target, holders))
                if x.number == 0 and x.opcode in (_RET, *_JUMPS):
                    break
                holders = self.behind(x, holders)
                i += 1
        return None

    def use(self, x: Instruction, holders: frozenset[int]) -> AddressUse | None:
        """Return what one instruction makes of the address."""
        if x.number:
            return None
        is_return = x.opcode == _RET or _RETURN_THUNK in map(self.relocated.get, x.fields)
        if is_return:
            return AddressUse.RETURNED if _RAX in holders else None
        if x.modrm < 0 or not x.rex & _WIDE:
            return None
        reg, rm = _registers(x)
        is_memory = x.modrm >> 6 != 3
        if x.opcode == _STORE and is_memory and reg in holders and not _names_stack(self.data, x):
            return AddressUse.STORED
        if x.opcode in _CMP and holders & ({reg} if is_memory else {reg, rm}):
            return AddressUse.COMPARED
        return None

    def target(self, x: Instruction) -> int | None:
        """Return the instruction to which a branch inside the function leads."""
        for at, field in x.fields.items():
            if field.role is Role.BRANCH and at not in self.relocated:
                raw = self.data[at : at + field.size]
                return self.at.get(at + field.tail + int.from_bytes(raw, "little", signed=True))
        return None

    def behind(self, x: Instruction, holders: frozenset[int]) -> frozenset[int]:
        """Return which registers have the address behind an instruction."""
        if x.number == 0 and x.opcode == _CALL:
            return holders - _CLOBBERED
        if x.number == 0 and x.opcode == _INDIRECT and x.modrm >> 3 & 7 == 2:
            return holders - _CLOBBERED
        if x.modrm < 0 or x.is_wide_vector or x.number > 1:
            return holders - _set_by_opcode(x)
        after = set(holders)
        _move(x, *_registers(x), after, is_memory=x.modrm >> 6 != 3)
        return frozenset(after)


def _move(x: Instruction, reg: int, rm: int, holders: set[int], *, is_memory: bool) -> None:
    """Note which registers have the address behind an instruction that does not let it out."""
    is_move = (x.number == 0 and x.opcode == _LOAD) or (x.number == 1 and 0x40 <= x.opcode <= 0x4F)
    if is_move and not is_memory and rm in holders:
        holders.add(reg)
    elif x.number == 0 and x.opcode == _STORE and not is_memory and reg in holders:
        holders.add(rm)
    elif x.number == 0 and x.opcode == _LEA:
        if x.modrm & 7 != _RSP and rm in holders:
            holders.add(reg)  # an element, or a field
        else:
            holders.discard(reg)
    elif (x.number, x.opcode) in _SETS:
        holders.discard(reg)
    elif x.number == 0 and x.opcode in (_STORE, 0xC7, 0x31) and not is_memory:
        holders.discard(rm)


def _set_by_opcode(x: Instruction) -> set[int]:
    """Return the register that an instruction without ModRM sets: a mov of an immediate, a pop."""
    if x.number == 0 and (0xB8 <= x.opcode <= 0xBF or 0x58 <= x.opcode <= 0x5F):
        return {(x.opcode & 7) | (x.rex & 1) << 3}
    return set()


def _loaded(x: Instruction) -> int | None:
    """Return the register into which an instruction loads an address or adds it."""
    if x.number:
        return None
    if 0xB8 <= x.opcode <= 0xBF:
        return (x.opcode & 7) | (x.rex & 1) << 3
    if x.opcode in (0x05, 0x2D):
        return _RAX
    if x.modrm < 0:
        return None
    reg, rm = _registers(x)
    if x.opcode == _LEA:
        return reg
    return rm if x.opcode in (0xC7, 0x81) and x.modrm >> 6 == 3 else None


def _registers(x: Instruction) -> tuple[int, int]:
    """Return the registers of ``reg`` and of ``rm``, where that is one."""
    return x.modrm >> 3 & 7 | (x.rex & 4) << 1, x.modrm & 7 | (x.rex & 1) << 3


def _names_stack(data: bytes, x: Instruction) -> bool:
    """Tell whether the operand in memory is on the stack: its base is rsp."""
    if x.modrm & 7 != _RSP or x.rex & 1:
        return False
    at = next(i for i in range(x.start, x.end) if data[i] == x.opcode and data[i + 1] == x.modrm)
    return data[at + 2] & 7 == _RSP

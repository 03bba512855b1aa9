# SPDX-License-Identifier: GPL-2.0-only
"""Which functions of an object can be redirected: by livepatch, or by a kprobe.

It does not decide which one is (``new_code/redirects.py``).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from ksplicd.create.objects.index import ObjectIndex, code_section_of
from ksplicd.create.objects.names import is_boot_section, is_cold_part, main_name
from ksplicd.create.objects.special import TABLE_BY_SECTION
from ksplicd.elf.instructions import Role, UndecodableError, read_fields
from ksplicd.elf.model import Object, Section, Symbol
from ksplicd.elf.x86_64 import ENDBR64

NO_KPROBES: Final = (".noinstr", ".kprobes", ".entry", ".cpuidle")
"""Beginnings of the names of text sections that the kernel keeps kprobes out of."""

_RESERVED_TEXT: Final = ("_kprobe_blacklist", "__jump_table", ".static_call_sites", "__bug_table")
"""Tables of places where no kprobe may be."""
_CALL: Final = 0, 0xE8
"""Opcode map and opcode."""
_EXCEPTION_ENTRY: Final = 12
"""Size of ``struct exception_table_entry`` (arch/x86/include/asm/extable.h)."""
_FIXUP: Final = 4
"""Offset in it of where a task goes on after the fault."""


def traceable_functions(index: ObjectIndex) -> frozenset[str]:
    """Return the functions of an object that begin with a call of fentry.

    Source: the object's own ``__mcount_loc``, from which ftrace makes its list of sites.
    """
    obj, sites = index.obj, set[tuple[object, int]]()
    for section in obj.sections:
        if section.name != TABLE_BY_SECTION["__mcount_loc"].section:
            continue
        for entry in index.entries_in(section):
            for r in entry.relocations:
                sites.add((r.symbol.section, r.symbol.value + r.addend))
    if not sites:  # objtool makes the table later, of the linked kernel (CONFIG_X86_KERNEL_IBT)
        sites = {
            (section, r.offset - 1)
            for section in obj.sections
            if section.is_text
            for r in section.relocations
            if r.symbol.name == "__fentry__"
        }
    return frozenset(
        s.name for s in obj.functions() if (s.section, s.value + _endbr64_size(s)) in sites
    )


def probeable_functions(obj: Object) -> frozenset[str]:
    """Return the functions of an object at which a kprobe may be (kernel/kprobes.c).

    Not those in sections that no kprobe may touch, not those that ``NOKPROBE_SYMBOL`` names, and
    not those that begin with what the kernel itself rewrites or traps
    (``check_kprobe_address_safe()``), of which it does not know yet when a module comes.  Nor those
    that branch to their own beginning, as ``llist_add_batch`` does, or come back to it after a
    fault: there the probe would switch a call that runs already, in the middle, with other
    registers than those of a call.
    """
    forbidden = {
        (r.symbol.section, r.symbol.value + r.addend)
        for section in obj.sections
        if section.name in _RESERVED_TEXT
        for r in section.relocations
    }
    forbidden |= {
        (r.symbol.section, r.symbol.value + r.addend)
        for section in obj.sections
        if section.name == TABLE_BY_SECTION["__ex_table"].section
        for r in section.relocations
        if r.offset % _EXCEPTION_ENTRY == _FIXUP
    }
    functions, cold_parts = obj.functions(), defaultdict[str, list[Symbol]](list)
    for s in functions:
        if is_cold_part(s.name):
            cold_parts[main_name(s.name)].append(s)
    return frozenset(
        s.name
        for s in functions
        if s.section is not None
        and not s.section.name.startswith(NO_KPROBES)
        and not is_boot_section(s.section)
        and forbidden.isdisjoint(((s.section, s.value), (s.section, s.value + _endbr64_size(s))))
        and not _branches_to_entry(s, cold_parts.get(s.name, []))
    )


def _branches_to_entry(s: Symbol, cold_parts: Iterable[Symbol]) -> bool:
    """Tell whether a jump of a function, cold parts included, ends where a kprobe would be.

    What cannot be decoded may have such a jump.
    """
    entries = {(s.section, s.value), (s.section, s.value + _endbr64_size(s))}
    try:
        return any(not entries.isdisjoint(_jump_targets(part)) for part in (s, *cold_parts))
    except UndecodableError:
        return True


def _jump_targets(s: Symbol) -> Iterator[tuple[Section | None, int]]:
    """Yield section and offset of where the jumps of a function end; calls are none.

    Raises ``UndecodableError``.
    """
    section = code_section_of(s)
    relocations = {r.offset: r for r in section.relocations}
    for at, field in read_fields(section.data, s.value, s.value + s.size).items():
        if field.role is not Role.BRANCH or (field.number, field.opcode) == _CALL:
            continue
        if (r := relocations.get(at)) is not None:
            yield r.symbol.section, r.symbol.value + r.addend + field.tail
        else:
            raw = section.data[at : at + field.size]
            yield section, at + field.tail + int.from_bytes(raw, "little", signed=True)


def _endbr64_size(s: Symbol) -> int:
    """Return the size of the landing pad with which a function may begin (IBT)."""
    assert s.section is not None
    return len(ENDBR64) if s.section.data.startswith(ENDBR64, s.value) else 0

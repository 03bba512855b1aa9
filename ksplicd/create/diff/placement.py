# SPDX-License-Identifier: GPL-2.0-only
"""Where twins are, and how they are aligned: what a source asks for besides the content.

The running kernel's function or variable stays where it is.  Code that relies on the new place is
refused; where only a protection or some speed is missing until the next boot, a note says so.
"""

from collections.abc import Iterator
from typing import Final

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.data import is_compared
from ksplicd.create.objects.index import ObjectIndex, code_section_of
from ksplicd.create.objects.names import (
    is_boot_section,
    is_per_cpu,
    is_prefix,
    is_read_only,
    is_ro_after_init,
    text_class,
)
from ksplicd.create.objects.patchable import NO_KPROBES
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import Section, Symbol

_DECRYPTED: Final = "..decrypted"
"""Data that a hypervisor reads (arch/x86/include/asm/mem_encrypt.h, ``__bss_decrypted``)."""


def why_misplaced(comparison: Comparison, old: Symbol, new: Symbol) -> str | None:
    """Return why a datum cannot stay where the kernel has it, None when it can."""
    a, b = code_section_of(old), code_section_of(new)
    if is_read_only(a) and not is_read_only(b):
        return "it was read-only, and is in the running kernel"
    if is_ro_after_init(a) and not (is_ro_after_init(b) or is_read_only(b)):
        return "it was read-only, and is in the running kernel"
    if (_DECRYPTED in a.name) is not (_DECRYPTED in b.name):
        return "it becomes memory that a hypervisor reads or ceases to be, and is not in the kernel"
    before, after = _alignment(comparison.pre, old), _alignment(comparison.post, new)
    if before < after:
        return f"its alignment rises from {before} to {after} bytes, and the kernel's stays"
    return None


def note_moved(comparison: Comparison) -> Iterator[str]:
    """Yield a note for each datum and function whose section only gives protection or speed."""
    for new in comparison.post.obj.symbols:
        old = comparison.twins.pre_of.get(new)
        if old is None or is_prefix(new) or is_boot_section(code_section_of(new)):
            continue
        a, b = (_kind_of(code_section_of(s)) for s in (old, new))
        if a == b or not {a, b}.isdisjoint(NO_KPROBES):
            continue
        is_datum = is_compared(old) and is_compared(new)
        if new.is_function or (is_datum and why_misplaced(comparison, old, new) is None):
            yield f"{new.name} goes from {a} to {b}: the running kernel's stays where it is"


def refuse_moved_code(comparison: Comparison) -> list[Refusal]:
    """Refuse functions that the kernel is to keep kprobes and tracers out of, or no longer."""
    refusals = []
    for new in comparison.post.obj.functions():
        old = comparison.twins.pre_of.get(new)
        if old is None or is_prefix(new) or is_boot_section(code_section_of(new)):
            continue
        a, b = (_kind_of(code_section_of(s)) for s in (old, new))
        if a != b and not {a, b}.isdisjoint(NO_KPROBES):
            why = f"it goes from {a} to {b}, and the running kernel's stays where it is"
            refusals.append(refuse(new, why, "leave it in the section that it was in"))
    return refusals


def _kind_of(section: Section) -> str:
    """Return what a section is for, by the part of its name that no symbol has: ``.data..percpu``.

    ``.data`` and ``.bss`` differ in the content alone.
    """
    if section.is_text:
        return text_class(section)
    name = section.name.replace(".data.rel.ro", ".rodata").replace(".data.rel", ".data")
    for prefix in (".data", ".bss", ".rodata"):
        if name.startswith(f"{prefix}.."):
            return name
        if name.startswith(prefix):
            return ".rodata" if prefix == ".rodata" else ".data"
    return name


def _alignment(index: ObjectIndex, s: Symbol) -> int:
    """Return the alignment that a datum has for sure: of its section, or as its source declares."""
    if s not in index.as_compiled.places:
        return code_section_of(s).align
    debug = index.debug_info
    if debug is None or (s.section and is_per_cpu(s.section)):
        return 1
    return max((v.alignment for v in debug.variables if v.place == (s.section, s.value)), default=1)

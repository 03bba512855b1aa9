# SPDX-License-Identifier: GPL-2.0-only
"""Where twins are, and how they are aligned: what a source asks for besides the content.

The running kernel's function or variable stays where it is.  Code that relies on the new place is
refused; where only a protection or some speed is missing until the next boot, a note says so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.data import Use, find_uses, is_compared
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


class Placement:
    """Judges where the data of one unit are."""

    def __init__(self, comparison: Comparison, running: Iterable[Symbol]) -> None:
        """``running``: the functions that the running kernel gets."""
        self.comparison = comparison
        self.running = {s.section for s in running}

    def why_misplaced(self, old: Symbol, new: Symbol) -> str | None:
        """Return why a datum cannot stay where the kernel has it, None when it can."""
        a, b = code_section_of(old), code_section_of(new)
        if is_read_only(a) and not is_read_only(b):
            return "it was read-only, and is in the running kernel"
        if is_ro_after_init(a) and not (is_ro_after_init(b) or is_read_only(b)):
            return "it was read-only, and is in the running kernel"
        if (_DECRYPTED in a.name) is not (_DECRYPTED in b.name):
            return "it becomes memory that a hypervisor reads or ceases to be, and the kernel's not"
        rise = self.rise(old, new)
        return rise if rise and self.is_used(new) else None

    def rise(self, old: Symbol, new: Symbol) -> str | None:
        """Return how an alignment rises, None when it does not."""
        before = _alignment(self.comparison.pre, old)
        after = _alignment(self.comparison.post, new)
        if before >= after:
            return None
        return f"its alignment rises from {before} to {after} bytes, and the kernel's stays"

    def is_used(self, datum: Symbol) -> bool:
        """Tell whether code that the running kernel gets refers to a datum."""
        return any(use.owner in self.running for use in self._uses.get(datum, ()))

    @cached_property
    def _uses(self) -> Mapping[Symbol, Sequence[Use]]:
        return find_uses(self.comparison.post)

    def notes(self) -> Iterator[str]:
        """Yield a note for each datum and function whose place only gives protection or speed."""
        for new in self.comparison.post.obj.symbols:
            old = self.comparison.twins.pre_of.get(new)
            if old is None or is_prefix(new) or is_boot_section(code_section_of(new)):
                continue
            a, b = (_kind_of(code_section_of(s)) for s in (old, new))
            is_datum = is_compared(old) and is_compared(new)
            if is_datum and self.why_misplaced(old, new) is not None:
                continue
            if a != b and {a, b}.isdisjoint(NO_KPROBES) and (new.is_function or is_datum):
                yield f"{new.name} goes from {a} to {b}: the running kernel's stays where it is"
            if is_datum and (rise := self.rise(old, new)):
                yield f"{new.name}: {rise}"


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

# SPDX-License-Identifier: GPL-2.0-only
"""What differs between the pre and the post object of one unit, and why.

Both are compiled with one section a function and one a datum.  A function is changed when its
bytes differ, when a relocation means another thing, or when an entry of a special section that
belongs to it does.  ``diff(x, x)`` is empty.
"""

from dataclasses import dataclass, field

from ksplicd.create.correlate import Twins, correlate, relocations_in
from ksplicd.create.names import (
    is_cold_part,
    is_debug_descriptor,
    is_literal,
    is_once_flag,
    main_name,
)
from ksplicd.create.place import Place, Places, string_at
from ksplicd.create.separate import separate
from ksplicd.create.special import (
    Entry,
    EntrySizes,
    entries_by_code,
    is_special_section,
    masked_data,
    replacement_of,
)
from ksplicd.elf import Object, Relocation, Section, Symbol
from ksplicd.elf.model import SHT_NOBITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A change that cannot be made in a running kernel, and the way out."""

    symbol: str
    section: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.symbol} ({self.section}): {self.reason}; {self.hint}"


@dataclass(slots=True, kw_only=True)
class Difference:
    """The outcome for one unit."""

    pre: Places
    post: Places
    twins: Twins
    changed: dict[Symbol, str] = field(default_factory=dict)
    """Post functions that have a twin and differ from it, with the reason."""
    new: list[Symbol] = field(default_factory=list)
    """Post functions without a twin."""
    removed: list[Symbol] = field(default_factory=list)
    """Pre functions without a twin."""
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Tell whether the running kernel needs no change for this unit."""
        return not self.changed and not self.refusals


def diff(pre: Object, post: Object, sizes: EntrySizes) -> Difference:
    """Compare the two objects of a unit, which are taken apart.  Raises ``ElfError``."""
    return _Differ(pre, post, sizes).run()


class _Differ:
    def __init__(self, pre: Object, post: Object, sizes: EntrySizes) -> None:
        separate(pre)
        separate(post)
        self.pre, self.post = Places(pre), Places(post)
        self.twins = correlate(self.pre, self.post)
        self.pre_entries = entries_by_code(pre, sizes)
        self.post_entries = entries_by_code(post, sizes)
        self.out = Difference(pre=self.pre, post=self.post, twins=self.twins)

    def run(self) -> Difference:
        for s in self.post.obj.functions():
            twin = self.twins.pre_of.get(s)
            if twin is None:
                self.out.new.append(s)
            elif why := self.compare(twin, s):
                self.add_changed(s, why)
        self.out.removed = [s for s in self.pre.obj.functions() if s not in self.twins.post_of]
        self.compare_cold_parts()
        self.compare_data()
        self.compare_exports()
        return self.out

    def add_changed(self, s: Symbol, why: str) -> None:
        assert s.section is not None
        if s.section.name.startswith((".init.", ".exit.")):
            self.refuse(
                s, "the function runs only at boot or at unload",
                "leave it out of the patch; it has no effect on a running kernel",
            )  # fmt: skip
        else:
            self.out.changed[s] = why

    def refuse(self, s: Symbol, reason: str, hint: str) -> None:
        section = s.section.name if s.section else "undefined"
        self.out.refusals.append(Refusal(symbol=s.name, section=section, reason=reason, hint=hint))

    def compare_cold_parts(self) -> None:
        """Take in the function whose cold part changed, came or went: they are one body."""
        mains = {s.name: s for s in self.post.obj.functions() if not is_cold_part(s.name)}
        changed = [s for s in self.out.changed if is_cold_part(s.name)]
        for part in changed:
            why = self.out.changed.pop(part)
            main = mains.get(main_name(part.name))
            if main is not None and main in self.twins.pre_of and main not in self.out.changed:
                self.add_changed(main, f"its cold part: {why}")

    # --- functions ------------------------------------------------------------------------------

    def compare(self, a: Symbol, b: Symbol) -> str | None:
        """Return why ``b`` differs from its twin ``a``, None when it does not."""
        if a.section is None or b.section is None:
            return None
        if why := self.compare_bytes(a, b):
            return why
        return self.compare_tables(a.section, b.section)

    def compare_bytes(self, a: Symbol, b: Symbol) -> str | None:
        assert a.section is not None
        assert b.section is not None
        if a.size != b.size:
            return f"size {a.size} → {b.size} bytes"
        before, after = relocations_in(a), relocations_in(b)
        if a.section.type == SHT_NOBITS or b.section.type == SHT_NOBITS:
            return None if a.section.type == b.section.type else "moved between .bss and .data"
        code_a = _masked(a.section.data[a.value : a.value + a.size], before, a.value)
        code_b = _masked(b.section.data[b.value : b.value + b.size], after, b.value)
        if code_a != code_b:
            at = next(i for i, (x, y) in enumerate(zip(code_a, code_b, strict=True)) if x != y)
            return f"bytes differ from +{at:#x}"
        return self.compare_relocations(a.section, before, a.value, b.section, after, b.value)

    def compare_relocations(
        self,
        owner_a: Section, before: list[Relocation], start_a: int,
        owner_b: Section, after: list[Relocation], start_b: int,
    ) -> str | None:  # fmt: skip
        if len(before) != len(after):
            return f"{len(before)} → {len(after)} relocations"
        for ra, rb in zip(before, after, strict=True):
            at = rb.offset - start_b
            if (ra.offset - start_a, ra.type) != (at, rb.type):
                return f"relocation at +{at:#x} moved or changed type"
            pa, pb = self.pre.locate(owner_a, ra), self.post.locate(owner_b, rb)
            if not self.same_target(pa, pb):
                return f"+{at:#x} refers to {pb} instead of {pa}"
        return None

    def same_target(self, a: Place, b: Place) -> bool:
        """Tell whether two references mean the same thing."""
        if a.section is None or b.section is None:
            return (
                a.section is b.section is None
                and a.symbol is not None
                and b.symbol is not None
                and (a.symbol.name, a.offset) == (b.symbol.name, b.offset)
            )
        if a.section.is_strings or b.section.is_strings:
            text = string_at(a.section, a.offset)
            return text is not None and text == string_at(b.section, b.offset)
        if a.symbol is not None and b.symbol is not None:
            if is_debug_descriptor(a.section) and is_debug_descriptor(b.section):
                return a.offset == b.offset and self.same_descriptor(a.symbol, b.symbol)
            if is_once_flag(a.section) and is_once_flag(b.section):
                return a.offset == b.offset
            if is_literal(a.symbol) and is_literal(b.symbol):
                return a.offset == b.offset and self.compare_bytes(a.symbol, b.symbol) is None
            return a.offset == b.offset and self.twins.are_twins(a.symbol, b.symbol)
        if a.symbol is not None or b.symbol is not None:
            return False
        return self.same_anonymous(a, b)

    def same_descriptor(self, a: Symbol, b: Symbol) -> bool:
        """Compare what two descriptors say, which their strings are; the line may differ."""
        assert a.section is not None
        assert b.section is not None
        why = self.compare_relocations(
            a.section, relocations_in(a), a.value, b.section, relocations_in(b), b.value
        )
        return why is None

    def same_anonymous(self, a: Place, b: Place) -> bool:
        """Compare places without a symbol: merged constants, and sections without a name inside."""
        assert a.section is not None
        assert b.section is not None
        if a.section.is_merged_constants and b.section.is_merged_constants:
            n = a.section.entsize
            return (
                a.section.data[a.offset : a.offset + n] == b.section.data[b.offset : b.offset + n]
            )
        if a.offset != b.offset or a.section.name != b.section.name:
            return False
        if is_once_flag(a.section):
            return True
        sa, sb = a.section, b.section
        return sa.size == sb.size and (
            _masked(sa.data, sa.relocations, 0) == _masked(sb.data, sb.relocations, 0)
            and self.compare_relocations(sa, _sorted(sa), 0, sb, _sorted(sb), 0) is None
        )

    # --- special sections -----------------------------------------------------------------------

    def compare_tables(self, a: Section, b: Section) -> str | None:
        before = [e for e in self.pre_entries.get(a, []) if e.table.is_compared]
        after = [e for e in self.post_entries.get(b, []) if e.table.is_compared]
        if [e.table.section for e in before] != [e.table.section for e in after]:
            return "has other entries in its special sections"
        for ea, eb in zip(before, after, strict=True):
            if not self.same_entry(ea, eb):
                return f"entry in {ea.table.section} differs"
        return None

    def same_entry(self, a: Entry, b: Entry) -> bool:
        if masked_data(a) != masked_data(b):
            return False
        ra, rb = (
            replacement_of(a) if _is_alt(a) else None,
            replacement_of(b) if _is_alt(b) else None,
        )
        if (ra is None) != (rb is None):
            return False
        if ra is not None and rb is not None:
            return self.same_replacement(ra, rb)
        return (
            self.compare_relocations(
                a.section, list(a.relocations), a.start, b.section, list(b.relocations), b.start
            )
            is None
        )

    def same_replacement(self, a: tuple[Section, int, int], b: tuple[Section, int, int]) -> bool:
        (sa, at_a, n), (sb, at_b, m) = a, b
        ra = [r for r in _sorted(sa) if at_a <= r.offset < at_a + n]
        rb = [r for r in _sorted(sb) if at_b <= r.offset < at_b + m]
        return (
            n == m
            and _masked(sa.data[at_a : at_a + n], ra, at_a)
            == _masked(sb.data[at_b : at_b + m], rb, at_b)
            and self.compare_relocations(sa, ra, at_a, sb, rb, at_b) is None
        )

    # --- data -----------------------------------------------------------------------------------

    def compare_data(self) -> None:
        for s in self.post.obj.symbols:
            twin = self.twins.pre_of.get(s)
            if twin is None or s.section is None or twin.section is None or s.is_function:
                continue
            if not s.size or not is_plain_data(s.section) or is_literal(s):
                continue
            if why := self.compare_bytes(twin, s):
                self.refuse(
                    s, f"initialised data changes: {why}",
                    "the running kernel's copy has its own content by now;"
                    " change it from a hook, or take it out of the patch",
                )  # fmt: skip

    def compare_exports(self) -> None:
        def exports(places: Places) -> set[str]:
            return {
                s.name.split("+", 1)[1]
                for s in places.obj.sections
                if s.name.startswith(("___ksymtab+", "___ksymtab_gpl+"))
            }

        for name in sorted(exports(self.pre) ^ exports(self.post)):
            self.out.refusals.append(
                Refusal(
                    symbol=name,
                    section="__ksymtab",
                    reason="the list of exported symbols changes",
                    hint="leave the EXPORT_SYMBOL out of the patch",
                )
            )


def is_plain_data(section: Section) -> bool:
    """Tell whether a section holds data that the running kernel uses, such as ``.data.jiffies``.

    Not tables about code, not what only the build or the boot reads, not once-flags.
    """
    if not section.is_alloc or section.is_text or section.is_strings:
        return False
    if is_special_section(section) or is_once_flag(section):
        return False
    if section.name == "__syscalls_metadata" or section.name == "_ftrace_events":
        return False
    return not section.name.startswith(
        ("__ksymtab", "___ksymtab", "___kcrctab", ".init", ".exit", ".discard", ".modinfo",
         ".altinstr", "__dyndbg", ".printk_index", "__tracepoints_ptrs", "__bpf_raw_tp_map")
    )  # fmt: skip


def _is_alt(entry: Entry) -> bool:
    return entry.table.section == ".altinstructions"


def _sorted(section: Section) -> list[Relocation]:
    return sorted(section.relocations, key=lambda r: r.offset)


def _masked(data: bytes, relocations: list[Relocation], start: int) -> bytes:
    """Return ``data`` with the relocated fields zero."""
    out = bytearray(data)
    for r in relocations:
        at = r.offset - start
        width = 8 if r.type in (1, 24) else 4
        out[at : at + width] = bytes(len(out[at : at + width]))
    return bytes(out)

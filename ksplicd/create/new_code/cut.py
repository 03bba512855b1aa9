# SPDX-License-Identifier: GPL-2.0-only
"""What changed functions need, cut out of the post object.

Kept are the changed and new functions with their cold parts, the strings and constants that they
use, new data, and their entries of the special sections.  Everything else is reached in the running
kernel (kernel_names.py).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from ksplicd.create.debug import phase
from ksplicd.create.diff.difference import Difference
from ksplicd.create.messages import names_of
from ksplicd.create.new_code.checks import Checks
from ksplicd.create.new_code.kernel_names import KernelNames
from ksplicd.create.new_code.model import UnitInKernel
from ksplicd.create.new_code.static_keys import JUMP_TABLE, STATIC_CALLS
from ksplicd.create.objects.index import Referent, code_section_of
from ksplicd.create.objects.names import (
    has_no_identity,
    is_code_fragment,
    is_cold_part,
    is_exit_section,
    is_init_section,
    is_literal,
)
from ksplicd.create.objects.special import (
    REPLACEMENTS,
    TABLE_BY_SECTION,
    Entry,
    is_special_section,
    replacement_of,
)
from ksplicd.create.refusal import Refusals
from ksplicd.elf.model import (
    SHF_GROUP,
    SHF_LINK_ORDER,
    STB_GLOBAL,
    STB_LOCAL,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
    Object,
    Relocation,
    Section,
    Symbol,
)

LOG: Final = phase("cut")

ONE_UPDATE: Final = (
    "make one update of these changes and those of the earlier updates, which it replaces"
)

_NOT_KEPT: Final = (".orc_unwind", "__patchable_function_entries")
"""Special sections that come with their companion, and what nothing on x86 reads."""

_INT3: Final = b"\xcc"

_NOTES: Final = (
    ".discard.reachable", ".discard.unreachable", ".discard.retpoline_safe", ".discard.noendbr",
    ".discard.instr_begin", ".discard.instr_end", ".discard.intra_function_calls",
)  # fmt: skip
"""What annotations in the source leave for objtool; the link throws it away."""


class Cutter:
    """Cuts the new code of one unit out of its post object.

    First everything that is needed is kept, then ``cut`` copies it; what is copied gets its global
    names last.
    """

    def __init__(
        self,
        unit: UnitInKernel,
        difference: Difference,
        names: KernelNames,
        refusals: Refusals,
    ) -> None:
        self.unit, self.names, self.refusals = unit, names, refusals
        self.post, self.twins = difference.post, difference.twins
        self.stale = difference.stale
        self.copied_constants = [
            *difference.copied_constants,
            *(s for s in self.stale if not s.is_function),
        ]
        """Constants that the kernel has, and new code has a copy of."""
        self.kept: dict[Section, None] = {}
        """The sections of the post object that are cut out, in the order of finding."""
        self.copies: dict[Section, Section] = {}
        """By section of the post object, that of the new one."""
        self.symbols: dict[Symbol, Symbol] = {}
        """By symbol of the post object, that of the new one."""
        self.aliased: list[Symbol] = []
        """The global symbols of the new object."""
        self.checks = Checks(unit, self.post, names, self.kept, refusals)

    # --- what is kept ---------------------------------------------------------------------------

    def keep_function(self, s: Symbol, why: str) -> None:
        """Keep a function with its cold parts."""
        self.keep(code_section_of(s), s.name, why)
        for part in self.post.cold_parts_of(s):
            self.keep(code_section_of(part), part.name, f"part of {s.name}")

    def keep(self, section: Section, name: str, why: str) -> None:
        """Keep a section, which is of the function or datum ``name``."""
        if section not in self.kept:
            LOG.debug("%s: takes %s: %s", self.unit.source, name, why)
            self.kept[section] = None

    def follow_references(self) -> None:
        """Keep what the kept code needs, directly or through its entries in special sections."""
        entries = self.post.entries_by_code
        done: set[Section] = set()
        while todo := [s for s in self.kept if s not in done]:
            for owner in todo:
                done.add(owner)
                for r in owner.relocations:
                    self.follow(self.post.locate(owner, r), owner.name)
                for entry in entries.get(owner, []):
                    for r in entry.relocations:
                        self.follow(self.post.locate(entry.section, r), entry.section.name)

    def follow(self, referent: Referent, user: str) -> None:
        """Keep what ``user`` refers to, where the kernel does not have it."""
        section, symbol = referent.section, referent.symbol
        if section is None or section in self.kept:
            return
        if is_init_section(section) and symbol not in self.twins.pre_of:
            self.refusals.add(
                symbol.name if symbol else section.name, section,
                "new code refers to it, and it is there at boot only",
                "take __init or __initdata away from it",
            )  # fmt: skip
        elif section.is_text:
            self.follow_code(section, symbol, user)
        elif self.is_copied(section, symbol):
            self.keep(section, section.name, f"content that {user} has a copy of")
        elif symbol in self.copied_constants:
            self.keep(section, section.name, f"a changed constant that {user} uses")
        elif symbol is not None and self.has_labels(section):
            self.keep(section, symbol.name, f"it leads into the code that is taken, for {user}")
            self.copied_constants.append(symbol)
        elif symbol is not None and self.twins.old_of(symbol) is None:
            if self.twins.pre_of.keys().isdisjoint(self.post.symbols_in(section)):
                self.keep(section, symbol.name, f"new data that {user} uses")
            else:
                old = [s.name for s in self.post.symbols_in(section) if s in self.twins.pre_of]
                self.refusals.add(
                    symbol.name, section,
                    f"new data in a section shared with old data ({names_of(old)})",
                    "define it without a section attribute",
                )  # fmt: skip

    def follow_code(self, section: Section, symbol: Symbol | None, user: str) -> None:
        """Keep code that ``user`` refers to, where the kernel does not have it."""
        if is_code_fragment(section):
            self.keep(section, section.name, f"a piece of {user}")
        elif symbol is not None and symbol.is_function and not self.names.is_in_kernel(symbol):
            self.keep_function(symbol, f"{user} uses it, and the kernel has none of its own")

    def has_labels(self, section: Section) -> bool:
        """Tell whether data point into the middle of kept code, as for ``goto *jumptable[op]``.

        The kernel's own copy (``jumptable`` of kernel/bpf/core.c) leads into the old function.
        """
        for r in section.relocations:
            referent = self.post.locate(section, r)
            if referent.section in self.kept and referent.section.is_text and referent.offset:
                return True
        return False

    @staticmethod
    def is_copied(section: Section, symbol: Symbol | None) -> bool:
        """Tell whether new code has its own copy: content without identity."""
        if section.is_strings or section.is_merged_constants:
            return True
        if has_no_identity(section):
            return True
        if not section.size:  # __key.24 without lockdep: kallsyms do not list what has no bytes
            return True
        return is_literal(symbol) if symbol is not None else section.name.startswith(".rodata")

    # --- the copy -------------------------------------------------------------------------------

    def cut(self) -> None:
        """Copy each kept section and what belongs to it.  Raises ``UnsupportedChangeError``."""
        self.copies = {s: self.copy(s) for s in self.kept}
        for section in self.post.obj.sections:
            if is_special_section(section) and section.name not in _NOT_KEPT:
                self.copy_entries(section)
            elif section.name.startswith(_NOTES):
                self.copy_notes(section)
        for old, new in self.copies.items():
            new.relocations = [self.convert(old, r) for r in new.relocations]
        self.refusals.raise_any()

    def copy(self, s: Section) -> Section:
        """Return a section of the new object for a kept one."""
        # A module's own exit code is not what other sections may refer to.
        name = f".text{s.name}" if is_exit_section(s) else s.name
        return Section(
            name, s.type, s.flags & ~(SHF_LINK_ORDER | SHF_GROUP), s.data, s.align, s.entsize,
            s.nobits_size, relocations=list(s.relocations),
        )  # fmt: skip

    def copy_entries(self, section: Section) -> None:
        """Copy the part of a special section that belongs to kept code."""
        entries = self.post.entries_in(section)
        kept: Sequence[Entry] = [e for e in entries if e.owner in self.kept]
        if section.name in (JUMP_TABLE, STATIC_CALLS):
            kept = self.checks.choose_entries(kept)
        if not kept:
            return
        LOG.debug("%s: takes %d entries of %s", self.unit.source, len(kept), section.name)
        new = self.copy(section)
        new.data = b"".join(e.data for e in kept)
        new.relocations = []
        for i, e in enumerate(kept):
            shift = i * e.size - e.start
            new.relocations += [
                Relocation(r.offset + shift, r.type, r.symbol, r.addend) for r in e.relocations
            ]
        self.copies[section] = new
        companion = TABLE_BY_SECTION[section.name].companion
        other = self.post.obj.find_section(companion) if companion else None
        if other is not None:
            rows = self.post.entries_in(other)
            self.copies[other] = self.copy(other)
            self.copies[other].data = b"".join(rows[e.index].data for e in kept)
        if section.name == ".altinstructions":
            self.copy_replacements([r for e in kept if (r := replacement_of(e))])

    def copy_notes(self, section: Section) -> None:
        """Copy what the source says to objtool, where that runs on the linked new code only.

        Each note of a section has the same size and names its code first.
        """
        notes = section.relocations
        size = section.size // max(len(notes), 1)
        kept = [r for r in notes if r.symbol.section in self.kept and r.offset % size == 0]
        if not kept or size * len(notes) != section.size:
            return
        new = self.copies[section] = self.copy(section)
        new.data = b"".join(section.data[r.offset : r.offset + size] for r in kept)
        new.relocations = [
            Relocation(i * size, r.type, r.symbol, r.addend) for i, r in enumerate(kept)
        ]

    def copy_replacements(self, used: Iterable[tuple[Section, int, int]]) -> None:
        """Copy the replacement code that is used; what is between is overwritten.

        Else objtool, which reads the whole section of linked new code, meets calls that have lost
        their relocations, and gives up the object without an error.
        """
        for section, offset, length in used:
            assert section.name == REPLACEMENTS
            if section not in self.copies:
                new = self.copies[section] = self.copy(section)
                new.data, new.relocations = _INT3 * section.size, []
            new, end = self.copies[section], offset + length
            new.data = new.data[:offset] + section.data[offset:end] + new.data[end:]
            new.relocations += [r for r in section.relocations if offset <= r.offset < end]

    # --- symbols --------------------------------------------------------------------------------

    def convert(self, owner: Section, r: Relocation) -> Relocation:
        """Return ``r`` with a symbol of the new object."""
        referent = self.post.locate(owner, r)
        symbol = referent.symbol
        if referent.section in self.copies and not self.is_address_of_old(owner, r, referent):
            return Relocation(r.offset, r.type, self.local_symbol(r.symbol), r.addend)
        if symbol is None:
            name = referent.section.name if referent.section else r.symbol.name
            self.refusals.add(
                name, referent.section, f"{owner.name}+{r.offset:#x} refers to data without a name",
                "give the object a name",
            )  # fmt: skip
            return r
        start = symbol.value if r.symbol.type == STT_SECTION else 0
        self.checks.check_unclear(owner, r, self.twins)
        self.checks.check_early_use(owner, symbol)
        external = self.names.external_symbol(symbol)
        self.checks.check_landing_pad(owner, r, symbol, external)
        return Relocation(r.offset, r.type, external, r.addend - start)

    def is_address_of_old(self, owner: Section, r: Relocation, referent: Referent) -> bool:
        """Tell whether the address of a function that has an old one is taken, not called.

        Such a pointer may be compared, or outlive the update, so it must be the old function's.
        """
        s = referent.symbol
        if s is None or not s.is_function or referent.offset or s not in self.twins.pre_of:
            return False
        if is_special_section(owner) or owner.name == REPLACEMENTS or is_cold_part(s.name):
            return False
        if owner.name.startswith(_NOTES) or self.post.is_branch(owner, r):
            return False
        if s in self.stale:
            self.refusals.add(
                s.name, s.section, f"{owner.name} has its address, which is that of a form older"
                " than what the earlier updates made of it", ONE_UPDATE,
            )  # fmt: skip
        return True

    def local_symbol(self, s: Symbol) -> Symbol:
        """Return the new object's symbol for one of a kept section."""
        if s not in self.symbols:
            assert s.section is not None
            self.symbols[s] = Symbol(
                "" if s.type == STT_SECTION else s.name, s.value, s.size, STB_LOCAL, s.type,
                section=self.copies[s.section],
            )  # fmt: skip
        return self.symbols[s]

    def name_globally(self, s: Symbol, alias: str) -> None:
        """Give what is kept a global name beside its own, for the other objects."""
        self.local_symbol(s)
        copy = self.copies[code_section_of(s)]
        self.aliased.append(Symbol(alias, s.value, s.size, STB_GLOBAL, s.type, section=copy))

    def write(self) -> Object:
        """Return the new object."""
        for s in self.post.obj.symbols:
            # Traces and debuggers show a module's functions and data by their symbols.
            if s.section in self.kept and s.type in (STT_FUNC, STT_OBJECT):
                self.local_symbol(s)
        symbols = [*self.symbols.values(), *self.names.symbols.values(), *self.aliased]
        return Object(self.unit.source, sections=list(self.copies.values()), symbols=symbols)

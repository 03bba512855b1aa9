# SPDX-License-Identifier: GPL-2.0-only
"""What changed functions need, cut out of the post object.

Kept are the changed and new functions with their cold parts, the strings and constants that they
use, new data, and their entries of the special sections.  Everything else is reached in the running
kernel (reach.py).
"""

from collections.abc import Iterable, Mapping
from typing import Final

from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.new_code.aliases import Aliases
from ksplicd.create.new_code.kernel_names import Reach
from ksplicd.create.new_code.model import UnitInKernel
from ksplicd.create.new_code.static_keys import JUMP_TABLE, STATIC_CALLS, choose_entries
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
from ksplicd.elf import Relocation, Section, Symbol
from ksplicd.elf.model import (
    SHF_GROUP,
    SHF_LINK_ORDER,
    STB_GLOBAL,
    STB_LOCAL,
    STT_SECTION,
)
from ksplicd.model import VMLINUX

_NOT_KEPT: Final = (".orc_unwind", "__patchable_function_entries")
"""Special sections that come with their companion, and what nothing on x86 reads."""

_NOTES: Final = (
    ".discard.reachable", ".discard.unreachable", ".discard.retpoline_safe", ".discard.noendbr",
    ".discard.instr_begin", ".discard.instr_end", ".discard.intra_function_calls",
)  # fmt: skip
"""What annotations in the source leave for objtool; the link throws it away."""


class Cutter(Reach):
    """Cuts the new code of one unit out of its post object."""

    def __init__(
        self,
        stock: UnitInKernel,
        change: UnitChange,
        aliases: Aliases,
        carried: Mapping[str, str],
    ) -> None:
        super().__init__(stock, change, carried)
        self.aliases = aliases
        self.copied_constants = dict.fromkeys(self.difference.copied_constants)
        self.notes: list[str] = []
        self.kept: dict[Section, None] = {}
        self.new_symbols: dict[Symbol, Symbol] = {}

    # --- what is kept ---------------------------------------------------------------------------

    def keep_function(self, s: Symbol) -> None:
        """Keep a function with its cold parts."""
        self.kept[code_section_of(s)] = None
        for part in self.post.cold_parts_of(s):
            self.kept[code_section_of(part)] = None

    def follow_references(self) -> None:
        """Keep what the kept code needs, directly or through its entries in special sections."""
        entries = self.post.entries_by_code
        done: set[Section] = set()
        while todo := [s for s in self.kept if s not in done]:
            for owner in todo:
                done.add(owner)
                for r in owner.relocations:
                    self.follow(self.post.locate(owner, r))
                for entry in entries.get(owner, []):
                    for r in entry.relocations:
                        self.follow(self.post.locate(entry.section, r))

    def follow(self, place: Referent) -> None:
        """Keep what kept code refers to, where the kernel does not have it."""
        section, symbol = place.section, place.symbol
        if section is None or section in self.kept:
            return
        if is_init_section(section) and symbol not in self.twins.pre_of:
            self.refuse(
                symbol.name if symbol else section.name, section,
                "new code refers to it, and it is there at boot only",
                "take __init or __initdata away from it",
            )  # fmt: skip
        elif section.is_text:
            if is_code_fragment(section):
                self.kept[section] = None
            elif symbol is not None and symbol.is_function and not self.is_in_kernel(symbol):
                self.keep_function(symbol)
        elif self.is_copied(section, symbol) or symbol in self.copied_constants:
            self.kept[section] = None
        elif symbol is not None and self.has_labels(section):
            self.kept[section] = None
            self.copied_constants[symbol] = None
        elif symbol is not None and symbol not in self.twins.pre_of:
            if self.post.symbols_in(section) == [symbol]:
                self.kept[section] = None
            else:
                self.refuse(
                    symbol.name, section, "new data in a section shared with old data",
                    "define it without a section attribute",
                )  # fmt: skip

    def has_labels(self, section: Section) -> bool:
        """Tell whether data point into the middle of kept code, as for ``goto *jumptable[op]``.

        The kernel's own copy (``jumptable`` of kernel/bpf/core.c) leads into the old function.
        """
        for r in section.relocations:
            place = self.post.locate(section, r)
            if place.section in self.kept and place.section.is_text and place.offset:
                return True
        return False

    @staticmethod
    def is_copied(section: Section, symbol: Symbol | None) -> bool:
        """Tell whether new code carries its own copy: content without identity."""
        if section.is_strings or section.is_merged_constants:
            return True
        if has_no_identity(section):
            return True
        if not section.size:  # __key.24 without lockdep: kallsyms do not list what has no bytes
            return True
        return is_literal(symbol) if symbol is not None else section.name.startswith(".rodata")

    def cut(self) -> dict[Section, Section]:
        """Return a copy of each kept section and of what belongs to it, by the original.

        Raises ``UnsupportedChangeError``.
        """
        copies = {s: self.copy(s) for s in self.kept}
        for section in self.post.obj.sections:
            if is_special_section(section) and section.name not in _NOT_KEPT:
                self.keep_entries(section, copies)
            elif section.name.startswith(_NOTES):
                self.keep_notes(section, copies)
        self.obj.sections = list(copies.values())
        for old, new in copies.items():
            new.relocations = [self.convert(old, r, copies) for r in new.relocations]
        self.raise_refusals()
        return copies

    def copy(self, s: Section) -> Section:
        """Return a section of the new object for a kept one."""
        # A module's own exit code is not what other sections may refer to.
        name = f".text{s.name}" if is_exit_section(s) else s.name
        return Section(
            name, s.type, s.flags & ~(SHF_LINK_ORDER | SHF_GROUP), s.data, s.align, s.entsize,
            s.nobits_size, relocations=list(s.relocations),
        )  # fmt: skip

    def keep_entries(self, section: Section, copies: dict[Section, Section]) -> None:
        """Add the part of a special section that belongs to kept code to ``copies``."""
        entries = self.post.entries_in(section)
        kept = [e for e in entries if e.owner in self.kept]
        if section.name in (JUMP_TABLE, STATIC_CALLS):
            kept = self.choose_entries(kept)
        if not kept:
            return
        new = self.copy(section)
        new.data = b"".join(e.data for e in kept)
        new.relocations = []
        for i, e in enumerate(kept):
            shift = i * e.size - e.start
            new.relocations += [
                Relocation(r.offset + shift, r.type, r.symbol, r.addend) for r in e.relocations
            ]
        copies[section] = new
        companion = TABLE_BY_SECTION[section.name].companion
        other = self.post.obj.find_section(companion) if companion else None
        if other is not None:
            rows = self.post.entries_in(other)
            copies[other] = self.copy(other)
            copies[other].data = b"".join(rows[e.index].data for e in kept)
        if section.name == ".altinstructions":
            self.keep_replacements([r for e in kept if (r := replacement_of(e))], copies)

    def keep_notes(self, section: Section, copies: dict[Section, Section]) -> None:
        """Keep what the source says to objtool, where that runs on the linked new code only.

        Each note of a section has the same size and names its code first.
        """
        notes = section.relocations
        size = section.size // max(len(notes), 1)
        kept = [r for r in notes if r.symbol.section in self.kept and r.offset % size == 0]
        if not kept or size * len(notes) != section.size:
            return
        copies[section] = self.copy(section)
        copies[section].data = b"".join(section.data[r.offset : r.offset + size] for r in kept)
        copies[section].relocations = [
            Relocation(i * size, r.type, r.symbol, r.addend) for i, r in enumerate(kept)
        ]

    def keep_replacements(
        self, used: Iterable[tuple[Section, int, int]], copies: dict[Section, Section]
    ) -> None:
        """Keep the replacement code whole, but only the relocations of what is used."""
        for section, offset, length in used:
            if section not in copies:
                copies[section] = self.copy(section)
                copies[section].relocations = []
            copies[section].relocations += [
                r for r in section.relocations if offset <= r.offset < offset + length
            ]
            assert section.name == REPLACEMENTS

    # --- symbols --------------------------------------------------------------------------------

    def convert(self, owner: Section, r: Relocation, copies: dict[Section, Section]) -> Relocation:
        """Return ``r`` with a symbol of the new object."""
        place = self.post.locate(owner, r)
        symbol = place.symbol
        if place.section in copies and not self.is_address_of_old(owner, r, place):
            target = self.local_symbol(r.symbol, copies)
            return Relocation(r.offset, r.type, target, r.addend)
        if symbol is None:
            name = place.section.name if place.section else r.symbol.name
            self.refuse(
                name, place.section, f"{owner.name}+{r.offset:#x} refers to data without a name",
                "give the object a name",
            )  # fmt: skip
            return r
        start = symbol.value if r.symbol.type == STT_SECTION else 0
        self.check_early_use(owner, symbol)
        external = self.external_symbol(symbol)
        self.check_landing_pad(owner, r, symbol, external)
        return Relocation(r.offset, r.type, external, r.addend - start)

    def choose_entries(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries of static keys and static calls that new code can have."""
        chosen = choose_entries(entries, self.post, self.is_of_patched_module)
        for key in chosen.refused:
            self.refuse(
                key.name, key.section, "new code would use this static key of the patched module"
                " before it is there",
                "test the key in a function that the patch leaves alone, and call that",
            )  # fmt: skip
        self.notes += [
            f"{self.stock.source}: the tracepoint {name} does not fire in the new code, because the"
            " patched module owns it"
            for name in dict.fromkeys(chosen.silenced)
        ]
        return chosen.kept

    def is_of_patched_module(self, s: Symbol) -> bool:
        """Tell whether a symbol is one that livepatch fills in only with the patched module."""
        target = self.stock.target
        if target == VMLINUX or self.is_kept(s):
            return False
        name = self.external_name(s)
        return name is not None and name.startswith((f".klp.sym.{target}.", ".klp.sym@"))

    def is_kept(self, s: Symbol) -> bool:
        """Tell whether new code has its own copy of what the symbol is in."""
        return s.section in self.kept

    def check_early_use(self, owner: Section, symbol: Symbol) -> None:
        """Refuse what the kernel copies before a target module's symbols are filled in."""
        if owner.name == REPLACEMENTS and self.is_of_patched_module(symbol):
            self.refuse(
                symbol.name, owner, "an alternative calls a function of the patched module",
                "move the call out of the alternative",
            )  # fmt: skip

    def check_landing_pad(
        self, owner: Section, r: Relocation, symbol: Symbol, external: Symbol
    ) -> None:
        """Refuse the address of a function that the kernel itself only calls by its name.

        Where the processor tracks indirect branches, such a function has no landing pad left
        (``apply_seal_endbr()``), and who calls it through a pointer ends in a fault.
        """
        if is_special_section(owner) or owner.name == REPLACEMENTS:
            return
        if self.stock.is_sealed(external.name) and not self.post.is_branch(owner, r):
            self.refuse(
                symbol.name, owner, "the address of a function without landing pad is taken",
                "take the address of a new function that calls it",
            )  # fmt: skip

    def is_address_of_old(self, owner: Section, r: Relocation, place: Referent) -> bool:
        """Tell whether the address of a function that has an old one is taken, not called.

        Such a pointer may be compared, or outlive the update, so it must be the old function's.
        """
        s = place.symbol
        if s is None or not s.is_function or place.offset or s not in self.twins.pre_of:
            return False
        if is_special_section(owner) or owner.name == REPLACEMENTS or is_cold_part(s.name):
            return False
        if owner.name.startswith(_NOTES):
            return False
        return not self.post.is_branch(owner, r)

    def local_symbol(self, s: Symbol, copies: dict[Section, Section]) -> Symbol:
        """Return the new object's symbol for one of a kept section."""
        if s not in self.new_symbols:
            assert s.section is not None
            new = Symbol(
                "" if s.type == STT_SECTION else s.name, s.value, s.size, STB_LOCAL, s.type,
                section=copies[s.section],
            )  # fmt: skip
            self.new_symbols[s] = new
        return self.new_symbols[s]

    def name_globally(self, s: Symbol, alias: str, copies: dict[Section, Section]) -> None:
        """Give what is kept a global name beside its own, for the other objects."""
        self.local_symbol(s, copies)
        copy = copies[code_section_of(s)]
        self.obj.symbols.append(Symbol(alias, s.value, s.size, STB_GLOBAL, s.type, section=copy))

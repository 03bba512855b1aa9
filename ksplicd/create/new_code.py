# SPDX-License-Identifier: GPL-2.0-only
"""The new code: what the changed functions need, cut out of the post object.

Kept are the changed and new functions with their cold parts, the strings and constants that they
use, new data, and their entries of the special sections.  Everything else is reached in the running
kernel: exported symbols by name, all others by livepatch relocations
(Documentation/livepatch/module-elf-format.rst).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from ksplicd.create.anchors import Anchors
from ksplicd.create.correlate import code_section_of
from ksplicd.create.diff import Difference, Refusal
from ksplicd.create.keys import JUMP_TABLE, STATIC_CALLS, choose_entries
from ksplicd.create.names import (
    is_code_fragment,
    is_cold_part,
    is_debug_descriptor,
    is_exit_section,
    is_literal,
    is_once_flag,
    is_sanitizer_record,
    main_name,
)
from ksplicd.create.place import Place
from ksplicd.create.pointers import PointerChange
from ksplicd.create.redirect import Redirect, RedirectKind, plan
from ksplicd.create.refusal import refusals_text
from ksplicd.create.special import (
    REPLACEMENTS,
    TABLE_BY_SECTION,
    Entry,
    EntrySizes,
    entries_by_code,
    is_special_section,
    read_entries,
    replacement_of,
)
from ksplicd.elf import Object, Relocation, Section, Symbol
from ksplicd.elf.model import (
    SHF_GROUP,
    SHF_LINK_ORDER,
    STB_GLOBAL,
    STB_LOCAL,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
)
from ksplicd.errors import UnsupportedChangeError
from ksplicd.model import VMLINUX, PatchedFunction, PatchedPointer

ALIAS: Final = "ksplice_new_"
"""Prefix of the global names by which the new-code module's klp_patch finds its functions."""
HOOK_ALIAS: Final = "ksplice_hook_"
"""The same for hooks, which replace nothing and keep their own names."""


_NOT_KEPT: Final = (".orc_unwind", "__patchable_function_entries")
"""Special sections that come with their companion, and what nothing on x86 reads."""


_NOTES: Final = (
    ".discard.reachable", ".discard.unreachable", ".discard.retpoline_safe", ".discard.noendbr",
    ".discard.instr_begin", ".discard.instr_end", ".discard.intra_function_calls",
)  # fmt: skip
"""What annotations in the source leave for objtool; the link throws it away."""


class Kernel(Protocol):
    """What the running kernel offers to new code."""

    def target_of(self, unit: str) -> str:
        """Return what the unit is part of: ``vmlinux`` or a module."""
        ...

    def is_exported(self, name: str) -> bool:
        """Tell whether every module may link to ``name``."""
        ...

    def livepatch_symbol(self, unit: str, name: str, *, is_local: bool) -> str | None:
        """Return ``.klp.sym.OBJECT.NAME,POS`` for a symbol of the running kernel.

        ``is_local``: the symbol that ``unit`` itself defines; otherwise the global one.  None when
        the kernel has no such symbol.
        """
        ...

    def sympos(self, unit: str, name: str) -> int:
        """Return the position in kallsyms of a function that ``unit`` defines; 0 when unique."""
        ...

    def is_sealed(self, symbol: str) -> bool:
        """Tell whether a livepatch symbol is a function that must not be called by pointers."""
        ...

    def traceable(self, unit: str) -> frozenset[str]:
        """Return the unit's functions that livepatch can redirect: that start with fentry."""
        ...

    def probeable(self, unit: str) -> frozenset[str]:
        """Return the unit's functions that a kprobe may redirect."""
        ...

    def is_function(self, name: str) -> bool:
        """Tell whether ``name``, which no unit at hand defines, is known for a function."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """One function to redirect."""

    name: str
    sympos: int
    alias: str
    """Global symbol of the new code's object."""
    reason: str
    """Why it is in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCall:
    """One hook, and its global symbol in the new code's object."""

    kind: str
    alias: str


@dataclass(slots=True, kw_only=True)
class NewCode:
    """The new code of one unit."""

    unit: str
    target: str
    obj: Object
    replacements: list[Replacement] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)
    """Global symbols of what livepatch has to look for on stacks besides (anchors.py)."""
    keeps_code: bool = False
    """Whether somebody may keep the address of a new function."""
    hooks: list[HookCall] = field(default_factory=list)
    new_functions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the user should know of, such as a tracepoint that does not fire."""

    @property
    def reasons(self) -> dict[str, str]:
        """Why each of the functions is in."""
        return {r.name: r.reason for r in self.replacements} | {
            r.name: r.reason for r in self.redirects
        }

    @property
    def functions(self) -> list[PatchedFunction]:
        """The functions that lead to new code."""
        return [
            *(PatchedFunction(name=r.name, sympos=r.sympos, unit=self.unit)
              for r in self.replacements),
            *(PatchedFunction(name=r.name, sympos=r.sympos, unit=self.unit, how=r.kind.value)
              for r in self.redirects if r.kind is not RedirectKind.POINTER),
        ]  # fmt: skip

    @property
    def pointers(self) -> list[PatchedPointer]:
        """The pointers that lead to new code."""
        return [
            PatchedPointer(table=r.name, offset=r.offset, unit=self.unit)
            for r in self.redirects if r.kind is RedirectKind.POINTER
        ]  # fmt: skip


def extract(
    unit: str,
    difference: Difference,
    sizes: EntrySizes,
    kernel: Kernel,
    aliases: Callable[[], str],
    carried: Mapping[str, str] = MappingProxyType({}),
) -> NewCode:
    """Return the new code of ``unit``; ``aliases`` deals out global names.

    ``carried``: global functions that cannot be redirected and whose callers in all files are
    replaced, with the alias by which those call the new one (``callers.py``); and what else new
    code calls by another name (``tripwires.py``).

    Raises ``UnsupportedChangeError`` naming every symbol that stands in the way.
    """
    return _Extractor(unit, difference, sizes, kernel, aliases, carried).extract()


class _Extractor:
    def __init__(
        self,
        unit: str,
        difference: Difference,
        sizes: EntrySizes,
        kernel: Kernel,
        aliases: Callable[[], str],
        carried: Mapping[str, str],
    ) -> None:
        self.unit = unit
        self.difference = difference
        self.post, self.twins = difference.post, difference.twins
        self.sizes, self.kernel, self.aliases = sizes, kernel, aliases
        self.carried = carried
        self.plan = plan(difference, kernel.traceable(unit), carried, kernel.probeable(unit))
        self.refusals: list[Refusal] = list(difference.refusals)
        self.notes: list[str] = []
        self.kept: dict[Section, None] = {}
        self.new_symbols: dict[Symbol, Symbol] = {}
        self.obj = Object(unit)
        self.cold: dict[str, list[Symbol]] = {}
        for s in self.post.obj.functions():
            if is_cold_part(s.name):
                self.cold.setdefault(main_name(s.name), []).append(s)

    def extract(self) -> NewCode:
        self.refusals += self.plan.refusals
        hooks = self.difference.hooks
        pointed = [c.new for c in self.difference.pointers if not self.is_reachable(c.new)]
        redirected = [*self.plan.probed, *filter(None, [self.plan.unload]), *pointed]
        for s in (*self.plan.replaced, *self.plan.carried, *redirected):
            self.keep_function(s)
        for hook in hooks:
            self.keep_function(hook.function)
        self.follow_references()
        self.raise_refusals()
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
        target = self.kernel.target_of(self.unit)
        result = NewCode(unit=self.unit, target=target, obj=self.obj)
        for s, why in self.plan.replaced.items():
            result.replacements.append(self.replace(s, why, copies))
        for s, why in self.plan.probed.items():
            result.redirects.append(self.probe(s, why, copies))
        if self.plan.unload is not None:
            result.redirects.append(self.exchange_exit(self.plan.unload, copies))
        for change in self.difference.pointers:
            result.redirects.append(self.exchange_pointer(change, copies))
        self.raise_refusals()
        anchors = Anchors(self.post, self.twins, self.kept, self.cold)
        result.keeps_code = bool(pointed or anchors.by_address())
        for s in anchors.find(self.plan.replaced, redirected):
            result.anchors.append(self.aliases())
            self.name_globally(s, result.anchors[-1], copies)
        for hook in hooks:
            alias = self.aliases().replace(ALIAS, HOOK_ALIAS)
            result.hooks.append(HookCall(kind=hook.kind, alias=alias))
            self.name_globally(hook.function, result.hooks[-1].alias, copies)
        came_along = [*self.plan.carried, *self.difference.new]
        for s in self.plan.carried:
            if s.name in self.carried:
                self.name_globally(s, self.carried[s.name], copies)
        for s in self.post.obj.symbols:
            # Traces and debuggers show a module's functions and data by their symbols.
            if s.section in self.kept and s.type in (STT_FUNC, STT_OBJECT):
                self.local_symbol(s, copies)
        result.notes = self.notes
        result.new_functions = [s.name for s in came_along if s.section in self.kept]
        self.obj.symbols = list(dict.fromkeys([*self.new_symbols.values(), *self.obj.symbols]))
        return result

    # --- what is refused ------------------------------------------------------------------------

    def refuse(self, symbol: str, section: Section | None, reason: str, hint: str) -> None:
        name = section.name if section else "undefined"
        self.refusals.append(Refusal(symbol=symbol, section=name, reason=reason, hint=hint))

    def raise_refusals(self) -> None:
        if self.refusals:
            raise UnsupportedChangeError(refusals_text(self.unit, self.refusals), self.refusals)

    # --- what is kept ---------------------------------------------------------------------------

    def keep_function(self, s: Symbol) -> None:
        self.kept[code_section_of(s)] = None
        for part in self.cold.get(s.name, []):
            self.kept[code_section_of(part)] = None

    def follow_references(self) -> None:
        """Keep what the kept code needs, directly or through its entries in special sections."""
        entries = entries_by_code(self.post.obj, self.sizes)
        done: set[Section] = set()
        while todo := [s for s in self.kept if s not in done]:
            for owner in todo:
                done.add(owner)
                for r in owner.relocations:
                    self.follow(self.post.locate(owner, r))
                for entry in entries.get(owner, []):
                    for r in entry.relocations:
                        self.follow(self.post.locate(entry.section, r))

    def follow(self, place: Place) -> None:
        section, symbol = place.section, place.symbol
        if section is None or section in self.kept:
            return
        if section.is_text:
            if is_code_fragment(section):
                self.kept[section] = None
            elif symbol is not None and symbol.is_function and not self.is_in_kernel(symbol):
                self.keep_function(symbol)
        elif self.is_copied(section, symbol) or symbol in self.difference.carried:
            self.kept[section] = None
        elif symbol is not None and symbol not in self.twins.pre_of:
            if self.post.symbols_in(section) == [symbol]:
                self.kept[section] = None
            else:
                self.refuse(
                    symbol.name, section, "new data in a section shared with old data",
                    "define it without a section attribute",
                )  # fmt: skip

    def is_in_kernel(self, function: Symbol) -> bool:
        """Tell whether the kernel has a function of this unit.

        Not one that the compiler inlined everywhere in the stock kernel, but not here.
        """
        if is_exit_section(code_section_of(function)) and self.plan.unload is not None:
            return False  # its own old form is called by nobody else
        if function.bind != STB_LOCAL or function not in self.twins.pre_of:
            return function in self.twins.pre_of
        return self.external_name(function) is not None

    def is_reachable(self, function: Symbol) -> bool:
        """Tell whether a function, of this unit or another, has an address in the kernel."""
        return function.is_undefined or self.is_in_kernel(function)

    @staticmethod
    def is_copied(section: Section, symbol: Symbol | None) -> bool:
        """Tell whether new code carries its own copy: content without identity."""
        if section.is_strings or section.is_merged_constants:
            return True
        if is_once_flag(section) or is_debug_descriptor(section) or is_sanitizer_record(section):
            return True
        if not section.size:  # __key.24 without lockdep: kallsyms do not list what has no bytes
            return True
        return is_literal(symbol) if symbol is not None else section.name.startswith(".rodata")

    def copy(self, s: Section) -> Section:
        # A module's own exit code is not what other sections may refer to.
        name = f".text{s.name}" if is_exit_section(s) else s.name
        return Section(
            name, s.type, s.flags & ~(SHF_LINK_ORDER | SHF_GROUP), s.data, s.align, s.entsize,
            s.nobits_size, relocations=list(s.relocations),
        )  # fmt: skip

    def keep_entries(self, section: Section, copies: dict[Section, Section]) -> None:
        """Add the part of a special section that belongs to kept code to ``copies``."""
        entries = read_entries(section, self.sizes)
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
            rows = read_entries(other, self.sizes)
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
            f"{self.unit}: the tracepoint {name} does not fire in the new code, because the"
            " patched module owns it"
            for name in dict.fromkeys(chosen.silenced)
        ]
        return chosen.kept

    def is_of_patched_module(self, s: Symbol) -> bool:
        """Tell whether a symbol is one that livepatch fills in only with the patched module."""
        target = self.kernel.target_of(self.unit)
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
        if self.kernel.is_sealed(external.name) and not self.post.is_branch(owner, r):
            self.refuse(
                symbol.name, owner, "the address of a function without landing pad is taken",
                "take the address of a new function that calls it",
            )  # fmt: skip

    def is_address_of_old(self, owner: Section, r: Relocation, place: Place) -> bool:
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
        if s not in self.new_symbols:
            assert s.section is not None
            new = Symbol(
                "" if s.type == STT_SECTION else s.name, s.value, s.size, STB_LOCAL, s.type,
                section=copies[s.section],
            )  # fmt: skip
            self.new_symbols[s] = new
        return self.new_symbols[s]

    def external_name(self, s: Symbol) -> str | None:
        """Return the name by which new code reaches ``s``, None when the kernel has no such."""
        if s.is_undefined and s.name in self.carried:
            return self.carried[s.name]
        twin = self.twins.pre_of.get(s)
        name = twin.name if twin is not None else s.name
        is_local = s.section is not None and s.bind == STB_LOCAL
        if not is_local and self.kernel.is_exported(name):
            return name
        return self.kernel.livepatch_symbol(self.unit, name, is_local=is_local)

    def external_symbol(self, s: Symbol) -> Symbol:
        """Return the undefined symbol by which the new code reaches ``s`` in the kernel."""
        wanted = self.name_in_kernel(s)
        for known in self.obj.symbols:
            if known.name == wanted:
                return known
        new = Symbol(wanted, bind=STB_GLOBAL)
        self.obj.symbols.append(new)
        return new

    def replace(self, s: Symbol, why: str, copies: dict[Section, Section]) -> Replacement:
        alias = self.aliases()
        self.name_globally(s, alias, copies)
        name = self.twins.pre_of[s].name
        return Replacement(
            name=name, sympos=self.kernel.sympos(self.unit, name), alias=alias, reason=why
        )

    def probe(self, s: Symbol, why: str, copies: dict[Section, Section]) -> Redirect:
        alias = self.aliases()
        self.name_globally(s, alias, copies)
        name = self.twins.pre_of[s].name
        place = self.kernel.livepatch_symbol(self.unit, name, is_local=True)
        if place is None:
            self.refuse(
                s.name, s.section, "a function without fentry cannot be redirected, and the"
                " kernel's kallsyms lack it", "change its callers instead",
            )  # fmt: skip
            self.raise_refusals()
        self.notes.append(
            f"{self.unit}: {name} is redirected by a kprobe, because livepatch cannot: after all"
            " other functions, and before them at undo"
        )
        return Redirect(
            kind=RedirectKind.PROBE, name=name, sympos=self.kernel.sympos(self.unit, name),
            place=place or "", new=alias, reason=why,
        )  # fmt: skip

    def exchange_exit(self, s: Symbol, copies: dict[Section, Section]) -> Redirect:
        alias = self.aliases()
        self.name_globally(s, alias, copies)
        return Redirect(
            kind=RedirectKind.EXIT, name=s.name, sympos=0, place="", new=alias,
            reason="code changes that runs at unload",
        )  # fmt: skip

    def exchange_pointer(self, c: PointerChange, copies: dict[Section, Section]) -> Redirect:
        if c.old is None and c.new.is_undefined and not self.kernel.is_function(c.new.name):
            self.refuse(
                c.datum.name, c.datum.section,
                f"initialised data changes: +{c.offset:#x} points to {c.new.name}, which may be no"
                " function", "set it from a hook",
            )  # fmt: skip
        if self.is_reachable(c.new):
            new = self.name_in_kernel(c.new)
        else:
            new = self.aliases()
            self.name_globally(c.new, new, copies)
        return Redirect(
            kind=RedirectKind.POINTER, name=c.datum.name, sympos=0, offset=c.offset, new=new,
            place=self.name_in_kernel(c.datum), old=self.name_of_old(c.old),
            reason=f"{c.new.name} takes the place of {c.old.name if c.old else 'no function'}",
        )  # fmt: skip

    def name_of_old(self, s: Symbol | None) -> str:
        """Return the symbol by which the kernel knows a function of the pre object."""
        if s is None:
            return ""
        if (twin := self.twins.post_of.get(s)) is not None:
            return self.name_in_kernel(twin)
        is_local = s.section is not None and s.bind == STB_LOCAL
        name = self.kernel.livepatch_symbol(self.unit, s.name, is_local=is_local)
        if name is None:
            self.refuse_unknown(s)
        return name or s.name

    def name_in_kernel(self, s: Symbol) -> str:
        """Return the name by which new code reaches ``s``; without one, it is refused."""
        name = self.external_name(s)
        if name is None:
            self.refuse_unknown(s)
        return name or s.name

    def refuse_unknown(self, s: Symbol) -> None:
        self.refuse(
            s.name, s.section, "the new code needs it, but the kernel's kallsyms lack it",
            "do not refer to it from the changed functions",
        )  # fmt: skip

    def name_globally(self, s: Symbol, alias: str, copies: dict[Section, Section]) -> None:
        """Give a kept function a global name beside its own, for the other objects."""
        self.local_symbol(s, copies)
        copy = copies[code_section_of(s)]
        self.obj.symbols.append(Symbol(alias, s.value, s.size, STB_GLOBAL, STT_FUNC, section=copy))

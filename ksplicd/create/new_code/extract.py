# SPDX-License-Identifier: GPL-2.0-only
"""The new code of a unit: which functions are cut out, and what leads to them."""

from collections.abc import Mapping
from types import MappingProxyType

from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.pointers import PointerChange
from ksplicd.create.new_code.aliases import Aliases, is_function_alias
from ksplicd.create.new_code.anchors import Anchors
from ksplicd.create.new_code.cut import Cutter
from ksplicd.create.new_code.model import (
    Anchored,
    HookCall,
    NewCode,
    Replacement,
    UnitInKernel,
)
from ksplicd.create.new_code.redirects import Redirect, RedirectKind
from ksplicd.create.objects.index import Referent
from ksplicd.create.objects.special import is_special_section
from ksplicd.elf import Section, Symbol
from ksplicd.elf.model import (
    STT_FUNC,
    STT_OBJECT,
)


def extract(
    stock: UnitInKernel,
    change: UnitChange,
    aliases: Aliases,
    carried: Mapping[str, str] = MappingProxyType({}),
) -> NewCode:
    """Return the new code of the unit; ``aliases`` are those of the update.

    ``carried``: global functions that cannot be redirected and whose callers in all files are
    replaced, with the alias by which those call the new one (``callers.py``); and what else new
    code reaches by another name (``shared.py``, ``tripwires.py``).

    Raises ``UnsupportedChangeError`` naming every symbol that stands in the way.
    """
    return _Extractor(stock, change, aliases, carried).extract()


class _Extractor(Cutter):
    """Has the unit's new code cut, and named for what leads to it."""

    def extract(self) -> NewCode:
        self.refusals += self.plan.refusals
        hooks = self.difference.hooks
        pointed = [c.new for c in self.difference.pointers if not self.is_reachable(c.new)]
        redirected = [*self.plan.probed, *filter(None, [self.plan.unload]), *pointed]
        shared = [s for s in self.change.shared if s.name in self.carried]
        for s in (*self.plan.replaced, *self.plan.carried, *redirected):
            self.keep_function(s)
        for s in shared:
            self.follow(Referent(s, s.section, 0))
        for hook in hooks:
            self.keep_function(hook.function)
        self.follow_references()
        self.raise_refusals()
        copies = self.cut()
        result = NewCode(unit=self.stock.source, target=self.stock.target, obj=self.obj)
        for s, why in self.plan.replaced.items():
            result.replacements.append(self.replace(s, why, copies))
        for s, why in self.plan.probed.items():
            result.redirects.append(self.probe(s, why, copies))
        if self.plan.unload is not None:
            result.redirects.append(self.exchange_exit(self.plan.unload, copies))
        for change in self.difference.pointers:
            result.redirects.append(self.exchange_pointer(change, copies))
        self.raise_refusals()
        anchors = Anchors(self.post, self.twins, self.kept)
        result.keeps_code = bool(pointed or anchors.by_address() or self.holds_others())
        called = [s for s in self.plan.carried if s.name in self.carried]  # by other units
        entered = [*redirected, *called, *(s for s in shared if s.is_function)]
        for s in anchors.find(self.plan.replaced, entered):
            result.anchors.append(
                Anchored(
                    # an identifier of C: no ".isra.0", no ".cold"
                    function=s.name.partition(".")[0],
                    alias=self.aliases.for_function(),
                )
            )
            self.name_globally(s, result.anchors[-1].alias, copies)
        for hook in hooks:
            alias = self.aliases.for_hook()
            result.hooks.append(HookCall(kind=hook.kind, alias=alias))
            self.name_globally(hook.function, result.hooks[-1].alias, copies)
        came_along = [*self.plan.carried, *self.difference.new]
        for s in (*called, *shared):
            self.name_globally(s, self.carried[s.name], copies)
        for s in self.post.obj.symbols:
            # Traces and debuggers show a module's functions and data by their symbols.
            if s.section in self.kept and s.type in (STT_FUNC, STT_OBJECT):
                self.local_symbol(s, copies)
        result.shared = [s.name for s in shared]
        result.notes = self.notes
        result.copied_constants = [s.name for s in self.copied_constants]
        result.new_functions = [s.name for s in came_along if s.section in self.kept]
        self.obj.symbols = list(dict.fromkeys([*self.new_symbols.values(), *self.obj.symbols]))
        return result

    def holds_others(self) -> bool:
        """Tell whether kept code or data hold the address of another unit's new function."""
        return any(
            is_function_alias(self.carried.get(r.symbol.name, ""))
            and r.symbol.is_undefined
            and not self.post.is_branch(owner, r)
            for owner in self.kept
            if not is_special_section(owner)
            for r in owner.relocations
        )

    def replace(self, s: Symbol, why: str, copies: dict[Section, Section]) -> Replacement:
        alias = self.aliases.for_function()
        self.name_globally(s, alias, copies)
        name = self.twins.pre_of[s].name
        return Replacement(name=name, sympos=self.stock.sympos(name), alias=alias, reason=why)

    def probe(self, s: Symbol, why: str, copies: dict[Section, Section]) -> Redirect:
        alias = self.aliases.for_function()
        self.name_globally(s, alias, copies)
        name = self.twins.pre_of[s].name
        place = self.stock.livepatch_symbol(name, is_local=True)
        if place is None:
            self.refuse(
                s.name, s.section, "a function without fentry cannot be redirected, and the"
                " kernel's kallsyms lack it", "change its callers instead",
            )  # fmt: skip
            self.raise_refusals()
        self.notes.append(
            f"{self.stock.source}: {name} is redirected by a kprobe, because livepatch cannot:"
            " after all other functions, and before them at undo"
        )
        return Redirect(
            kind=RedirectKind.PROBE, name=name, sympos=self.stock.sympos(name),
            place=place or "", new=alias, reason=why,
        )  # fmt: skip

    def exchange_exit(self, s: Symbol, copies: dict[Section, Section]) -> Redirect:
        alias = self.aliases.for_function()
        self.name_globally(s, alias, copies)
        return Redirect(
            kind=RedirectKind.EXIT, name=s.name, sympos=0, place="", new=alias,
            reason="code changes that runs at unload",
        )  # fmt: skip

    def exchange_pointer(self, c: PointerChange, copies: dict[Section, Section]) -> Redirect:
        if c.old is None and c.new.is_undefined and not self.stock.is_function(c.new.name):
            self.refuse(
                c.datum.name, c.datum.section,
                f"initialised data changes: +{c.offset:#x} points to {c.new.name}, which may be no"
                " function", "set it from a hook",
            )  # fmt: skip
        if self.is_reachable(c.new):
            new = self.name_in_kernel(c.new)
        else:
            new = self.aliases.for_function()
            self.name_globally(c.new, new, copies)
        return Redirect(
            kind=RedirectKind.POINTER, name=c.datum.name, sympos=0, offset=c.offset, new=new,
            place=self.name_in_kernel(c.datum), old=self.name_of_old(c.old),
            reason=f"{c.new.name} takes the place of {c.old.name if c.old else 'no function'}",
        )  # fmt: skip

# SPDX-License-Identifier: GPL-2.0-only
"""The new code of a unit: which functions are cut out, and what leads to them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from ksplicd.create.debug import phase
from ksplicd.create.diff.data import is_plain_data
from ksplicd.create.diff.difference import Succession, UnitChange
from ksplicd.create.diff.pointers import PointerChange
from ksplicd.create.diff.values import ValueChange
from ksplicd.create.new_code.aliases import Aliases, is_function_alias
from ksplicd.create.new_code.anchors import Anchors
from ksplicd.create.new_code.cut import Cutter
from ksplicd.create.new_code.kernel_names import KernelNames
from ksplicd.create.new_code.model import (
    Anchored,
    HookCall,
    NewCode,
    Redirect,
    Redirected,
    RedirectKind,
    UnitInKernel,
)
from ksplicd.create.new_code.redirects import plan_redirects
from ksplicd.create.objects.index import Referent
from ksplicd.create.objects.special import is_special_section
from ksplicd.create.refusal import Refusals
from ksplicd.elf.model import Symbol

LOG: Final = phase("cut")


def extract(
    unit: UnitInKernel,
    change: UnitChange,
    aliases: Aliases,
    aliases_by_name: Mapping[str, str] = MappingProxyType({}),
) -> NewCode:
    """Return the new code of the unit; ``aliases`` are those of the update.

    ``aliases_by_name``: what new code of several units calls, or brings, by an alias: functions
    that cannot be redirected (``callers.py``), what units share, and what the update's core has
    (``tripwires.py``).

    Raises ``UnsupportedChangeError`` naming every symbol that stands in the way.
    """
    return _Extractor(unit, change, aliases, aliases_by_name).extract()


class _Extractor:
    """Has one unit's new code cut, and named for what leads to it."""

    def __init__(
        self,
        unit: UnitInKernel,
        change: UnitChange,
        aliases: Aliases,
        aliases_by_name: Mapping[str, str],
    ) -> None:
        self.unit = unit
        self.difference = difference = change.difference
        self.aliases, self.aliases_by_name = aliases, aliases_by_name
        self.plan = plan_redirects(difference, unit.traceable, aliases_by_name, unit.probeable)
        self.refusals = Refusals(unit.source, [*change.refusals, *self.plan.refusals])
        self.names = KernelNames(unit, difference, self.plan, aliases_by_name, self.refusals)
        self.cutter = Cutter(unit, difference, self.names, self.refusals)
        self.pointed = [
            c.new for c in difference.pointers if not self.names.is_reachable(c.new)
        ]  # fmt: skip
        """Functions of this unit to which nothing but a pointer leads."""
        self.successions = {s: self.names.is_linked(s.new) for s in change.successions}
        """What another function is led to, and whether that is the kernel's own."""
        self.shared = [s for s in change.shared if s.name in aliases_by_name]
        self.notes: list[str] = []

    def extract(self) -> NewCode:
        self.keep()
        self.cutter.cut()
        redirected = tuple(self.redirect(s, why) for s, why in self.plan.redirected.items())
        redirected += tuple(self.succeed(s) for s in self.successions)
        redirects = tuple(self.lead_to_new_code())
        self.refusals.raise_any()
        found = Anchors(self.difference.twins, self.cutter.kept)
        anchors, hooks, shared = self.anchor(found), self.name_hooks(), self.name_shared()
        return NewCode(
            unit=self.unit.source,
            target=self.unit.target,
            redirected=redirected,
            redirects=redirects,
            called_only=tuple(s.name for s in self.plan.called_only),
            anchors=anchors,
            keeps_code=bool(self.pointed or found.by_address() or self.holds_others()),
            hooks=hooks,
            shared=shared,
            copied_constants=tuple(self.cutter.copied_constants),
            notes=(*self.cutter.checks.notes, *self.notes),
            obj=self.cutter.write(),
        )

    def keep(self) -> None:
        """Keep what is redirected, called, pointed to, shared or a hook, and what it needs."""
        plan, cutter = self.plan, self.cutter
        for s in self.difference.boot:
            LOG.debug("%s: leaves %s: it runs only at boot or at unload", self.unit.source, s.name)
        for s, why in plan.redirected.items():
            cutter.keep_function(s, f"livepatch redirects it: {why}")
        for s, why in plan.called_only.items():
            cutter.keep_function(s, f"only new code calls it: {why}")
        for s, why in plan.probed.items():
            cutter.keep_function(s, f"a kprobe redirects it: {why}")
        if plan.unload is not None:
            cutter.keep_function(plan.unload, "the module's exit function")
        for s in self.pointed:
            cutter.keep_function(s, "a pointer in the kernel's data gets its address")
        for s in self.successors():
            cutter.keep_function(s, "tables name it in the place of another function")
        for s in self.shared:
            cutter.follow(Referent(s, s.section, 0), "another file")
        for hook in self.difference.hooks:
            cutter.keep_function(hook.function, f"a hook: {hook.kind}")
        cutter.follow_references()
        self.refusals.raise_any()

    def holds_others(self) -> bool:
        """Tell whether kept code or data hold the address of another unit's new function."""
        return any(
            is_function_alias(self.aliases_by_name.get(r.symbol.name, ""))
            and r.symbol.is_undefined
            and not self.difference.post.is_branch(owner, r)
            for owner in self.cutter.kept
            if not is_special_section(owner)
            for r in owner.relocations
        )

    # --- what leads to new code -----------------------------------------------------------------

    def name_function(self, s: Symbol) -> str:
        """Return a new alias of a kept function."""
        alias = self.aliases.for_function()
        self.cutter.name_globally(s, alias)
        return alias

    def redirect(self, s: Symbol, why: str) -> Redirected:
        """Have livepatch redirect a function."""
        alias = self.name_function(s)
        name = self.difference.twins.pre_of[s].name
        return Redirected(
            name=name, sympos=self.unit.sympos(name), alias=alias, reason=why,
            tables=self.tables_with(s),
        )  # fmt: skip

    def tables_with(self, s: Symbol) -> tuple[str, ...]:
        """Return the data that lead to the twin of a function under another name."""
        pre, old = self.difference.pre, self.difference.twins.pre_of[s]
        if old.name == s.name:
            return ()
        users = {
            pre.symbol_at(owner, r.offset): None
            for owner in pre.obj.sections if is_plain_data(owner)
            for r in owner.relocations if pre.locate(owner, r).symbol is old
        }  # fmt: skip
        return tuple(s.name for s in users if s is not None)

    def successors(self) -> list[Symbol]:
        """Return the functions of the new code to which another one is led by a table."""
        return [s.new for s, is_linked in self.successions.items() if not is_linked]

    def succeed(self, s: Succession) -> Redirected:
        """Have livepatch lead a function to the one that tables name in its place."""
        is_linked = self.successions[s]
        new = self.names.name_in_kernel(s.new) if is_linked else self.name_function(s.new)
        return Redirected(
            name=s.old, sympos=s.sympos, alias=new, reason=s.reason, unit=s.unit, tables=s.tables
        )  # fmt: skip

    def lead_to_new_code(self) -> Iterator[Redirect]:
        """Yield what leads there besides livepatch."""
        for s, why in self.plan.probed.items():
            yield self.probe(s, why)
        if self.plan.unload is not None:
            yield self.exchange_exit(self.plan.unload)
        for change in self.difference.pointers:
            yield self.exchange_pointer(change)
        for value in self.difference.values:
            yield self.exchange_value(value)

    def probe(self, s: Symbol, why: str) -> Redirect:
        """Have a kprobe redirect a function."""
        alias = self.name_function(s)
        name = self.difference.twins.pre_of[s].name
        place = self.unit.livepatch_symbol(name, is_local=True)
        if place is None:
            self.refusals.add(
                s.name, s.section, "a function without fentry cannot be redirected, and the"
                " kernel's kallsyms lack it", "change its callers instead",
            )  # fmt: skip
            self.refusals.raise_any()
        self.notes.append(
            f"{self.unit.source}: {name} is redirected by a kprobe, because livepatch cannot:"
            " after all other functions, and before them at undo"
        )
        return Redirect(
            kind=RedirectKind.PROBE, name=name, sympos=self.unit.sympos(name),
            place=place or "", new=alias, reason=why, tables=self.tables_with(s),
        )  # fmt: skip

    def exchange_exit(self, s: Symbol) -> Redirect:
        """Have the module's exit function exchanged."""
        return Redirect(
            kind=RedirectKind.EXIT, name=s.name, sympos=0, place="", new=self.name_function(s),
            reason="code changes that runs at unload",
        )  # fmt: skip

    def exchange_pointer(self, c: PointerChange) -> Redirect:
        """Have a pointer of the kernel's data exchanged."""
        if c.old is None and c.new.is_undefined and not self.unit.is_function(c.new.name):
            self.refusals.add(
                c.datum.name, c.datum.section,
                f"initialised data changes: +{c.offset:#x} points to {c.new.name}, which may be no"
                " function", "set it from a hook",
            )  # fmt: skip
        is_reachable = self.names.is_reachable(c.new)
        new = self.names.name_in_kernel(c.new) if is_reachable else self.name_function(c.new)
        return Redirect(
            kind=RedirectKind.POINTER, name=c.datum.name, sympos=0, offset=c.offset, new=new,
            place=self.names.name_in_kernel(c.datum), old=self.names.name_of_old(c.old),
            reason=f"{c.new.name} takes the place of {c.old.name if c.old else 'no function'}",
        )  # fmt: skip

    def exchange_value(self, v: ValueChange) -> Redirect:
        """Have a value in the kernel's data exchanged."""
        old, new = (int.from_bytes(x, "little") for x in (v.old, v.new))
        return Redirect(
            kind=RedirectKind.VALUE, name=v.datum.name, sympos=0, offset=v.offset, new="",
            place=self.names.name_in_kernel(v.datum), value=(v.old, v.new),
            reason=f"+{v.offset:#x} is {new:#x} instead of {old:#x}",
        )  # fmt: skip

    # --- other global names ---------------------------------------------------------------------

    @property
    def called(self) -> list[Symbol]:
        """The functions that new code of other units calls, because they are not redirected."""
        return [s for s in self.plan.called_only if s.name in self.aliases_by_name]

    def anchor(self, found: Anchors) -> tuple[Anchored, ...]:
        """Name the parts that livepatch would not see on stacks."""
        plan = self.plan
        entered = [*plan.probed, *filter(None, [plan.unload]), *self.pointed, *self.called]
        entered += [s for s in self.shared if s.is_function]
        return tuple(
            # an identifier of C: no ".isra.0", no ".cold"
            Anchored(function=s.name.partition(".")[0], alias=self.name_function(s))
            for s in found.find([*plan.redirected, *self.successors()], entered)
        )

    def name_hooks(self) -> tuple[HookCall, ...]:
        """Name the hooks."""
        calls = []
        for hook in self.difference.hooks:
            alias = self.aliases.for_hook()
            self.cutter.name_globally(hook.function, alias)
            calls.append(HookCall(kind=hook.kind, alias=alias))
        return tuple(calls)

    def name_shared(self) -> tuple[str, ...]:
        """Name what other units use; return what of it is new."""
        for s in (*self.called, *self.shared):
            self.cutter.name_globally(s, self.aliases_by_name[s.name])
        return tuple(s.name for s in self.shared)

# SPDX-License-Identifier: GPL-2.0-only
"""Follows the new code from what is redirected, beside the plain post object of its unit.

Each function of the module is laid beside the function that it is the new code of, each reference
beside that of the plain post object, and so on with what both lead to.  So everything in the module
that runs is seen, and nothing is found by a decision of those who made it.
"""

from collections.abc import Collection, Sequence

from ksplicd.create.referee.bodies import STATIC_CALLS, BodyComparison
from ksplicd.create.referee.leads import Leads
from ksplicd.create.referee.meaning import (
    describe,
    is_exit,
)
from ksplicd.create.referee.new_module import (
    KernelName,
    NewModule,
    RedirectedFunction,
    RedirectedPlace,
)
from ksplicd.create.referee.pairs import base_name
from ksplicd.create.referee.succession import Claim, why_wrong
from ksplicd.create.referee.unit import JudgedUnit
from ksplicd.create.referee.view import Place, Reference, TableEntry, View
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import STT_FUNC, Symbol
from ksplicd.model import VMLINUX


class Follower:
    """The new code of all units of an update."""

    def __init__(self, units: Sequence[JudgedUnit], module: NewModule) -> None:
        self.units, self.module = units, module
        self.found: list[str] = []
        """The contradictions."""
        self._claims: list[tuple[Claim, Place]] = []
        self._todo: list[tuple[JudgedUnit, Symbol, Symbol]] = []
        self._seen: set[tuple[JudgedUnit, Symbol, Symbol]] = set()
        self.leads = Leads(units, module, self.meet)

    def follow(self) -> None:
        """Find the contradictions.  Raises ``ElfError``."""
        for function in self.module.redirected():
            self.begin_at(function)
        others = self.module.other_redirects()
        for place in others:
            self.begin_at_function(place)
        for place in others:
            self.check_pointer(place)
        for claim, new in self._claims:
            self.check_succession(claim, new)
        for target, hook in self.module.hooks():
            self.begin_at_hook(target, hook)
        while self._todo:
            unit, b, n = self._todo.pop()
            self.compare(unit, b, n)

    # --- where it begins ------------------------------------------------------------------------

    def begin_at(self, function: RedirectedFunction) -> None:
        """Begin at a function that livepatch redirects."""
        name = KernelName(function.target, function.name, function.position)
        found = self.find_old(name)
        if found is None:
            self.found.append(
                f"the new module redirects {function.name},{function.position} of"
                f" {function.target}, which none of the units has"
            )
            return
        self.redirect(*found, function.new, "livepatch")

    def begin_at_function(self, place: RedirectedPlace) -> None:
        """Begin at a function that a kprobe redirects, or at a module's exit function."""
        if place.new is None:
            return
        if place.place is None:
            for unit in self.units:
                exit_ = unit.globals.get("cleanup_module")
                if unit.target == place.target and exit_ is not None:
                    old = unit.pairs.pre_of.get(exit_)
                    if old is not None and old not in unit.redirected:
                        self.redirect(unit, old, place.new, "exit")
                        unit.redirected |= {
                            s: "exit" for s in unit.standing.differing
                            if s.section is not None and is_exit(s.section)
                        }  # fmt: skip
            return
        name = self.module.kernel_name(place.place)
        found = self.find_old(name) if name else None
        if found is not None and found[1].type == STT_FUNC:
            self.redirect(*found, place.new, "kprobe")

    def begin_at_hook(self, target: str, place: Place) -> None:
        """Begin at a hook, which has the name that the patch gives it."""
        names, n = self.module.source_names(place), self.at(place)
        found = []
        for unit in self.units:
            b = _find_function(unit.new, names) if unit.target == target else None
            if b is None or n is None:
                continue
            known = len(self.found)
            self.compare(unit, b, n)
            if len(self.found) == known:
                return
            found += self.found[known:]  # a hook of that name in another unit, perhaps
            del self.found[known:]
        name = describe(self.module.view, place)
        self.found += found or [f"the hook {name} of {target} is in none of the units"]

    def find_old(self, name: KernelName) -> tuple[JudgedUnit, Symbol] | None:
        """Return the unit and the pre symbol that a name of the kernel means."""
        for unit in self.units:
            if (old := unit.find(name)) is not None:
                return unit, old
        return None

    def redirect(self, unit: JudgedUnit, old: Symbol, new: Place, how: str) -> None:
        """Note that a pre function leads to new code, and begin there."""
        unit.redirected[old] = how
        n = self.at(new)
        twin = unit.pairs.post_of.get(old)
        names = self.names_of(new)
        if twin is None or not self.is_named(unit, twin, names):
            self.succeed(unit, old, new, names)
            return
        if n is None or twin is None:
            self.found.append(
                f"{unit.source}: {old.name} leads to {describe(self.module.view, new)} of the new"
                " module, and plain post has no such function"
            )
            return
        self._todo.append((unit, twin, n))

    def names_of(self, new: Place) -> frozenset[str]:
        """Return the names of a function of the module or, where it is there, of the kernel."""
        name = self.module.kernel_name(new)
        return frozenset([name.name] if name is not None else self.module.source_names(new))

    @staticmethod
    def is_named(unit: JudgedUnit, s: Symbol, names: Collection[str]) -> bool:
        """Tell whether a post function has one of some names, but for the compiler's numbers."""
        assert s.section is not None
        have = {base_name(x) for x in unit.new.names[s.section, s.value]}
        return not have.isdisjoint(map(base_name, names))

    def succeed(self, unit: JudgedUnit, old: Symbol, new: Place, names: frozenset[str]) -> None:
        """Note that a pre function leads to another one, which tables name in its place."""
        claim = Claim(unit=unit, old=old, new=names)
        if not names:
            where = describe(self.module.view, new)
            self.found.append(f"{unit.source}: {old.name} leads to {where}, which has no name")
            return
        self._claims.append((claim, new))
        for other in self.units:
            if other.target == unit.target:
                other.standing.succeeded |= {(x, y) for x in claim.names for y in names}

    def check_succession(self, claim: Claim, new: Place) -> None:
        """Check that a function may lead to another one, and that it is the right one."""
        self.found += why_wrong(self.units, claim)
        of_target = [u for u in self.units if u.target == claim.unit.target]
        name = self.module.kernel_name(new)
        if name is not None:
            self.check_linked(claim, of_target, name)
            return
        n = self.at(new)
        for unit in sorted(of_target, key=lambda u: u is not claim.unit):
            b = _find_function(unit.new, claim.new)
            if b is not None and n is not None:
                self._todo.append((unit, b, n))
                return
        self.found.append(
            f"{claim.unit.source}: {claim.old.name} leads to {describe(self.module.view, new)} of"
            " the new module, and plain post has no such function"
        )

    def check_linked(self, claim: Claim, units: Sequence[JudgedUnit], name: KernelName) -> None:
        """Check the kernel's own function to which another one leads."""
        found = [(u, s) for u in units if (s := u.find(name)) is not None]
        why = None if found else self.leads.why_not_global(claim.unit, name)
        for unit, old in found:
            twin = unit.pairs.post_of.get(old)
            why = "it is gone in plain post" if twin is None else self.leads.why_stale(unit, twin)
        if why:
            self.found.append(
                f"{claim.unit.source}: {claim.old.name} leads to the kernel's {name.name}: {why}"
            )

    def at(self, place: Place) -> Symbol | None:
        """Return what begins at a place of the module."""
        if place.section is None:
            return None
        s = self.module.view.symbol_at(place.section, place.offset)
        return s if s is not None and s.value == place.offset else None

    # --- pointers -------------------------------------------------------------------------------

    def check_pointer(self, r: RedirectedPlace) -> None:
        """Check a field of the kernel's data: it gets the address of a function, or a value."""
        if r.place is None:
            return
        name = self.module.kernel_name(r.place)
        found = self.find_old(name) if name else None
        if found is None:
            self.found.append(
                f"the new module exchanges {describe(self.module.view, r.place)}, which none of"
                " the units has"
            )
            return
        unit, table = found
        if table.type == STT_FUNC:
            return
        offset, where = r.place.offset, f"{unit.source}: {table.name}{r.place.offset:+#x}"
        twin = unit.pairs.post_of.get(table)
        if r.new is None:
            if why := why_other_value(unit, table, offset, r.value):
                self.found.append(f"{where} is exchanged, and {why}")
            unit.exchanged.setdefault(table, set()).update(range(offset, offset + len(r.value[0])))
            return
        after = dict(unit.new.content(twin)[1]).get(offset) if twin is not None else None
        before = dict(unit.pre.content(table)[1]).get(offset)
        if after is None:
            self.found.append(f"{where} is exchanged, and plain post has no pointer there")
            return
        new, old = Reference(Role.ADDRESS, r.new), r.old
        if why := self.leads.why_elsewhere(unit, Reference(Role.ADDRESS, after), new):
            self.found.append(f"{where} is exchanged, and the new one {why}")
        if why := self.why_not_old(unit, before, old):
            self.found.append(f"{where} is exchanged, and what it holds before {why}")
        unit.exchanged.setdefault(table, set()).add(offset)

    def why_not_old(self, unit: JudgedUnit, before: Place | None, old: Place | None) -> str | None:
        """Return why a pointer's old value is not that of plain pre, None when it is."""
        if before is None or old is None:
            return None if before is old else "is not what plain pre has"
        name, is_right = self.module.kernel_name(old), False
        wanted = f"is not {describe(unit.pre, before)} of plain pre"
        if name is None:
            return wanted
        if before.section is None:
            is_right = before.symbol is not None and before.symbol.name == name.name
            return None if is_right and old.offset == before.offset else wanted
        s = unit.pre.symbol_at(before.section, before.offset)
        address, found = unit.address_of(s) if s else None, unit.addresses_of(name)
        if s is not None and address is not None and found and len(found) == 1:
            is_right = found[0] + old.offset == address + before.offset - s.value
        elif s is not None:
            is_right = name.name in unit.pre.names[before.section, s.value] and not old.offset
        return None if is_right else wanted

    # --- functions ------------------------------------------------------------------------------

    def compare(self, unit: JudgedUnit, b: Symbol, n: Symbol) -> None:
        """Compare a function of the module with the one that it is the new code of."""
        if (unit, b, n) in self._seen:
            return
        self._seen.add((unit, b, n))

        def leads(mine: Reference, other: Reference) -> str | None:
            return self.leads.why_elsewhere(unit, mine, other)

        def may_lack(entry: TableEntry) -> bool:
            # A static call without an entry goes by way of its trampoline, which is patched, too:
            # objtool makes no entry where it does not know the trampoline by its name.
            return unit.target != VMLINUX or entry.table == STATIC_CALLS

        bodies = BodyComparison(unit.new, self.module.view, leads, may_lack)
        mine, other = unit.new.bodies(b), self.module.view.bodies(n)
        why = f"has {len(other)} parts instead of {len(mine)}" if len(mine) != len(other) else None
        for x, y in zip(mine, other, strict=False):
            why = why or bodies.why_differs(x, y)
        if why:
            self.found.append(f"{unit.source}: the new code of {b.name} {why}")
        if more := unit.made_otherwise(b):
            why = "; ".join(map(str, more))
            self.found.append(f"{unit.source}: the new code of {b.name} {why}, unlike plain post")

    def meet(self, unit: JudgedUnit, b: Symbol, n: Symbol) -> None:
        """Have a function of the module compared, to which new code leads."""
        self._todo.append((unit, b, n))


def why_other_value(
    unit: JudgedUnit, table: Symbol, offset: int, value: tuple[bytes, bytes]
) -> str | None:
    """Return why a field's old and new value are not those of plain pre and plain post."""
    twin, size = unit.standing.pairs.post_of.get(table), len(value[0])
    if twin is None or twin.size != table.size or offset < 0 or offset + size > table.size:
        return "plain post has no such field"
    if size not in (1, 2, 4, 8) or offset % size:
        return "no single store writes it"
    for view, s, content in ((unit.pre, table, value[0]), (unit.post, twin, value[1])):
        found, refers = view.content(s)
        if any(at < offset + size and offset < at + 8 for at, _ in refers):
            return "there is a pointer"
        if found[offset : offset + size] != content:
            return f"plain objects have {found[offset : offset + size].hex()}, not {content.hex()}"
    return None


def _find_function(view: View, names: Collection[str]) -> Symbol | None:
    """Return a function that has one of some names."""
    return next((s for s in view.symbols() if s.name in names and s.type == STT_FUNC), None)

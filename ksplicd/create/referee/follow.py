# SPDX-License-Identifier: GPL-2.0-only
"""Follows the new code from what is redirected, beside the plain post object of its unit.

Each function of the module is laid beside the function that it is the new code of, each reference
beside that of the plain post object, and so on with what both lead to.  So everything in the module
that runs is seen, and nothing is found by a decision of those who made it.
"""

from collections.abc import Collection, Sequence

from ksplicd.create.referee.bodies import BodyComparison, spot
from ksplicd.create.referee.meaning import (
    describe,
    is_constant,
    is_descriptor,
    is_exit,
    is_private,
    things_at,
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
from ksplicd.create.referee.view import Place, Reference, TableEntry, View, is_cold
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import STT_FUNC, Symbol
from ksplicd.model import VMLINUX

TRIPWIRE = "ksplice_tripwire_hit"
_NAMELESS = 64
"""Bytes of data without a name that are compared."""


class Follower:
    """The new code of all units of an update."""

    def __init__(self, units: Sequence[JudgedUnit], module: NewModule) -> None:
        self.units, self.module = units, module
        self.found: list[str] = []
        """The contradictions."""
        self._claims: list[tuple[Claim, Place]] = []
        self._todo: list[tuple[JudgedUnit, Symbol, Symbol]] = []
        self._seen: set[tuple[JudgedUnit, Symbol, Symbol]] = set()
        self._storage: dict[tuple[JudgedUnit, Symbol], Symbol] = {}
        """By post variable, that of the module."""
        self._owners: dict[Symbol, tuple[JudgedUnit, Symbol]] = {}
        """By variable of the module, the post variable that it is."""

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
        why = None if found else self._why_not_global(claim.unit, name)
        for unit, old in found:
            twin = unit.pairs.post_of.get(old)
            why = "it is gone in plain post" if twin is None else self.why_stale(unit, twin)
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
        if why := self.why_leads_elsewhere(unit, Reference(Role.ADDRESS, after), new):
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
            return self.why_leads_elsewhere(unit, mine, other)

        def may_lack(entry: TableEntry) -> bool:
            return unit.target != VMLINUX

        bodies = BodyComparison(unit.new, self.module.view, leads, may_lack)
        mine, other = unit.new.bodies(b), self.module.view.bodies(n)
        why = f"has {len(other)} parts instead of {len(mine)}" if len(mine) != len(other) else None
        for x, y in zip(mine, other, strict=False):
            why = why or bodies.why_differs(x, y)
        if why:
            self.found.append(f"{unit.source}: the new code of {b.name} {why}")
        in_post = unit.loosely.pairs.pre_of.get(b) if unit.loosely else None
        if unit.loosely and in_post and (why := unit.loosely.why_differs(in_post, b)):
            self.found.append(f"{unit.source}: the new code of {b.name} {why}, unlike plain post")

    def meet(self, unit: JudgedUnit, b: Symbol, n: Symbol) -> None:
        """Have a function of the module compared, to which new code leads."""
        self._todo.append((unit, b, n))

    # --- references -----------------------------------------------------------------------------

    def why_leads_elsewhere(self, unit: JudgedUnit, b: Reference, n: Reference) -> str | None:
        """Return why a reference of the module does not lead where plain post's leads."""
        name = self.module.kernel_name(n.place)
        if b.place.section is None:
            why = self._outside(unit, b.place, n, name)
        elif name is not None:
            why = self._in_kernel(unit, b, n.place, name)
        else:
            why = self._in_module(unit, b, n)
        if why is None:
            return None
        to = describe(self.module.view, n.place)
        return f"leads to {to}, where plain post's leads to {describe(unit.new, b.place)}: {why}"

    def _outside(
        self, unit: JudgedUnit, b: Place, n: Reference, name: KernelName | None
    ) -> str | None:
        """Compare with what another unit defines."""
        wanted = b.symbol.name if b.symbol else ""
        owner = self.owner_of(unit, wanted)
        if name is None:
            if owner is None:
                return "it is no part of the update"
            other, s = owner
            return self._in_module(other, Reference(n.role, _place_of(s, b.offset)), n)
        if n.place.offset != b.offset:
            return "at another offset"
        if wanted == TRIPWIRE:
            is_hit = name.name.endswith(TRIPWIRE.removeprefix("ksplice"))
            return None if is_hit else "it is another function"
        if name.name != wanted:
            return "it has another name"
        if owner is not None:
            return self.why_stale(*owner)
        return self._why_not_global(unit, name)

    def owner_of(self, unit: JudgedUnit, name: str) -> tuple[JudgedUnit, Symbol] | None:
        """Return the unit of the update that gives a global to ``unit``, and the post symbol."""
        found = [u for u in self.units if name in u.globals]
        for u in found:
            if u.target == unit.target:
                return u, u.globals[name]
        for u in found:
            if u.target == VMLINUX or name not in u.old_globals:
                return u, u.globals[name]
        return None

    def why_stale(self, unit: JudgedUnit, s: Symbol, old: Symbol | None = None) -> str | None:
        """Return why the kernel's own form of a post symbol is not good enough, None when it is.

        ``old``: which pre symbol is meant, where the compiler has folded several.
        """
        old = old or unit.pairs.pre_of.get(s)
        if old is None:
            return f"{s.name} is new, and the kernel has none"
        if old in unit.redirected or is_private(s):
            return None
        if old in unit.exchanged and unit.standing.is_made_good(old, unit.exchanged[old]):
            return None
        why = unit.standing.differing.get(old)
        return f"{s.name} {why} in plain post, and is not redirected" if why else None

    @staticmethod
    def _why_not_global(unit: JudgedUnit, name: KernelName) -> str | None:
        """Check that a name means the global symbol of several that have it."""
        if not name.object:
            return None
        found = unit.addresses_of(name)
        if found is None or unit.kernel is None:
            return None
        known = unit.kernel.global_address(name.object, name.name)
        if len(found) != 1:
            return f"the kernel has {len(found)} of that name and position"
        return "it is another file's static" if known is not None and known != found[0] else None

    def _in_kernel(self, unit: JudgedUnit, b: Reference, n: Place, name: KernelName) -> str | None:
        """Compare a thing of the unit with what the running kernel has."""
        why = "it is something else"
        for thing, offset in self._things(unit, b):
            olds = unit.pairs.olds_of(thing)
            for old in olds:
                if self._is_named(unit, old, offset, n.offset, name):
                    known = old if unit.pairs.post_of.get(old) is thing else None
                    return self.why_stale(unit, thing, known)
            if self._is_same_constant(unit, thing, offset, n.offset, name):
                return None
            why = f"the twin of {thing.name} is {' or '.join(s.name for s in olds)}"
            if not olds:
                why = f"{thing.name} is new, and the kernel has none"
        return why

    def _things(self, unit: JudgedUnit, b: Reference) -> list[tuple[Symbol, int]]:
        section = b.place.section
        assert section is not None
        if section.is_text:
            s = unit.new.symbol_at(section, b.place.offset)
            return [] if s is None else [(s, b.place.offset - s.value)]
        return things_at(unit.new, b.place, b.role)

    @staticmethod
    def _is_named(unit: JudgedUnit, old: Symbol, offset: int, to: int, name: KernelName) -> bool:
        """Tell whether a name with an offset is a place of a pre symbol."""
        names = {x for s in (old,) if s.section for x in unit.pre.names[s.section, s.value]}
        is_so_named = name.name in names and to == offset
        if not name.object:
            return is_so_named
        address, found = unit.address_of(old), unit.addresses_of(name)
        if address is None or found is None:
            return is_so_named
        return len(found) == 1 and found[0] + to == address + offset

    @staticmethod
    def _is_same_constant(
        unit: JudgedUnit, thing: Symbol, offset: int, to: int, name: KernelName
    ) -> bool:
        """Tell whether a name is that of a constant with the content of a post one.

        Which of two constants is meant, that the compiler has folded once, does not matter.
        """
        old = unit.find(name)
        if old is None or old.section is None or thing.section is None or offset != to:
            return False
        if not (is_constant(old.section) and is_constant(thing.section)):
            return False
        if unit.new is unit.post:
            return unit.standing.why_data_differ(old, thing) is None
        (mine, refers), (other, refer) = unit.pre.content(old), unit.new.content(thing)
        return mine == other and not refers and not refer

    def _in_module(self, unit: JudgedUnit, b: Reference, n: Reference) -> str | None:
        """Compare a thing of the unit with what the module has."""
        p, q, view = b.place, n.place, self.module.view
        if p.section is None or q.section is None:
            return "one of both is not there"
        if p.section.is_strings or q.section.is_strings:
            ours = unit.new.text_at(p.section, p.offset) if p.section.is_strings else None
            theirs = view.text_at(q.section, q.offset) if q.section.is_strings else None
            return None if ours == theirs else "it is another text"
        if p.section.is_merged_constants and q.section.is_merged_constants:
            size = p.section.entsize
            same = p.section.data[p.offset :][:size] == q.section.data[q.offset :][:size]
            return None if same else "it is another constant"
        if p.section.is_text != q.section.is_text:
            return "one is code and the other data"
        if p.section.is_text:
            return self._function(unit, b, q)
        return self._datum(unit, b, q)

    def _function(self, unit: JudgedUnit, b: Reference, q: Place) -> str | None:
        """Compare a function of the unit with one of the module."""
        x, y = spot(unit.new, b.place), spot(self.module.view, q)
        if x is None or y is None:
            return "it is no instruction of a function"
        if x[1] != y[1]:
            return "it is another instruction"
        old = unit.pairs.pre_of.get(x[0])
        is_kept = b.role is not Role.BRANCH and not x[1]
        has_old = old is not None and old.section is not None and not is_exit(old.section)
        if old is not None and is_kept and has_old and unit.address_of(old) is not None:
            return f"the address of {old.name} must be that of the kernel's own"
        if is_cold(x[0]) != is_cold(y[0]):
            return "it is another part of a function"
        if not is_cold(x[0]):  # a cold part is compared with its function
            self.meet(unit, x[0], y[0])
        return None

    # --- data -----------------------------------------------------------------------------------

    def _datum(self, unit: JudgedUnit, b: Reference, q: Place) -> str | None:
        """Compare a datum of the unit with one of the module."""
        view = self.module.view
        ours, theirs = things_at(unit.new, b.place, b.role), things_at(view, q, b.role)
        why = "it is something else"
        for s, offset in ours:
            for n, to in theirs:
                if offset != to or s.size != n.size:
                    continue
                faults = self.why_not_storage(unit, s, n)
                if faults is None:
                    return None
                why = faults
        if ours:
            return why
        assert b.place.section is not None
        assert q.section is not None
        size = min(b.place.section.size - b.place.offset, q.section.size - q.offset, _NAMELESS)
        mine = unit.new.bytes_of(b.place.section, b.place.offset, b.place.offset + size)[0]
        other = view.bytes_of(q.section, q.offset, q.offset + size)[0]
        return None if mine == other else "it has another content"

    def why_not_storage(self, unit: JudgedUnit, s: Symbol, n: Symbol) -> str | None:
        """Return why a variable of the module is not the storage of a post variable."""
        assert s.section is not None
        pairs = unit.pairs
        has_twin = s in pairs.pre_of
        if has_twin and not is_private(s) and not is_constant(s.section):
            return f"the kernel's {pairs.pre_of[s].name} is its storage"
        known = self._storage.get((unit, s))
        if known is n:
            return None
        if not is_private(s) and not is_constant(s.section):
            if known is not None:
                return f"{s.name} has two storages"
            owner = self._owners.get(n)
            if owner is not None and owner != (unit, s):
                return f"it is the storage of {owner[1].name} already"
        self._storage[unit, s] = n
        self._owners[n] = unit, s
        return self._why_content_differs(unit, s, n)

    def _why_content_differs(self, unit: JudgedUnit, s: Symbol, n: Symbol) -> str | None:
        assert s.section is not None
        (mine, before), (other, after) = unit.new.content(s), self.module.view.content(n)
        if is_descriptor(s.section):  # the file's name and the line may be other ones
            before, after = before[:2] + before[3:4], after[:2] + after[3:4]
        elif mine != other:
            return "it has another content"
        if [at for at, _ in before] != [at for at, _ in after]:
            return "its content refers to other things"
        for (at, p), (_, q) in zip(before, after, strict=True):
            x, y = Reference(Role.ADDRESS, p), Reference(Role.ADDRESS, q)
            if why := self.why_leads_elsewhere(unit, x, y):
                return f"its content at {at:+#x} {why}"
        return None


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


def _place_of(s: Symbol, offset: int) -> Place:
    return Place(s.section, s.value + offset)

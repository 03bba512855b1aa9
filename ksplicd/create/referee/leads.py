# SPDX-License-Identifier: GPL-2.0-only
"""Whether a reference of the new module leads where that of the plain post object does.

To what another unit defines, to what the running kernel has, or to what the module brings along.
"""

from collections.abc import Callable, Sequence

from ksplicd.create.referee.bodies import spot
from ksplicd.create.referee.meaning import (
    describe,
    is_constant,
    is_descriptor,
    is_exit,
    is_private,
    things_at,
)
from ksplicd.create.referee.nameless import Nameless, is_same_nameless, is_same_text
from ksplicd.create.referee.new_module import KernelName, NewModule
from ksplicd.create.referee.pairs import base_name
from ksplicd.create.referee.unit import JudgedUnit
from ksplicd.create.referee.view import Place, Reference, is_cold
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import Symbol
from ksplicd.model import VMLINUX

TRIPWIRE = "ksplice_tripwire_hit"


class Leads:
    """Where the references of an update lead."""

    def __init__(
        self,
        units: Sequence[JudgedUnit],
        module: NewModule,
        meet: Callable[[JudgedUnit, Symbol, Symbol], None],
    ) -> None:
        """``meet``: is told of each function of a unit, and of the module, to which both lead."""
        self.units, self.module, self._meet = units, module, meet
        self._nameless = Nameless(module.view)
        self._storage: dict[tuple[JudgedUnit, Symbol], Symbol] = {}
        """By post variable, that of the module."""
        self._owners: dict[Symbol, tuple[JudgedUnit, Symbol]] = {}
        """By variable of the module, the post variable that it is."""

    def why_elsewhere(self, unit: JudgedUnit, b: Reference, n: Reference) -> str | None:
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
        return self.why_not_global(unit, name)

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
    def why_not_global(unit: JudgedUnit, name: KernelName) -> str | None:
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
            if offset == n.offset and self._is_another_limit(unit, thing, name):
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

    @staticmethod
    def _is_another_limit(unit: JudgedUnit, thing: Symbol, name: KernelName) -> bool:
        """Tell whether a name is that of a variable that only limits what is printed, like ours.

        A function has several ``_rs``: which of them is which does not matter.
        """
        old = unit.find(name)
        return (
            old is not None
            and is_private(old)
            and is_private(thing)
            and (old.size, base_name(old.name)) == (thing.size, base_name(thing.name))
            and not (thing.section is not None and is_descriptor(thing.section))
        )

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
            self._meet(unit, x[0], y[0])
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
        mine, other = unit.nameless, self._nameless
        if ours:
            return None if is_same_text(mine, b.place, other, q) else why
        is_same = is_same_nameless(mine, b.place, other, q)
        return None if is_same else "it has another content"

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
            if why := self.why_elsewhere(unit, x, y):
                return f"its content at {at:+#x} {why}"
        return None


def _place_of(s: Symbol, offset: int) -> Place:
    return Place(s.section, s.value + offset)

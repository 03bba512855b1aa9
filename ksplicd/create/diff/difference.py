# SPDX-License-Identifier: GPL-2.0-only
"""What differs in one unit, as a record that nobody changes.

A ``Difference`` is of the unit's two objects alone.  A ``UnitChange`` adds what follows from the
other units, the layouts and the kernel; refusals are joined there and nowhere else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ksplicd.create.diff.data import is_compared
from ksplicd.create.diff.hooks import Hook
from ksplicd.create.diff.peers import read_ignored
from ksplicd.create.diff.pointers import FieldChanges, PointerChange
from ksplicd.create.diff.twins import Twins
from ksplicd.create.diff.values import ValueChange
from ksplicd.create.messages import names_of
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import STB_LOCAL, Symbol
from ksplicd.model import VMLINUX


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Difference:
    """What differs between the two objects of one unit."""

    twins: Twins
    changed: Mapping[Symbol, str]
    """Post functions that have a twin and differ from it, with the reason."""
    new: tuple[Symbol, ...]
    """Post functions without a twin."""
    removed: tuple[Symbol, ...]
    """Pre functions without a twin."""
    boot: Mapping[Symbol, str]
    """Post functions that differ or are new, but run only at boot or at unload."""
    unload: Symbol | None
    """The post object's exit function, when it or what it alone calls differs; in modules only."""
    copied_constants: tuple[Symbol, ...]
    """Post constants that differ from their twins, of which new code brings its own copy."""
    fields: FieldChanges
    """What the running kernel's tables get."""
    hooks: tuple[Hook, ...]
    """What is called when the update is applied or undone."""
    notes: tuple[str, ...]
    """What is left out, because a running kernel does not need it."""
    refusals: tuple[Refusal, ...]
    stale: frozenset[Symbol] = frozenset()
    """Post functions and constants that the kernel has in an older form than the pre object, where
    nothing leads to that (``earlier.py``)."""

    @property
    def pre(self) -> ObjectIndex:
        """The object before the change."""
        return self.twins.pre

    @property
    def post(self) -> ObjectIndex:
        """The object after the change."""
        return self.twins.post

    @property
    def ignored(self) -> frozenset[Symbol]:
        """Post functions that stay as they are, as the patch says."""
        return read_ignored(self.twins)[0]

    @property
    def pointers(self) -> tuple[PointerChange, ...]:
        """Function pointers that the running kernel's tables get."""
        return self.fields.pointers

    @property
    def values(self) -> tuple[ValueChange, ...]:
        """Other fields that they get."""
        return self.fields.values

    @property
    def is_empty(self) -> bool:
        """Tell whether the patch changes nothing here that a kernel uses."""
        return not self.is_needed and not self.boot

    @property
    def is_boot_only(self) -> bool:
        """Tell whether all that changes has run already, or runs at unload."""
        return bool(self.boot) and not self.is_needed

    @property
    def is_needed(self) -> bool:
        """Tell whether there is something to do in a running kernel, or to refuse."""
        is_exchanged = self.unload or self.pointers or self.values
        return bool(self.changed or self.hooks or self.refusals or is_exchanged)

    def new_globals(self) -> list[Symbol]:
        """Return the new functions and data to which other units can refer."""
        functions = [s for s in self.new if s.bind != STB_LOCAL]
        return functions + [s for s in self.new_data() if s.bind != STB_LOCAL]

    def new_data(self) -> list[Symbol]:
        """Return the post data that have a content, and that the pre object does not have."""
        return [s for s in self.post.obj.symbols if is_compared(s) and not self.twins.old_of(s)]

    def with_changed(self, more: Mapping[Symbol, str]) -> "Difference":
        """Return the difference with more changed functions; a known reason stands."""
        changed = dict(self.changed)
        for s, why in more.items():
            changed.setdefault(s, why)
        return replace(self, changed=changed)

    def without_ignored(self) -> "Difference":
        """Return the difference without what the patch says to leave as it is, with a note."""
        ignored = self.ignored
        left = [s for s in self.changed if s in ignored]
        if not left:
            return self
        changed = {s: why for s, why in self.changed.items() if s not in ignored}
        names = names_of(sorted({s.name for s in left}))
        note = f"{names} changes, and stays as it is: KPATCH_IGNORE_FUNCTION()"
        return replace(self, changed=changed, notes=(*self.notes, note))

    def refuse_boot_code(self) -> list[Refusal]:
        """Return why a patch that changes nothing else than boot code here is of no use."""
        why = "the function runs only at boot or at unload"
        hint = "leave it out of the patch; it has no effect on a running kernel"
        return [refuse(s, why, hint) for s in self.boot]


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """A function of the kernel in whose place tables name another one.

    Nothing else leads there, so that it is redirected itself: that reaches every copy of them.
    """

    old: str
    sympos: int
    """Position of ``old`` among equal names in kallsyms; 0 when the name is unique."""
    unit: str
    """The source file that has it."""
    new: Symbol
    """In the post object of the unit that has the tables."""
    tables: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitChange:
    """The difference of one unit, seen with the other units of the update and with the kernel."""

    unit: str
    """Its source file."""
    target: str = VMLINUX
    """What the unit is part of: ``vmlinux`` or a module."""
    difference: Difference
    shared: tuple[Symbol, ...] = ()
    """New global functions and data that the new code of other units refers to."""
    borrowed: Mapping[str, Symbol] = field(default_factory=dict)
    """By name, what the new code here refers to of that of other units."""
    successions: tuple[Succession, ...] = ()
    """What is redirected instead of exchanging the pointers of tables."""
    has_unseen_layouts: bool = False
    """Whether changed structure layouts would go unnoticed (layout.py)."""
    refusals: tuple[Refusal, ...]
    """Those of the difference first, then all that were added."""

    @classmethod
    def of(cls, unit: str, difference: Difference, target: str = VMLINUX) -> "UnitChange":
        """Return the change that a difference alone makes."""
        return cls(unit=unit, target=target, difference=difference, refusals=difference.refusals)

    @property
    def key(self) -> tuple[str, str]:
        """What tells the unit from all others: several modules may have an object."""
        return self.unit, self.target

    @property
    def is_empty(self) -> bool:
        """Tell whether the patch changes nothing here that a kernel uses."""
        return not self.is_needed and not self.difference.boot

    @property
    def is_boot_only(self) -> bool:
        """Tell whether all that changes has run already, or runs at unload."""
        return bool(self.difference.boot) and not self.is_needed

    @property
    def is_needed(self) -> bool:
        """Tell whether there is something to do in a running kernel, or to refuse."""
        return bool(self.difference.is_needed or self.shared or self.refusals)

    def refuse(self, refusals: Iterable[Refusal]) -> "UnitChange":
        """Return the change with more that stands in its way."""
        more = tuple(refusals)
        return replace(self, refusals=self.refusals + more) if more else self

    def with_successions(
        self, found: Iterable[Succession], pointers: Iterable[PointerChange]
    ) -> "UnitChange":
        """Return the change with functions redirected; ``pointers``: what is left to exchange."""
        fields = replace(self.difference.fields, pointers=tuple(pointers))
        difference = replace(self.difference, fields=fields)
        return replace(self, difference=difference, successions=tuple(found))

    def with_notes(self, more: Iterable[str]) -> "UnitChange":
        """Return the change with more notes, such as those of units in which nothing else is."""
        notes = tuple(dict.fromkeys((*self.difference.notes, *more)))
        return replace(self, difference=replace(self.difference, notes=notes))

    def with_changed(self, more: Mapping[Symbol, str]) -> "UnitChange":
        """Return the change with more post functions to replace; a known reason stands."""
        return replace(self, difference=self.difference.with_changed(more))

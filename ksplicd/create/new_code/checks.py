# SPDX-License-Identifier: GPL-2.0-only
"""What new code must not refer to, because of when and how the kernel links modules.

Nothing is cut out here.
"""

import logging
from collections.abc import Container, Sequence
from typing import Final

from ksplicd.create.debug import phase
from ksplicd.create.diff.twins import Twins
from ksplicd.create.new_code.kernel_names import KernelNames
from ksplicd.create.new_code.model import UnitInKernel
from ksplicd.create.new_code.static_keys import choose_entries, key_of
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.special import REPLACEMENTS, Entry, is_special_section
from ksplicd.create.refusal import Refusals
from ksplicd.elf.model import Relocation, Section, Symbol
from ksplicd.model import VMLINUX

LOG: Final = phase("cut")


class Checks:
    """Refuses what the new code of one unit must not refer to."""

    def __init__(
        self,
        unit: UnitInKernel,
        post: ObjectIndex,
        names: KernelNames,
        kept: Container[Section],
        refusals: Refusals,
    ) -> None:
        """``kept``: the sections of which new code has its own copy."""
        self.unit, self.post, self.names = unit, post, names
        self.kept, self.refusals = kept, refusals
        self.notes: list[str] = []
        """What the user should know of."""

    def choose_entries(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the entries of static keys and static calls that new code can have."""
        chosen = choose_entries(entries, self.post, self.is_of_patched_module)
        if LOG.isEnabledFor(logging.DEBUG):
            self.log_left(entries, chosen.kept)
        for key in chosen.refused:
            self.refusals.add(
                key.name, key.section, "new code would use this static key of the patched module"
                " before it is there",
                "test the key in a function that the patch leaves alone, and call that",
            )  # fmt: skip
        self.notes += [
            f"{self.unit.source}: the tracepoint {name} does not fire in the new code, because the"
            " patched module owns it"
            for name in chosen.silenced
        ]
        return chosen.kept

    def log_left(self, entries: Sequence[Entry], kept: Sequence[Entry]) -> None:
        """Log the entries that new code does without."""
        indices = {e.index for e in kept}
        for e in entries:
            if e.index not in indices:
                key, table = key_of(e, self.post), e.table.section
                name, source = key.name if key else "?", self.unit.source
                LOG.debug(
                    "%s: leaves an entry of %s: the patched module has %s", source, table, name
                )

    def is_of_patched_module(self, s: Symbol) -> bool:
        """Tell whether a symbol is one that livepatch fills in only with the patched module."""
        target = self.unit.target
        if target == VMLINUX or s.section in self.kept:
            return False
        name = self.names.external_name(s)
        return name is not None and name.startswith((f".klp.sym.{target}.", ".klp.sym@"))

    def check_early_use(self, owner: Section, symbol: Symbol) -> None:
        """Refuse what the kernel copies before a target module's symbols are filled in."""
        if owner.name == REPLACEMENTS and self.is_of_patched_module(symbol):
            self.refusals.add(
                symbol.name, owner, "an alternative calls a function of the patched module",
                "move the call out of the alternative",
            )  # fmt: skip

    def check_unclear(self, owner: Section, r: Relocation, twins: Twins) -> None:
        """Refuse a reference that may mean either of two data, unless both are at one address.

        They are where the kernel has the same two at the same distance.
        """
        both = twins.post.as_compiled.unclear.get(r)
        if both is None:
            return
        before = [twins.pre_of[s] for s in both if s in twins.pre_of]
        if len(before) == 2 and _distance(twins.post, *both) == _distance(twins.pre, *before):
            return
        user = twins.post.symbol_at(owner, r.offset)
        where = f"{user.name if user else owner.name}+{r.offset - (user.value if user else 0):#x}"
        names = " or ".join(s.name for s in both)
        self.refusals.add(
            both[0].name, both[0].section, f"{where} means {names}: the end of one is the beginning"
            " of the other, and an object does not say which",
            "take the section attribute of one of them away, or define it somewhere else",
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
        if self.unit.is_sealed(external.name) and not self.post.is_branch(owner, r):
            self.refusals.add(
                symbol.name, owner, "the address of a function without landing pad is taken",
                "take the address of a new function that calls it",
            )  # fmt: skip


def _distance(index: ObjectIndex, a: Symbol, b: Symbol) -> int | None:
    """Return how far two data of one section were from each other, None when they were in two."""
    begin, end = index.as_compiled.places.get(a), index.as_compiled.places.get(b)
    if begin is None or end is None or begin[0] is not end[0]:
        return None
    return end[1] - begin[1]

# SPDX-License-Identifier: GPL-2.0-only
"""The new code of all units of an update, with that of callers of what cannot be redirected."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from ksplicd.create.build.pre_state import PreState
from ksplicd.create.diff.across_units import refuse_overridden
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.new_code.aliases import Aliases, aliases_by_name
from ksplicd.create.new_code.callers import take_in_callers
from ksplicd.create.new_code.cut import ONE_UPDATE
from ksplicd.create.new_code.exchanged import lead_tables
from ksplicd.create.new_code.extract import extract
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.new_code.successions import Successions
from ksplicd.create.new_code.tripwires import CALLED, name_in_core
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.errors import UnsupportedChangeError
from ksplicd.model import VMLINUX

_LIVEPATCH_NAME: Final = re.compile(r"\.klp\.sym(?:@[^@]+@|\.)[^.]+\.(?P<name>.+),\d+")


def cut_new_code(
    kid: str, changes: Sequence[UnitChange], pre_state: PreState, kernel: StockKernel
) -> list[NewCode]:
    """Return update ``kid``'s new code: of each unit, and of callers of what is not redirected.

    The source tree must be as it was found.  Raises ``UnsupportedChangeError``.
    """
    aliases = Aliases()
    changes = [refuse_overridden(c, kernel.units[c.key].overridden) for c in changes]
    successions = Successions(changes, pre_state, kernel)
    changes = [lead_tables(c, successions, pre_state.kbuild.tree) for c in changes]
    taken_in = take_in_callers(changes, pre_state, kernel, aliases)
    shared = aliases.for_shared(changes)

    def others(change: UnitChange) -> dict[str, str]:
        """Return what new code reaches by another name; a module may have functions so named."""
        callees = {
            name: new for name, new in taken_in.aliases.items()
            if change.target == VMLINUX or not kernel.has_global(change.target, name)
        }  # fmt: skip
        return {**callees, **aliases_by_name(change, shared), CALLED: name_in_core(kid)}

    found = [extract(kernel.units[c.key], c, aliases, others(c)) for c in taken_in.changes]
    refuse_led_twice(found)
    for change, code in zip(taken_in.changes, found, strict=True):
        refuse_unreached(change, code, pre_state.series.unreached)
    return found


def refuse_unreached(change: UnitChange, code: NewCode, unreached: Mapping[str, str]) -> None:
    """Refuse to call what only an earlier update's own new code has in the form that is meant.

    ``unreached``: by name, the update's id.
    """
    elsewhere = {s.name for s in change.difference.post.obj.symbols if s.is_undefined}
    for s in code.obj.symbols:
        m = _LIVEPATCH_NAME.fullmatch(s.name)
        name = m["name"] if m is not None else s.name
        if s.is_undefined and name in unreached and name in elsewhere:
            raise UnsupportedChangeError(
                f"{change.unit}: {name}: update {unreached[name]} has a form of it that only its"
                f" own new code calls, and new code here would call the kernel's; {ONE_UPDATE}"
            )


def refuse_led_twice(new_code: Sequence[NewCode]) -> None:
    """Refuse to redirect one function to two, such as for a table and as somebody's caller."""
    known: dict[tuple[str, str, int], str] = {}
    for code in new_code:
        for r in code.redirected:
            place = code.target, r.name, r.sympos
            if place in known:
                raise UnsupportedChangeError(
                    f"{code.unit}: {r.name} would be redirected twice: {known[place]}; {r.reason};"
                    " give the table a function that is new"
                )
            known[place] = r.reason

# SPDX-License-Identifier: GPL-2.0-only
"""What is left behind: code and data that stay, though plain post has them otherwise."""

from collections.abc import Iterator, Sequence

from ksplicd.create.referee.unit import JudgedUnit
from ksplicd.elf.model import STB_LOCAL, STB_WEAK, STT_FUNC, Symbol


def find_left_behind(units: Sequence[JudgedUnit]) -> Iterator[str]:
    """Yield a sentence for each thing; what is redirected must have been noted in the units."""
    for unit in units:
        gone = [s for s in unit.standing.differing if s.name in unit.overridden]
        found = dict(unit.standing.contradictions({*unit.redirected, *gone}, unit.handled))
        yield from (f"{unit.source}: {sentence}" for sentence in found.values())
        for s, why in unit.standing.differing.items():
            if s in found or s in gone or not _is_reachable(unit, s):
                continue
            if (who := _who_leads_there(units, unit, s)) is not None:
                yield (
                    f"{unit.source}: {s.name} {why} in plain post, nothing redirects it, and {who}"
                )


def _is_reachable(unit: JudgedUnit, s: Symbol) -> bool:
    """Tell whether other units may call a function that is not redirected."""
    return (
        s not in unit.redirected
        and s.bind != STB_LOCAL
        and s.type == STT_FUNC
        and s.section is not None
        and not unit.standing.is_gone_by_now(s.section)
    )


def _who_leads_there(units: Sequence[JudgedUnit], unit: JudgedUnit, s: Symbol) -> str | None:
    """Return who in the running kernel still calls a function, None when nobody does."""
    address = unit.address_of(s)
    if unit.kernel is None or address is None:
        return None if s.bind == STB_WEAK else "it is not known who calls it"
    if importers := unit.kernel.importers(s.name):
        return f"modules call it ({', '.join(importers[:3])})"
    known = [
        range(at, at + f.size)
        for u in units if u.target == unit.target
        for f in {*u.redirected, *u.standing.differing}
        if (at := u.address_of(f)) is not None
    ]  # fmt: skip
    left = [at for at in unit.kernel.references_to(address) if not any(at in r for r in known)]
    return f"{left[0]:#x} leads to it" if left else None

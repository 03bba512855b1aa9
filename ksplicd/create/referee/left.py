# SPDX-License-Identifier: GPL-2.0-only
"""What is left behind: code and data that stay, though plain post has them otherwise."""

from collections.abc import Iterator, Sequence

from ksplicd.create.referee.unit import JudgedUnit
from ksplicd.elf.model import STB_LOCAL, STB_WEAK, Symbol


def find_left_behind(units: Sequence[JudgedUnit]) -> Iterator[str]:
    """Yield a sentence for each thing; what is redirected must have been noted in the units."""
    for unit in units:
        standing = unit.standing
        gone = [s for s in standing.differing if s.name in unit.overridden]
        redirected = {*unit.redirected, *gone}
        dead: set[Symbol] = set()
        while found := list(standing.contradictions(redirected, unit.exchanged, dead)):
            # A global that nothing calls any more, such as a caller in lib/ of what changes there.
            unused = {
                c.root for c in found
                if _is_global(unit, c.root) and _who_leads_there(units, unit, c.root) is None
            } - dead  # fmt: skip
            if not unused:
                break
            dead |= unused
        yield from (f"{unit.source}: {c.sentence}" for c in found)
        told = {c.symbol for c in found}
        for s, why in standing.differing.items():
            if s in told or s in redirected or not _is_global(unit, s):
                continue
            if s not in standing.pairs.post_of and not _is_elsewhere(units, unit, s):
                continue  # whoever uses it has it still: the change has nothing in its place
            if s in unit.exchanged and standing.is_made_good(s, unit.exchanged[s]):
                continue
            if (who := _who_leads_there(units, unit, s)) is not None:
                yield (
                    f"{unit.source}: {s.name} {why} in plain post, nothing redirects it, and {who}"
                )


def _is_elsewhere(units: Sequence[JudgedUnit], unit: JudgedUnit, s: Symbol) -> bool:
    """Tell whether another unit of the update has the global now."""
    assert s.section is not None
    names = unit.pre.names[s.section, s.value]
    return any(name in other.globals for other in units if other is not unit for name in names)


def _is_global(unit: JudgedUnit, s: Symbol) -> bool:
    """Tell whether other units may use a function or a datum while the kernel runs."""
    return (
        s.bind != STB_LOCAL
        and s.section is not None
        and s.section.name not in unit.pre.sizes
        and not unit.standing.is_left_as_it_is(s)
    )


def _who_leads_there(units: Sequence[JudgedUnit], unit: JudgedUnit, s: Symbol) -> str | None:
    """Return who in the running kernel still leads to a global, None when nobody does."""
    address = unit.address_of(s)
    if unit.kernel is None or address is None:
        return None if s.bind == STB_WEAK else "it is not known who uses it"
    if importers := unit.kernel.importers(s.name):
        return f"modules use it ({', '.join(importers[:3])})"
    known = [
        range(at, at + f.size)
        for u in units if u.target == unit.target
        for f in {*u.redirected, *u.standing.differing}
        if (at := u.address_of(f)) is not None
    ]  # fmt: skip
    left = [at for at in unit.kernel.references_to(address) if not any(at in r for r in known)]
    return f"{left[0]:#x} leads to it" if left else None

# SPDX-License-Identifier: GPL-2.0-only
"""Several names for one thing: what the compiler folds, and what ``__alias()`` makes.

gcc folds functions of the same code, and constants of the same content, whose addresses nobody
compares (-fipa-icf).  A patch may part them, or make what was several the same.  What the running
kernel has is one thing all the same, or several.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from ksplicd.create.diff.twins import Pairing, Place, Twins, place_of
from ksplicd.create.objects.names import is_read_only
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import STB_LOCAL, Symbol


def part_functions(pairing: Pairing) -> None:
    """Leave the kernel's function to one of those that it is parted into; the others are new.

    Who calls the others changes then, too.  That is so of functions of this unit alone: others call
    a global one by its name, which stays with the kernel's.
    """
    for group in _parted((a, b) for a, b in pairing.post_of.items() if a.is_function):
        by_place = defaultdict[Place, list[tuple[Symbol, Symbol]]](list)
        for a, b in group:
            if (place := place_of(b)) is not None:
                by_place[place].append((a, b))
        _, *others = sorted(by_place.values(), key=_rank)
        for a, b in (pair for pairs in others for pair in pairs):
            if a.bind == b.bind == STB_LOCAL:
                pairing.part(a, b, "another one has the kernel's function")


def _rank(pairs: list[tuple[Symbol, Symbol]]) -> tuple[bool, bool, str]:
    """Return what ranks the function that stays first: global, with the same code, by its name."""
    is_local = all(a.bind == b.bind == STB_LOCAL for a, b in pairs)
    a, b = pairs[0]
    return is_local, _bytes_of(a) != _bytes_of(b), min(b.name for _, b in pairs)


def _bytes_of(s: Symbol) -> bytes:
    """Return the bytes of a function; what is relocated is zero in an object."""
    assert s.section is not None
    return s.section.data[s.value : s.value + s.size]


def refuse_other_storage(twins: Twins) -> list[Refusal]:
    """Refuse variables that were one and are to be several, or several that are to be one.

    Of constants the content is all that counts.
    """
    pairs = [
        (a, b) for a, b in twins.post_of.items()
        if not a.is_function and a.section and b.section
        and not (is_read_only(a.section) and is_read_only(b.section))
    ]  # fmt: skip
    refusals = []
    for group in _parted(pairs):
        names = ", ".join(a.name for a, _ in group)
        why = f"in the kernel {names} are one variable; the patch parts them"
        hint = "give the new variable a name of its own"
        refusals += [refuse(b, why, hint) for _, b in group[1:]]
    for group in _parted((b, a) for a, b in pairs):
        names = ", ".join(b.name for b, _ in group)
        why = f"in the kernel {names} are variables of their own; the patch makes them one"
        hint = "have the functions that change use the one that is to stay"
        refusals += [refuse(b, why, hint) for b, _ in group[1:]]
    return refusals


def _parted(pairs: Iterable[tuple[Symbol, Symbol]]) -> list[list[tuple[Symbol, Symbol]]]:
    """Return the pairs whose first symbols are at one place, and the second ones at several."""
    groups: Mapping[Place, list[tuple[Symbol, Symbol]]] = defaultdict(list)
    for a, b in pairs:
        if (place := place_of(a)) is not None:
            groups[place].append((a, b))
    return [g for g in groups.values() if len({place_of(b) for _, b in g} - {None}) > 1]

# SPDX-License-Identifier: GPL-2.0-only
"""New functions and data of one file that the new code of another file uses.

A patch that adds ``foo()`` to a.c and calls it in b.c: the kernel has no ``foo``, so that the new
code of b.c has to reach that of a.c, with which it shares a module.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.data import find_uses, is_compared
from ksplicd.create.diff.exports import read_exports
from ksplicd.create.diff.twins import correlate
from ksplicd.create.diff.unit import Difference, refuse_new_data
from ksplicd.create.objects.names import is_boot_section
from ksplicd.create.objects.special import EntrySizes
from ksplicd.create.refusal import refuse
from ksplicd.elf import Symbol
from ksplicd.elf.model import STB_LOCAL, STB_WEAK

_Offers = dict[tuple[str, str], tuple[Difference, Symbol]]
"""By target and name, a new global symbol and the difference that brings it."""


def find_shared(differences: Collection[Difference], sizes: EntrySizes) -> None:
    """Note in each difference which of its new symbols the new code of the others refers to.

    A unit in which nothing else changes comes in for them.  What one of a target's units had or
    used before is no new thing, only moved.
    """
    refuse_moved(differences, sizes)
    offered = find_offers(differences)
    todo = [d for d in differences if d.is_needed]
    while offered and todo:
        user = todo.pop()
        for s in user.post.obj.symbols:
            found = find_offer(offered, user, s.name) if s.is_undefined else None
            if found is None:
                continue
            owner, new = found
            user.borrowed[s.name] = new
            if not owner.is_needed:
                todo.append(owner)
            if new not in owner.shared:
                share(owner, [new])


def find_offers(differences: Collection[Difference]) -> _Offers:
    """Return the new global symbols; of a name that two files of a target bring, the strong one."""
    known = known_globals(differences)
    offered: _Offers = {}
    for is_weak in (True, False):
        for d in differences:
            for s in d.new_globals():
                key = d.target, s.name
                if s.name in known[d.target] or (s.bind == STB_WEAK) is not is_weak:
                    continue
                if key in offered:
                    refuse_weak(*offered[key])
                offered[key] = d, s
    return offered


def find_offer(offered: _Offers, user: Difference, name: str) -> tuple[Difference, Symbol] | None:
    """Return what the linker or the loader would take for an undefined symbol of a unit.

    In another target's files that is an exported one; two modules may have a global of one name.
    """
    if (user.target, name) in offered:
        return offered[user.target, name]
    if any(s.name == name for s in user.pre.obj.symbols):
        return None
    for (_, other), (owner, new) in offered.items():
        if other == name and name in read_exports(owner.post.obj):
            return owner, new
    return None


def refuse_weak(d: Difference, weak: Symbol) -> None:
    """Refuse a new function of which another file brings the strong form, if it is called here."""
    if find_uses(d.post)[weak]:
        why = "it is weak, and another file of the patch brings the function that takes its place"
        d.refusals.append(refuse(weak, why, "leave the weak one out of the patch, declare it only"))


def known_globals(differences: Iterable[Difference]) -> dict[str, set[str]]:
    """Return the global names that the units of each target have or use before the patch."""
    known: dict[str, set[str]] = defaultdict(set)
    for d in differences:
        known[d.target].update(s.name for s in d.pre.obj.symbols if s.bind != STB_LOCAL and s.name)
    return known


def refuse_moved(differences: Collection[Difference], sizes: EntrySizes) -> None:
    """Refuse what moves from one file to another and changes: the kernel goes on using the old."""
    gone = find_gone(differences)
    for d in differences:
        for s in d.new_globals():
            if (d.target, s.name) not in gone:
                continue
            old, before = gone[d.target, s.name]
            twins = correlate(old.pre, d.post)
            if why := Comparison(old.pre, d.post, twins, sizes).why_differs(before, s):
                words = f"it moves here from another file and changes: {why}"
                d.refusals.append(refuse(s, words, "leave it where it is, and change it there"))


def find_gone(differences: Iterable[Difference]) -> _Offers:
    """Return the global symbols that a file had and has no more, by target and name."""
    return {
        (d.target, s.name): (d, s)
        for d in differences
        for s in d.pre.obj.symbols
        if s.section is not None and s.name and s.bind != STB_LOCAL and s not in d.twins.post_of
    }


def refuse_taken(
    differences: Collection[Difference], has_global: Callable[[str, str], bool]
) -> None:
    """Refuse new global symbols by the name of one that the kernel has from another file.

    So it is where a function is written that takes the place of a ``__weak`` one: all callers would
    go there, and in the running kernel go on to the old one.  ``has_global``: tells whether a
    target has a global of a name.
    """
    gone = find_gone(differences)
    for d in differences:
        before = {s.name for s in d.pre.obj.symbols if s.section and s.bind != STB_LOCAL}
        for s in d.post.obj.symbols:
            if s.section is None or s.bind == STB_LOCAL or s.name in before:
                continue
            if is_boot_section(s.section) or not (s.is_function or is_compared(s)):
                continue
            if (d.target, s.name) not in gone and has_global(d.target, s.name):
                why = f"{d.target} has another {s.name} already, which goes on being used"
                hint = "change that one where it is defined, or give this one a name of its own"
                d.refusals.append(refuse(s, why, hint))


def refuse_overridden(d: Difference, overridden: Collection[str]) -> None:
    """Refuse to change weak functions in whose place the kernel has another file's."""
    for s in d.changed:
        if d.twins.pre_of[s].name in overridden:
            why = "it is weak, and the kernel has another file's function in its place"
            hint = "leave it out of the patch; if need be, change the one that the kernel has"
            d.refusals.append(refuse(s, why, hint))


def share(d: Difference, symbols: Collection[Symbol]) -> None:
    """Have new symbols of a unit cut out for others, with what is refused for that."""
    d.shared += symbols
    d.refusals += [r for r in refuse_new_data(d) if r not in d.refusals]

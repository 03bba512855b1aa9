# SPDX-License-Identifier: GPL-2.0-only
"""What the units of one update mean for each other.

A patch that adds ``foo()`` to a.c and calls it in b.c: the kernel has no ``foo``, so that the new
code of b.c has to reach that of a.c, with which it shares a module.  By which name it does so is
not decided here.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.correlate import correlate
from ksplicd.create.diff.data import find_uses, is_compared
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.exports import read_exports
from ksplicd.create.diff.hooks import CALLBACKS
from ksplicd.create.diff.layout import compare_layouts
from ksplicd.create.diff.unit import refuse_new_data
from ksplicd.create.objects.names import is_boot_section
from ksplicd.create.refusal import refusals_text, refuse
from ksplicd.elf.model import STB_LOCAL, STB_WEAK, Symbol
from ksplicd.errors import NoChangesError, UnsupportedChangeError
from ksplicd.model import VMLINUX

_Offers = dict[tuple[str, str], tuple[int, Symbol]]
"""By target and name, a global symbol and which unit has it."""


def compare_across(
    changes: Sequence[UnitChange],
    has_global: Callable[[str, str], bool] = lambda _target, _name: False,
    allowed_layouts: Collection[str] = (),
) -> list[UnitChange]:
    """Return the units that change, with what the others, the kernel and layouts mean for them.

    ``has_global(target, name)``: whether the kernel's target has such a global symbol;
    ``allowed_layouts``: structures that may change.

    Raises ``NoChangesError``, and ``UnsupportedChangeError`` when only boot code differs.
    """
    changes = find_shared(refuse_taken(refuse_more_callbacks(changes), has_global), has_global)
    found = [c for c in changes if not c.is_empty]
    notes = dict.fromkeys(note for c in changes if c.is_empty for note in c.difference.notes)
    if not found:
        names = ", ".join(c.unit for c in changes)
        text = f"{names}: the patch changes no code that a running kernel uses"
        raise NoChangesError("\n  ".join((text, *notes)))
    if all(c.is_boot_only for c in found):
        refusals = [r for c in found for r in c.difference.refuse_boot_code()]
        names = ", ".join(c.unit for c in found)
        raise UnsupportedChangeError(refusals_text(names, refusals), refusals)
    found[0] = found[0].with_notes(notes)
    return [refuse_layouts(c, allowed_layouts) for c in found]


def refuse_more_callbacks(changes: Sequence[UnitChange]) -> list[UnitChange]:
    """Refuse what livepatch has no place for: a second callback of a kind for a target."""
    first: dict[tuple[str, str], tuple[str, Symbol]] = {}
    found = []
    for c in changes:
        refusals = []
        for hook in c.difference.hooks:
            if hook.kind not in CALLBACKS:
                continue
            unit, function = first.setdefault((c.target, hook.kind), (c.unit, hook.function))
            if function is not hook.function:
                why = f"{c.target} has a {hook.kind} callback already, {function.name} of {unit}"
                hint = "call both from one, or make the second a hook of ksplice (docs/hooks.md)"
                refusals.append(refuse(hook.function, why, hint))
        found.append(c.refuse(refusals))
    return found


def refuse_layouts(change: UnitChange, allowed: Collection[str] = ()) -> UnitChange:
    """Refuse structures of the unit that get another layout.  Raises ``ElfError``."""
    layouts = compare_layouts(change.difference, allowed)
    return replace(change.refuse(layouts.refusals), has_unseen_layouts=layouts.are_unseen)


# --- what one unit brings and another one uses --------------------------------------------------


def find_shared(
    changes: Sequence[UnitChange],
    has_global: Callable[[str, str], bool] = lambda _target, _name: False,
) -> list[UnitChange]:
    """Find in each unit which of its new symbols the new code of the others refers to.

    A unit in which nothing else changes comes in for them.  What one of a target's units had or
    used before is no new thing, only moved.  ``has_global``: as for ``compare_across``.
    """
    linked = refuse_moved(changes)
    offered = find_offers(linked)
    todo = [i for i, c in enumerate(linked) if c.is_needed]
    while offered and todo:
        at = todo.pop()
        for s in linked[at].difference.post.obj.symbols:
            found = find_offer(offered, linked, at, s.name, has_global) if s.is_undefined else None
            if found is None:
                continue
            owner, new = found
            linked[at] = replace(linked[at], borrowed={**linked[at].borrowed, s.name: new})
            if not linked[owner].is_needed:
                todo.append(owner)
            if new not in linked[owner].shared:
                linked[owner] = share(linked[owner], [new])
    return linked


def find_offers(changes: list[UnitChange]) -> _Offers:
    """Return the new global symbols; of a name that two files of a target bring, the strong one.

    Where the weak one is used in its own file, that unit is refused in ``changes``.
    """
    known = known_globals(changes)
    offered: _Offers = {}
    for is_weak in (True, False):
        for at, c in enumerate(changes):
            for s in c.difference.new_globals():
                key = c.target, s.name
                if s.name in known[c.target] or (s.bind == STB_WEAK) is not is_weak:
                    continue
                if key in offered:
                    owner, weak = offered[key]
                    changes[owner] = refuse_weak(changes[owner], weak)
                offered[key] = at, s
    return offered


def find_offer(
    offered: _Offers,
    changes: Sequence[UnitChange],
    user: int,
    name: str,
    has_global: Callable[[str, str], bool],
) -> tuple[int, Symbol] | None:
    """Return what the linker or the loader would take for an undefined symbol of a unit.

    In another target's files that is an exported one; two modules may have a global of one name.
    One of vmlinux need not be exported, because all new code of an update is one module; but the
    unit's own target may have another one of its name, in a file that does not change.
    """
    if (changes[user].target, name) in offered:
        return offered[changes[user].target, name]
    if any(s.name == name for s in changes[user].difference.pre.obj.symbols):
        return None
    for (_, other), (owner, new) in offered.items():
        if other == name and name in read_exports(changes[owner].difference.post.obj):
            return owner, new
    return None if has_global(changes[user].target, name) else offered.get((VMLINUX, name))


def refuse_weak(change: UnitChange, weak: Symbol) -> UnitChange:
    """Refuse a new function of which another file brings the strong form, if it is called here."""
    if not find_uses(change.difference.post)[weak]:
        return change
    why = "it is weak, and another file of the patch brings the function that takes its place"
    hint = "leave the weak one out of the patch, declare it only"
    return change.refuse([refuse(weak, why, hint)])


def known_globals(changes: Iterable[UnitChange]) -> dict[str, set[str]]:
    """Return the global names that the units of each target have or use before the patch."""
    known: dict[str, set[str]] = defaultdict(set)
    for c in changes:
        symbols = c.difference.pre.obj.symbols
        known[c.target].update(s.name for s in symbols if s.bind != STB_LOCAL and s.name)
    return known


def share(change: UnitChange, symbols: Collection[Symbol]) -> UnitChange:
    """Have new symbols of a unit cut out for others, with what is refused for that."""
    shared = (*change.shared, *symbols)
    refusals = refuse_new_data(change.difference, shared)
    known = change.refusals
    return replace(change, shared=shared).refuse(r for r in refusals if r not in known)


# --- what other files of the kernel have --------------------------------------------------------


def refuse_moved(changes: Sequence[UnitChange]) -> list[UnitChange]:
    """Refuse what moves from one file to another and changes: the kernel goes on using the old."""
    gone = find_gone(changes)
    out = []
    for c in changes:
        refusals = []
        for s in c.difference.new_globals():
            if (c.target, s.name) not in gone:
                continue
            at, before = gone[c.target, s.name]
            twins = correlate(changes[at].difference.pre, c.difference.post)
            if why := Comparison(twins).why_differs(before, s):
                words = f"it moves here from another file and changes: {why}"
                refusals.append(refuse(s, words, "leave it where it is, and change it there"))
        out.append(c.refuse(refusals))
    return out


def find_gone(changes: Iterable[UnitChange]) -> _Offers:
    """Return the global symbols that a file had and has no more, by target and name."""
    return {
        (c.target, s.name): (at, s)
        for at, c in enumerate(changes)
        for s in c.difference.pre.obj.symbols
        if s.section is not None and s.name and s.bind != STB_LOCAL
        and s not in c.difference.twins.post_of
    }  # fmt: skip


def refuse_taken(
    changes: Sequence[UnitChange], has_global: Callable[[str, str], bool]
) -> list[UnitChange]:
    """Refuse new global symbols by the name of one that the kernel has from another file.

    An example is a function that is to take the place of a ``__weak`` one: in the running kernel
    its callers go on to the old one.  ``has_global(target, name)``: whether one has it.
    """
    gone = find_gone(changes)
    out = []
    for c in changes:
        before = {
            s.name for s in c.difference.pre.obj.symbols if s.section and s.bind != STB_LOCAL
        }  # fmt: skip
        refusals = []
        for s in c.difference.post.obj.symbols:
            if s.section is None or s.bind == STB_LOCAL or s.name in before:
                continue
            if is_boot_section(s.section) or not (s.is_function or is_compared(s)):
                continue
            if (c.target, s.name) not in gone and has_global(c.target, s.name):
                why = f"{c.target} has another {s.name} already, which goes on being used"
                hint = "change that one where it is defined, or give this one a name of its own"
                refusals.append(refuse(s, why, hint))
        out.append(c.refuse(refusals))
    return out


def refuse_overridden(change: UnitChange, overridden: Collection[str]) -> UnitChange:
    """Refuse to change weak functions in whose place the kernel has another file's."""
    why = "it is weak, and the kernel has another file's function in its place"
    hint = "leave it out of the patch; if need be, change the one that the kernel has"
    pre_of = change.difference.twins.pre_of
    return change.refuse(
        refuse(s, why, hint) for s in change.difference.changed if pre_of[s].name in overridden
    )

# SPDX-License-Identifier: GPL-2.0-only
"""Static variables of functions, paired by the function that defines them in the source.

gcc numbers them anew in each compilation (``count.3``), and inlining moves their users about; the
debug information has the function.  Where one function no longer has a variable and another one has
one of the same name, nothing tells whether it is the same: the content of the one must not become
that of the other, so it is left ambiguous.
"""

from collections import defaultdict

from ksplicd.create.diff.twins import Pairing, can_be_twins, is_state
from ksplicd.create.diff.twins_by_use import takes_over
from ksplicd.create.objects.index import ObjectIndex, code_section_of
from ksplicd.create.objects.names import base_name
from ksplicd.elf.model import Symbol

_Groups = dict[str, dict[str, list[Symbol]]]
"""By name without its number, by function: variables in the order of the source."""


def pair_by_function(pairing: Pairing) -> None:
    """Pair the static variables of functions; without debug information, none.

    Raises ``ElfError`` when that cannot be read.
    """
    names = _names(pairing.pre) | _names(pairing.post)
    if not names:
        return
    before, after = _groups(pairing.pre, names), _groups(pairing.post, names)
    for name in names:
        old, new = before.get(name, {}), after.get(name, {})
        for function in old.keys() & new.keys():
            _pair_group(pairing, function, old.pop(function), new.pop(function))
        if old and new:  # of functions that have none of that name any more, or had none
            _pair_moved(pairing, old, new)


def _pair_group(pairing: Pairing, function: str, old: list[Symbol], new: list[Symbol]) -> None:
    """Pair the variables of one name of one function; of more or fewer than before, none."""
    shapes = [[(s.size, _kind(s)) for s in symbols] for symbols in (old, new)]
    if len(old) == len(new) == 1 or shapes[0] == shapes[1]:
        for a, b in zip(old, new, strict=True):
            if can_be_twins(a, b):
                pairing.pair(a, b, f"both are of {function}")


def _pair_moved(
    pairing: Pairing, old: dict[str, list[Symbol]], new: dict[str, list[Symbol]]
) -> None:
    """Pair a variable that went with its code into a new function, which the old one calls."""
    went = [s for symbols in old.values() for s in symbols]
    came = [s for symbols in new.values() for s in symbols]
    if len(went) == len(came) == 1:
        before, after = (
            pairing.pre.functions_using(went[0]),
            pairing.post.functions_using(came[0]),
        )
        has_gone_there = (
            _is_there(pairing.post, *old)
            and not _is_there(pairing.pre, *new)
            and takes_over(pairing, before, after)
        )
        if has_gone_there and can_be_twins(went[0], came[0]):
            pairing.pair(went[0], came[0], f"{next(iter(new))} takes it over")
            return
    gone = [f"{s.name} of {f}" for f, symbols in old.items() for s in symbols]
    pairing.leave(came, gone, f"{', '.join(new)} has one, and {', '.join(old)} no longer has")
    pairing.closed.update(went, came)


def _is_there(index: ObjectIndex, function: str) -> bool:
    """Tell whether the source has a function, be it inlined everywhere."""
    return index.debug_info is not None and function in index.debug_info.functions


def _names(index: ObjectIndex) -> set[str]:
    """Return the names, without numbers, of variables that are paired so."""
    return {base_name(s.name) for s in index.obj.symbols if is_state(s)}


def _groups(index: ObjectIndex, names: set[str]) -> _Groups:
    """Return the static variables of functions by name and function."""
    found: _Groups = defaultdict(lambda: defaultdict(list))
    debug = index.debug_info
    if debug is None:
        return found
    symbols = {(s.section, s.value): s for s in index.obj.symbols if is_state(s)}
    for function, v in debug.static_locals():
        s = symbols.get(v.place) if v.place and v.name in names else None
        if s is not None and s not in found[v.name][function]:
            found[v.name][function].append(s)
    return found


def _kind(s: Symbol) -> str:
    """Return the section that a variable is in, without the number that gcc gives it as well."""
    return base_name(code_section_of(s).name)

# SPDX-License-Identifier: GPL-2.0-only
"""New functions and data of one file that the new code of another file uses.

A patch that adds ``foo()`` to a.c and calls it in b.c: the kernel has no ``foo``, so that the new
code of b.c has to reach that of a.c, with which it shares a module.
"""

from collections.abc import Callable, Collection, Iterable

from ksplicd.create.compare import Comparison
from ksplicd.create.correlate import correlate
from ksplicd.create.diff import Difference, refuse_new_data
from ksplicd.create.new_code import ALIAS, DATA_ALIAS
from ksplicd.create.refusal import refuse
from ksplicd.create.special import EntrySizes
from ksplicd.elf import Symbol
from ksplicd.elf.model import STB_LOCAL


def find_shared(differences: Collection[Difference], sizes: EntrySizes) -> None:
    """Note in each difference which of its new symbols the new code of the others refers to.

    A unit in which nothing else changes comes in for them.  What one of the units had or used
    before is no new thing, only moved, and a name that two of them bring is not clear.
    """
    known = {
        s.name for d in differences for s in d.pre.obj.symbols if s.bind != STB_LOCAL and s.name
    }
    refuse_moved(differences, sizes)
    offered: dict[str, list[tuple[Difference, Symbol]]] = {}
    for d in differences:
        for s in d.new_globals():
            if s.name not in known:
                offered.setdefault(s.name, []).append((d, s))
    todo = [d for d in differences if d.is_needed]
    while offered and todo:
        user = todo.pop()
        for s in user.post.obj.symbols:
            found = offered.get(s.name, []) if s.is_undefined else []
            if len(found) == 1:
                owner, new = found[0]
                if not owner.is_needed:
                    todo.append(owner)
                if new not in owner.shared:
                    share(owner, [new])


def refuse_moved(differences: Collection[Difference], sizes: EntrySizes) -> None:
    """Refuse what moves from one file to another and changes: the kernel goes on using the old."""
    gone = {
        s.name: (d, s)
        for d in differences
        for s in d.pre.obj.symbols
        if s.section is not None and s.name and s.bind != STB_LOCAL and s not in d.twins.post_of
    }
    for d in differences:
        for s in d.new_globals():
            if s.name not in gone:
                continue
            old, before = gone[s.name]
            twins = correlate(old.pre, d.post)
            if why := Comparison(old.pre, d.post, twins, sizes).why_differs(before, s):
                words = f"it moves here from another file and changes: {why}"
                d.refusals.append(refuse(s, words, "leave it where it is, and change it there"))


def share(d: Difference, symbols: Collection[Symbol]) -> None:
    """Have new symbols of a unit cut out for others, with what is refused for that."""
    d.shared += symbols
    d.refusals += [r for r in refuse_new_data(d) if r not in d.refusals]


def name_shared(differences: Iterable[Difference], aliases: Callable[[], str]) -> dict[str, str]:
    """Return the global alias of each shared symbol."""
    named = {}
    for d in differences:
        for s in d.shared:
            alias = aliases()
            named[s.name] = alias if s.is_function else alias.replace(ALIAS, DATA_ALIAS)
    return named

# SPDX-License-Identifier: GPL-2.0-only
"""New functions and data of one file that the new code of another file uses.

A patch that adds ``foo()`` to a.c and calls it in b.c: the kernel has no ``foo``, so that the new
code of b.c has to reach that of a.c, with which it shares a module.
"""

from collections.abc import Callable, Collection, Iterable

from ksplicd.create.diff import Difference, refuse_new_data
from ksplicd.create.new_code import ALIAS, DATA_ALIAS
from ksplicd.elf import Symbol
from ksplicd.elf.model import STB_LOCAL


def find_shared(differences: Collection[Difference]) -> None:
    """Note in each difference which of its new symbols the new code of the others refers to.

    A unit in which nothing else changes comes in for them.  What one of the units had or used
    before is no new thing, only moved, and a name that two of them bring is not clear.
    """
    known = {
        s.name for d in differences for s in d.pre.obj.symbols if s.bind != STB_LOCAL and s.name
    }
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

# SPDX-License-Identifier: GPL-2.0-only
"""What an ``#include`` that comes, goes or moves brings into the units that see it.

Proof obligation: a file that is not returned is read before the ``#include`` in every version of
the header that has it, so that the guard of the file leaves nothing to be included; and a unit that
does not lack a file gets it in any case, only earlier or later.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from ksplicd.create.affected.c_text import Piece
from ksplicd.create.affected.include_graph import IncludeGraph


@dataclass(frozen=True, slots=True)
class Brought:
    """What an ``#include`` does to the units that see it, by one file that it brings."""

    reading: set[str] = field(default_factory=set)
    """Those in which it is what includes the file, once more or not."""
    lacking: set[str] = field(default_factory=set)
    """Those of them that may not have the file otherwise."""
    late: set[str] = field(default_factory=set)
    """Those that may have the file otherwise only behind the ``#include``."""


def files_brought(
    graph: IncludeGraph,
    path: str,
    piece: Piece,
    versions: Sequence[Sequence[Piece]],
    users: Collection[str],
    has_guard: Callable[[str], bool],
) -> dict[str, Brought]:
    """Return the files that an include of ``path`` brings.

    What a file with a guard includes is read again only where the file itself was lacking.
    ``versions``: the pieces of the file in each version; ``users``: the units of C that include it.
    """
    known = _before(graph, path, piece, versions)
    found: dict[str, Brought] = {}
    todo = [(file, set(users)) for file in graph.resolve(path, [piece.included])]
    while todo:
        file, units = todo.pop()
        is_guarded = has_guard(file)
        if (file in known and is_guarded) or (file in found and units <= found[file].reading):
            continue
        brought = found.setdefault(file, Brought())
        fresh = units - brought.reading
        lacking = fresh - graph.sure_units(file, without=path) if fresh else set()
        brought.reading.update(fresh)
        brought.lacking.update(lacking)
        todo += [(f, lacking if is_guarded else fresh) for f in graph.included_in_c(file)]
    leading = graph.dependants(path) | {path}
    for user in users if found else ():
        before = graph.surely_before(user, leading, path)
        for file, brought in found.items():
            if file not in before:
                brought.late.add(user)
    return found


def _before(
    graph: IncludeGraph, path: str, piece: Piece, versions: Sequence[Sequence[Piece]]
) -> set[str]:
    """Return the files that are read before an include, in each version that has it."""
    found: list[set[str]] = []
    for pieces in versions:
        keys = [p.key for p in pieces]
        if piece.key not in keys:
            continue
        sure = [
            graph.first(path, p.included)
            for p in pieces[: keys.index(piece.key)]
            if p.included and p.conditions == piece.conditions[: len(p.conditions)]
        ]
        found.append(graph.sure.closure(*(file for file in sure if file is not None)))
    return set.intersection(*found) if found else set()

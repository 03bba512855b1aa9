# SPDX-License-Identifier: GPL-2.0-only
"""Which pieces of a header change.

Proof obligation: without the pieces that are returned, both versions of the file are the same
sequence of pieces, so that every difference of meaning comes from one of these: also the order, and
what a piece means behind another ``#pragma``, ``#undef`` or ``#include``.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

from ksplicd.create.affected.c_text import Piece, split
from ksplicd.create.affected.enums import narrow_enums


def _passed(include: Piece, old: Sequence[Piece], new: Sequence[Piece]) -> list[Piece]:
    """Return the directives that are before an include in one version and behind it in the other.

    They mean something else in what it includes, though it is the include that moves.
    """
    before, after = (_directives_before(include, pieces) for pieces in (old, new))
    return [p for p in old if p.key in before.keys() ^ after.keys()]


def _directives_before(include: Piece, pieces: Sequence[Piece]) -> dict[object, int]:
    keys = [p.key for p in pieces]
    return {
        p.key: i for i, p in enumerate(pieces[: keys.index(include.key)])
        if p.text.startswith("# ") and not p.included
    }  # fmt: skip


def changed_pieces(before: str, after: str) -> list[Piece]:
    """Return the pieces that only one of two versions of a file has, or has in another place."""
    old, new = split(before), split(after)
    matcher = SequenceMatcher(None, [p.key for p in old], [p.key for p in new], autojunk=False)
    gone, come = list[Piece](), list[Piece]()
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag != "equal":
            gone += old[i:j]
            come += new[k:m]
    keys = {p.key for p in gone} & {p.key for p in come}
    moved = [p for p in gone if p.key in keys]
    come = [p for p in come if p.key not in keys]
    moved += [p for include in moved if include.included for p in _passed(include, old, new)]
    return [*moved, *narrow_enums([p for p in gone if p.key not in keys], come)]

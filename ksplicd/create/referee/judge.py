# SPDX-License-Identifier: GPL-2.0-only
"""The judgement: nothing, or an error that names both sides of each contradiction."""

from collections.abc import Sequence

from ksplicd.create.referee.follow import Follower
from ksplicd.create.referee.left import find_left_behind
from ksplicd.create.referee.new_module import read_new_module
from ksplicd.create.referee.unit import JudgedUnit, PlainUnit
from ksplicd.elf.read import read_object
from ksplicd.errors import ContradictionError


def contradictions(units: Sequence[PlainUnit], ko: bytes | None) -> list[str]:
    """Return where a module of new code does not do what the plain post objects say.

    ``ko``: the module as it goes into the bundle, before it is signed; None when there is nothing
    to replace.  Raises ``ElfError``.
    """
    judged = [JudgedUnit(u) for u in units]
    found = []
    if ko is not None:
        follower = Follower(
            judged, read_new_module(read_object(ko, "the new module"), units[0].sizes)
        )
        follower.follow()
        found += follower.found
    return list(dict.fromkeys([*found, *find_left_behind(judged)]))


def judge(units: Sequence[PlainUnit], ko: bytes | None) -> None:
    """Raise ``ContradictionError`` where there is one; see ``contradictions``."""
    found = contradictions(units, ko)
    if found:
        raise ContradictionError(found)

# SPDX-License-Identifier: GPL-2.0-only
"""How many functions an update lists for livepatch, and how many it may.

livepatch compares each frame of each task's stack with each function, with interrupts off for each
task and forks held off for all of them (``klp_try_complete_transition()`` of
kernel/livepatch/transition.c).  To find a function's range it walks over a list of all functions,
so that the time grows with the square of their number.  Decision 0082 has the figures.
"""

from collections.abc import Sequence
from typing import Final

from ksplicd.create.new_code.model import NewCode
from ksplicd.errors import UnsupportedChangeError

_NOTED: Final = 30
"""From how many on the user is told; a transition takes twice as long as that of one function."""
_NAMED: Final = 5


def refuse_too_many(new_code: Sequence[NewCode], most: int) -> None:
    """Refuse an update of so many functions that its transition would hold machines up.

    Raises ``UnsupportedChangeError``.
    """
    if (found := _listed(new_code)) <= most:
        return
    largest = sorted(new_code, key=lambda unit: -_listed([unit]))
    files = ", ".join(f"{unit.unit} ({_listed([unit])})" for unit in largest[:_NAMED])
    raise UnsupportedChangeError(
        f"livepatch would have to look for {found} functions and parts of functions on the stack"
        f" of each task, and nothing is forked meanwhile; an update may have {most}: make several,"
        " each of a part of the patch, with --series for those before it, or give another number"
        f" with --max-functions, for machines of few tasks; most are of {files}"
    )


def number_note(new_code: Sequence[NewCode]) -> list[str]:
    """Return what the user should know of the number, if anything."""
    found = _listed(new_code)
    if found < _NOTED:
        return []
    note = (
        f"livepatch looks for {found} functions and parts of functions on the stack of each task:"
        " on a machine with many thousand tasks nothing is forked for as long as that takes"
    )
    return [note]


def _listed(new_code: Sequence[NewCode]) -> int:
    return sum(len(unit.redirected) + len(unit.anchors) for unit in new_code)

# SPDX-License-Identifier: GPL-2.0-only
"""Tripwires: places of the patch that report to user space when somebody tries what it stops.

``ksplice_tripwire()`` of kmodsrc/ksplice-patch.h calls a function that units know by one name, so
that the objects of a series compare alike.  New code calls the one of its own update's core, which
is built with room for as many places as there are calls (kmodsrc/tripwire.c).
"""

from typing import Final

from ksplicd.elf.model import Object

CALLED: Final = "ksplice_tripwire_hit"
"""What units call."""


def name_in_core(kid: str) -> str:
    """Return what the core of update ``kid`` exports for them (kmodsrc/ksplice.h)."""
    return f"ksplice_{kid}_tripwire_hit"


def count_calls(obj: Object) -> int:
    """Return how often the new code of a unit calls it."""
    return sum(
        r.symbol.name.endswith(CALLED.removeprefix("ksplice")) and r.symbol.is_undefined
        for section in obj.sections
        for r in section.relocations
    )

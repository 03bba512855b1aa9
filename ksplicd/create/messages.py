# SPDX-License-Identifier: GPL-2.0-only
"""Text about what was compiled: for messages, and for comparing.  Pure."""

import re
from collections.abc import Iterable
from typing import Final

_COUNTED: Final = re.compile(
    rb"\b(?:([A-Za-z_][\w$]*(?:\.(?:isra|part|constprop|cold))*\.)(\d+)"
    rb"|(__(?:UNIQUE_ID|addressable)_\w*?)(\d+))\b"
)
"""``__func__.17``, ``f.isra.0``; ``__UNIQUE_ID_license412``, which __COUNTER__ has numbered."""


def number_names(assembly: bytes) -> bytes:
    """Give counted names numbers by order of appearance.

    The compiler counts all that it sees, also what is not used: a new declaration in a header
    moves the numbers everywhere.
    """
    numbers: dict[bytes, int] = {}

    def replace(m: re.Match[bytes]) -> bytes:
        return b"%b%d" % (m[1] or m[3], numbers.setdefault(m[0], len(numbers)))

    return _COUNTED.sub(replace, assembly)


def names_of(names: Iterable[str], shown: int = 4) -> str:
    """Return the first of some names, and how many more there are."""
    all_names = list(names)
    more = f" and {len(all_names) - shown} more" if all_names[shown:] else ""
    return ", ".join(all_names[:shown]) + more


def compiler_words(what: str, output: bytes) -> str:
    """Return a message with the lines of a failed compilation that tell something."""
    lines = output.decode(errors="replace").splitlines()
    telling = [x for x in lines if "error" in x.lower() or "***" in x or "No rule" in x]
    return f"{what}: does not compile:\n" + "\n".join(f"  {x}" for x in (telling or lines)[-12:])

# SPDX-License-Identifier: GPL-2.0-only
"""Debian's version numbers: their order, and for which release of Debian a version was made.

The order is that of deb-version(7); no process is started for it.
"""

import re
from functools import cmp_to_key
from typing import Final

_REVISION_OF: Final = re.compile(r"~(?:deb|bpo)(\d+)[u+]")


def compare(a: str, b: str) -> int:
    """Return a number below, equal to or above 0, as ``a`` is older than ``b`` or not."""
    (epoch_a, upstream_a, revision_a), (epoch_b, upstream_b, revision_b) = _split(a), _split(b)
    return (
        epoch_a - epoch_b
        or _compare_part(upstream_a, upstream_b)
        or _compare_part(revision_a, revision_b)
    )


by_version: Final = cmp_to_key(compare)
"""The key for ``sorted()``."""


def made_for(version: str) -> int | None:
    """Return the Debian release that a version was rebuilt for, None for that of its origin.

    12 for ``6.12.117-1~deb12u1`` and ``6.12.95-1~bpo12+1``.
    """
    match = _REVISION_OF.search(version)
    return int(match[1]) if match else None


def _split(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon or not epoch.isdecimal():
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch), upstream, revision


def _compare_part(a: str, b: str) -> int:
    """Compare words and numbers in turn, beginning with a word that may be empty."""
    parts_a, parts_b = re.findall(r"(\D*)(\d*)", a), re.findall(r"(\D*)(\d*)", b)
    for i in range(max(len(parts_a), len(parts_b))):
        word_a, number_a = parts_a[i] if i < len(parts_a) else ("", "")
        word_b, number_b = parts_b[i] if i < len(parts_b) else ("", "")
        keys_a, keys_b = _keys(word_a), _keys(word_b)
        if keys_a != keys_b:
            return -1 if keys_a < keys_b else 1
        if difference := int(number_a or 0) - int(number_b or 0):
            return difference
    return 0


def _keys(word: str) -> list[int]:
    """Return the order of each character: ~ before the end, the end before letters."""
    return [
        *(-1 if c == "~" else ord(c) if c.isalpha() else ord(c) + 256 for c in word),
        0,
    ]

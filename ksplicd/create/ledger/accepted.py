# SPDX-License-Identifier: GPL-2.0-only
"""``--accept``: parts of a patch that may be missing in the kernel, on the author's word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ksplicd.errors import CreateError

_PLACE: Final = re.compile(r"(.+?)(?::(\d{1,9}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A file of the source tree, whole or the hunk at one of its lines."""

    file: str
    line: int | None = None
    """In the file as the patch leaves it; None: the whole file."""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def takes(self, file: str, first: int, count: int) -> bool:
        """Tell whether a hunk is meant, which puts in ``count`` lines from ``first`` on.

        Without any, it takes lines out behind ``first``; the lines on both sides name it.
        """
        if file != self.file or self.line is None:
            return file == self.file
        return first <= self.line < first + (count or 2)


def whole_files(accepted: Sequence[Accepted]) -> frozenset[str]:
    """Return the files that are accepted as a whole."""
    return frozenset(a.file for a in accepted if a.line is None)


def read_accepted(words: Sequence[str]) -> tuple[Accepted, ...]:
    """Return what the option's values say.  Raises ``CreateError``."""
    found = []
    for word in words:
        m = _PLACE.fullmatch(word)
        if m is None or m[1].startswith("/") or ".." in m[1].split("/"):
            raise CreateError(f"--accept {word}: give FILE:LINE or FILE, a path in the source tree")
        found.append(Accepted(file=m[1], line=int(m[2]) if m[2] else None))
    return tuple(found)

# SPDX-License-Identifier: GPL-2.0-only
"""Where two versions of a file differ: the smallest spans of lines, without context."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.run import run

_HUNK: Final = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive lines; without any, the line before the place where they would be."""

    first: int
    count: int

    @property
    def lines(self) -> range:
        """The numbers of the lines."""
        return range(self.first, self.first + self.count)

    @property
    def behind(self) -> int:
        """The first line behind the span, or behind the place."""
        return self.first + self.count if self.count else self.first + 1


@dataclass(frozen=True, slots=True)
class ChangedLines:
    """One hunk: what it takes out of the old version, and what it puts into the new one."""

    before: Span
    after: Span


def changed_lines(before: bytes, after: bytes) -> list[ChangedLines]:
    """Return the hunks that part two versions of a file, in order."""
    with tempfile.TemporaryDirectory(prefix="ksplice-lines-") as folder:
        old, new = Path(folder) / "before", Path(folder) / "after"
        old.write_bytes(before)
        new.write_bytes(after)
        out = run(["diff", "-a", "-U0", old, new], ok=(0, 1))
    return [
        ChangedLines(
            Span(int(m[1]), int(m[2] or "1")),
            Span(int(m[3]), int(m[4] or "1")),
        )
        for m in _HUNK.finditer(out.decode(errors="replace"))
    ]

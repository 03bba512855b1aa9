# SPDX-License-Identifier: GPL-2.0-only
"""Where two versions of a file differ: the smallest spans of lines, without context."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.run import run

_HUNK: Final = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_FILE: Final = re.compile(rb"diff -a -r -U0 0/(\d+) 1/\d+$")


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
    return changed_lines_of([(before, after)])[0]


def changed_lines_of(versions: Sequence[tuple[bytes, bytes]]) -> list[list[ChangedLines]]:
    """Return the hunks of each of some files; one process for all."""
    found: list[list[ChangedLines]] = [[] for _ in versions]
    with tempfile.TemporaryDirectory(prefix="ksplice-lines-") as folder:
        for side in (0, 1):
            (Path(folder) / f"{side}").mkdir()
            for number, contents in enumerate(versions):
                (Path(folder) / f"{side}/{number}").write_bytes(contents[side])
        out = run(["diff", "-a", "-r", "-U0", "0", "1"], cwd=Path(folder), ok=(0, 1))
    at = 0
    for line in out.splitlines():
        if m := _FILE.match(line):
            at = int(m[1])
        elif m := _HUNK.match(line):
            first, count, new_first, new_count = m.groups(b"1")
            found[at].append(
                ChangedLines(Span(int(first), int(count)), Span(int(new_first), int(new_count)))
            )
    return found

# SPDX-License-Identifier: GPL-2.0-only
"""Changes between two source trees, as patches: one for each file, or for each independent change.

Two hunks of a file belong together when one adds a name that the other uses, or when both drop a
name: a new helper and its callers, a removed variable and its uses.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.errors import ToolError
from ksplicd.run import run_any

_HUNK: Final = re.compile(rb"^@@ -(\d+)(?:,\d+)? ", re.MULTILINE)
_WORD: Final = re.compile(rb"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Hunk:
    """A hunk of a unified diff: its text, and the words of the lines that it removes and adds."""

    text: bytes
    removed: frozenset[bytes]
    added: frozenset[bytes]


def changed_files(old: Path, new: Path, among: Iterable[str]) -> list[str]:
    """Return the paths of ``among`` that both trees have and that differ, sorted."""
    return [
        path
        for path in sorted(among)
        if (old / path).is_file()
        and (new / path).is_file()
        and (old / path).read_bytes() != (new / path).read_bytes()
    ]


def diff_file(old: Path, new: Path, path: str) -> bytes:
    """Return the patch that turns ``path`` of the tree ``old`` into that of ``new``."""
    labels = ["--label", f"a/{path}", "--label", f"b/{path}"]
    status, out, err = run_any(["diff", "-u", "-a", *labels, old / path, new / path])
    if status > 1:
        raise ToolError(f"diff of {path}: {err.decode(errors='replace')}")
    return out


def independent_changes(patch: bytes, old: bytes, new: bytes) -> list[bytes]:
    """Return one patch for each group of hunks that belong together, in the order of the file.

    ``old`` and ``new`` are the file's whole contents.  One patch alone means that the hunks do not
    separate.
    """
    head, hunks = split_hunks(patch)
    words_before, words_after = set(_WORD.findall(old)), set(_WORD.findall(new))
    # What only one of the two versions has ties its uses together.
    tying = words_before ^ words_after
    groups = group(hunks, tying)
    return [head + b"".join(h.text for h in members) for members in groups]


def split_hunks(patch: bytes) -> tuple[bytes, list[Hunk]]:
    """Return the head of a patch of one file, and its hunks."""
    starts = [m.start() for m in _HUNK.finditer(patch)]
    ends = [*starts[1:], len(patch)]
    hunks = []
    for start, end in zip(starts, ends, strict=True):
        text = patch[start:end]
        lines = text.splitlines()[1:]
        removed, added = (
            frozenset(w for x in lines if x.startswith(sign) for w in _WORD.findall(x))
            for sign in (b"-", b"+")
        )
        hunks.append(Hunk(text, removed, added))
    return patch[: starts[0]] if starts else patch, hunks


def group(hunks: Sequence[Hunk], tying: set[bytes]) -> list[list[Hunk]]:
    """Return the hunks in groups that share no tying word; the groups by their first hunks."""
    leader = list(range(len(hunks)))

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    seen: dict[bytes, int] = {}
    for i, hunk in enumerate(hunks):
        for word in (hunk.removed | hunk.added) & tying:
            a, b = sorted((find(i), find(seen.setdefault(word, i))))
            leader[b] = a
    groups: dict[int, list[Hunk]] = defaultdict(list)
    for i, hunk in enumerate(hunks):
        groups[find(i)].append(hunk)
    return list(groups.values())

# SPDX-License-Identifier: GPL-2.0-only
"""Hunks that stand under ``#if``: whether a unit has them, asked of the compiler's preprocessor.

A word of ours is put behind the condition; where it comes out, the lines are compiled.  Nothing is
asked where a hunk has a line that no condition can leave out.
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import Unit
from ksplicd.create.ledger.c_items import CFile
from ksplicd.create.ledger.texts import ChangedText
from ksplicd.create.patch.source_tree import PatchedFile
from ksplicd.create.patch.states import TreeStates
from ksplicd.errors import BuildError

_MOST_UNITS: Final = 8
"""Units that are asked of a header that more include."""

_DIRECTIVE: Final = re.compile(r"\s*#\s*(if|ifdef|ifndef|else|elif|endif)\b")
_MARK: Final = "ksplice_at_"


@dataclass(frozen=True, slots=True)
class Marks:
    """Where words are put into one version of a file."""

    places: Mapping[int, frozenset[int]]
    """By line of a condition, the positions of the hunks that it decides on."""
    free: frozenset[int]
    """Positions of hunks with a line that is always there."""


Preprocess = Callable[[Sequence[Unit], Sequence[PatchedFile]], Sequence[str | None]]
"""Returns what the preprocessor makes of units where some files of the tree are others.

None where it cannot: a header is missing that only the kernel's build makes.
"""


def find_built(
    preprocess: Preprocess,
    states: TreeStates,
    texts: Sequence[ChangedText],
    units_of: Mapping[str, Sequence[Unit]],
    dependants: int,
) -> dict[tuple[str, int], bool]:
    """Return by file and position of a hunk under conditions, whether a unit of the file has it.

    ``units_of``: by file, units that include it, of ``dependants`` when it is a header.  What
    cannot be told, because not every unit was asked, is not in it.
    """
    sides = ((states.before, False), (states.after, True))
    marks = {(t.path, after): marks_in(t, is_after=after) for t in texts for _, after in sides}
    asked = {t.path: _undecided(marks[t.path, False], marks[t.path, True]) for t in texts}
    asking = [t for t in texts if asked[t.path] and units_of.get(t.path)]
    if not asking:
        return {}
    units = list(dict.fromkeys(u for t in asking for u in units_of[t.path][:_MOST_UNITS]))
    seen: set[tuple[str, int]] = set()
    for files, is_after in sides:
        ours = {t.path: marks[t.path, is_after] for t in asking}
        for printed in preprocess(units, _marked(asking, ours, files, is_after=is_after)):
            seen |= hunks_seen(printed, ours)
    return {
        (t.path, position): (t.path, position) in seen
        for t in asking
        for position in asked[t.path]
        if (t.path, position) in seen or _is_all(t.path, units_of[t.path], dependants)
    }


def _undecided(before: Marks, after: Marks) -> set[int]:
    """Return the positions of the hunks all of whose lines stand under conditions."""
    found = {p for marks in (before, after) for ps in marks.places.values() for p in ps}
    return found - before.free - after.free


def _is_all(path: str, units: Sequence[Unit], dependants: int) -> bool:
    """Tell whether every unit that has a file is asked."""
    return path == units[0].source or min(len(units), _MOST_UNITS) >= dependants


def marks_in(text: ChangedText, *, is_after: bool) -> Marks:
    """Return which conditions decide on the hunks of a file, in one of its versions."""
    version = text.after if is_after else text.before
    deciding = conditions_of(version)
    places: dict[int, set[int]] = {}
    free: set[int] = set()
    for position, hunk in enumerate(text.hunks):
        for number in (hunk.after if is_after else hunk.before).lines:
            if not version.code_of(number) or version.code_of(number).startswith("#"):
                continue
            if deciding[number - 1]:
                places.setdefault(deciding[number - 1], set()).add(position)
            else:
                free.add(position)
    return Marks({line: frozenset(p) for line, p in places.items()}, frozenset(free))


def conditions_of(version: CFile) -> list[int]:
    """Return for each line the line of the condition that it stands under; 0: under none.

    The guard of a header does not count.
    """
    found: list[int] = []
    stack: list[int] = []
    for number, line in enumerate(version.lines, 1):
        m = _DIRECTIVE.match(line)
        word = m[1] if m else ""
        if word in ("if", "ifdef", "ifndef"):
            is_guard = word == "ifndef" and not stack and _is_guard(version, number)
            stack.append(0 if is_guard else number)
        elif word in ("else", "elif") and stack:
            stack[-1] = number
        elif word == "endif" and stack:
            stack.pop()
        found.append(next((n for n in reversed(stack) if n), 0))
    return found


def _is_guard(version: CFile, number: int) -> bool:
    """Tell whether the condition on a line is there to have the file read once."""
    name = version.code_of(number).split()[-1]
    following = (version.code_of(n) for n in range(number + 1, number + 4))
    return any(re.match(rf"#\s*define\s+{re.escape(name)}\b", line) for line in following)


def _marked(
    texts: Sequence[ChangedText],
    marks: Mapping[str, Marks],
    files: Iterable[PatchedFile],
    *,
    is_after: bool,
) -> list[PatchedFile]:
    """Return the files of a state of the tree, some of them with our words in them."""
    marked = []
    for number, text in enumerate(texts):
        lines = list((text.after if is_after else text.before).lines)
        for line in sorted(marks[text.path].places, reverse=True):
            end = line
            while lines[end - 1].endswith("\\"):
                end += 1
            lines.insert(end, f"{_MARK}{number}_{line}")
        marked.append(PatchedFile(Path(text.path), "\n".join(lines).encode()))
    paths = {text.path for text in texts}
    return [*(f for f in files if str(f.path) not in paths), *marked]


def hunks_seen(printed: str | None, marks: Mapping[str, Marks]) -> set[tuple[str, int]]:
    """Return file and position of the hunks whose marks a preprocessor has printed."""
    if printed is None:
        found = [(path, line) for path, of_file in marks.items() for line in of_file.places]
    else:
        paths = list(marks)
        places = re.finditer(rf"\b{_MARK}(\d+)_(\d+)\b", printed)
        found = [(paths[int(m[1])], int(m[2])) for m in places]
    return {(path, p) for path, line in found for p in marks[path].places.get(line, ())}


def preprocessor(kbuild: Kbuild) -> Preprocess:
    """Return the kernel's own, in its source tree."""

    def one(unit: Unit) -> str | None:
        with tempfile.TemporaryDirectory(prefix="ksplice-cpp-") as folder:
            out = Path(folder) / "unit.i"
            words = kbuild.recorded.compiler(unit, out)
            at = words.index("-c")
            try:
                kbuild.run(unit, [*words[:at], "-E", "-P", *words[at + 1 :]])
            except BuildError:
                return None
            return out.read_text(errors="replace")

    def preprocess(units: Sequence[Unit], files: Sequence[PatchedFile]) -> list[str | None]:
        with kbuild.tree.source.patched(files):
            return list(kbuild.in_parallel(one, units))

    return preprocess

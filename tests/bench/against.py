# SPDX-License-Identifier: GPL-2.0-only
"""The same figures of another revision, measured in turn with ours in one run.

Each part is measured in a checkout of that revision, by its own ``tests.bench``, and here, several
times in turn, so that the machine's drift meets both.
"""

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ksplicd.cache import to_stderr
from ksplicd.run import run

_ROOT: Final = Path(__file__).parents[2]
_LIMIT: Final = 1.05
"""A row that is more than this many times worse is marked."""


class Measured(NamedTuple):
    """A row of one state in one round."""

    value: float
    floor: float | None


Rows = dict[str, list[Measured]]
"""Each row, by its name; one a round."""


def compare(revision: str, parts: Sequence[str], rounds: int) -> int:
    """Print each row of both states; return 1 when one is worse.  Raises ``ToolError``."""
    states: list[Rows] = [defaultdict(list), defaultdict(list)]
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as folder:
        other = Path(folder) / "other"
        other.mkdir()
        run(["tar", "-x", "-C", other], stdin=run(["git", "archive", revision], cwd=_ROOT))
        for part in parts:
            for i in range(rounds):
                for root, rows in zip((other, _ROOT), states, strict=True):
                    to_stderr(f"{part}, round {i + 1} of {rounds}, {_name(root, revision)}")
                    for name, row in _measure(root, part, Path(folder)).items():
                        rows[name].append(row)
    return report(*states)


def _name(root: Path, revision: str) -> str:
    return "working tree" if root == _ROOT else revision


def _measure(root: Path, part: str, folder: Path) -> dict[str, Measured]:
    argv = [sys.executable, "-m", "tests.bench", part]
    run(argv, cwd=folder, env={"PYTHONPATH": str(root)})
    rows = json.loads((folder / "bench.json").read_text())
    return {row["name"]: Measured(row["value"], row["floor"]) for row in rows}


def report(old: Rows, new: Rows) -> int:
    """Print the rows that both states have; return 1 when one is worse.

    Every value is the better the smaller.  A floor is measured beside it: where that is higher to
    the same extent, it is the machine, or a transition of livepatch that waits for the full second.
    """
    worse = 0
    for name in [n for n in new if n in old]:
        (before, floor_before), (after, floor_after) = _median(old[name]), _median(new[name])
        ratio = after / before if before else 1.0
        floors, beside = "", ratio
        if floor_before and floor_after:
            floors = f"  floor {floor_before:g} {floor_after:g}"
            beside = ratio * floor_before / floor_after
        is_worse = min(ratio, beside) > _LIMIT
        worse += is_worse
        mark = "  WORSE" if is_worse else ""
        sys.stdout.write(f"{name:45} {before:>10g} {after:>10g} {ratio:>6.2f}{floors}{mark}\n")
    for name in sorted(old.keys() ^ new.keys()):
        sys.stdout.write(f"{name:45} only {'before' if name in old else 'now'}\n")
    sys.stdout.write(f"{worse} rows are more than {_LIMIT - 1:.0%} worse\n")
    return int(worse > 0)


def _median(rows: Sequence[Measured]) -> Measured:
    floors = [r.floor for r in rows if r.floor is not None]
    value = statistics.median(r.value for r in rows)
    return Measured(value, statistics.median(floors) if floors else None)

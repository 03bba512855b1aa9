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
from typing import Final

from ksplicd.lab.cache import to_stderr
from ksplicd.run import run

_ROOT: Final = Path(__file__).parents[2]
_LIMIT: Final = 1.05
"""A row that is more than this many times worse is marked."""

Rows = dict[str, list[float]]
"""The values of each row, one a round."""


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
                    for name, value in _measure(root, part, Path(folder)).items():
                        rows[name].append(value)
    return _report(*states)


def _name(root: Path, revision: str) -> str:
    return "working tree" if root == _ROOT else revision


def _measure(root: Path, part: str, folder: Path) -> dict[str, float]:
    argv = [sys.executable, "-m", "tests.bench", part]
    run(argv, cwd=folder, env={"PYTHONPATH": str(root)})
    return {row["name"]: row["value"] for row in json.loads((folder / "bench.json").read_text())}


def _report(old: Rows, new: Rows) -> int:
    """Print the rows that both states have; every one of ours is the better the smaller."""
    worse = 0
    for name in [n for n in new if n in old]:
        before, after = (statistics.median(rows[name]) for rows in (old, new))
        ratio = after / before if before else 1.0
        worse += ratio > _LIMIT
        mark = "  WORSE" if ratio > _LIMIT else ""
        sys.stdout.write(f"{name:45} {before:>10g} {after:>10g} {ratio:>6.2f}{mark}\n")
    for name in sorted(old.keys() ^ new.keys()):
        sys.stdout.write(f"{name:45} only {'before' if name in old else 'now'}\n")
    sys.stdout.write(f"{worse} rows are more than {_LIMIT - 1:.0%} worse\n")
    return int(worse > 0)

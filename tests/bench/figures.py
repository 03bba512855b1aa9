# SPDX-License-Identifier: GPL-2.0-only
"""A figure, and the table and file of all of them."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ksplicd.lab.cache import to_stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value, the median of its runs."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    """The same in the same unit without us, or the bound that was set; None: held against nothing.
    """
    about: str = ""
    """What the floor is, or how much of the value is whose."""


def seconds(action: Callable[[], object]) -> float:
    """Return how long ``action`` took."""
    start = time.monotonic()
    action()
    return time.monotonic() - start


def median(values: Sequence[float], digits: int = 3) -> float:
    """Return the median; the range goes to standard error."""
    if len(values) > 1:
        to_stderr(f"    {min(values):.{digits}f} … {max(values):.{digits}f} in {len(values)} runs")
    return round(statistics.median(values), digits)


def write_table(figures: Sequence[Figure]) -> None:
    """Print the figures side by side with their floors."""
    width = max(len(f.name) for f in figures)
    for f in figures:
        floor = "" if f.floor is None else f"{f.floor:g}"
        sys.stdout.write(f"{f.name:{width}} {f.value:>10g} {f.unit:<8} {floor:>8}  {f.about}\n")


def write_json(path: Path, figures: Sequence[Figure]) -> None:
    """Write a list of ``{"name", "value", "unit", "floor"}``."""
    rows = [{k: v for k, v in asdict(f).items() if k != "about"} for f in figures]
    path.write_text(json.dumps(rows, indent=2) + "\n")

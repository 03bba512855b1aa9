# SPDX-License-Identifier: GPL-2.0-only
"""A figure, and the table and file of all of them."""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ksplicd.cache import to_stderr

UPSTREAM: Final = "ask_early=0"
"""Parameter of the new code: its transition takes as long as livepatch alone lets it take."""


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


class Cost(NamedTuple):
    """What running programs took, in seconds."""

    wall: float
    processor: float
    """Of all processors; hardly more on a busy machine."""


def cost(action: Callable[[], object]) -> Cost:
    """Return what ``action``, which runs programs and waits for them, took."""
    wall, processor = time.monotonic(), _children()
    action()
    return Cost(time.monotonic() - wall, _children() - processor)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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

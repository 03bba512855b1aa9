# SPDX-License-Identifier: GPL-2.0-only
"""Many mutations, several at a time; those that were tried are kept, and not tried again."""

import contextlib
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from ksplicd.create.build.units import Unit
from ksplicd.errors import BuildError
from tests.mutate.source import Mutator, Outcome, Result

_CHUNK: Final = 16
"""Files whose unpatched objects are made together, before any is patched."""
_SAY_EVERY: Final = 50

_mutator: Mutator
"""In a worker: inherited from the parent."""


@dataclass(slots=True)
class Book:
    """The results of a kind of file, in a file of one line each; the last of a number counts.

    What was missed is forgotten, and so tried again.
    """

    path: Path
    results: dict[int, Result] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for found in map(json.loads, lines):
            found |= {"outcome": Outcome(found["outcome"]), "missed": tuple(found["missed"])}
            self.results[found["number"]] = Result(**found)
        self.results = {n: r for n, r in self.results.items() if r.outcome is not Outcome.MISSED}

    def add(self, result: Result) -> None:
        """Keep a result, and say it where it is a finding."""
        self.results[result.number] = result
        with self.path.open("a") as log:
            log.write(json.dumps(asdict(result)) + "\n")
        if result.outcome is Outcome.MISSED:
            sys.stdout.write(f"missed: {result}\n")
        elif len(self.results) % _SAY_EVERY == 0:
            sys.stdout.write(f"{len(self.results)} tried: {summary(self.results.values())}\n")
        sys.stdout.flush()


def run_sources(mutator: Mutator, book: Book, wanted: int, jobs: int) -> None:
    """Try mutations of sources, of ``jobs`` files at a time.

    A source that other units include is mutated while nothing else is compiled.
    """
    numbers: dict[str, list[int]] = {}
    for number in range(wanted):
        if number not in book.results:
            numbers.setdefault(mutator.path_of(number, is_header=False), []).append(number)
    paths = sorted(numbers, key=lambda p: numbers[p])
    alone = [p for p in paths if mutator.is_included(p)]
    beside = [p for p in paths if p not in set(alone)]
    for at in range(0, len(beside), _CHUNK):
        chunk = beside[at : at + _CHUNK]
        for result in _in_workers(mutator, {p: numbers[p] for p in chunk}, jobs):
            book.add(result)
    for number in (n for p in alone for n in numbers[p]):
        book.add(mutator.try_one(number, is_header=False))


def _in_workers(mutator: Mutator, numbers: dict[str, list[int]], jobs: int) -> Iterator[Result]:
    """Yield the results of some files, whose objects are compiled here first."""
    global _mutator
    _mutator = mutator
    try:
        mutator.kbuild.compile_split_cached([Unit(p) for p in numbers])
    except BuildError:  # each by itself: those that cannot be made are invalid
        for unit in map(Unit, numbers):
            with contextlib.suppress(BuildError):
                mutator.kbuild.compile_split_cached([unit])
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for results in pool.map(_try_file, numbers.values()):
            yield from results


def _try_file(numbers: list[int]) -> list[Result]:
    return [_mutator.try_one(number, is_header=False) for number in numbers]


def run_headers(mutator: Mutator, book: Book, wanted: int) -> None:
    """Try mutations of headers, one after the other: all users are compiled."""
    for number in range(wanted):
        if number not in book.results:
            book.add(mutator.try_one(number, is_header=True))


def summary(results: Iterable[Result]) -> str:
    """Return how many mutations came out how."""
    counts = Counter(result.outcome for result in results)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) or "none"

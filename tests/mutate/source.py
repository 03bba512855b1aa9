# SPDX-License-Identifier: GPL-2.0-only
"""Mutations of a kernel's sources and headers, each against brute force.

Of a source the compiler's objects before and after are held against what create's diff says; of a
header the objects of all units that include it against which units create reaches and compares.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ksplicd.create.affected.by_mention import find_affected
from ksplicd.create.affected.include_graph import read_include_graph
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.fingerprint import fingerprint
from ksplicd.create.build.units import Unit
from ksplicd.create.diff.unit import diff
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.line_numbers import with_line_numbers
from ksplicd.elf.read import read_object
from ksplicd.errors import BuildError, KspliceError
from tests.mutate.brute import contents_of
from tests.mutate.mutations import mutate

MOST_USERS: Final = 50
"""Units that include a header that is mutated, at most."""


class Outcome(StrEnum):
    """What came of a mutation."""

    SAME = "same"
    """Brute force sees no difference, nor does create."""
    SEEN = "seen"
    SPURIOUS = "spurious"
    """Create sees a difference where brute force sees none."""
    REFUSED = "refused"
    INVALID = "invalid"
    """It does not compile."""
    MISSED = "missed"
    """Brute force sees a difference that create does not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One mutation that was tried."""

    number: int
    path: str
    kind: str
    outcome: Outcome
    units: tuple[str, ...] = ()
    """Those that were missed."""


class Mutator:
    """Mutates one kernel's tree, which it patches for a while."""

    def __init__(self, kbuild: Kbuild, seed: int) -> None:
        self.kbuild, self.seed = kbuild, seed
        self.tree = kbuild.tree
        self.graph = read_include_graph(self.tree)
        sources = [s for s in sorted(self.tree.listing) if s.endswith(".c")]
        self.sources = [s for s in sources if (self.tree.source.root / s).is_file()]
        self.headers = sorted(self._small_headers())

    def _small_headers(self) -> Iterator[str]:
        for path in self.graph.includes:
            if path.endswith(".h") and not path.startswith("/"):
                users = self.graph.dependants(path) & self.tree.listing.keys()
                if 1 < len(users) <= MOST_USERS and not any(u.endswith(".S") for u in users):
                    yield path

    def try_one(self, number: int, *, is_header: bool) -> Result:
        """Make and try the mutation of a number; the same number always makes the same one."""
        rng = random.Random(f"{self.seed}:{number}")
        path = rng.choice(self.headers if is_header else self.sources)
        before = (self.tree.source.root / path).read_bytes()
        mutated = mutate(before.decode(errors="surrogateescape"), rng)
        if mutated is None:
            return Result(number=number, path=path, kind="none", outcome=Outcome.INVALID)
        kind, text = mutated
        after = text.encode(errors="surrogateescape")
        file = ChangedFile(path=Path(path), before=before, after=after)
        try:
            missed, outcome = self._header(file) if is_header else self._source(file)
        except BuildError:
            missed, outcome = (), Outcome.INVALID
        return Result(number=number, path=path, kind=kind, outcome=outcome, units=missed)

    def _source(self, file: ChangedFile) -> tuple[tuple[str, ...], Outcome]:
        unit = Unit(str(file.path))
        with TemporaryDirectory(prefix="ksplice-mutate-") as folder:
            pre = self.kbuild.compile_split_cached([unit])[unit]
            with self.tree.source.patched([with_line_numbers(file)]):
                post = self.kbuild.compile_split([unit], Path(folder))[unit]
            differs = contents_of(pre) != contents_of(post)
            sizes = self.kbuild.entry_sizes(unit)
            old, new = (index_separated(read_object(p.read_bytes(), unit.object), sizes)
                        for p in (pre, post))  # fmt: skip
        try:
            found = diff(old, new)
        except KspliceError:
            return (), Outcome.REFUSED
        is_said = bool(not found.is_empty or found.notes or found.new or found.removed)
        if differs and not is_said:
            return (unit.source,), Outcome.MISSED
        is_spurious = not found.is_empty and not differs
        seen = Outcome.SEEN if differs else Outcome.SAME
        return (), Outcome.SPURIOUS if is_spurious else seen

    def _header(self, file: ChangedFile) -> tuple[tuple[str, ...], Outcome]:
        graph = read_include_graph(self.tree)
        compiler = self.tree.config.compiler
        affected = find_affected(graph, [file], self.tree.listing, compiler, few=0)
        units = [Unit(source) for source in sorted(affected.dependants)]
        pre = self.kbuild.compile_split_cached(units)
        reached = [unit for unit in units if unit.source in affected.units]
        old = {unit: fingerprint(self.kbuild, unit) for unit in reached}
        with (
            TemporaryDirectory(prefix="ksplice-mutate-") as folder,
            self.tree.source.patched([with_line_numbers(file)]),
        ):
            post = self.kbuild.compile_split(units, Path(folder))
            new = {unit: fingerprint(self.kbuild, unit) for unit in reached}
            differ = {u for u in units if contents_of(pre[u]) != contents_of(post[u])}
        seen = {unit for unit in reached if old[unit] != new[unit]}
        missed = tuple(sorted(unit.source for unit in differ - seen))
        if missed:
            return missed, Outcome.MISSED
        if seen - differ:
            return (), Outcome.SPURIOUS
        return (), Outcome.SEEN if differ else Outcome.SAME


def run(mutator: Mutator, kept: Path, sources: int, headers: int) -> list[Result]:
    """Try mutations, but those that are kept already; return all."""
    results = read_results(kept)
    done = {result.number for result in results}
    with kept.open("a") as log:
        for number in range(sources + headers):
            if number in done:
                continue
            result = mutator.try_one(number, is_header=number >= sources)
            log.write(json.dumps(asdict(result)) + "\n")
            log.flush()
            results.append(result)
            if result.outcome is Outcome.MISSED:
                sys.stdout.write(f"missed: {result}\n")
            elif len(results) % 25 == 0:
                sys.stdout.write(f"{len(results)} of {sources + headers}: {summary(results)}\n")
            sys.stdout.flush()
    return results


def read_results(kept: Path) -> list[Result]:
    """Return what was tried before."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    found = (json.loads(line) for line in lines)
    return [Result(**{**f, "outcome": Outcome(f["outcome"]), "units": tuple(f["units"])})
            for f in found]  # fmt: skip


def summary(results: list[Result]) -> str:
    """Return how many mutations came out how."""
    counts = Counter(result.outcome for result in results)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())

# SPDX-License-Identifier: GPL-2.0-only
"""From changed headers to the units whose code changes.

Three sieves, each finer and slower than the one before: which units include the header (the include
graph), which of them mention what changed (``by_mention.py``), and of which the compiler makes
other assembly.  Only what is left becomes objects.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.create.affected.by_mention import find_affected
from ksplicd.create.affected.include_graph import IncludeGraph
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.fingerprint import fingerprint
from ksplicd.create.build.foreign import ForeignUnit
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import Unit
from ksplicd.create.debug import phase
from ksplicd.create.messages import names_of
from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.states import TreeStates
from ksplicd.errors import BuildError, UnsupportedChangeError

LOG: Final = phase("affected")

_STEP: Final = 100
"""Units between two lines of progress."""

MANY_UNITS: Final = 64
"""Units above which a few are tried first."""
FEW_UNITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The units that changed headers can reach: what the first two sieves leave."""

    headers: tuple[Path, ...] = ()
    units: tuple[Unit, ...] = ()
    """Without those that the change names itself."""
    foreign: tuple[ForeignUnit, ...] = ()
    """What is compiled beside the units, and can be reached."""
    dependants: int = 0
    """How many units include one of the headers."""
    reached: int = 0
    """How many of these the change can reach, with those that it names itself."""

    @property
    def names(self) -> str:
        """The headers, for messages."""
        return names_of(map(str, self.headers))

    @property
    def few(self) -> tuple[Unit, ...]:
        """A few of very many units, to compile first: they show a change that will be refused."""
        if len(self.units) <= MANY_UNITS:
            return ()
        sources = [u for u in self.units if u.source.endswith(".c")]
        return tuple(few_of(sources, {path.stem for path in self.headers}))


def few_of(units: Sequence[Unit], headers: Collection[str]) -> list[Unit]:
    """Return a few units: those called like a changed header, and some from everywhere."""
    named = [u for u in units if Path(u.source).stem in headers]
    step = max(len(units) // FEW_UNITS, 1)
    return list(dict.fromkeys([*named[: FEW_UNITS // 2], *units[::step]]))[:FEW_UNITS]


def find_candidates(
    tree: BuildTree, graph: IncludeGraph, headers: Sequence[ChangedFile], named: Collection[Unit]
) -> Candidates:
    """Return the units that a change of ``headers`` can reach, without those ``named`` anyway.

    The source tree must be in the state before the change.
    """
    every = {*tree.listing, *(unit.source for unit in tree.foreign)}
    affected = find_affected(graph, headers, every, tree.config.compiler_command)
    units = [Unit(source) for source in sorted(affected.units) if source in tree.listing]
    reached, names = affected.units | {str(h.path) for h in headers}, frozenset(named)
    return Candidates(
        headers=tuple(h.path for h in headers),
        units=tuple(u for u in units if u not in names),
        foreign=tuple(u for u in tree.foreign if u.source in reached),
        dependants=sum(source in tree.listing for source in affected.dependants),
        reached=len(units),
    )


def find_with_other_code(
    kbuild: Kbuild, candidates: Candidates, states: TreeStates
) -> tuple[Unit, ...]:
    """Return the candidates of which the compiler makes other assembly after the change.

    Raises ``UnsupportedChangeError`` when assembly changes, ``BuildError`` when a unit does not
    compile any more.
    """
    units = candidates.units
    kept = None if states.before else kbuild.split_folder / "assembly"

    def first_fingerprint(unit: Unit) -> str:
        try:
            return fingerprint(kbuild, unit, kept)
        except BuildError:
            return ""

    with kbuild.tree.source.patched(states.before if units else ()):
        old = dict(
            zip(units, _fingerprints(kbuild, "before", units, first_fingerprint), strict=True)
        )
    if again := [unit for unit, digest in old.items() if not digest]:
        kbuild.compile_plain(again)  # of the tree as it is: make makes what the units include
        with kbuild.tree.source.patched(states.before):
            old |= {unit: fingerprint(kbuild, unit, kept) for unit in again}
    with kbuild.tree.source.patched(states.after if units else ()):
        new = _fingerprints(kbuild, "after", units, lambda unit: fingerprint(kbuild, unit))
    changed = tuple(u for u, b in zip(units, new, strict=True) if old[u] != b)
    _log_compared(units, changed)
    kbuild.tree.progress(f"{candidates.names}: changes the code of {len(changed)} units")
    assembly = [u.source for u in changed if u.source.endswith(".S")]
    if assembly:
        raise UnsupportedChangeError(
            f"{names_of(assembly)}: assembly that a change of {candidates.names} reaches, which"
            " cannot be redirected; leave that part of the change out of the patch"
        )
    return changed


def _fingerprints(
    kbuild: Kbuild, when: str, units: Sequence[Unit], take: Callable[[Unit], str]
) -> list[str]:
    """Return the fingerprints of units, with progress where there are many."""
    found = []
    for digest in kbuild.in_parallel(take, units):
        found.append(digest)
        if len(found) % _STEP == 0:
            kbuild.tree.progress(
                f"compiled {len(found)} of {len(units)} units as {when} the change"
            )
    return found


def _log_compared(units: Sequence[Unit], changed: Collection[Unit]) -> None:
    if LOG.isEnabledFor(logging.DEBUG):
        for unit in units:
            is_in = unit in changed
            words = "in: the compiler makes other" if is_in else "out: the compiler makes the same"
            LOG.debug("%s: %s assembly after the change", unit.source, words)

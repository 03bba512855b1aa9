# SPDX-License-Identifier: GPL-2.0-only
"""From changed headers to the units whose code changes.

Three sieves, each finer and slower than the one before: which units include the header (the include
graph), which of them mention what changed (``narrow.py``), and of which the compiler makes other
assembly.  Only what is left becomes objects.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from ksplicd.create.affected.by_mention import find_affected
from ksplicd.create.affected.include_graph import IncludeGraph
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.fingerprint import fingerprint
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import TargetFilter, Unit
from ksplicd.create.messages import names_of
from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.source_tree import PatchedFile
from ksplicd.errors import BuildError, UnsupportedChangeError

_STEP: Final = 100
"""Units between two lines of progress."""

MANY_UNITS: Final = 64
"""Units above which a few are tried first."""
FEW_UNITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependants:
    """What changed headers come to."""

    units: tuple[Unit, ...] = ()
    """Those whose code changes."""
    notes: dict[str, str] = field(default_factory=dict)
    """By header, how many units each sieve left; by unit, why it is left out."""


def few_of(units: Sequence[Unit], headers: Collection[str]) -> list[Unit]:
    """Return a few units: those called like a changed header, and some from everywhere."""
    named = [u for u in units if Path(u.source).stem in headers]
    step = max(len(units) // FEW_UNITS, 1)
    return list(dict.fromkeys([*named[: FEW_UNITS // 2], *units[::step]]))[:FEW_UNITS]


def include_graph(tree: BuildTree) -> IncludeGraph:
    """Return the include graph of the enabled units."""
    kept = tree.output / "ksplice-includes.json"
    return IncludeGraph(tree.source.root, tree.output, tree.listing.values(), kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class DependantsFinder:
    """Finds them in one tree, which is ``before`` first and ``after`` then."""

    kbuild: Kbuild
    before: Sequence[PatchedFile]
    """What makes the tree the state before the change; empty without earlier updates."""
    after: Sequence[PatchedFile]
    targets: TargetFilter
    check: Callable[[Sequence[Unit]], None]
    """Raises when units tell that compiling all is in vain."""
    making: Lock = field(default_factory=Lock)
    """Held while make runs."""

    def find(self, parts: Sequence[ChangedFile], known: Sequence[Unit]) -> Dependants:
        """Return the units that a change of ``parts`` changes, without those ``known`` anyway.

        Raises ``UnsupportedChangeError`` when assembly changes, ``BuildError`` when a unit does
        not compile any more.
        """
        with self.kbuild.tree.source.patched(self.before):
            graph = include_graph(self.kbuild.tree)
            reach = find_affected(
                graph, parts, self.kbuild.tree.listing, self.kbuild.tree.config.compiler
            )
        names = names_of(str(p.path) for p in parts)
        by_name = {u.source for u in known}
        candidates = [Unit(path) for path in sorted(reach.units) if path not in by_name]
        self.kbuild.tree.progress(
            f"{names}: {len(reach.dependants)} units depend on it, the change can reach"
            f" {len(reach.units)}"
        )
        if len(candidates) > MANY_UNITS:
            sources = [u for u in candidates if u.source.endswith(".c")]
            few = few_of(sources, {p.path.stem for p in parts})
            self.kbuild.tree.progress(f"{names}: trying {len(few)} units first")
            self.check(few)
        changed = self.with_other_code(candidates)
        self.kbuild.tree.progress(f"{names}: changes the code of {len(changed)} units")
        assembly = [u.source for u in changed if u.source.endswith(".S")]
        if assembly:
            raise UnsupportedChangeError(
                f"{names_of(assembly)}: assembly that a change of {names} reaches, which cannot be"
                " redirected; leave that part of the change out of the patch"
            )
        wanted = [
            u for u in changed if self.targets.takes(self.kbuild.tree.listing[u.source].target)
        ]
        note = (
            f"{len(reach.dependants)} units depend on it, the change can reach {len(reach.units)},"
            f" and changes the code of {len(changed)} beside the files of the patch"
        )
        return Dependants(
            units=tuple(wanted),
            notes={str(p.path): note for p in parts}
            | {u.source: "skipped: of another target" for u in changed if u not in wanted},
        )

    def with_other_code(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units of which the compiler makes other assembly after the change."""
        if not units:
            return []
        kept = None if self.before else self.kbuild.split_folder / "assembly"
        with self.kbuild.tree.source.patched(self.before):
            old = self.fingerprints("before", units, lambda u: self.first_fingerprint(u, kept))
        with self.kbuild.tree.source.patched(self.after):
            new = self.fingerprints("after", units, lambda u: fingerprint(self.kbuild, u))
        return [u for u, a, b in zip(units, old, new, strict=True) if a != b]

    def first_fingerprint(self, unit: Unit, kept: Path | None) -> str:
        """Return a unit's fingerprint, after make has made what it includes if need be."""
        try:
            return fingerprint(self.kbuild, unit, kept)
        except BuildError:
            with self.making:
                self.kbuild.compile_plain([unit])
            return fingerprint(self.kbuild, unit, kept)

    def fingerprints(
        self, when: str, units: Sequence[Unit], take: Callable[[Unit], str]
    ) -> list[str]:
        """Return the fingerprints of units, with progress where there are many."""
        found = []
        for digest in self.kbuild.in_parallel(take, units):
            found.append(digest)
            if len(found) % _STEP == 0:
                self.kbuild.tree.progress(
                    f"compiled {len(found)} of {len(units)} units as {when} the change"
                )
        return found

# SPDX-License-Identifier: GPL-2.0-only
"""The objects of the state before the change.

Without earlier updates that is the tree as it is, and the cache has the objects; with them
(``--series``) the tree is patched for as long as they are compiled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import Unit
from ksplicd.create.patch.series import Series
from ksplicd.create.patch.source_tree import PatchedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class PreState:
    """Compiles units in the state before the change."""

    kbuild: Kbuild
    before: tuple[PatchedFile, ...] = ()
    """What makes the tree that state; empty without earlier updates."""
    folder: Path
    """Where objects are put that the cache does not have."""
    series: Series = field(default_factory=Series)
    """The earlier updates."""

    def compile_split(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Return the split objects of units.  Raises ``BuildError``."""
        if not self.before:
            return self.kbuild.compile_split_cached(units)
        with self.kbuild.tree.source.patched(self.before):
            return self.kbuild.compile_split(units, self.folder)

    def compile_plain(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Return the plain objects of units with the earlier updates; there must be some."""
        with self.kbuild.tree.source.patched(self.before):
            return self.kbuild.compile_plain_to(units, self.folder / "plain")

    def compile_unsplit(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Return the objects that differ from the split ones in their sections only."""
        with self.kbuild.tree.source.patched(self.before):
            return self.kbuild.compile_unsplit_to(units, self.folder / "unsplit")

    def changed_text(self, source: str) -> bytes | None:
        """Return what earlier updates make of a file, None when they leave it alone."""
        return next((f.content for f in self.before if str(f.path) == source), None)

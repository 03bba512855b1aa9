# SPDX-License-Identifier: GPL-2.0-only
"""The two states of the source tree that an update's objects are made of."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ksplicd.create.patch.change import Change
from ksplicd.create.patch.line_numbers import with_line_numbers_of
from ksplicd.create.patch.source_tree import PatchedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStates:
    """What makes the tree the state before the change, and the state after it."""

    after: tuple[PatchedFile, ...]
    before: tuple[PatchedFile, ...] = ()
    """Empty without earlier updates: the tree is that state as it is."""

    def without(self, paths: Collection[Path]) -> "TreeStates":
        """Return the states in which some files stay as they are in the state before the change."""
        kept = (f for f in self.after if f.path not in paths)
        old = (f for f in self.before if f.path in paths)
        return TreeStates(after=(*kept, *old), before=self.before)


def read_states(change: Change, earlier: Mapping[Path, bytes | None]) -> TreeStates:
    """Return the states; ``earlier``: by path, what earlier updates leave of the tree."""
    before = {path: PatchedFile(path, content) for path, content in earlier.items()}
    after = before | {f.path: f for f in with_line_numbers_of(change.files)}
    return TreeStates(after=tuple(after.values()), before=tuple(before.values()))

# SPDX-License-Identifier: GPL-2.0-only
"""From the files that change to the units that an update has to compile.

In two steps: what the change can reach, and of that what it does change.  Between them the caller
may try a few of very many units, and refuse the change without compiling all.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from ksplicd.create.affected.by_headers import Candidates, find_candidates, find_with_other_code
from ksplicd.create.affected.files import FilesByKind, KnownFiles, classify_files
from ksplicd.create.affected.include_graph import read_include_graph
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import TargetFilter, Unit
from ksplicd.create.debug import phase
from ksplicd.create.messages import names_of
from ksplicd.create.patch.change import Change
from ksplicd.create.patch.states import TreeStates
from ksplicd.errors import NoChangesError, UnsupportedChangeError

LOG: Final = phase("affected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """What a change can reach."""

    files: FilesByKind
    named: tuple[Unit, ...]
    """Units that the change names, of any target."""
    by_headers: Candidates = field(default_factory=Candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToCompile:
    """The units of which both states are compiled to objects."""

    units: tuple[Unit, ...]
    notes: dict[str, str]
    """By file, what became of it, for those that lead to no unit; by header, what it reaches."""


def find_reachable(
    tree: BuildTree, change: Change, states: TreeStates, accepted: Collection[str] = ()
) -> Reachable:
    """Return what a change can reach; nothing is compiled.

    ``accepted``: files that may be left out on their author's word.
    Raises ``UnsupportedChangeError`` for files that cannot be changed in a running kernel.
    """
    listing = tree.listing
    graph = cache(lambda: read_include_graph(tree))
    with tree.source.patched(states.before):
        known = KnownFiles(
            is_enabled=lambda path: path in listing and path.endswith(".c"),
            is_included=lambda path: bool(graph().users.get(path)),
        )
        files = classify_files(change.files, known, accepted)
        named = tuple(Unit(str(f.path)) for f in files.units)
        if not files.parts:
            return Reachable(files=files, named=named)
        found = find_candidates(tree, graph(), files.parts, named)
    tree.progress(
        f"{found.names}: {found.dependants} units depend on it, the change can reach"
        f" {found.reached}"
    )
    return Reachable(files=files, named=named, by_headers=found)


def find_changed(
    kbuild: Kbuild, reachable: Reachable, states: TreeStates, targets: TargetFilter
) -> ToCompile:
    """Return the units of ``targets`` that the change names or changes by a header.

    Raises ``UnsupportedChangeError`` for a change that cannot be made.
    """
    files, headers = reachable.files, reachable.by_headers
    notes = dict(files.notes)
    units = []
    for unit in reachable.named:
        target = kbuild.tree.listing[unit.source].target
        if targets.takes(target):
            units.append(unit)
        else:
            notes[unit.source] = f"skipped: part of {target}, not of --only-targets"
            LOG.debug("%s: out: %s", unit.source, notes[unit.source])
    if headers.headers:
        changed = find_with_other_code(kbuild, headers, states)
        note = (
            f"{headers.dependants} units depend on it, the change can reach {headers.reached},"
            f" and changes the code of {len(changed)} beside the files of the patch"
        )
        notes |= {str(path): note for path in headers.headers}
        for unit in changed:
            if targets.takes(kbuild.tree.listing[unit.source].target):
                units.append(unit)
            else:
                notes[unit.source] = "skipped: of another target"
                LOG.debug("%s: out: not of --only-targets", unit.source)
    return ToCompile(units=tuple(units), notes=notes)


def check_any(files: FilesByKind, compiled: ToCompile) -> None:
    """Raise ``NoChangesError`` when a change leaves nothing to compile, with each file's note.

    Raises ``UnsupportedChangeError`` when that is so because this kernel is configured without it.
    """
    if compiled.units:
        return
    notes = compiled.notes
    lines = "\n".join(f"  {path}: {note}" for path, note in notes.items())
    if files.disabled and not files.units and not files.parts:
        raise UnsupportedChangeError(
            f"{names_of(files.disabled)}: this kernel is configured without what the patch"
            f" changes; leave it out\n{lines}"
        )
    raise NoChangesError(f"nothing that a running kernel uses is changed:\n{lines}")

# SPDX-License-Identifier: GPL-2.0-only
"""What an update has to compile: from the files that change to units and states of the tree."""

from collections.abc import Callable
from dataclasses import dataclass

from ksplicd.create.affected.by_headers import DependantsFinder, include_graph
from ksplicd.create.affected.files import Tree, classify_files
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import TargetFilter, Unit
from ksplicd.create.messages import names_of
from ksplicd.create.patch.change import Change
from ksplicd.create.patch.series import Series
from ksplicd.create.patch.source_tree import PatchedFile, with_line_numbers
from ksplicd.errors import NoChangesError, UnsupportedChangeError


@dataclass(frozen=True, slots=True, kw_only=True)
class ToCompile:
    """What is to be compiled, and in which states of the tree."""

    units: tuple[Unit, ...]
    before: tuple[PatchedFile, ...]
    """What makes the tree the state before the change; empty without earlier updates."""
    after: tuple[PatchedFile, ...]
    """What makes it the state after the change."""
    notes: dict[str, str]


def plan_work(
    kbuild: Kbuild,
    change: Change,
    series: Series,
    targets: TargetFilter,
    check: Callable[[ToCompile], None] = lambda _: None,
) -> ToCompile:
    """Find the units that a change changes.

    ``check``: raises when a few units tell that compiling very many is in vain.

    Raises ``UnsupportedChangeError`` for files that cannot be changed in a running kernel,
    ``NoChangesError`` when nothing is left to compile.
    """
    listing = kbuild.tree.listing
    tree = Tree(
        is_enabled=lambda path: path in listing and path.endswith(".c"),
        is_included=lambda path: bool(include_graph(kbuild.tree).users.get(path)),
    )
    touched = classify_files(change.files, tree)
    notes = dict(touched.notes)
    before = tuple(PatchedFile(path, text) for path, text in series.contents.items())
    after = {f.path: f for f in before} | {f.path: with_line_numbers(f) for f in change.files}
    units = []
    for path in (str(file.path) for file in touched.units):
        if targets.takes(listing[path].target):
            units.append(Unit(path))
        else:
            notes[path] = f"skipped: part of {listing[path].target}, not of --only-targets"
    if touched.parts:
        finder = DependantsFinder(
            kbuild=kbuild, before=before, after=tuple(after.values()),
            targets=targets,
            check=lambda few: check(
                ToCompile(units=tuple(few), before=before, after=tuple(after.values()), notes={})
            ),
        )  # fmt: skip
        found = finder.find(touched.parts, [Unit(str(f.path)) for f in touched.units])
        units += found.units
        notes |= found.notes
    if not units:
        said = "\n".join(f"  {path}: {note}" for path, note in notes.items())
        if touched.disabled and not touched.units and not touched.parts:
            raise UnsupportedChangeError(
                f"{names_of(touched.disabled)}: this kernel is configured without what the patch"
                f" changes; leave it out\n{said}"
            )
        raise NoChangesError(f"nothing that a running kernel uses is changed:\n{said}")
    return ToCompile(units=tuple(units), before=before, after=tuple(after.values()), notes=notes)

# SPDX-License-Identifier: GPL-2.0-only
"""From the files that change to the units that an update has to compile.

In three steps: what the change can reach, what of that no update can change, and what it does
change.  Before the last the caller may try a few of very many units, and refuse the change without
compiling all.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from posixpath import basename
from typing import Final

from ksplicd.create.affected.by_headers import Candidates, find_candidates, find_with_other_code
from ksplicd.create.affected.files import FilesByKind, KnownFiles, classify_files
from ksplicd.create.affected.foreign_code import check_foreign
from ksplicd.create.affected.include_graph import (
    IncludeGraph,
    read_include_graph,
    read_included_names,
)
from ksplicd.create.affected.include_lines import read_includes
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.foreign import Role
from ksplicd.create.build.generated import find_other_generated
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import TargetFilter, Unit
from ksplicd.create.debug import phase
from ksplicd.create.messages import names_of
from ksplicd.create.patch.change import Change
from ksplicd.create.patch.states import TreeStates
from ksplicd.create.stock.module import has_stock_module
from ksplicd.errors import NoChangesError, UnsupportedChangeError

LOG: Final = phase("affected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """What a change can reach."""

    files: FilesByKind
    states: TreeStates
    """Of the tree without the files that are left out."""
    named: tuple[Unit, ...]
    """Units that the change names, of any target."""
    by_headers: Candidates = field(default_factory=Candidates)
    accepted: frozenset[str] = frozenset()
    """Files that may be left out, or be only half in effect, on their author's word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToCompile:
    """The units of which both states are compiled to objects."""

    units: tuple[Unit, ...]
    notes: dict[str, str]
    """By file, what became of it, for those that lead to no unit; by header, what it reaches."""


def find_reachable(
    tree: BuildTree,
    change: Change,
    states: TreeStates,
    accepted: Collection[str] = (),
    half: Collection[str] = (),
) -> Reachable:
    """Return what a change can reach; nothing is compiled.

    ``accepted``: files that may be left out on their author's word; ``half``: those of which a part
    may be.
    Raises ``UnsupportedChangeError`` for files that cannot be changed in a running kernel.
    """
    listing = tree.listing
    others = {str(f.path) for f in change.files} - listing.keys()
    generated = find_other_generated(tree, others, states) if others else {}
    with tree.source.patched(states.before):
        graph = cache(lambda: _graph_of(tree, change))
        names = cache(lambda: _included_names(tree, change))
        units = {*listing, *(unit.source for unit in tree.foreign)}
        compiled = cache(lambda: graph().closure(units))
        known = KnownFiles(
            is_enabled=lambda path: path in listing and path.endswith(".c"),
            is_included=lambda path: (
                (path not in listing or _is_among(path, names()))
                and any(user in compiled() for user in graph().users.get(path, ()) if user != path)
            ),
            role=lambda path: _role_of(tree, path),
            other_generated=lambda path: generated.get(path, ()),
        )
        files = classify_files(change.files, known, accepted)
        named = tuple(Unit(str(f.path)) for f in files.units)
        left = states.without(files.left_out)
        if not files.parts:
            return Reachable(files=files, states=left, named=named)
        tree.progress(f"looking for what {names_of(str(f.path) for f in files.parts)} can reach")
        found = find_candidates(tree, graph(), files.parts, named)
    tree.progress(
        f"{found.names}: {found.dependants} units depend on it, the change can reach"
        f" {found.reached}"
    )
    taken = frozenset((*accepted, *half))
    return Reachable(files=files, states=left, named=named, by_headers=found, accepted=taken)


def _graph_of(tree: BuildTree, change: Change) -> IncludeGraph:
    """Return the include graph of the tree before the change and after it."""
    tree.progress("reading what includes what")
    graph = read_include_graph(tree)
    graph.extend(change.files)
    return graph


def _included_names(tree: BuildTree, change: Change) -> frozenset[str] | None:
    """Return the names of files that others include, before the change or after it; None: unknown.

    It takes a tenth of the time of the graph, which a change of units alone does not need.
    """
    before = read_included_names(tree)
    lines = (line for file in change.files for line in read_includes(file.after or b""))
    return None if before is None else before | {basename(line.name[1:]) for line in lines}


def _is_among(path: str, names: frozenset[str] | None) -> bool:
    return names is None or basename(path) in names


def _role_of(tree: BuildTree, path: str) -> Role | None:
    return next((f.role for f in tree.foreign if f.source == path), None)


def find_half(kbuild: Kbuild, reachable: Reachable) -> dict[str, str]:
    """Return, by accepted header, what it changes in code that is no unit's.

    Asked first: it takes seconds, where the units that a header reaches may take minutes.
    Raises ``UnsupportedChangeError`` when a header changes such code and is not accepted.
    """
    headers = reachable.by_headers
    return check_foreign(kbuild, headers, reachable.states, reachable.accepted)


def find_changed(
    kbuild: Kbuild, reachable: Reachable, targets: TargetFilter, half: Mapping[str, str]
) -> ToCompile:
    """Return the units of ``targets`` that the change names or changes by a header.

    ``half``: what ``find_half`` returns.
    Raises ``UnsupportedChangeError`` for a change that cannot be made.
    """
    files, headers, states = reachable.files, reachable.by_headers, reachable.states
    notes = dict(files.notes)
    units = []
    for unit in reachable.named:
        taken, left = _parted(kbuild, unit, targets)
        units += [unit] if taken else []
        if left:
            notes[unit.source] = f"skipped: part of {', '.join(left)}, not of --only-targets"
            LOG.debug("%s: %s", unit.source, notes[unit.source])
    if headers.headers:
        changed = find_with_other_code(kbuild, headers, states)
        parted = {unit: _parted(kbuild, unit, targets) for unit in changed}
        note = (
            f"{headers.dependants} units depend on it, the change can reach {headers.reached},"
            f" and changes the code of {len(changed)} beside the files of the patch"
        )
        if headers.foreign and not half:
            beside = names_of(unit.source for unit in headers.foreign)
            note += f"; {beside}, beside the kernel's own code, compile to the same"
        if skipped := [unit.source for unit, (_, left) in parted.items() if left]:
            LOG.debug("out: %s: not of --only-targets", ", ".join(skipped))
            note = f"skipped: {names_of(skipped)}: of another target, not of --only-targets; {note}"
        notes |= {str(path): note for path in headers.headers} | dict(half)
        units += [unit for unit, (taken, _) in parted.items() if taken]
    check_modules(kbuild, units)
    return ToCompile(units=tuple(units), notes=notes)


def _parted(kbuild: Kbuild, unit: Unit, targets: TargetFilter) -> tuple[list[str], list[str]]:
    """Return the targets of a unit that are taken, and those that are left out."""
    all_of = kbuild.tree.listing[unit.source].targets
    return [t for t in all_of if targets.takes(t)], [t for t in all_of if not targets.takes(t)]


def check_modules(kbuild: Kbuild, units: Iterable[Unit]) -> None:
    """Raise ``UnsupportedChangeError`` for an object that a module has, and vmlinux as well.

    kbuild names all that have an object, and not whether they are modules.
    """
    for unit in units:
        several = kbuild.tree.listing[unit.source].targets
        folder = kbuild.tree.config.modules
        for name in several if len(several) > 1 else ():
            if not has_stock_module(folder, name):
                raise UnsupportedChangeError(
                    f"{unit.source}: is part of {', '.join(several)}, and {folder} has no {name};"
                    " where vmlinux has the object, too, only one of its copies would change: leave"
                    " the file out of the patch, and change what calls it"
                )


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

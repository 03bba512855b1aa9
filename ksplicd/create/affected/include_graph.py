# SPDX-License-Identifier: GPL-2.0-only
"""Which files include which: the units that can see a header, found without a compiler.

Every ``#include`` counts, whatever condition it stands under, and where a name could mean several
files it means all of them.  ``#include MACRO`` is followed from where a macro is defined as the
name of a file; the one other form in the kernel, TRACE_INCLUDE, names a header that its file
includes anyway.

Proof obligation: each file that the preprocessor can open for a unit, before the change or after
it, is reached from the unit by ``includes``; and what ``sure_units`` returns does open the file.
"""

import contextlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from posixpath import basename, dirname, join, normpath
from typing import Final

from ksplicd.create.affected.include_lines import Include, is_met, read_includes
from ksplicd.create.affected.sure_includes import SureIncludes
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import EnabledUnit
from ksplicd.create.patch.change import ChangedFile

_KEPT: Final = "ksplice-include-lines.json"


class IncludeGraph:
    """The files that the enabled units are made of.

    A path is relative to the source tree or, for generated files, absolute.
    """

    def __init__(
        self,
        source_root: Path,
        output: Path,
        units: Iterable[EnabledUnit],
        kept: Path | None = None,
        configuration: str = "",
        foreign: Iterable[EnabledUnit] = (),
    ) -> None:
        """Read the units' sources and all that they include; ``kept``: what was read before.

        ``foreign``: what is compiled beside the units, and not into code of the kernel.
        """
        self._root = str(source_root)
        self._units = {u.source: u for u in units}
        self._foreign = {u.source: u for u in foreign}
        self._options = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", configuration, re.MULTILINE))
        common, more, self._forced = _search_path(self._units.values(), self._root, str(output))
        *others, _ = _search_path(self._foreign.values(), self._root, str(output))
        more += [f for folders in others for f in folders if f not in common and f not in more]
        self._resolver = _Resolver(self._root, common, more)
        self._files = _Files(self._root, kept)
        self.includes: dict[str, tuple[str, ...]] = {}
        self.users: dict[str, set[str]] = defaultdict(set)
        """By file, those that include it."""
        self.inside: set[str] = set()
        """Files that another includes within brackets."""
        self.sure = SureIncludes()
        self.moved: set[str] = set()
        """Files in which a name means another file after the change."""
        self._walk()
        self._files.keep()

    def dependants(self, path: str) -> set[str]:
        """Return every file, sources of units too, that includes ``path`` by any way."""
        seen, todo = {path}, [path]
        while todo:
            for user in self.users.get(todo.pop(), ()):
                if user not in seen:
                    seen.add(user)
                    todo.append(user)
        return seen - {path}

    def closure(self, paths: Iterable[str]) -> set[str]:
        """Return ``paths`` and everything that they include by any way."""
        seen = set(paths)
        todo = list(seen)
        while todo:
            fresh = set(self.includes_of(todo.pop())) - seen
            seen |= fresh
            todo += fresh
        return seen

    def includes_of(self, path: str) -> tuple[str, ...]:
        """Return the files that ``path`` includes; reads it when no unit includes it."""
        if path not in self.includes:
            self._add(path, self._files.includes(path))
        return self.includes[path]

    def included_in_c(self, path: str) -> set[str]:
        """Return the files that a file can include in units of C."""
        return set(self.includes_of(path)) - self.sure.never(path)

    def surely_before(self, unit: str, leading: Collection[str], path: str) -> set[str]:
        """Return what a unit of C surely has read where it first includes ``path``.

        ``leading``: the file, and all that include it by any way.
        """
        seen = set(self.sure.closure(*self._forced))
        file = unit
        visited = set[str]()
        while file != path and file not in visited:
            visited.add(file)
            for line in self._files.includes(file):
                means = self.resolve(file, [line.name])
                is_sure = bool(is_met(line.conditions, self._options)) and not line.is_inside
                first = self._resolver.first(means) if is_sure else None
                if any(other in leading for other in means):
                    if first is None or first not in leading:
                        return seen
                    file = first
                    break
                if first is not None:
                    seen |= self.sure.closure(first)
        return seen

    def sure_units(self, path: str, without: str = "") -> set[str]:
        """Return the units of C that surely include ``path``, by another file than ``without``."""
        return set(filter(self.is_c_unit, self.sure.users(path, without)))

    def resolve(self, path: str, names: Iterable[str]) -> tuple[str, ...]:
        """Return the files that names, each with its bracket or quote, can mean in ``path``."""
        here = dirname(path)
        return tuple(dict.fromkeys(f for name in names for f in self._resolver.find(here, name)))

    def first(self, path: str, name: str) -> str | None:
        """Return the file that a name means in ``path`` in every unit, None when it depends."""
        return self._resolver.first(self.resolve(path, [name]))

    def extend(self, files: Iterable[ChangedFile]) -> None:
        """Add what the files of a change include after it.

        A new file takes the place of one of the same name that was found elsewhere before.
        """
        changed = list(files)
        new = [str(f.path) for f in changed if f.before is None and f.after is not None]
        names = {basename(path) for path in new}
        named = {
            path: {i.name: self.resolve(path, [i.name]) for i in self._files.includes(path)
                   if basename(i.name[1:]) in names}
            for path in (tuple(self.includes) if new else ())
        }  # fmt: skip
        for path in new:
            self._resolver.add(path)
        for path, was in named.items():
            now = {name: self.resolve(path, [name]) for name in was}
            if any(was[name] and was[name] != now[name] for name in was):
                self.moved.add(path)
                self._add(path, self._files.includes(path))
        for file in changed:
            if file.after is not None:
                self._add(str(file.path), read_includes(file.after))

    def is_c_unit(self, path: str) -> bool:
        """Tell whether a file is a unit, and of C."""
        return path in self._units and path.endswith(".c")

    def file(self, path: str) -> Path:
        """Return where a file of the graph is."""
        return Path(self._root, path)

    def _walk(self) -> None:
        todo = list(dict.fromkeys((*self._units, *self._foreign, *self._forced)))
        seen = set(todo)
        while todo:
            path = todo.pop()
            self._add(path, self._files.includes(path))
            fresh = [other for other in self.includes[path] if other not in seen]
            seen.update(fresh)
            todo += fresh

    def _add(self, path: str, lines: Iterable[Include]) -> None:
        """Take in what a file includes, in one of its versions."""
        included = dict.fromkeys(self.includes.get(path, ()))
        surely, maybe = set[str](), set[str]()
        for line in lines:
            files = self.resolve(path, [line.name])
            included.update(dict.fromkeys(files))
            is_taken = is_met(line.conditions, self._options)
            if line.is_inside:
                self.inside.update(files)
            elif is_taken and (first := self._resolver.first(files)) is not None:
                surely.add(first)
            if is_taken is not False:
                maybe.update(files)
        if path in self._units or path in self._foreign:
            included.update(self._forced)
            maybe.update(self._forced)
            surely.update(self._forced)
        self.includes[path] = tuple(included)
        self.sure.add(path, surely, maybe, included)
        for other in included:
            self.users[other].add(path)


def _search_path(
    units: Collection[EnabledUnit], root: str, output: str
) -> tuple[list[str], list[str], dict[str, None]]:
    """Return the folders in which all units look for headers, further ones, forced headers.

    LINUXINCLUDE, the first part of every command, comes before what a Makefile adds.
    """
    uses: dict[str, int] = defaultdict(int)
    forced: dict[str, None] = {}

    def relative(path: str) -> str:
        place = normpath(join(output, path))
        return "" if place == root else place.removeprefix(f"{root}/")

    for unit in units:
        folders = dict[str, None]()
        words = iter(unit.command.split(";")[0].split())
        for word in words:
            if word.startswith("-I"):
                folders[relative(word[2:] or next(words))] = None
            elif word == "-include":
                forced[relative(next(words))] = None
        for folder in folders:
            uses[folder] += 1
    common = [f for f, n in uses.items() if n == len(units)]
    return common, [f for f, n in uses.items() if n < len(units)], forced


class _Resolver:
    """Finds what an ``#include`` means."""

    def __init__(self, root: str, common: Sequence[str], more: Sequence[str]) -> None:
        self._root, self._common, self._more_folders = root, common, more
        self._more: dict[str, list[str]] = defaultdict(list)
        """By what is in them, the folders in which some units look."""
        for folder in more:
            with contextlib.suppress(OSError):
                for entry in Path(root, folder).iterdir():
                    self._more[entry.name].append(folder)
        self._found: dict[tuple[str, str], tuple[str, ...]] = {}
        self._exists: dict[str, bool] = {}

    def find(self, here: str, name: str) -> tuple[str, ...]:
        """Return the files that a name, with its bracket or quote, can mean in a folder."""
        key = (here if name[0] == '"' else "", name)
        if key not in self._found:
            self._found[key] = self._find(here, name)
        return self._found[key]

    def first(self, files: Sequence[str]) -> str | None:
        """Return which of the files that a name can mean it means in all units; None: not known."""
        is_common = files and any(files[0].startswith(f"{folder}/") for folder in self._common)
        return files[0] if len(files) == 1 or is_common else None

    def add(self, path: str) -> None:
        """Take a file for one that is there."""
        self._exists[path] = True
        self._found.clear()
        for folder in self._more_folders:
            if path.startswith(f"{folder}/"):
                name = path[len(folder) + 1 :].partition("/")[0]
                self._more[name] = list(dict.fromkeys([*self._more[name], folder]))

    def _find(self, here: str, name: str) -> tuple[str, ...]:
        if name[0] == '"':
            near = normpath(join(here, name[1:]))
            if self._is_there(near):
                return (near,)
        for folders in (self._common, self._more.get(name[1:].partition("/")[0], ())):
            places = dict.fromkeys(normpath(join(folder, name[1:])) for folder in folders)
            if found := tuple(p for p in places if self._is_there(p)):
                return found
        return ()

    def _is_there(self, path: str) -> bool:
        if path not in self._exists:
            self._exists[path] = Path(self._root, path).is_file()
        return self._exists[path]


class _Files:
    """What the files of a tree include, kept with their times and sizes."""

    def __init__(self, root: str, kept: Path | None) -> None:
        self._root, self._kept = root, kept
        self._known = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
        self._was_read: dict[str, list[object]] = {}
        self._lines: dict[str, list[Include]] = {}

    def includes(self, path: str) -> list[Include]:
        """Return what a file on disk includes."""
        if path not in self._lines:
            self._lines[path] = self._read(path)
        return self._lines[path]

    def _read(self, path: str) -> list[Include]:
        place = Path(self._root, path)
        try:
            state = place.stat()
        except OSError:
            return []  # made by the kernel's build, which is not run
        known = self._known.get(path)
        if known is None or known[:2] != [state.st_mtime_ns, state.st_size]:
            known = [state.st_mtime_ns, state.st_size, read_includes(place.read_bytes())]
        self._was_read[path] = known
        return [Include(*line) for line in known[2]]

    def keep(self) -> None:
        """Write what was read, where it differs from what was kept."""
        if self._kept is not None and self._was_read != self._known:
            self._kept.write_text(json.dumps(self._was_read))


def read_include_graph(tree: BuildTree) -> IncludeGraph:
    """Return the include graph of the enabled units, for the source tree as it is now.

    What was read stays in the output tree, and is read again only where a file has changed.
    """
    listed = tree.listing.values()
    foreign = [unit.as_unit() for unit in tree.foreign]
    kept, options = tree.output / _KEPT, tree.config.text
    return IncludeGraph(tree.source.root, tree.output, listed, kept, options, foreign)


def read_included_names(tree: BuildTree) -> frozenset[str] | None:
    """Return the names of all files that others include, without their folders.

    None when that was not kept, or files have changed since: then the graph has to be read.
    """
    kept = tree.output / _KEPT
    if not kept.exists():
        return None
    root, named = str(tree.source.root), set[str]()
    for path, (mtime, size, lines) in json.loads(kept.read_text()).items():
        try:
            state = os.stat(join(root, path))  # noqa: PTH116  (ten thousand files)
        except OSError:
            return None
        if (state.st_mtime_ns, state.st_size) != (mtime, size):
            return None
        named.update(line[0] for line in lines)
    return frozenset(basename(name[1:]) for name in named)

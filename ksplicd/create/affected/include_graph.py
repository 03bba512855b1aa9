# SPDX-License-Identifier: GPL-2.0-only
"""Which files include which: the units that can see a header, found without a compiler.

Every ``#include`` counts, whatever condition it stands under, and where a name could mean several
files it means all of them: units may be found that do not include the header, none is missed.
``#include MACRO`` is followed to every name that a ``#define ..._FILE`` of the same file gives;
the one other form in the kernel, TRACE_INCLUDE, names a header that its file includes anyway.
"""

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Final

from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import EnabledUnit

_INCLUDE: Final = re.compile(
    rb'^[ \t]*#[ \t]*(?:include[ \t]*|define[ \t]+\w+_FILE[ \t]+)([<"])([^>"\n]+)[>"]', re.MULTILINE
)


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
    ) -> None:
        """Read the units' sources and all that they include; ``kept``: what was read before."""
        self._root, self._output = str(source_root), str(output)
        self._units = {u.source: u for u in units}
        self._common, more, self._forced = self._search_path()
        self._more: dict[str, list[str]] = defaultdict(list)
        """By what is in them, the folders in which some units look."""
        for folder in more:
            with contextlib.suppress(OSError):
                for entry in Path(self._root, folder).iterdir():
                    self._more[entry.name].append(folder)
        self._known = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
        self._found: dict[tuple[str, str], tuple[str, ...]] = {}
        self._exists: dict[str, bool] = {}
        self.includes: dict[str, tuple[str, ...]] = {}
        self.users: dict[str, set[str]] = defaultdict(set)
        """By file, those that include it."""
        self._was_read: dict[str, list[object]] = {}
        self._walk()
        if kept is not None and self._was_read != self._known:
            kept.write_text(json.dumps(self._was_read))

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
            for other in self.includes_of(todo.pop()):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return seen

    def includes_of(self, path: str) -> tuple[str, ...]:
        """Return the files that ``path`` includes; reads it when no unit includes it."""
        if path not in self.includes:
            self.includes[path] = self.resolve(path, self._names(path))
        return self.includes[path]

    def file(self, path: str) -> Path:
        """Return where a file of the graph is."""
        return Path(self._root, path)

    def _search_path(self) -> tuple[list[str], list[str], list[str]]:
        """Return the folders in which all units look for headers, further ones, forced headers.

        LINUXINCLUDE, the first part of every command, comes before what a Makefile adds.
        """
        uses: dict[str, int] = defaultdict(int)
        forced: dict[str, None] = {}
        for unit in self._units.values():
            folders = set()
            words = iter(unit.command.split(";")[0].split())
            for word in words:
                if word.startswith("-I"):
                    folders.add(self._relative(word[2:] or next(words)))
                elif word == "-include":
                    forced[self._relative(next(words))] = None
            for folder in folders:
                uses[folder] += 1
        common = [f for f, n in uses.items() if n == len(self._units)]
        return common, [f for f, n in uses.items() if n < len(self._units)], list(forced)

    def _relative(self, path: str) -> str:
        return normpath(join(self._output, path)).removeprefix(f"{self._root}/")

    def _walk(self) -> None:
        todo = [*self._units, *self._forced]
        seen = set(todo)
        while todo:
            path = todo.pop()
            names = self._names(path)
            included = self.resolve(path, names)
            if path in self._units:
                included = (*included, *self._forced)
            self.includes[path] = included
            for other in included:
                self.users[other].add(path)
                if other not in seen:
                    seen.add(other)
                    todo.append(other)

    def _names(self, path: str) -> list[str]:
        """Return what a file includes, as written, with the bracket before it."""
        place = Path(self._root, path)
        try:
            state = place.stat()
        except OSError:
            return []  # made by the kernel's build, which is not run
        known = self._known.get(path)
        if known is None or known[:2] != [state.st_mtime_ns, state.st_size]:
            known = [state.st_mtime_ns, state.st_size, includes_in(place.read_bytes())]
        self._was_read[path] = known
        names: list[str] = known[2]
        return names

    def resolve(self, path: str, names: Sequence[str]) -> tuple[str, ...]:
        """Return the files that names, as ``includes_in`` gives them, can mean in ``path``."""
        here = dirname(path)
        found: dict[str, None] = {}
        for name in names:
            key = (here if name[0] == '"' else "", name)
            if key not in self._found:
                self._found[key] = self._resolve_one(here, name)
            found.update(dict.fromkeys(self._found[key]))
        return tuple(found)

    def _resolve_one(self, here: str, name: str) -> tuple[str, ...]:
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


def read_include_graph(tree: BuildTree) -> IncludeGraph:
    """Return the include graph of the enabled units, for the source tree as it is now.

    What was read stays in the output tree, and is read again only where a file has changed.
    """
    kept = tree.output / "ksplice-includes.json"
    return IncludeGraph(tree.source.root, tree.output, tree.listing.values(), kept)


def includes_in(text: bytes) -> list[str]:
    """Return what a file includes: the opening bracket or quote, and the name."""
    found = dict.fromkeys(mark + name for mark, name in _INCLUDE.findall(text))
    return [name.decode(errors="replace") for name in found]

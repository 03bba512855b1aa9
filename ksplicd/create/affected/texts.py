# SPDX-License-Identifier: GPL-2.0-only
"""The texts of the files of an include graph, and their pieces; of changed ones, both versions."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ksplicd.create.affected.c_text import Piece, guard_of, identifiers, is_guarded, split
from ksplicd.create.affected.include_graph import IncludeGraph
from ksplicd.create.patch.change import ChangedFile
from ksplicd.run import run

_BATCH: Final = 4000
"""Files for one grep: their names stay far below what execve takes."""

_DEFINED: Final = r"^[[:space:]]*#[[:space:]]*(define|undef)[[:space:]]+[A-Za-z_0-9]+"


class Texts:
    """Reads files of a graph."""

    def __init__(self, graph: IncludeGraph, headers: Sequence[ChangedFile]) -> None:
        self._graph = graph
        self._headers = {str(h.path): h for h in headers}
        self._pieces: dict[str, list[list[Piece]]] = {}

    def versions(self, path: str) -> list[str]:
        """Return a file's text; of a changed header the one before and the one after."""
        header = self._headers.get(path)
        if header is None:
            return [_read(self._graph.file(path)).decode(errors="replace")]
        contents = (header.before, header.after)
        return [text.decode(errors="replace") for text in contents if text is not None]

    def text(self, path: str) -> str:
        """Return all versions of a file as one text."""
        return "\n".join(self.versions(path))

    def split(self, path: str) -> list[list[Piece]]:
        """Return the pieces of each version of a file."""
        if path not in self._pieces:
            self._pieces[path] = [split(text) for text in self.versions(path)]
        return self._pieces[path]

    def pieces(self, path: str) -> Iterator[Piece]:
        """Yield the pieces of all versions of a file."""
        return (piece for pieces in self.split(path) for piece in pieces)

    def is_guarded(self, path: str) -> bool:
        """Tell whether every version of a file takes effect once in a unit."""
        return all(map(is_guarded, self.split(path)))

    def has_guard(self, path: str) -> bool:
        """Tell the same by its directives alone, which is quicker."""
        return all(guard_of(text) is not None for text in self.versions(path))

    def grep(self, names: Iterable[str], paths: Iterable[str], *, words: bool = True) -> list[str]:
        """Return the files that have one of ``names``, as a word or as any part of the text."""
        wanted, every = frozenset(names), set(paths)
        argv = ["grep", "-lZsF", *(["-w"] if words else []), "-f", "-", "--"]
        found = self._run(argv, every - self._headers.keys(), "\n".join(sorted(wanted)).encode())
        places = {str(self._graph.file(p)): p for p in every}
        files = [places[p] for p in found.split("\0") if p]
        for path in sorted(every & self._headers.keys()):
            text = self.text(path)
            if identifiers(text) & wanted if words else any(name in text for name in wanted):
                files.append(path)
        return files

    def macros_of(self, paths: Iterable[str]) -> set[str]:
        """Return the macros that files define or take back themselves."""
        out = self._run(["grep", "-hosE", _DEFINED, "--"], paths, b"")
        return set(re.findall(r"(\w+)$", out, re.MULTILINE))

    def _run(self, argv: Sequence[str], paths: Iterable[str], stdin: bytes) -> str:
        every = sorted(str(self._graph.file(p)) for p in paths)
        out = ""
        for i in range(0, len(every) if stdin or "-f" not in argv else 0, _BATCH):
            found = run([*argv, *every[i : i + _BATCH]], stdin=stdin, ok=(0, 1, 2))
            out += found.decode(errors="surrogateescape")
        return out


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # made by the kernel's build, which is not run

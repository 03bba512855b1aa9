# SPDX-License-Identifier: GPL-2.0-only
"""Which units a changed header can change: those that mention what changed, by any detour.

Why none is missed.  A unit's code depends on a header only through the tokens that its own text
draws in: a macro, an inline function, a type or a variable takes effect where something names it.
So the set starts with the names of the pieces that differ, and grows until it is closed: a piece of
any header that the units include, and that mentions a name of the set, adds the names that it
defines (an inline function that calls a changed one, a structure that embeds one, a macro that uses
one, whatever stands under an ``#if`` that asks for one).  A unit is left out only when its own
text has no name of the set.

What does not need a name counts for every unit that includes it: macros that are used at top level
and do more than declare (``macros.py``), code and data that are not static, ``#pragma``, text that
is not understood.  Names that ``##`` puts together: see ``pasting.py``.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from ksplicd.create.affected.c_text import Piece, enumerators, identifiers, own_text, split
from ksplicd.create.affected.include_graph import IncludeGraph, includes_in
from ksplicd.create.affected.macros import Macros
from ksplicd.create.affected.pasting import Pasting
from ksplicd.create.debug import phase
from ksplicd.create.messages import names_of
from ksplicd.create.patch.change import ChangedFile
from ksplicd.run import run

LOG: Final = phase("affected")

_FEW: Final = 64
"""Up to so many units, compiling is cheaper than analysing."""

_BATCH: Final = 4000
"""Files for one grep: their names stay far below what execve takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """What a change of headers can reach."""

    dependants: frozenset[str]
    """Units that include one of the headers."""
    units: frozenset[str]
    """Those of them that the change can reach."""
    names: frozenset[str]
    """The names by which it does."""


def find_affected(
    graph: IncludeGraph,
    headers: Sequence[ChangedFile],
    units: Iterable[str],
    compiler: str = "gcc",
) -> Affected:
    """Return which of ``units`` (sources, also assembly) changed headers can reach."""
    return _Narrower(graph, headers, frozenset(units), compiler).run()


class _Narrower:
    def __init__(
        self,
        graph: IncludeGraph,
        headers: Sequence[ChangedFile],
        units: frozenset[str],
        compiler: str,
    ) -> None:
        self.graph, self.units, self.compiler = graph, units, compiler
        self.headers = {str(h.path): h for h in headers}
        self.users = {path: graph.dependants(path) for path in self.headers}
        reached = {user for users in self.users.values() for user in users}
        self.dependants = units & reached
        self.files = graph.closure(self.dependants) - units | self.headers.keys()
        """The headers of the dependants: where names can spread."""
        self.hit: set[str] = set()
        self.names: set[str] = set()
        self.new: set[str] = set()
        self.pasting_names: set[str] = set()
        """Those that are in it because they can put others together."""
        self.pieces: dict[str, list[Piece]] = {}

    def run(self) -> Affected:
        for path, header in self.headers.items():
            for piece in changed_pieces(_text(header.before), _text(header.after)):
                self.take(path, piece, self.names_changed(path, piece))
        pasting = self.pasting_macros(self.files)
        while self.new and self.hit != self.dependants:
            fresh, self.new = self.new, set()
            self.names |= fresh
            pasting_now = pasting.macros(fresh) - self.names
            self.pasting_names |= pasting_now
            self.add(pasting_now, "##", fresh)
            for path in self.mentioning(fresh | pasting.loose_macros(fresh), self.files):
                for piece in self.pieces_of(path):
                    if piece.mentions & fresh or pasting.puts_together(piece.text, fresh):
                        self.take(path, piece, piece.defines, by=(piece.mentions & fresh) or fresh)
        units = frozenset(self.hit | self.own_mentions(pasting))
        for path in sorted(self.dependants - units):
            LOG.debug("%s: out: includes a changed header, but mentions nothing changed", path)
        return Affected(
            dependants=self.dependants,
            units=units,
            names=frozenset(self.names),
        )

    def take(
        self, path: str, piece: Piece, names: Iterable[str], *, by: Collection[str] = ()
    ) -> None:
        """Take in a piece that is changed or, ``by`` the names that it mentions, reached."""
        if piece.is_plain:
            self.add(names, path, by)
        elif (pieces := self.macros.expand(piece)) is not None:
            plain = self.names - self.pasting_names
            if by and not any((p.mentions | p.defines) & plain for p in pieces):
                return  # its macro can put one of the names together, but does not here
            self.add((name for piece in pieces for name in piece.defines), path, by)
        else:  # who sees its names includes it
            users = (self.users.get(path) or self.graph.dependants(path)) & self.dependants
            self.hit_all(users, f"includes {path}, of which “{piece.text[:60]}” is not understood")

    @cached_property
    def macros(self) -> Macros:
        """The macros of all headers, and those of the changed ones in both versions."""
        files = (self.graph.file(path) for path in self.files if path not in self.headers)
        texts = [_read(file).decode(errors="replace") for file in files]
        texts += [_text(t) for h in self.headers.values() for t in {h.before, h.after}]
        return Macros(texts, self.compiler)

    def add(self, names: Iterable[str], path: str, by: Collection[str]) -> None:
        """Take in names that ``path`` defines and that change, or are reached ``by`` others."""
        fresh = {name for name in names if name not in self.names and name not in self.new}
        self.new |= fresh
        if LOG.isEnabledFor(logging.DEBUG):
            why = f"reached by {names_of(sorted(by))}" if by else "changes"
            for name in sorted(fresh):
                LOG.debug("%s: %s: %s", path, name, why)

    def hit_all(self, units: Iterable[str], why: str) -> None:
        """Take in units, whatever they mention."""
        fresh = set(units) - self.hit
        self.hit |= fresh
        for path in sorted(fresh):
            LOG.debug("%s: can be reached: it %s", path, why)

    def names_changed(self, path: str, piece: Piece) -> Iterable[str]:
        """Return what a changed piece defines; of an ``#include``, what now comes or goes.

        Of that only the macros count: all else that a unit names it has had a declaration of.
        """
        if not piece.included:
            return piece.defines
        files = self.graph.closure(self.graph.resolve(path, [piece.included]))
        others = self.graph.closure(
            f for f in self.graph.includes_of(path)
            if f not in self.graph.resolve(path, [piece.included])
        )  # fmt: skip
        before = includes_in(self.headers[path].before or b"") if path in self.headers else []
        names = set[str]()
        for file in files - others:
            if piece.included not in before:
                without = self.dependants - self.graph.dependants(file)
                if len(without) <= _FEW:
                    # for all others it was there before
                    self.hit_all(without, f"includes {file} only after the change")
                    continue
            pieces = self.pieces_of(file)
            names |= {n for c in pieces if c.is_macro and not c.is_guard for n in c.defines}
        return names

    def pieces_of(self, path: str) -> list[Piece]:
        """Return the pieces of a file; of a changed header, those before and after."""
        if path not in self.pieces:
            header = self.headers.get(path)
            if header is not None:
                texts = [_text(header.before), _text(header.after)]
            else:
                texts = [_read(self.graph.file(path)).decode(errors="replace")]
            self.pieces[path] = [piece for text in texts for piece in split(text)]
        return self.pieces[path]

    def mentioning(self, names: Iterable[str], paths: Iterable[str]) -> Iterator[str]:
        """Yield the files that mention a name; changed headers in both their versions."""
        on_disk = [p for p in paths if p not in self.headers]
        words = frozenset(names)
        yield from grep(words, self.graph, on_disk)
        for path, header in self.headers.items():
            if identifiers(_text(header.before), _text(header.after)) & words:
                yield path

    def pasting_macros(self, paths: Iterable[str]) -> Pasting:
        """Return the macros of some files that put names together."""
        every = set(paths)
        with_paste = set(grep(("##",), self.graph, every, words=False))
        texts = [_read(self.graph.file(p)) for p in with_paste]
        texts += [t or b"" for h in self.headers.values() for t in (h.after, h.before)]
        gluing = Pasting(texts).gluing
        texts += [_read(self.graph.file(p)) for p in grep(gluing, self.graph, every - with_paste)]
        return Pasting(texts)

    def own_mentions(self, pasting: Pasting) -> set[str]:
        """Return the dependants whose own text has a name of the set, or puts one together."""
        left = self.dependants - self.hit
        texts = {p: own_text(_read(self.graph.file(p))) for p in grep(self.names, self.graph, left)}
        mentioned = {path: identifiers(text) & self.names for path, text in texts.items()}
        found = {path for path, names in mentioned.items() if names}
        for path in sorted(found) if LOG.isEnabledFor(logging.DEBUG) else ():
            LOG.debug("%s: can be reached: it mentions %s", path, names_of(sorted(mentioned[path])))
        suspects = set(grep(pasting.loose_macros(self.names), self.graph, left - found))
        suspects |= set(grep({"##", *pasting.gluing}, self.graph, left - found, words=False))
        for path in suspects:
            text = own_text(_read(self.graph.file(path)))
            own = Pasting([text.encode()], pasting.gluing)
            if own.macros(self.names) or any(
                p.puts_together(text, self.names) for p in (own, pasting)
            ):
                found.add(path)
                LOG.debug("%s: can be reached: it puts a changed name together", path)
        return found


def changed_pieces(before: str, after: str) -> list[Piece]:
    """Return the pieces that only one of two versions of a file has."""
    old, new = split(before), split(after)
    was, now = (Counter((c.text, c.conditions) for c in pieces) for pieces in (old, new))
    gone = [c for c in old if was[c.text, c.conditions] > now[c.text, c.conditions]]
    come = [c for c in new if now[c.text, c.conditions] > was[c.text, c.conditions]]
    return narrow_enums(gone, come)


def narrow_enums(gone: Sequence[Piece], come: Sequence[Piece]) -> list[Piece]:
    """Of an enum that differs from some place on, leave the constants before that place alone."""
    out = list[Piece]()
    others = list(come)
    for old in gone:
        twin = next((c for c in others if old.defines & c.defines and _is_enum(c)), None)
        if twin is None or not _is_enum(old):
            out.append(old)
            continue
        others.remove(twin)
        a, b = (c.text.split() for c in (old, twin))
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
        kept = set(enumerators(a[a.index("{") + 1 : same - 1]))
        tags = set(a[: a.index("{")])
        for piece in (old, twin):
            names = piece.defines - kept - tags
            out.append(
                Piece(
                    text=piece.text,
                    conditions=piece.conditions,
                    defines=frozenset(names),
                    mentions=piece.mentions,
                    is_plain=piece.is_plain,
                )
            )
    return [*out, *others]


def _is_enum(piece: Piece) -> bool:
    return piece.text.startswith("enum ") and "{" in piece.text.split()


def grep(
    names: Iterable[str], graph: IncludeGraph, paths: Iterable[str], *, words: bool = True
) -> list[str]:
    """Return the files that have one of ``names``, as a word or as any part of the text."""
    places = {str(graph.file(p)): p for p in sorted(paths)}
    patterns = "\n".join(sorted(names)).encode()
    if not places or not patterns:
        return []
    argv = ["grep", "-lZsF", *(["-w"] if words else []), "-f", "-", "--"]
    found: list[str] = []
    every = list(places)
    for i in range(0, len(every), _BATCH):
        out = run([*argv, *every[i : i + _BATCH]], stdin=patterns, ok=(0, 1, 2))
        found += [places[p] for p in out.decode(errors="surrogateescape").split("\0") if p]
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # made by the kernel's build, which is not run


def _text(content: bytes | None) -> str:
    return (content or b"").decode(errors="replace")

# SPDX-License-Identifier: GPL-2.0-only
"""Which units a changed header can change: those that mention what changed, by any detour.

A unit's code depends on a header only through the tokens that its own text draws in: a macro, an
inline function, a type or a variable takes effect where something names it.  So the set starts with
the names of the pieces that differ, and grows until it is closed: a piece of any header that the
units include, and that mentions a name of the set, adds the names that it defines (an inline
function that calls a changed one, a structure that embeds one, a macro that uses one, whatever
stands under an ``#if`` that asks for one, what is included there).

What does not need a name counts for every unit that includes it: macros that are used at top level
and do more than declare (``macros.py``), code and data that are not static, ``#pragma``, text that
is not understood, and all but macros of a file that has no guard or stands within brackets, because
it can be part of something larger (rows of a table, a template).  Names that ``##`` puts together:
see ``pasting.py``; includes that come, go or move: see ``included.py``.

Proof obligation: a unit that is left out has no name of the closed set in its own text, cannot put
one together, and includes nothing that counts without a name; so the compiler gets the same tokens
before and after the change, but for declarations that nothing in the unit uses.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from ksplicd.create.affected.c_text import Piece, identifiers, own_text
from ksplicd.create.affected.changed import changed_pieces
from ksplicd.create.affected.include_graph import IncludeGraph
from ksplicd.create.affected.included import files_brought
from ksplicd.create.affected.macros import Macros
from ksplicd.create.affected.pasting import Pasting, read_definitions
from ksplicd.create.affected.texts import Texts
from ksplicd.create.debug import phase
from ksplicd.create.messages import names_of
from ksplicd.create.patch.change import ChangedFile

LOG: Final = phase("affected")

FEW: Final = 8
"""Up to so many dependants, compiling all is cheaper than looking for those that change."""

_MANY_NAMES: Final = 5000
"""Names above which hardly a unit has none of them: all are compiled."""

_MANY_HEADERS: Final = 16
"""Changed headers above which who sees an include that comes or goes is compiled at once, and all
are when few are left."""

_FEW_LEFT: Final = 64
"""Units that take less time to compile than one more look at all headers for what is reached."""


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
    compiler: Sequence[str | Path] = ("gcc",),
    few: int = FEW,
) -> Affected:
    """Return which of ``units`` (sources, also assembly) changed headers can reach.

    ``few``: up to so many dependants, all are taken for reached.
    """
    graph.extend(headers)
    narrower = _Narrower(graph, headers, frozenset(units), compiler, few)
    if len(narrower.dependants) <= few:
        return Affected(
            dependants=narrower.dependants, units=narrower.dependants, names=frozenset()
        )
    return narrower.run()


class _Reached:
    """What is known to be reached so far."""

    def __init__(self, dependants: frozenset[str]) -> None:
        self.dependants = dependants
        self.units: set[str] = set()
        """Those that are in it, whatever they mention."""
        self.names: set[str] = set()
        self.pasting: set[str] = set()
        """Names that are in it because they can put others together."""
        self.fresh: set[str] = set()
        self.exempt: dict[str, frozenset[str]] = {}
        """By macro that only comes or goes, the files in which it is as it was."""

    def take_fresh(self) -> frozenset[str]:
        """Return the names that are new since the last call; none when all units are reached."""
        if self.units == self.dependants:
            return frozenset()
        fresh, self.fresh = frozenset(self.fresh), set()
        self.names |= fresh
        return fresh

    def add(
        self,
        names: Iterable[str],
        path: str,
        by: Collection[str],
        exempt: frozenset[str] = frozenset(),
    ) -> None:
        """Take in names that ``path`` defines and that change, or are reached ``by`` others."""
        fresh = set(names)
        fresh = {
            n for n in fresh if (n not in self.names and n not in self.fresh) or self.exempt.get(n)
        }
        for name in fresh:
            self.exempt[name] = self.exempt.get(name, exempt) & exempt
        self.fresh |= fresh
        if LOG.isEnabledFor(logging.DEBUG):
            why = f"reached by {names_of(sorted(by))}" if by else "changes"
            for name in sorted(fresh):
                LOG.debug("%s: %s: %s", path, name, why)

    def mentioned(self, path: str, words: Collection[str], names: Collection[str]) -> set[str]:
        """Return which of some names words of a file mention, and mean something else by."""
        return {n for n in names if n in words and path not in self.exempt.get(n, ())}

    def hit_all(self, units: Iterable[str], why: str) -> None:
        """Take in units, whatever they mention."""
        fresh = (set(units) & self.dependants) - self.units
        self.units |= fresh
        for path in sorted(fresh):
            LOG.debug("%s: can be reached: it %s", path, why)


class _Narrower:
    def __init__(
        self,
        graph: IncludeGraph,
        headers: Sequence[ChangedFile],
        units: frozenset[str],
        compiler: Sequence[str | Path],
        few: int,
    ) -> None:
        self.graph, self.compiler, self.few = graph, compiler, few
        self.headers = {str(h.path): h for h in headers}
        self.texts = Texts(graph, headers)
        self.users: dict[str, set[str]] = {}
        reached = {user for path in self.headers for user in graph.dependants(path)}
        self.dependants = units & reached
        inner = {u for u in units if graph.users.get(u)}
        self.files = (graph.closure(self.dependants) - (units - inner)) | self.headers.keys()
        """The headers of the dependants: where names can spread."""
        self.reached = _Reached(self.dependants)
        self.followed: set[tuple[str, Piece]] = set()
        self.come: set[str] = set()
        """Files that units may have by an ``#include`` of the change alone."""
        self.gone: set[str] = set()
        """Files that they may not have any more."""

    def run(self) -> Affected:
        for path in self.graph.moved:
            self.reached.hit_all(
                {path} | self.users_of(path), f"includes {path}, which now finds a new file"
            )
        for path, header in self.headers.items():
            if header.after is None:
                self.reached.hit_all(self.users_of(path), f"includes {path}, which is removed")
            before, after = ((text or b"").decode(errors="replace")
                             for text in (header.before, header.after))  # fmt: skip
            for piece in changed_pieces(before, after):
                self.take(path, piece)
            if len(self.reached.fresh) > _MANY_NAMES:
                break
        self.take_replaced()
        while fresh := self.reached.take_fresh():
            is_too_much = len(self.reached.names) > _MANY_NAMES  # nor were all headers looked at
            if is_too_much or self.are_few_left():
                self.reached.hit_all(self.dependants, "is one of those that too much changes for")
                break
            self.follow(fresh)
        units = frozenset(self.reached.units | self.own_mentions())
        for path in sorted(self.dependants - units):
            LOG.debug("%s: out: includes a changed header, but mentions nothing changed", path)
        return Affected(
            dependants=self.dependants,
            units=units,
            names=frozenset(self.reached.names),
        )

    def are_few_left(self) -> bool:
        """Tell whether a change of many headers leaves hardly a unit that mentions nothing."""
        if len(self.headers) <= _MANY_HEADERS:
            return False
        left = self.dependants - self.reached.units
        return len(left) - len(self.texts.grep(self.reached.names, left)) <= _FEW_LEFT

    def follow(self, fresh: frozenset[str]) -> None:
        """Take in the pieces of any header that mention fresh names, or put one together."""
        pasting = self.macros.pasting
        telling = pasting.macros(fresh) - self.reached.names
        self.reached.pasting |= telling
        self.reached.add(telling, "##", fresh)
        for path in self.texts.grep({*fresh, *pasting.loose_macros(fresh)}, self.files):
            for piece in self.texts.pieces(path):
                by = self.reached.mentioned(path, piece.mentions, piece.mentions & fresh)
                if by or pasting.puts_together(piece.text, fresh):
                    self.take(path, piece, by=by or fresh)

    def take(self, path: str, piece: Piece, *, by: Collection[str] = ()) -> None:
        """Take in a piece that is changed or, ``by`` the names that it mentions, reached."""
        if piece.included:
            self.take_include(path, piece, by)
            return
        is_alone = piece.is_macro or self.stands_alone(path)
        names = self.macros.names_of(piece) if piece.is_plain and is_alone else None
        if names is not None:
            self.reached.add(names, path, by)
        elif is_alone and (pieces := self.macros.expand(piece, self.unit_macros)) is not None:
            plain = self.reached.names - self.reached.pasting
            if by and not any((p.mentions | p.defines) & plain for p in pieces):
                return  # its macro can put one of the names together, but does not here
            self.reached.add((name for piece in pieces for name in piece.defines), path, by)
        else:  # who sees its names includes it
            users = self.users_of(path)
            self.reached.hit_all(
                users, f"includes {path}, of which “{piece.text[:60]}” is not understood"
            )

    def take_include(self, path: str, piece: Piece, by: Collection[str]) -> None:
        """Take in what an ``#include`` brings or takes away: macros, and what needs no name.

        All else that a unit names it has had a declaration of: see ``take_replaced``.
        """
        if (path, piece) in self.followed:
            return
        self.followed.add((path, piece))
        users = set(filter(self.graph.is_c_unit, self.users_of(path)))
        is_large = len(self.headers) > _MANY_HEADERS or len(users) <= self.few
        others = self.users_of(path) if is_large else self.users_of(path) - users
        self.reached.hit_all(others, f"includes {path}, in which an #include comes, goes or moves")
        users -= self.reached.units
        if not users:
            return
        versions, has_guard = self.texts.split(path), self.texts.has_guard
        found = files_brought(self.graph, path, piece, versions, users, has_guard)
        for file, brought in found.items():
            late, lack = brought.late, brought.lacking
            names = self.macros.sensitive(file) if len(late) > self.few else set[str]()
            self.reached.hit_all(
                late if len(late) <= self.few else (), f"gets {file} earlier or later, by {path}"
            )
            if not has_guard(file) and any(not p.is_macro for p in self.texts.pieces(file)):
                self.reached.hit_all(brought.reading, f"gets {file}, which can be part of anything")
            elif lack and (len(lack) <= self.few or self.counts_without_name(file)):
                self.reached.hit_all(lack, f"gets {file} by an #include that {path} gets or loses")
            elif lack:
                self.note_direction(file, piece, versions)
                exempt = frozenset(self.graph.sure.users(file, without=path))
                self.reached.add(self.macros.of(file), path, by, exempt)
            self.reached.add(names, path, by)

    def note_direction(self, file: str, piece: Piece, versions: Sequence[Sequence[Piece]]) -> None:
        """Note whether units get a file by an ``#include``, or lose it, or perhaps both."""
        was, now = (any(p.key == piece.key for p in v) for v in (versions[0], versions[-1]))
        if now or not was:
            self.come.add(file)
        if was or not now:
            self.gone.add(file)

    def take_replaced(self) -> None:
        """Take in the names that units have from one file and get from another instead.

        ``struct user_regs`` of asm-generic/x.h, where asm/x.h was included.
        """
        if not self.gone or not self.come:
            return
        gone, come = self.declared_in(self.gone), self.declared_in(self.come)
        names = {n for n in gone.keys() & come.keys() if len(gone[n] | come[n]) > 1}
        self.reached.add(names, "#include", ())

    def declared_in(self, paths: Iterable[str]) -> dict[str, set[str]]:
        """Return by name the files that declare it; their macros count in any case."""
        found: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            for piece in self.texts.pieces(path):
                for name in piece.defines if not piece.is_macro and not piece.included else ():
                    found[name].add(path)
        return found

    def counts_without_name(self, path: str) -> bool:
        """Tell whether some pieces of a file make more than names."""
        return any(
            not p.is_plain and self.macros.expand(p, self.unit_macros) is None
            for p in self.texts.pieces(path)
            if not p.included
        )

    def stands_alone(self, path: str) -> bool:
        """Tell whether a file's pieces are whole wherever it is included."""
        return path not in self.graph.inside and self.texts.is_guarded(path)

    def users_of(self, path: str) -> set[str]:
        """Return the dependants that include a file, or are it."""
        if path not in self.users:
            self.users[path] = self.graph.dependants(path) & self.dependants
        return self.users[path]

    @cached_property
    def macros(self) -> Macros:
        """The macros of all headers, and those of the changed ones in both versions."""
        return Macros({path: self.texts.text(path) for path in self.files}, self.compiler)

    @cached_property
    def unit_macros(self) -> set[str]:
        """The macros that the dependants' own texts define or take back."""
        return self.texts.macros_of(self.dependants)

    def own_mentions(self) -> set[str]:
        """Return the dependants whose own text has a name of the set, or puts one together."""
        pasting = self.macros.pasting if self.reached.names else Pasting(())
        left = self.dependants - self.reached.units
        texts = {
            p: own_text(self.texts.text(p).encode())
            for p in self.texts.grep(self.reached.names, left)
        }
        mentioned = {
            path: self.reached.mentioned(path, words, words & self.reached.names)
            for path, words in ((path, identifiers(text)) for path, text in texts.items())
        }
        found = {path for path, names in mentioned.items() if names}
        for path in sorted(found) if LOG.isEnabledFor(logging.DEBUG) else ():
            LOG.debug("%s: can be reached: it mentions %s", path, names_of(sorted(mentioned[path])))
        suspects = set(self.texts.grep(pasting.loose_macros(self.reached.names), left - found))
        suspects |= set(self.texts.grep({"##"}, left - found, words=False))
        suspects |= set(self.texts.grep(pasting.glue, left - found))
        for path in suspects:
            text = own_text(self.texts.text(path).encode())
            own = Pasting(read_definitions(text), pasting)
            if own.macros(self.reached.names) & identifiers(text) or own.puts_together(
                text, self.reached.names
            ):
                found.add(path)
                LOG.debug("%s: can be reached: it puts a changed name together", path)
        return found

# SPDX-License-Identifier: GPL-2.0-only
"""The macros of the headers that some units include.

What a macro declares that is used at top level of a header is the preprocessor's answer.

Proof obligation: a use is expanded only where each macro that it needs has one definition in all
headers and in no unit, so that every unit gets what the preprocessor made of it here.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from ksplicd.create.affected.c_text import Piece, guard_of, identifiers, split
from ksplicd.create.affected.declarations import KEPT_ATTRIBUTES
from ksplicd.create.affected.pasting import Definition, Pasting, read_definitions
from ksplicd.errors import ToolError
from ksplicd.run import run

_UNDEF: Final = re.compile(r"^[ \t]*#[ \t]*undef[ \t]+(\w+)", re.MULTILINE)
_CONDITION: Final = re.compile(
    r"^[ \t]*#[ \t]*(?:if|ifdef|ifndef|elif|undef)\b((?:[^\\\n]|\\\r?\n|\\.)*)", re.MULTILINE
)
_FUNCTION: Final = re.compile(r"^(?:static|extern)\b[^;{()=]*?\b(\w+)[ \t]*\(", re.MULTILINE)
_MOST: Final = 200
"""Macros for one expansion: more are no accessor, but machinery."""


class Macros:
    """The macros of some files."""

    def __init__(self, texts: Mapping[str, str], compiler: Sequence[str | Path]) -> None:
        """Read files, by path; of a changed one, both versions.  ``compiler``: the command."""
        self._texts, self._compiler = texts, compiler
        self.definitions = [d for text in texts.values() for d in read_definitions(text)]
        self._by_name: dict[str, set[Definition]] = defaultdict(set)
        for definition in self.definitions:
            self._by_name[definition.name].add(definition)
        self._undefined = {name for text in texts.values() for name in _UNDEF.findall(text)}
        self._expanded: dict[str, list[Piece] | None] = {}

    @cached_property
    def pasting(self) -> Pasting:
        """Those that put names together."""
        return Pasting(self.definitions)

    def names_of(self, piece: Piece) -> frozenset[str] | None:
        """Return the names that a piece defines, where macros stand for them.

        ``#define mtype_test IPSET_TOKEN(MTYPE, _test)`` before a function ``mtype_test``.  None:
        not known, or a macro keeps it although nothing names it: ``static int x KEEP = 1``.
        """
        if piece.is_macro:
            return piece.defines
        if self._is_kept(piece):
            return None
        names, todo = set(piece.defines), list(piece.defines)
        while todo:
            for definition in self._by_name.get(todo.pop(), ()):
                if definition.parameters is not None:
                    continue
                words = identifiers(definition.body)
                if self._puts_together(words):
                    return None
                todo += words - names
                names |= words
        return frozenset(names)

    def _is_kept(self, piece: Piece) -> bool:
        """Tell whether a macro at top level of a declaration has an attribute that keeps it."""
        head = re.split(r"[={]", piece.text, maxsplit=1)[0]
        return not self._keeping.isdisjoint(identifiers(head))

    @cached_property
    def _keeping(self) -> set[str]:
        """The macros that stand for an attribute of what is kept, by themselves or by others."""
        found = set[str]()
        users: dict[str, set[str]] = defaultdict(set)
        for definition in self.definitions:
            if definition.parameters is None:
                words = identifiers(definition.body)
                if words & KEPT_ATTRIBUTES:
                    found.add(definition.name)
                for word in words:
                    users[word].add(definition.name)
        todo = list(found)
        while todo:
            fresh = users[todo.pop()] - found
            found |= fresh
            todo += fresh
        return found

    def _puts_together(self, names: Collection[str]) -> bool:
        """Tell whether one of some macros, or one that it uses, has a ``##``."""
        seen, todo = set(names), list(names)
        while todo:
            for definition in self._by_name.get(todo.pop(), ()):
                if "##" in definition.body:
                    return True
                fresh = identifiers(definition.body) - seen
                seen |= fresh
                todo += fresh
        return False

    def of(self, path: str) -> set[str]:
        """Return the macros that a file defines."""
        text = self._texts.get(path, "")
        guard = guard_of(text)
        return {d.name for d in read_definitions(text) if d.name != guard}

    def sensitive(self, path: str) -> set[str]:
        """Return the macros of a file that mean something else where the file is included later.

        Those that another file asks for, defines, or takes back, and those that are a function too.
        """
        names = self.of(path)
        own = self._asked_in(self._texts.get(path, "")) if names else set()
        return {n for n in names if self._asked[n] > (n in own) or n in self._functions}

    @cached_property
    def _asked(self) -> Counter[str]:
        return Counter(name for text in self._texts.values() for name in self._asked_in(text))

    @staticmethod
    def _asked_in(text: str) -> set[str]:
        asked = {name for line in _CONDITION.findall(text) for name in identifiers(line)}
        return asked | {definition.name for definition in read_definitions(text)}

    @cached_property
    def _functions(self) -> set[str]:
        return {name for text in self._texts.values() for name in _FUNCTION.findall(text)}

    def expand(self, piece: Piece, elsewhere: Collection[str] = ()) -> list[Piece] | None:
        """Return what a use declares, None when it is not known or does more than declare.

        ``elsewhere``: macros that units define or take back themselves.
        """
        is_enum = piece.text.startswith(("enum ", "typedef enum ")) and "\n" not in piece.text
        is_use = re.match(r"(?:(?:static|extern) )?\w+ \(", piece.text)
        if piece.included or not (is_use or is_enum):
            return None
        if piece.text not in self._expanded:
            self._expanded[piece.text] = self._expand(piece, elsewhere)
        return self._expanded[piece.text]

    def _expand(self, piece: Piece, elsewhere: Collection[str]) -> list[Piece] | None:
        needed: dict[str, str] = {}
        todo = list(identifiers(piece.text))
        while todo:
            name = todo.pop()
            definitions = self._by_name.get(name, ())
            if name in needed or not definitions:
                continue
            unsure = len(definitions) > 1 or name in self._undefined or name in elsewhere
            if unsure or len(needed) >= _MOST:
                return None
            (found,) = definitions
            brackets = "" if found.parameters is None else f"({','.join(found.parameters)})"
            needed[name] = f"{name}{brackets} {found.body}"
            todo += identifiers(found.body)
        lines = [f"#define {line}" for line in needed.values()]
        source = "\n".join([*lines, piece.text, ""]).encode(errors="replace")
        try:
            out = run([*self._compiler, "-E", "-P", "-x", "c", "-"], stdin=source)
        except ToolError:
            return None
        pieces = split(out.decode(errors="replace"))
        return pieces if pieces and all(p.is_plain for p in pieces) else None

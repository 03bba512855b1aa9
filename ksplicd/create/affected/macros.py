# SPDX-License-Identifier: GPL-2.0-only
"""What a macro that is used at top level of a header declares: the preprocessor's answer.

Only macros with one definition are expanded; one with several depends on the configuration, and
what it would make stays as it is, which then counts as not understood.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from ksplicd.create.affected.c_text import Piece, identifiers, split
from ksplicd.errors import ToolError
from ksplicd.run import run

_DEFINE: Final = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+(\w+)((?:[^\\\n]|\\\r?\n|\\.)*)", re.MULTILINE
)
_MOST: Final = 200
"""Macros for one expansion: more are no accessor, but machinery."""


class Macros:
    """The macros of some files."""

    def __init__(self, texts: Iterable[str], compiler: str) -> None:
        self._compiler = compiler
        self._definitions: dict[str, set[str]] = defaultdict(set)
        for text in texts:
            for name, rest in _DEFINE.findall(text):
                self._definitions[name].add(rest)

    def expand(self, piece: Piece) -> list[Piece] | None:
        """Return what a use declares, None when it is not known or does more than declare."""
        if piece.included or not re.match(r"\w+ \(", piece.text):
            return None
        needed: dict[str, str] = {}
        todo = list(identifiers(piece.text))
        while todo and len(needed) < _MOST:
            name = todo.pop()
            definitions = self._definitions.get(name, ())
            if name not in needed and len(definitions) == 1:
                (needed[name],) = definitions
                todo += identifiers(needed[name])
        lines = [f"#define {name}{rest}" for name, rest in needed.items()]
        source = "\n".join([*lines, piece.text, ""]).encode(errors="replace")
        try:
            out = run([self._compiler, "-E", "-P", "-x", "c", "-"], stdin=source)
        except ToolError:
            return None
        pieces = split(out.decode(errors="replace"))
        return pieces if pieces and all(p.is_plain for p in pieces) else None

# SPDX-License-Identifier: GPL-2.0-only
"""C text in pieces: what each macro, function, type and variable of a header mentions and defines.

No preprocessor and no grammar: pieces end where a declaration or a definition does, and what is
not understood is marked (``is_plain`` is false): its names cannot be relied on.

Proof obligation: two files with the same sequence of pieces (texts and conditions) are the same C,
and a plain piece gives a unit nothing except by a name in its ``defines``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ksplicd.create.affected.declarations import is_macro_use, is_name, names_defined

_TOKEN: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[A-Za-z_]\w*|\.?\d[\w.]*"""
    r"""|\#\#|<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|&&|\|\||[-+*/%&|^<>=!]=|[^\s]""",
    re.DOTALL,
)
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*")
_STRING: Final = re.compile(r'"(?:\\.|[^"\\\n])*"')
_COMMENT: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""", re.DOTALL
)
_INCLUDE_LINE: Final = re.compile(r"^[ \t]*#[ \t]*include\b.*$", re.MULTILINE)
_GUARD: Final = re.compile(
    r"#[ \t]*(?:ifndef[ \t]+(\w+)|if[ \t]*![ \t]*defined\b[ \t(]*(\w+)[ \t)]*)\s*\n"
    r"\s*#[ \t]*define[ \t]+(\w+)"
)
_CONDITION: Final = re.compile(r"^[ \t]*#[ \t]*(if|ifdef|ifndef|endif)\b", re.MULTILINE)
_MACRO: Final = re.compile(r"([A-Za-z_]\w*)(\([^)]*\))?")


@dataclass(frozen=True, slots=True)
class Piece:
    """One macro, function, type, declaration or variable."""

    text: str
    """Its tokens, parted by blanks, without comments; directives within it have their own lines."""
    conditions: tuple[str, ...]
    """The ``#if`` lines that it stands under."""
    defines: frozenset[str]
    """The names by which others get at it."""
    mentions: frozenset[str]
    """Every identifier in it and in its conditions."""
    is_plain: bool = True
    """False: it may make code, or names that are not in ``defines``, where it is included."""
    included: str = ""
    """Of an ``#include``: bracket or quote, and the name."""
    spacing: str = ""
    """By token, whether a blank is before it, where ``#`` can make a string of it."""

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        """What makes it the same piece in another version of the file."""
        return self.text, self.spacing, self.conditions

    @property
    def is_macro(self) -> bool:
        """Tell whether it is a ``#define``."""
        return self.text.startswith("# define ")

    @property
    def is_guard(self) -> bool:
        """Tell whether it keeps a header from being read twice."""
        name = self.text.removeprefix("# define ")
        return any(condition.startswith(f"ifndef {name}") for condition in self.conditions)


def split(text: str) -> list[Piece]:
    """Return the pieces of a file.  The last is not plain when its braces do not pair."""
    return list(_Splitter(text).pieces())


def own_text(content: bytes) -> str:
    """Return the text of a file without comments and without the names that it includes."""
    return _INCLUDE_LINE.sub("", without_comments(content.decode(errors="replace")))


def without_comments(text: str) -> str:
    """Return a text with its continued lines joined and a blank for each comment."""
    joined = text.replace("\\\r\n", "").replace("\\\n", "")
    return _COMMENT.sub(lambda m: m[1] or " ", joined)


def is_guarded(pieces: Sequence[Piece]) -> bool:
    """Tell whether a file takes effect once in a unit, where it is included first.

    Any other may be part of something larger: rows of a table, a template.
    """
    if any(p.text == "# pragma once" for p in pieces):
        return True
    if not pieces or not pieces[0].is_macro or not pieces[0].conditions:
        return False
    words = pieces[0].text.split()
    if len(words) != 3:
        return False
    asked = {f"ifndef {words[2]}", f"if ! defined {words[2]}", f"if ! defined ( {words[2]} )"}
    guard = pieces[0].conditions[0]
    return guard in asked and all(p.conditions[:1] == (guard,) for p in pieces)


def guard_of(text: str) -> str | None:
    """Return the macro under whose absence all of a file stands, by its directives alone."""
    code = without_comments(text).strip()
    m = _GUARD.match(code)
    if m is None or (m[1] or m[2]) != m[3]:
        return None
    depth = 0
    for directive in _CONDITION.finditer(code):
        depth += -1 if directive[1] == "endif" else 1
        if depth == 0:
            return None if "\n" in code[directive.end() :] else m[3]
    return None


class _Splitter:
    def __init__(self, text: str) -> None:
        self.lines = without_comments(text).split("\n")
        self.conditions: list[str] = []
        self.tokens: list[str] = []
        self.words: list[str] = []
        """The tokens, and the directives among them."""
        self.spacing: list[str] = []
        self.depth = 0
        self.is_paired = True
        self.seen: list[str] = []
        """Conditions within the piece at hand."""

    def pieces(self) -> Iterator[Piece]:
        for line in self.lines:
            stripped = line.strip()
            if stripped.startswith("#"):
                if self.tokens:
                    self.words.append(f"\n# {_join(stripped[1:].strip())}\n")
                yield from self.directive(stripped[1:].strip())
            elif stripped:
                yield from self.code(stripped)
        if self.tokens:
            yield self.piece(is_plain=False)

    def directive(self, line: str) -> Iterator[Piece]:
        word, rest = (*re.split(r"\s+", line, maxsplit=1), "")[:2]
        if m := re.match(r'include\s*([<"])([^>"]*)', line):
            yield self.single(line, frozenset(), included=m[1] + m[2])
        elif word == "define":
            m = _MACRO.match(rest)
            yield self.single(
                line, frozenset((m[1],)) if m else frozenset(), is_plain=m is not None
            )
        elif word == "undef":
            yield self.single(line, frozenset(rest.split()[:1]))
        elif word in ("if", "ifdef", "ifndef"):
            self.conditions.append(_join(line))
            self.seen.append(line)
        elif word in ("else", "elif") and self.conditions:
            self.conditions[-1] += f" | {_join(line)}"
            self.seen.append(line)
        elif word == "endif" and self.conditions:
            self.conditions.pop()
        elif word not in ("error", "warning", "endif", "else", "elif"):
            yield self.single(line, frozenset(), is_plain=False)

    def single(
        self, line: str, defines: frozenset[str], *, is_plain: bool = True, included: str = ""
    ) -> Piece:
        return Piece(
            text=f"# {_join(line)}",
            conditions=tuple(self.conditions),
            defines=defines,
            mentions=identifiers("" if included else line, *self.conditions),
            is_plain=is_plain,
            included=included,
            spacing=_spacing(line) if line.startswith("define") else "",
        )

    def code(self, line: str) -> Iterator[Piece]:
        if is_name(line) and self.depth == 0 and is_macro_use(self.tokens):
            yield self.piece()  # it has no semicolon
        end = -1
        for m in _TOKEN.finditer(line):
            word = m[0]
            self.tokens.append(word)
            self.words.append(word)
            if self.depth:
                self.spacing.append("_" if m.start() != end else ".")
            end = m.end()
            if word in "({[":
                self.depth += 1
            elif word in ")}]":
                self.is_paired &= self.depth > 0
                self.depth = max(0, self.depth - 1)
            if self.depth == 0 and (word == ";" or (word == "}" and self.is_function())):
                yield self.piece()

    def is_function(self) -> bool:
        """Tell whether the brace that closes now is a function's: it was opened behind a ``)``."""
        depth = 0
        for i in range(len(self.tokens) - 1, -1, -1):
            depth += self.tokens[i] in ("}", ")", "]")
            depth -= self.tokens[i] in ("{", "(", "[")
            if depth == 0:
                before = self.tokens[i - 1] if i else ""
                return before == ")" or before in ("__acquires", "__releases")
        return False

    def piece(self, *, is_plain: bool = True) -> Piece:
        tokens, self.tokens = self.tokens, []
        text, self.words = " ".join(self.words), []
        spacing, self.spacing = "".join(self.spacing), []
        seen, self.seen, self.depth = self.seen, list(self.conditions), 0
        is_plain, self.is_paired = is_plain and self.is_paired, True
        defines, understood = names_defined(tokens)
        return Piece(
            text=text,
            conditions=tuple(self.conditions),
            defines=defines,
            mentions=identifiers(text, *seen, *self.conditions),
            is_plain=is_plain and understood,
            spacing=spacing,
        )


def _join(line: str) -> str:
    return " ".join(_TOKEN.findall(line))


def _spacing(line: str) -> str:
    """Return by token whether a blank is before it; it parts ``A(x)`` from ``A (x)``, too."""
    return "".join("_" if line[m.start() - 1 : m.start()].isspace() else "."
                   for m in _TOKEN.finditer(line))  # fmt: skip


def identifiers(*texts: str) -> frozenset[str]:
    """Return the identifiers in some texts, not those in strings."""
    return frozenset(
        name for text in texts for name in _IDENTIFIER.findall(_STRING.sub('""', text))
    )

# SPDX-License-Identifier: GPL-2.0-only
"""C text in pieces: what each macro, function, type and variable of a header mentions and defines.

No preprocessor and no grammar: pieces end where a declaration or a definition does, and what is
not understood is marked (``is_plain`` is false): its names cannot be relied on.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[A-Za-z_]\w*|\.?\d[\w.]*"""
    r"""|\#\#|[^\s]""",
    re.DOTALL,
)
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*")
_STRING: Final = re.compile(r'"(?:\\.|[^"\\\n])*"')
_COMMENT: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""", re.DOTALL
)
_INCLUDE_LINE: Final = re.compile(r"^[ \t]*#[ \t]*include\b.*$", re.MULTILINE)
_MACRO: Final = re.compile(r"([A-Za-z_]\w*)(\([^)]*\))?")

_KEYWORD_TEXT: Final = (
    "auto break case char const continue default do double else enum extern float for goto if"
    " inline int long register restrict return short signed sizeof static struct switch typedef"
    " union unsigned void volatile while _Bool bool __inline __inline__ __always_inline asm"
    " __asm__ typeof __typeof__ __attribute__ __aligned __packed __printf __scanf __must_check"
    " __must_hold __releases __acquires __cond_acquires __cond_releases __section __alloc_size"
    " __init __exit __maybe_unused __user __iomem __rcu __percpu noinline notrace __cold __pure"
    " __attribute_const__ __nonnull __no_kcsan __deprecated _Static_assert static_assert"
)
_KEYWORDS: Final = frozenset(_KEYWORD_TEXT.split())
"""Words that no piece defines; those in capitals or with ``__`` are the kernel's attributes."""

_ATTRIBUTE: Final = re.compile(
    r"__(?:read_mostly|used|unused|maybe_unused|weak|visible|packed|percpu|rcu|user|iomem|private"
    r"|randomize_layout|latent_entropy|refdata|\w*init\w*|\w*aligned\w*|attribute__|section)"
)

_EMITTED: Final = frozenset(("__used", "__section", "asm", "__asm__", "__initcall"))


@dataclass(frozen=True, slots=True)
class Piece:
    """One macro, function, type, declaration or variable."""

    text: str
    """Its tokens, parted by blanks, without comments."""
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
    return _INCLUDE_LINE.sub("", _without_comments(content.decode(errors="replace")))


def _without_comments(text: str) -> str:
    return _COMMENT.sub(lambda m: m[1] or " ", text)


class _Splitter:
    def __init__(self, text: str) -> None:
        without_comments = _without_comments(text.replace("\\\r\n", "\\\n"))
        self.lines = without_comments.replace("\\\n", " ").split("\n")
        self.conditions: list[str] = []
        self.tokens: list[str] = []
        self.depth = 0
        self.seen: list[str] = []
        """Conditions within the piece at hand."""

    def pieces(self) -> Iterator[Piece]:
        for line in self.lines:
            stripped = line.strip()
            if stripped.startswith("#"):
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
            yield self.single(line, frozenset((rest,)))
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
            mentions=identifiers(line, *self.conditions),
            is_plain=is_plain,
            included=included,
        )

    def code(self, line: str) -> Iterator[Piece]:
        if _is_name(line) and self.depth == 0 and _is_macro_use(self.tokens):
            yield self.piece()  # it has no semicolon
        for word in _TOKEN.findall(line):
            self.tokens.append(word)
            if word in "({[":
                self.depth += 1
            elif word in ")}]":
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
        seen, self.seen, self.depth = self.seen, list(self.conditions), 0
        defines, understood = names_defined(tokens)
        text = " ".join(tokens)
        return Piece(
            text=text,
            conditions=tuple(self.conditions),
            defines=defines,
            mentions=identifiers(text, *seen, *self.conditions),
            is_plain=is_plain and understood,
        )


def _is_macro_use(tokens: Sequence[str]) -> bool:
    """Tell whether tokens are ``NAME(...)`` and nothing else."""
    top, _ = _top_level(tokens)
    return len(top) == 3 and top[1:] == ["(", ")"] and top[0] not in _KEYWORDS


def _join(line: str) -> str:
    return " ".join(_TOKEN.findall(line))


def identifiers(*texts: str) -> frozenset[str]:
    """Return the identifiers in some texts, not those in strings."""
    return frozenset(
        name for text in texts for name in _IDENTIFIER.findall(_STRING.sub('""', text))
    )


def names_defined(tokens: Sequence[str]) -> tuple[frozenset[str], bool]:
    """Return what a declaration or definition defines, and whether that is all that it does.

    It is not for what starts like a macro's use, for code that is not static, and for what goes
    into a section of its own.
    """
    top, opened = _top_level(tokens)
    if tokens == [";"] or tokens[0] in ("static_assert", "_Static_assert"):
        return frozenset(), True
    if len(tokens) == 3 and tokens[0] in ("struct", "union", "enum"):
        return frozenset(), True  # a forward declaration
    if len(tokens) > 1 and tokens[0] not in _KEYWORDS and tokens[1] == "(":
        return frozenset(_words(tokens)), False
    words = frozenset(top)
    if any(b.startswith("__") and _is_name(a) and c in ("=", ";", "[")
           and not {a, b} & _KEYWORDS and not _ATTRIBUTE.fullmatch(b)
           for a, b, c in zip(top, top[1:], top[2:], strict=False)):  # fmt: skip
        return frozenset(_words(top)), False  # x __attribute = 1, or u32 __x = 1
    names = _tags_and_enumerators(tokens)
    is_type = bool(words & {"struct", "union", "enum"}) and opened == "type"
    declared = _declared(top, tokens)
    names |= declared
    understood = bool(names)
    if opened == "function" and not any("inline" in t for t in top) and "static" not in words:
        understood = False
    elif opened == "data" or ("=" in words and opened != "function"):
        understood = understood and "static" in words
    elif not is_type and opened == "" and not words & {"extern", "static", "typedef"}:
        understood = understood and "(" in words  # a prototype; else a variable
    if words & _EMITTED:
        understood = False
    return frozenset(names), understood


def _top_level(tokens: Sequence[str]) -> tuple[list[str], str]:
    """Return the tokens outside of any bracket, with the brackets, and what the braces are of."""
    top: list[str] = []
    depth, opened = 0, ""
    for word in tokens:
        if word in ("(", "{", "["):
            if depth == 0:
                top.append(word)
                if word == "{" and not opened:
                    before = top[-2] if len(top) > 1 else ""
                    opened = "function" if before == ")" else "data" if before == "=" else "type"
            depth += 1
        elif word in (")", "}", "]"):
            depth -= 1
            if depth == 0:
                top.append(word)
        elif depth == 0:
            top.append(word)
    return top, opened


def _declared(top: Sequence[str], tokens: Sequence[str]) -> set[str]:
    """Return the names before ``(``, ``[``, ``=``, ``,``, ``:`` and ``;`` at top level."""
    names = set()
    for i, word in enumerate(top[1:], 1):
        at = i - 1
        if word not in ("(", "[", "=", ",", ";"):
            continue
        if word != "(":  # int x __aligned(8) __read_mostly = 1
            while at > 0 and (top[at] in (")", "(", "]", "[") or _ATTRIBUTE.fullmatch(top[at])):
                at -= 1
        if _is_name(top[at]) and top[at] not in _KEYWORDS:
            names.add(top[at])
    if "(" in top and "{" not in top:  # (*name)(...), a pointer to a function; (name)(...), a type
        at = tokens.index("(") + 1
        at += tokens[at : at + 1] == ["*"]
        if tokens[at + 1 : at + 3] == [")", "("] and _is_name(tokens[at]):
            names.add(tokens[at])
    return names


def _tags_and_enumerators(tokens: Sequence[str]) -> set[str]:
    names = set()
    for i, word in enumerate(tokens):
        if word not in ("struct", "union", "enum"):
            continue
        at = i + 1
        while at < len(tokens) and tokens[at] in _KEYWORDS:
            at += 1
        tag = tokens[at] if at < len(tokens) and _is_name(tokens[at]) else ""
        brace = at + bool(tag)
        if brace < len(tokens) and tokens[brace] == "{":
            if tag:
                names.add(tag)
            if word == "enum":
                names |= set(enumerators(tokens[brace + 1 :]))
    return names


def enumerators(tokens: Sequence[str]) -> list[str]:
    """Return the names in the body of an enum, which ends at its closing brace."""
    found = []
    depth = 0
    expected = True
    for word in tokens:
        if word == "}" and depth == 0:
            break
        depth += word in ("(", "{")
        depth -= word in (")", "}")
        if expected and _is_name(word):
            found.append(word)
        expected = word == "," and depth == 0
    return found


def _is_name(word: str) -> bool:
    return word[:1].isalpha() or word[:1] == "_"


def _words(tokens: Sequence[str]) -> Iterator[str]:
    return (t for t in tokens if _is_name(t) and t not in _KEYWORDS)

# SPDX-License-Identifier: GPL-2.0-only
"""C text in pieces: what each macro, function, type and variable of a header mentions and defines.

No preprocessor and no grammar: pieces end where a declaration or a definition does, and what is
not understood is marked (``is_plain`` is false): its names cannot be relied on.

Proof obligation: two files with the same sequence of pieces (texts and conditions) are the same C,
and a plain piece gives a unit nothing except by a name in its ``defines``.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

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

_KEYWORD_TEXT: Final = (
    "auto break case char const continue default do double else enum extern float for goto if"
    " inline int long register restrict return short signed sizeof static struct switch typedef"
    " union unsigned void volatile while _Bool bool __attribute __inline __inline__"
    " __always_inline asm"
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

_STORAGE: Final = frozenset(("static", "extern", "const", "volatile", "inline", "typedef"))

_EMITTED: Final = frozenset(("__used", "__section", "asm", "__asm__", "__initcall"))
KEPT_ATTRIBUTES: Final = frozenset(
    word
    for name in ("used", "alias", "constructor", "destructor", "retain", "ifunc")
    for word in (name, f"__{name}__")
)
"""Attributes of static code and data that are made although nothing names them."""

_EMITTED_ATTRIBUTES: Final = frozenset(
    word
    for name in ("used", "section", "alias", "weak", "constructor", "destructor", "retain", "ifunc")
    for word in (name, f"__{name}__")
)
"""Attributes of what is made although nothing names it, or under another name."""


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
        if _is_name(line) and self.depth == 0 and _is_macro_use(self.tokens):
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


def _is_macro_use(tokens: Sequence[str]) -> bool:
    """Tell whether tokens are ``NAME(...)`` and nothing else."""
    top, _ = _top_level(tokens)
    return len(top) == 3 and top[1:] == ["(", ")"] and top[0] not in _KEYWORDS


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


def names_defined(tokens: Sequence[str]) -> tuple[frozenset[str], bool]:
    """Return what a declaration or definition defines, and whether that is all that it does.

    It is not for what starts like a macro's use, for code that is not static, for what goes into a
    section of its own, and for an enumeration whose constants a macro makes.
    """
    top, opened = _top_level(tokens)
    if any(a == ")" and b == "(" for a, b in itertools.pairwise(top)):
        at = tokens.index("(")  # int (*name)(int), or int MAKE(name)(int)
        if at == 0 or (_is_name(tokens[at - 1]) and tokens[at + 1] not in ("*", "(")):
            return frozenset(_words(tokens)), False
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
    understood = bool(names) and not _has_no_type(top, declared)
    if opened == "function" and not words & {"static", "extern"}:
        understood = False
    elif is_type and declared and not words & {"static", "extern", "typedef"}:
        understood = False  # struct s { int x; } variable
    elif opened == "data" or ("=" in words and opened != "function"):
        understood = understood and "static" in words
    elif not is_type and opened == "" and not words & {"extern", "static", "typedef"}:
        understood = understood and "(" in words  # a prototype; else a variable
    if has_made_enumerators(tokens):
        understood = False
    if words & _EMITTED or _EMITTED_ATTRIBUTES.intersection(_attributes(tokens)):
        understood = False
    return frozenset(names), understood


def _has_no_type(top: Sequence[str], declared: Collection[str]) -> bool:
    """Tell whether the first that is declared has no type: ``static DEFINE_MUTEX(lock);``.

    ``static __attribute(1) int f(void)`` has one.
    """
    at = next((i for i, word in enumerate(top) if word in declared), 0)
    if any(word not in _STORAGE for word in top[:at]):
        return False
    return top[at + 1 : at + 2] == ["("] and not (top[at].startswith("__") and len(declared) > 1)


def _attributes(tokens: Sequence[str]) -> Iterator[str]:
    """Yield the words in the brackets of each ``__attribute__``."""
    for i, word in enumerate(tokens):
        if word in ("__attribute__", "__attribute"):
            depth = 0
            for other in tokens[i + 1 :]:
                depth += (other == "(") - (other == ")")
                if depth == 0:
                    break
                yield other


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
        before = tokens.index("(") - 1
        at = before + 2
        at += tokens[at : at + 1] == ["*"]
        if tokens[at + 1 : at + 3] == [")", "("] and _is_name(tokens[at]):
            names.discard(tokens[before])
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
    return [tokens[i] for i in _enumerators_at(tokens, 0)]


def _enumerators_at(tokens: Sequence[str], start: int) -> Iterator[int]:
    depth = 0
    expected = True
    for i in range(start, len(tokens)):
        word = tokens[i]
        if word == "}" and depth == 0:
            break
        depth += word in ("(", "{")
        depth -= word in (")", "}")
        if expected and _is_name(word):
            yield i
        expected = word == "," and depth == 0


def has_made_enumerators(tokens: Sequence[str]) -> bool:
    """Tell whether a macro with arguments makes constants of an enumeration: ``enum { LIST(X) }``.

    What a macro without arguments makes is in its definition.
    """
    return any(
        tokens[i + 1 : i + 2] == ["("]
        for start in _enum_bodies(tokens)
        for i in _enumerators_at(tokens, start)
    )


def _enum_bodies(tokens: Sequence[str]) -> Iterator[int]:
    """Yield where the body of each enumeration begins."""
    for i, word in enumerate(tokens):
        if word == "enum":
            at = i + 1
            while at < len(tokens) and _is_name(tokens[at]):
                at += 1
            if tokens[at : at + 1] == ["{"]:
                yield at + 1


def _is_name(word: str) -> bool:
    return word[:1].isalpha() or word[:1] == "_"


def _words(tokens: Sequence[str]) -> Iterator[str]:
    return (t for t in tokens if _is_name(t) and t not in _KEYWORDS)

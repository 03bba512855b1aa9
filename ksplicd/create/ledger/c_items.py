# SPDX-License-Identifier: GPL-2.0-only
"""The items of a C file, with the lines that each stands on: functions, data, types, macros.

No preprocessor and no grammar.  What stands at the beginning of a line decides where something
ends, as the kernel's style has it: a ``}`` there closes whatever conditions have left open.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Final

_COMMENT: Final = re.compile(
    r"""/\*.*?(?:\*/|\Z)|//(?:\\\n|[^\n])*|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""", re.DOTALL
)
_TOKEN: Final = re.compile(
    r"""[A-Za-z_]\w*|\.?\d[\w.]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\S"""
)
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_ATTRIBUTE: Final = re.compile(
    r"_{2,4}(?:read_mostly|used|unused|maybe_unused|weak|visible|packed|percpu|rcu|user|iomem"
    r"|private|randomize_layout|latent_entropy|refdata|attribute__"
    r"|(?:net_|(?:lsm_)?ro_after_|mem|cpu|dev|no)?init(?:data|const)?"
    r"(?:_or_module|_or_acpilib|_memblock|_refok|retpoline)?"
    r"|(?:cacheline_(?:internode)?|page_|assume_)?aligned(?:_in_smp|_data|_bss|_rodata|_largest)?"
    r"|section|nonstring|cold|must_check|printf|scanf|pure|deprecated)"
)
_DIRECTIVE: Final = re.compile(r"\s*#\s*(\w*)\s*(.*)", re.DOTALL)
_TAGGED: Final = ("struct", "union", "enum")
_KEYWORDS: Final = (
    "static const volatile inline extern struct union enum typedef unsigned signed int char long"
    " short void bool _Bool __inline__ __inline __always_inline noinline asm __attribute__"
    " __aligned __section __printf __read_mostly __ro_after_init __initdata __maybe_unused __used"
    " __user __iomem __rcu __percpu if for while switch return sizeof typeof register float double"
    " __init __exit __initconst __cacheline_aligned_in_smp ____cacheline_aligned_in_smp"
)
_NO_NAMES: Final = frozenset(_KEYWORDS.split())


class Kind(Enum):
    """What an item is."""

    FUNCTION = auto()
    DATA = auto()
    TYPE = auto()
    DECLARATION = auto()
    """A prototype, an extern variable, a forward declaration, an assertion."""
    USE = auto()
    """A macro that is used outside of any function: ``module_param(debug, int, 0644);``."""
    MACRO = auto()
    """A ``#define`` or ``#undef``."""
    INCLUDE = auto()
    CONDITION = auto()
    """``#if`` to ``#endif``."""
    OTHER = auto()
    """Another directive, such as ``#pragma``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One function, datum, type, macro, or directive."""

    kind: Kind
    first: int
    last: int
    """Its lines, the last included."""
    names: frozenset[str]
    """What it defines."""
    mentions: frozenset[str]
    """Every identifier in it."""
    text: str = ""
    """Its tokens, parted by blanks."""

    @property
    def lines(self) -> range:
        """The numbers of its lines."""
        return range(self.first, self.last + 1)

    @property
    def head(self) -> str:
        """Return what its name stands for in messages: ``do_fcntl``, ``module_param``."""
        return min(self.names, default=self.text.partition(" ")[0])


class CFile:
    """One version of a file, as C."""

    def __init__(self, content: bytes | None) -> None:
        text = (content or b"").decode(errors="replace").replace("\r\n", "\n")
        self.lines = without_comments(text).split("\n")
        """Line 1 is the first; the comments of each are blanks."""

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Its items, in order."""
        return tuple(_Parser(self.lines).items())

    def code_of(self, number: int) -> str:
        """Return a line without comments, and without the white space around it."""
        return self.lines[number - 1].strip() if number <= len(self.lines) else ""

    def tokens_of(self, numbers: Sequence[int]) -> list[str]:
        """Return the tokens on some lines."""
        return [t for n in numbers for t in _TOKEN.findall(self.code_of(n))]

    def items_on(self, numbers: Sequence[int]) -> list[Item]:
        """Return the items that stand on some of the lines that are not blank."""
        found = (i for n in numbers if self.code_of(n) for i in self._by_line.get(n, ()))
        return list(dict.fromkeys(found))

    @cached_property
    def _by_line(self) -> dict[int, list[Item]]:
        found: dict[int, list[Item]] = defaultdict(list)
        for item in self.items:
            for number in item.lines:
                found[number].append(item)
        return found


def without_comments(text: str) -> str:
    """Return a text in which each comment is as many blanks, on as many lines."""

    def blank(m: re.Match[str]) -> str:
        return m[1] or "".join("\n" if c == "\n" else " " for c in m[0])

    return _COMMENT.sub(blank, text)


class _Parser:
    def __init__(self, lines: Sequence[str]) -> None:
        self.all_lines = lines
        self.tokens: list[str] = []
        self.first = self.last = 0
        self.depth = 0

    def items(self) -> Iterator[Item]:
        number = 0
        while number < len(self.all_lines):
            line = self.all_lines[number]
            number += 1
            if line.lstrip().startswith("#"):
                first = number
                while line.endswith("\\") and number < len(self.all_lines):
                    line = line[:-1] + " " + self.all_lines[number]
                    number += 1
                if item := self.directive(line, first, number):
                    yield item
            elif line.strip(" \t\\\f"):
                yield from self.code(line, number)
        if self.tokens:
            yield self.take(Kind.DECLARATION)

    def directive(self, line: str, first: int, last: int) -> Item | None:
        m = _DIRECTIVE.fullmatch(line)
        word, rest = (m[1], m[2]) if m else ("", "")
        kind = {
            "define": Kind.MACRO, "undef": Kind.MACRO, "include": Kind.INCLUDE,
            "if": Kind.CONDITION, "ifdef": Kind.CONDITION, "ifndef": Kind.CONDITION,
            "elif": Kind.CONDITION, "else": Kind.CONDITION, "endif": Kind.CONDITION,
        }.get(word, Kind.OTHER)  # fmt: skip
        if kind is not Kind.MACRO and self.tokens and self.depth:
            return None  # inside of a function or a table: a part of that
        name = _NAME.match(rest)
        names = frozenset([name[0]]) if name and kind is Kind.MACRO else frozenset()
        tokens = _TOKEN.findall(line)
        return Item(
            kind=kind, first=first, last=last, names=names, mentions=_identifiers(tokens),
            text=" ".join(tokens),
        )  # fmt: skip

    def code(self, line: str, number: int) -> Iterator[Item]:
        if self.tokens and self.depth == 0 and line[:1].isidentifier() and self.is_macro_use():
            yield self.take(Kind.USE)  # it has no semicolon
        for word in _TOKEN.findall(line):
            if not self.tokens:
                self.first = number
            self.last = number
            self.tokens.append(word)
            if word in "({[":
                self.depth += 1
            elif word in ")}]":
                self.depth = 0 if line[:1] == "}" == word else max(0, self.depth - 1)
            if self.tokens == [";"]:
                self.tokens = []  # behind a function
            elif self.depth == 0 and word in ("}", ";"):
                kind = self.kind()
                if word == ";" or kind is Kind.FUNCTION:
                    yield self.take(kind)

    def is_macro_use(self) -> bool:
        """Tell whether the tokens are ``NAME(...)`` and nothing else."""
        top = _top_level(self.tokens)
        return len(top) == 3 and top[1:] == ["(", ")"] and top[0] not in _NO_NAMES

    def kind(self) -> Kind:
        """Return what the tokens are, up to a ``;`` or ``}`` that may end them."""
        top = _top_level(self.tokens)
        brace = top.index("{") if "{" in top else len(top)
        head = top[:brace]
        is_assigned = "=" in head
        if brace < len(top) and not is_assigned and ")" in head and not _is_tagged(head):
            return Kind.FUNCTION
        if "typedef" in head or (brace < len(top) and not is_assigned and _is_tagged(head)):
            return Kind.TYPE
        if is_assigned:
            return Kind.DATA
        if "extern" in head or (len(top) == 3 and top[0] in _TAGGED):
            return Kind.DECLARATION
        if len(top) > 1 and top[1] == "(" and top[0] not in _NO_NAMES:
            return Kind.USE
        return Kind.DECLARATION if _is_prototype(head) else Kind.DATA

    def take(self, kind: Kind) -> Item:
        tokens, self.tokens, self.depth = self.tokens, [], 0
        return Item(
            kind=kind, first=self.first, last=self.last, names=frozenset(_names(kind, tokens)),
            mentions=_identifiers(tokens), text=" ".join(tokens),
        )  # fmt: skip


def _is_prototype(head: Sequence[str]) -> bool:
    """Tell whether parentheses are a function's: not an attribute's, nor a pointer's as well."""
    opened = [i for i, word in enumerate(head) if word == "(" and i]
    return any(not _ATTRIBUTE.fullmatch(head[i - 1]) for i in opened) and not any(
        head[i - 1] == ")" for i in opened
    )


def _is_tagged(head: Sequence[str]) -> bool:
    """Tell whether a brace is the body of a type: ``struct NAME {``, ``enum {``."""
    words = [t for t in head if t not in ("(", ")")]
    return head[-1:] != [")"] and any(t in _TAGGED for t in words[-3:])


def _top_level(tokens: Sequence[str]) -> list[str]:
    """Return the tokens outside of any bracket, with the outermost brackets."""
    top: list[str] = []
    depth = 0
    for word in tokens:
        if word in ("(", "{", "["):
            if depth == 0:
                top.append(word)
            depth += 1
        elif word in (")", "}", "]"):
            depth = max(0, depth - 1)
            if depth == 0:
                top.append(word)
        elif depth == 0:
            top.append(word)
    return top


def _names(kind: Kind, tokens: Sequence[str]) -> Iterator[str]:
    """Yield what an item defines."""
    top = _top_level(tokens)
    if kind is Kind.TYPE:
        yield from _type_names(tokens)
    if kind is Kind.USE or (kind is Kind.FUNCTION and top[1:2] == ["("] and _is_macro(top[0])):
        # SYSCALL_DEFINE1(close, ...): what it defines has names that are made of these
        yield from (t for t in _arguments(tokens) if _is_name(t))
        return
    for i, word in enumerate(top[1:], 1):
        if word not in ("(", "[", "=", ";", ",", ":"):
            continue
        name = _declared_before(top, i, is_call=word == "(")
        if name:
            yield name
            if kind is Kind.FUNCTION:
                return
    if kind in (Kind.DATA, Kind.DECLARATION):
        yield from _pointer_names(tokens)


def _declared_before(top: Sequence[str], at: int, *, is_call: bool) -> str:
    """Return the name that ends before ``at``, behind which attributes may stand."""
    at -= 1
    while at > 0 and not is_call and (top[at] in ")(][" or _ATTRIBUTE.fullmatch(top[at])):
        at -= 1  # int x __aligned(8) __read_mostly = 1
    return top[at] if at >= 0 and _is_name(top[at]) else ""


def _pointer_names(tokens: Sequence[str]) -> Iterator[str]:
    for a, b, c in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if a == "(" and b == "*" and _is_name(c):
            yield c


def _type_names(tokens: Sequence[str]) -> Iterator[str]:
    depth = 0
    for before, word in zip(["", *tokens], tokens, strict=False):
        if before in _TAGGED and _is_name(word):
            yield word
        depth += word in ("{", "(")
        depth -= word in ("}", ")")
        if before in ("{", ",") and depth == 1 and _is_name(word) and "enum" in tokens[:4]:
            yield word


def _arguments(tokens: Sequence[str]) -> Iterator[str]:
    """Yield the tokens in the first pair of parentheses."""
    depth = 0
    for word in tokens:
        depth -= word == ")"
        if depth > 0:
            yield word
        elif depth == 0 and word == ")":
            return
        depth += word == "("


def _is_macro(word: str) -> bool:
    return word not in _NO_NAMES and _is_name(word)


def _is_name(word: str) -> bool:
    return bool(_NAME.fullmatch(word)) and word not in _NO_NAMES


def _identifiers(tokens: Sequence[str]) -> frozenset[str]:
    return frozenset(t for t in tokens if _NAME.fullmatch(t) and t not in _NO_NAMES)

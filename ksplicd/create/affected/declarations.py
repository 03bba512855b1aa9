# SPDX-License-Identifier: GPL-2.0-only
"""What a declaration or a definition in C declares, by its tokens alone.

Proof obligation: what is said to be understood gives a unit nothing except by the names that are
returned.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

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


def names_defined(tokens: Sequence[str]) -> tuple[frozenset[str], bool]:
    """Return what a declaration or definition defines, and whether that is all that it does.

    It is not for what starts like a macro's use, for code that is not static, for what goes into a
    section of its own, and for an enumeration whose constants a macro makes.
    """
    top, opened = _top_level(tokens)
    if any(a == ")" and b == "(" for a, b in itertools.pairwise(top)):
        at = tokens.index("(")  # int (*name)(int), or int MAKE(name)(int)
        if at == 0 or (is_name(tokens[at - 1]) and tokens[at + 1] not in ("*", "(")):
            return frozenset(_words(tokens)), False
    if tokens == [";"] or tokens[0] in ("static_assert", "_Static_assert"):
        return frozenset(), True
    if len(tokens) == 3 and tokens[0] in ("struct", "union", "enum"):
        return frozenset(), True  # a forward declaration
    if len(tokens) > 1 and tokens[0] not in _KEYWORDS and tokens[1] == "(":
        return frozenset(_words(tokens)), False
    words = frozenset(top)
    if any(b.startswith("__") and is_name(a) and c in ("=", ";", "[")
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
        if is_name(top[at]) and top[at] not in _KEYWORDS:
            names.add(top[at])
    if "(" in top and "{" not in top:  # (*name)(...), a pointer to a function; (name)(...), a type
        before = tokens.index("(") - 1
        at = before + 2
        at += tokens[at : at + 1] == ["*"]
        if tokens[at + 1 : at + 3] == [")", "("] and is_name(tokens[at]):
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
        tag = tokens[at] if at < len(tokens) and is_name(tokens[at]) else ""
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
        if expected and is_name(word):
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
            while at < len(tokens) and is_name(tokens[at]):
                at += 1
            if tokens[at : at + 1] == ["{"]:
                yield at + 1


def is_name(word: str) -> bool:
    """Tell whether a token is an identifier or a keyword."""
    return word[:1].isalpha() or word[:1] == "_"


def _words(tokens: Sequence[str]) -> Iterator[str]:
    return (t for t in tokens if is_name(t) and t not in _KEYWORDS)


def is_macro_use(tokens: Sequence[str]) -> bool:
    """Tell whether tokens are ``NAME(...)`` and nothing else."""
    top, _ = _top_level(tokens)
    return len(top) == 3 and top[1:] == ["(", ")"] and top[0] not in _KEYWORDS

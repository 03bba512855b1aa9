# SPDX-License-Identifier: GPL-2.0-only
"""Which names of an enumeration change when its text does.

Proof obligation: an enumerator that is left out has the same value in both versions, and a tag or
type name is left out only when no value can change the type that the compiler gives it.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ksplicd.create.affected.c_text import Piece

_NUMBER: Final = re.compile(r"(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)")
_OPERATORS: Final = frozenset(("(", ")", "+", "-", "*", "|", "&", "~", "<<", ">>"))
_INT_MAX: Final = 0x7FFFFFFF
_INT_BITS: Final = 32
_COMPUTE: Final[Mapping[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.BitOr: operator.or_, ast.BitAnd: operator.and_,
    ast.LShift: operator.lshift, ast.RShift: operator.rshift,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Enumerator:
    """One constant, as it is written, and its value where that is known."""

    name: str
    expression: tuple[str, ...]
    """Empty: one more than the constant before it."""
    value: int | None


def is_enum(piece: Piece) -> bool:
    """Tell whether a piece is an enumeration and nothing else."""
    tokens = piece.text.split()
    return tokens[:1] in (["enum"], ["typedef"]) and "enum" in tokens[:2] and "{" in tokens


def narrow_enums(gone: Sequence[Piece], come: Sequence[Piece]) -> list[Piece]:
    """Return pieces of two versions, those of an enumeration with only the names that change."""
    out = list[Piece]()
    others = list(come)
    for old in gone:
        new = next((c for c in others if is_enum(c) and old.defines & c.defines), None)
        if new is None or not is_enum(old):
            out.append(old)
            continue
        others.remove(new)
        kept = _names_kept(old, new)
        out += [replace(piece, defines=piece.defines - kept) for piece in (old, new)]
    return [*out, *others]


def _names_kept(old: Piece, new: Piece) -> frozenset[str]:
    """Return the names that mean the same in both versions of an enumeration."""
    if "\n" in old.text + new.text or old.conditions != new.conditions:
        return frozenset()  # what is in it depends on conditions
    (head, before, tail), (head2, after, tail2) = (_parts(p.text.split()) for p in (old, new))
    if before is None or after is None:
        return frozenset()
    a, b = _read(before), _read(after)
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                min(len(a), len(b)))  # fmt: skip
    values = {e.name: e.value for e in b}
    kept = {e.name for e in a[:same]}
    kept |= {e.name for e in a if e.value is not None and values.get(e.name) == e.value}
    is_plain = (head, tail) == (head2, tail2) and not any(
        word == "(" or word.startswith("__") for word in (*head, *tail)
    )
    every = {e.name for e in (*a, *b)}
    if not is_plain or not all(_fits_int(e, every - kept) for e in (*a[same:], *b[same:])):
        return frozenset()  # the type may be another one: of all constants, with later compilers
    return frozenset(kept | ((old.defines & new.defines) - every))


def _fits_int(enumerator: _Enumerator, changing: set[str]) -> bool:
    """Tell whether a value leaves the type as it is: 0 to INT_MAX, or the same in both versions."""
    if enumerator.value is not None:
        return 0 <= enumerator.value <= _INT_MAX or enumerator.name not in changing
    return bool(enumerator.expression) and enumerator.name not in changing


def _parts(tokens: list[str]) -> tuple[list[str], list[str] | None, list[str]]:
    """Return what is before, in and behind the braces; None in them when they do not pair."""
    start = tokens.index("{")
    if tokens.count("{") != 1 or tokens.count("}") != 1:
        return tokens, None, []
    end = tokens.index("}")
    return tokens[:start], tokens[start + 1 : end], tokens[end + 1 :]


def _read(tokens: Sequence[str]) -> list[_Enumerator]:
    found = list[_Enumerator]()
    values: dict[str, int] = {}
    item: list[str] = []
    depth = 0
    last: int | None = -1
    for word in (*tokens, ","):
        depth += (word == "(") - (word == ")")
        if word != "," or depth:
            item.append(word)
            continue
        if item:
            name, expression = item[0], tuple(item[1:])
            last = _value(expression, last, values)
            found.append(_Enumerator(name, expression, last))
            if last is not None:
                values[name] = last
        item = []
    return found


def _value(expression: Sequence[str], last: int | None, known: Mapping[str, int]) -> int | None:
    """Return a constant's value, None when it is not known; ``last``: that of the one before."""
    if not expression:
        return None if last is None else last + 1
    return _evaluate(expression[1:], known) if expression[0] == "=" else None


def _evaluate(expression: Sequence[str], known: Mapping[str, int]) -> int | None:
    """Return the value of an expression of numbers and of enumerators before it, else None."""
    words = []
    for word in expression:
        if m := _NUMBER.fullmatch(word):
            is_octal = m[1].startswith("0") and m[1].isdigit()
            words.append(str(int(m[1], 8 if is_octal else 0)))
        elif word in known:
            words.append(f"({known[word]})")
        elif word in _OPERATORS:
            words.append(word)
        else:
            return None
    try:
        return _calculate(ast.parse(" ".join(words), mode="eval").body)
    except SyntaxError:
        return None


def _calculate(node: ast.expr) -> int | None:
    """Return the value of an expression as C's ``int`` has it, None when that has no room for it.

    The operators that are allowed have the same precedence in both languages.
    """
    match node:
        case ast.Constant(value=int(value)):
            pass
        case ast.UnaryOp(op=op, operand=operand) if (a := _calculate(operand)) is not None:
            value = -a if isinstance(op, ast.USub) else ~a if isinstance(op, ast.Invert) else a
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _calculate(left), _calculate(right)
            is_shift = isinstance(op, ast.LShift | ast.RShift)
            if a is None or b is None or (is_shift and not (a >= 0 and 0 <= b < _INT_BITS)):
                return None
            value = _COMPUTE[type(op)](a, b)
        case _:
            return None
    return value if -_INT_MAX - 1 <= value <= _INT_MAX else None

# SPDX-License-Identifier: GPL-2.0-only
"""Small changes of C text, of the kinds that fixes are made of."""

import random
import re
from collections.abc import Callable
from typing import Final

_CODE: Final = re.compile(
    r"""(//[^\n]*|/\*.*?\*/|^[ \t]*\#[ \t]*include[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(.+?(?=//|/\*|"|'|^[ \t]*\#[ \t]*include|\Z))""",
    re.DOTALL | re.MULTILINE,
)
_OPERATORS: Final = {
    "==": "!=", "!=": "==", "<=": "<", ">=": ">", "&&": "||", "||": "&&", " + ": " - ",
    " - ": " + ", " < ": " <= ", " > ": " >= ", " & ": " | ", " << ": " >> ",
}  # fmt: skip
_OPERATOR: Final = re.compile("|".join(map(re.escape, sorted(_OPERATORS, key=len, reverse=True))))

Mutation = Callable[[str, random.Random], str | None]


def _replace(text: str, found: re.Match[str] | None, new: str) -> str | None:
    return None if found is None else text[: found.start()] + new + text[found.end() :]


def _choose(pattern: str, text: str, rng: random.Random) -> re.Match[str] | None:
    found = list(re.finditer(pattern, text, re.MULTILINE))
    return rng.choice(found) if found else None


def _in_code(pattern: re.Pattern[str], text: str, rng: random.Random) -> re.Match[str] | None:
    """Return one match outside of comments, strings and includes."""
    spans = [m.span(2) for m in _CODE.finditer(text) if m[2]]
    found = [m for start, end in spans for m in pattern.finditer(text, start, end)]
    return rng.choice(found) if found else None


def change_value(text: str, rng: random.Random) -> str | None:
    """Make a number one more."""
    m = _in_code(re.compile(r"(?<![\w.])(?:0x[0-9a-fA-F]+|\d+)(?![\w.])"), text, rng)
    return m and _replace(text, m, str(int(m[0], 0 if m[0][:1] != "0" or "x" in m[0] else 8) + 1))


def change_operator(text: str, rng: random.Random) -> str | None:
    """Exchange an operator."""
    m = _in_code(_OPERATOR, text, rng)
    return m and _replace(text, m, _OPERATORS[m[0]])


def change_string(text: str, rng: random.Random) -> str | None:
    """Put a letter into a string."""
    found = [m for m in _CODE.finditer(text) if m[1] and m[1].startswith('"')]
    if not found:
        return None
    m = rng.choice(found)
    return _replace(text, m, f'"q{m[1][1:]}')


def change_enumerator(text: str, rng: random.Random) -> str | None:
    """Put a constant in front of another."""
    m = _choose(r"(?<=[{,]\n)\t([A-Z][A-Z0-9_]{3,}),$", text, rng)
    return m and _replace(text, m, f"\tKSPLICE_MUTATED,\n{m[0]}")


def change_attribute(text: str, rng: random.Random) -> str | None:
    """Give an attribute to a static function, or take ``inline`` from one."""
    m = _choose(r"^static (inline )?(?=\w[^;={]*\([^;{]*\)\n\{)", text, rng)
    return m and _replace(text, m, "static " if m[1] else "static noinline ")


def change_order(text: str, rng: random.Random) -> str | None:
    """Exchange two neighbours among the parts that empty lines part."""
    parts = text.split("\n\n")
    at = [i for i in range(1, len(parts) - 2) if all(_is_whole(p) for p in parts[i : i + 2])]
    if not at:
        return None
    i = rng.choice(at)
    parts[i], parts[i + 1] = parts[i + 1], parts[i]
    return "\n\n".join(parts)


def _is_whole(part: str) -> bool:
    opened = re.search(r"^[ \t]*#[ \t]*(?:if|el|endif)", part, re.MULTILINE)
    return part.count("{") == part.count("}") and not opened and not part.startswith((" ", "\t"))


def change_static_local(text: str, rng: random.Random) -> str | None:
    """Put a static local into a function, or make one automatic."""
    m = _choose(r"^\tstatic (?!const)(?=\w+ \w+;$)", text, rng)
    if m is not None and rng.random() < 0.5:
        return _replace(text, m, "\t")
    m = _choose(r"\)\n\{\n", text, rng)
    return m and _replace(text, m, f"{m[0]}\tstatic int ksplice_mutated;\n\n\tksplice_mutated++;\n")


def change_row(text: str, rng: random.Random) -> str | None:
    """Take a row out of a table."""
    m = _choose(r"^\t+(?:\{[^{}\n]*\}|\.\w+\s*= [^\n{]*|\[[^\n]*\]\s*= [^\n{]*),\n", text, rng)
    return m and _replace(text, m, "")


def change_macro(text: str, rng: random.Random) -> str | None:
    """Put brackets and a term around the body of a macro."""
    m = _choose(r"^(#define \w+(?:\([^)]*\))?[ \t]+)(\(?[\w ()+*<-]+\)?)$", text, rng)
    return m and _replace(text, m, f"{m[1]}((({m[2]})) + 1)")


def move_include(text: str, rng: random.Random) -> str | None:
    """Put an include behind the one that follows it."""
    m = _choose(r"^(#include [^\n]*\n)(#include [^\n]*\n)", text, rng)
    return m and _replace(text, m, m[2] + m[1])


MUTATIONS: Final[dict[str, Mutation]] = {
    "value": change_value, "operator": change_operator, "string": change_string,
    "enumerator": change_enumerator, "attribute": change_attribute, "order": change_order,
    "static local": change_static_local, "row": change_row, "macro": change_macro,
    "include": move_include,
}  # fmt: skip


def mutate(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Return the kind of a change, and the changed text; None when no kind fits."""
    for kind in rng.sample(sorted(MUTATIONS), len(MUTATIONS)):
        after = MUTATIONS[kind](text, rng)
        if after is not None and after != text:
            return kind, after
    return None

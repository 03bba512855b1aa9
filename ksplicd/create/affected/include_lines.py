# SPDX-License-Identifier: GPL-2.0-only
"""The ``#include`` lines of one file: what they name, and under which conditions.

Proof obligation: no line that includes something is left out, and ``is_met`` tells true or false
only where the preprocessor takes the line, or skips it, in every unit of C of this configuration.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_DIRECTIVE: Final = re.compile(
    rb"^[ \t]*#[ \t]*(?:"
    rb'include(?:_next)?[ \t]*([<"])([^>"\n]+)[>"]'
    rb'|define[ \t]+\w+[ \t]+([<"])([\w./+-]+)[>"][ \t]*(?:/\*.*)?$'
    rb"|(ifdef|ifndef|if|elif|else|endif)\b([^\n]*))",
    re.MULTILINE,
)
_NO_CODE: Final = re.compile(
    rb"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
_ASKS_ONE: Final = re.compile(
    r"(ifdef|ifndef|if)\s*(!?)\s*(defined\b|IS_ENABLED\b|)\s*\(?\s*(\w+)\s*\)?\s*(\| else)?"
)
_ALWAYS: Final = frozenset(("__KERNEL__", "__x86_64__", "__GNUC__"))
_NEVER: Final = frozenset(("__ASSEMBLY__", "__i386__", "__ILP32__", "__cplusplus", "__clang__"))
"""What a unit of C of an x86_64 kernel has; the kernel's compiler is gcc."""

_GUARD: Final = ""
"""The condition that is met where a file is included first."""
_UNKNOWN: Final = "?"


class Include(NamedTuple):
    """One line that includes a file, or defines a macro as the name of one."""

    name: str
    """The opening bracket or quote, and the name."""
    conditions: str = ""
    """Parted by line breaks, the directives that it stands under."""
    is_inside: bool = False
    """Whether it stands within brackets, as rows of a table."""


def read_includes(text: bytes) -> list[Include]:
    """Return what a file includes."""
    found = list[Include]()
    conditions = list[str]()
    matches = list(_DIRECTIVE.finditer(text))
    for i, m in enumerate(matches):
        if m[2] is not None:
            asked = [_UNKNOWN] if _is_comment(text, m.start()) else conditions
            name = (m[1] + m[2]).decode(errors="replace")
            found.append(Include(name, "\n".join(filter(None, asked)), _is_inside(text, m.start())))
        elif m[4] is not None:
            found.append(Include((m[3] + m[4]).decode(errors="replace"), _UNKNOWN))
        else:
            _follow(conditions, m, is_guard=i == 0 and _is_guard(text, m))
    return list(dict.fromkeys(found))


def _follow(conditions: list[str], m: re.Match[bytes], *, is_guard: bool) -> None:
    word, line = m[5].decode(), m[6].decode(errors="replace")
    asked = re.sub(r"/\*.*?(\*/|$)|//.*", " ", line).strip()
    if word in ("if", "ifdef", "ifndef"):
        conditions.append(_GUARD if is_guard else f"{word} {asked}")
    elif conditions and word == "endif":
        conditions.pop()
    elif conditions:
        is_else = word == "else" and "|" not in conditions[-1] and conditions[-1] != _GUARD
        conditions[-1] = f"{conditions[-1]} | else" if is_else else f"{_UNKNOWN} |"


def _is_guard(text: bytes, m: re.Match[bytes]) -> bool:
    """Tell whether a file's first directive keeps it from being read twice."""
    asked = re.fullmatch(rb"\s*(?:!\s*defined)?\s*\(?\s*(\w+)\s*\)?\s*", m[6])
    if asked is None or (m[5] == b"ifdef") or (m[5] == b"if" and b"!" not in m[6]):
        return False
    return bool(re.match(rb"\s*#[ \t]*define[ \t]+%b\b" % asked[1], text[m.end() :][:200]))


def _is_comment(text: bytes, at: int) -> bool:
    return text.rfind(b"/*", 0, at) > text.rfind(b"*/", 0, at)


def _is_inside(text: bytes, at: int) -> bool:
    """Tell whether more brackets are open than closed before a place."""
    if text.find(b"{", 0, at) < 0 and text.find(b"(", 0, at) < 0:
        return False
    code = re.sub(rb"^[ \t]*#.*(?:\\\n.*)*", b"", _NO_CODE.sub(b" ", text[:at]), flags=re.MULTILINE)
    return any(code.count(a) > code.count(b) for a, b in ((b"{", b"}"), (b"(", b")")))


def is_met(conditions: str, options: Mapping[str, str]) -> bool | None:
    """Tell whether all conditions hold in units of C; ``options``: of the configuration.

    None: not known, or not the same for all units.
    """
    held = [_holds(c, options) for c in conditions.split("\n") if c]
    return False if False in held else None if None in held else True


def _holds(condition: str, options: Mapping[str, str]) -> bool | None:
    m = _ASKS_ONE.fullmatch(condition)
    if m is None or (m[1] == "if") != bool(m[3]) or (m[2] and m[1] != "if"):
        return None
    is_set = _is_set(m[4], options, either=m[3] == "IS_ENABLED")
    is_negated = (m[1] == "ifndef") ^ bool(m[2]) ^ bool(m[5])
    return None if is_set is None else is_set is not is_negated


def _is_set(name: str, options: Mapping[str, str], *, either: bool) -> bool | None:
    """Return whether a macro is defined in units of C, None when that is not known."""
    if name in _ALWAYS or name in _NEVER:
        return name in _ALWAYS and not either
    if not name.startswith("CONFIG_"):
        return None
    if name.endswith("_MODULE") and not either:
        return options.get(name.removesuffix("_MODULE")) == "m"
    value = options.get(name)
    return value == "m" and either if value == "m" else value is not None

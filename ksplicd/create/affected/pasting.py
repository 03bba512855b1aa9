# SPDX-License-Identifier: GPL-2.0-only
"""Names that macros put together with ``##``, as far as their text shows.

A macro that begins or ends a name with a fixed part of some length (``sock_ ## op``, or
``__PASTE(sock_, op)``) counts as mentioning every name of that form.  One whose fixed part is short
or in the middle (``a ## _ ## b``) counts only where the parts that it is given stand beside it.
What hands two such parts through a further macro is not seen.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_DEFINE: Final = re.compile(
    rb"^[ \t]*#[ \t]*define[ \t]+(\w+)(?:\(([^)]*)\))?((?:[^\\\n]|\\\r?\n|\\.)*)", re.MULTILINE
)
_CHAIN: Final = re.compile(r"\w+(?:\s*##\s*\w+)+")
_WORD: Final = re.compile(r"\w+")
_TELLING: Final = 3
"""A fixed part of fewer characters is in too many names to count."""


class _Form(NamedTuple):
    """Names of one form."""

    pattern: re.Pattern[str]
    is_telling: bool


class Pasting:
    """The macros of some texts that put names together."""

    def __init__(self, texts: Iterable[bytes], gluing: frozenset[str] = frozenset()) -> None:
        """Read some texts; ``gluing``: what others define and ``gluing`` of those has."""
        self._forms: dict[str, list[_Form]] = defaultdict(list)
        bodies = [
            (name.decode(), set(_WORD.findall(words.decode(errors="replace"))), body)
            for text in texts
            for name, words, body in _DEFINE.findall(text)
            if b"(" in body or b"##" in body
        ]
        found = set(gluing)
        for name, parameters, body in bodies:
            if b"##" not in body:
                continue
            for chain in _CHAIN.findall(body.decode(errors="replace")):
                parts = _WORD.findall(chain)
                self._forms[name].append(_form(parts, parameters))
                if parameters.issuperset(parts):
                    found.add(name)
        self.gluing = frozenset(found)
        """Macros that put two arguments together and nothing else, such as ``__PASTE``."""
        use = re.compile("|".join(sorted(map(re.escape, found))).encode()) if found else None
        for name, parameters, body in bodies:
            if use is not None and use.search(body):
                for arguments in _arguments(self.gluing, body.decode(errors="replace")):
                    self._forms[name].append(_form(arguments, parameters))

    def macros(self, names: Iterable[str]) -> set[str]:
        """Return the macros that have a telling part of one of the names."""
        wanted = list(names)
        return {
            macro
            for macro, forms in self._forms.items()
            for form in forms
            if form.is_telling and any(form.pattern.fullmatch(n) for n in wanted)
        }

    def loose_macros(self, names: Iterable[str]) -> set[str]:
        """Return the macros that make one of the names if they are given its parts."""
        wanted = list(names)
        return {
            macro
            for macro, forms in self._forms.items()
            for form in forms
            if not form.is_telling and any(form.pattern.fullmatch(n) for n in wanted)
        }

    def puts_together(self, text: str, names: Iterable[str]) -> bool:
        """Tell whether ``text`` gives the parts of a name to a macro without a telling part."""
        words = set(_WORD.findall(text))
        wanted = list(names)
        return any(
            words.issuperset(m.groups())
            for macro in words & self._forms.keys()
            for form in self._forms[macro]
            if not form.is_telling
            for name in wanted
            if (m := form.pattern.fullmatch(name))
        )


def _form(parts: list[str], parameters: set[str]) -> _Form:
    fixed = [p not in parameters for p in parts]
    pattern = "".join(re.escape(p) if f else r"(\w+)" for p, f in zip(parts, fixed, strict=True))
    ends = [p for p, f in ((parts[0], fixed[0]), (parts[-1], fixed[-1])) if f]
    return _Form(re.compile(pattern), any(len(p) >= _TELLING for p in ends))


def _arguments(gluing: frozenset[str], body: str) -> Iterator[list[str]]:
    """Yield the arguments that a macro's body gives to macros that only glue two together."""
    for m in re.finditer(r"(\w+)\s*\(\s*(\w+)\s*,\s*(\w+)\s*\)", body):
        if m[1] in gluing:
            yield [m[2], m[3]]

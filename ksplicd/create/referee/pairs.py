# SPDX-License-Identifier: GPL-2.0-only
"""Which function and which variable of the plain post object is which of the plain pre object.

The source says it: functions and files' variables by their names, variables of functions by what
the debug information says of them (function, name, line).  No use of a variable is looked at, so
that nothing here is decided as ``create.diff`` decides it.

Where the debug information is silent (a compound literal), or there is none, numbered names are
paired in their order where there are as many before and after.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ksplicd.create.referee.view import View
from ksplicd.elf.debug_variables import PlacedVariable
from ksplicd.elf.model import SHF_WRITE, STB_LOCAL, STT_FUNC, Section, Symbol

_NUMBER: Final = re.compile(r"\.\d+(?=\.|$)")
_UNIQUE: Final = re.compile(r"(__UNIQUE_ID_.*?|__BTF_ID__.*?)\d+$")
_COLD: Final = ".cold"

_Key = tuple[str, str]
"""The function that declares a variable, empty for a file's, and its name without numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """The pairing, one to one but for what the compiler folds."""

    pre_of: Mapping[Symbol, Symbol]
    post_of: Mapping[Symbol, Symbol]
    unclear: Mapping[Symbol, Sequence[Symbol]]
    """By post variable without a twin, the pre variables that it may be."""

    def olds_of(self, s: Symbol) -> list[Symbol]:
        """Return each pre symbol that a post symbol is, or may be."""
        found = [self.pre_of[s]] if s in self.pre_of else [*self.unclear.get(s, ())]
        return [*found, *(a for a, b in self.post_of.items() if b is s and a not in found)]


def pair(pre: View, post: View) -> Pairs:
    """Pair the symbols of two plain objects of a unit.  Raises ``ElfError``."""
    pairing = _Pairing(pre, post)
    pairing.by_name()
    pairing.variables()
    pairing.clones()
    return Pairs(pre_of=pairing.pre_of, post_of=pairing.post_of, unclear=pairing.unclear)


def base_name(name: str) -> str:
    """Return a name without what the compiler numbers: ``count.3``, ``__UNIQUE_ID_key345``."""
    name = _NUMBER.sub("", name)
    m = _UNIQUE.match(name)
    return m[1] if m else name


def is_numbered(name: str) -> bool:
    """Tell whether the compiler or a macro counts in a name."""
    return base_name(name) != name


class _Pairing:
    def __init__(self, pre: View, post: View) -> None:
        self.pre, self.post = pre, post
        self.pre_of: dict[Symbol, Symbol] = {}
        self.post_of: dict[Symbol, Symbol] = {}
        self.unclear: dict[Symbol, list[Symbol]] = {}

    def add(self, a: Symbol, b: Symbol) -> None:
        if a not in self.post_of and b not in self.pre_of and _are_alike(a, b):
            self.post_of[a], self.pre_of[b] = b, a

    def by_name(self) -> None:
        """Pair what has one of its names on both sides."""
        before, after = _by_name(self.pre), _by_name(self.post)
        found: dict[Symbol, dict[Symbol, str]] = defaultdict(dict)
        for name, b in after.items():
            if (a := before.get(name)) is not None:
                found[a].setdefault(b, name)
        for a, names in found.items():
            # What the compiler had folded, the source may part: one of them keeps the place.
            ranked = list(names)
            if len(ranked) > 1:
                ranked.sort(key=lambda b: self._rank(a, b, names[b]))
            for b in ranked:
                self.add(a, b)
            # What it folds now is each of those that it was.
            b = next(iter(names))
            if a not in self.post_of and _may_be_folded(a) and _are_alike(a, b):
                self.post_of[a] = b

    def _rank(self, a: Symbol, b: Symbol, name: str) -> tuple[bool, bool, str]:
        """Return what ranks first the thing that others know, that is the same, by its name."""
        if not _are_alike(a, b):
            is_same = False
        elif a.type == STT_FUNC:
            is_same = self._has_same_code(a, b)
        else:
            is_same = self.pre.content(a)[0] == self.post.content(b)[0]
        return b.bind == STB_LOCAL, not is_same, name

    # --- variables ------------------------------------------------------------------------------

    def variables(self) -> None:
        """Pair the variables whose names in the symbol table are numbered."""
        before, after = self._declared(self.pre), self._declared(self.post)
        for key, mine in after.items():
            self._pair_declared(before.get(key, []), mine)
        self._pair_moved()
        left, right = self._left(self.pre, self.post_of), self._left(self.post, self.pre_of)
        for name, symbols in right.items():
            others = left.get(name, [])
            if len(others) == len(symbols):
                for a, b in zip(others, symbols, strict=True):
                    self.add(a, b)
            elif others:
                self.unclear |= dict.fromkeys(symbols, others)

    @staticmethod
    def _declared(view: View) -> dict[_Key, list[tuple[PlacedVariable, Symbol]]]:
        found: dict[_Key, list[tuple[PlacedVariable, Symbol]]] = defaultdict(list)
        seen = set()
        for v in view.variables:
            s = view.symbol_at(v.section, v.offset)
            if s is not None and s.value == v.offset and s not in seen:
                seen.add(s)
                found[v.function, base_name(v.name)].append((v, s))
        for entries in found.values():
            entries.sort(key=lambda e: (e[0].line, e[0].column))
        return found

    def _pair_declared(
        self,
        before: Sequence[tuple[PlacedVariable, Symbol]],
        after: Sequence[tuple[PlacedVariable, Symbol]],
    ) -> None:
        """Pair the variables of one name that one function declares: by line, else by order."""
        for exact in (True, False):
            lines: dict[tuple[int, int], list[Symbol]] = defaultdict(list)
            for v, s in before:
                if s not in self.post_of:
                    lines[v.line, v.column if exact else 0].append(s)
            mine: dict[tuple[int, int], list[Symbol]] = defaultdict(list)
            for v, s in after:
                if s not in self.pre_of:
                    mine[v.line, v.column if exact else 0].append(s)
            for place, symbols in mine.items():
                others = lines.get(place, [])
                if len(others) == len(symbols):
                    for a, b in zip(others, symbols, strict=True):
                        self.add(a, b)
        left = [s for _, s in before if s not in self.post_of]
        new = [s for _, s in after if s not in self.pre_of]
        if len(left) == len(new):
            for a, b in zip(left, new, strict=True):
                self.add(a, b)
        elif left and new:
            self.unclear |= dict.fromkeys(new, left)

    def _pair_moved(self) -> None:
        """Pair the variables that move into a function or out of it: ``count`` and ``count.3``."""
        left, right = self._left(self.pre, self.post_of), self._left(self.post, self.pre_of)
        for name, symbols in right.items():
            others = left.get(name, [])
            if len(others) == len(symbols) == 1:
                self.add(others[0], symbols[0])

    @staticmethod
    def _left(view: View, paired: Mapping[Symbol, Symbol]) -> dict[str, list[Symbol]]:
        """Return the local data without a twin by their names without numbers."""
        found: dict[str, list[Symbol]] = defaultdict(list)
        for s in view.symbols():
            if s.bind == STB_LOCAL and s.type != STT_FUNC and s.size and s not in paired:
                found[base_name(s.name)].append(s)
        return found

    # --- clones ---------------------------------------------------------------------------------

    def clones(self) -> None:
        """Pair ``foo.constprop.0`` and its like: of several the ones with the same code."""
        before, after = _clones(self.pre), _clones(self.post)
        for name, symbols in after.items():
            others = list(before.get(name, []))
            for is_alike in (self._has_same_code, _have_same_name, _are_alike):
                for b in symbols:
                    if b not in self.pre_of:
                        self._pair_first(others, b, is_alike)
        for b in self.post.symbols():
            a = self.pre_of.get(_main(self.post, b) or b)
            if b not in self.pre_of and a is not None and b.name.endswith(_COLD):
                cold = next((s for s in self.pre.symbols() if s.name == a.name + _COLD), None)
                if cold is not None:
                    self.add(cold, b)

    def _pair_first(
        self, among: Iterable[Symbol], b: Symbol, is_alike: Callable[[Symbol, Symbol], bool]
    ) -> None:
        for a in among:
            if a not in self.post_of and is_alike(a, b):
                self.add(a, b)
                return

    def _has_same_code(self, a: Symbol, b: Symbol) -> bool:
        ours, theirs = self.pre.body(a), self.post.body(b)
        return [o.code for o in ours.operations] == [o.code for o in theirs.operations]


def _are_alike(a: Symbol, b: Symbol) -> bool:
    """Tell whether both are functions, or both data."""
    return (a.type == STT_FUNC) == (b.type == STT_FUNC)


def _may_be_folded(s: Symbol) -> bool:
    """Tell whether the compiler makes one of several such: functions, and what nobody writes."""
    return s.section is not None and not s.section.flags & SHF_WRITE


def _have_same_name(a: Symbol, b: Symbol) -> bool:
    return a.name == b.name


def _by_name(view: View) -> dict[str, Symbol]:
    """Return the symbols by each name that is the source's; none that two things have."""
    found: dict[str, Symbol] = {}
    several = set()
    places: Mapping[tuple[Section, int], Sequence[str]] = view.names
    for (section, value), names in places.items():
        s = view.symbol_at(section, value)
        if s is None or s.value != value:
            continue
        for name in names:
            if name in found and found[name] is not s:
                several.add(name)
            if not is_numbered(name):
                found[name] = s
    return {name: s for name, s in found.items() if name not in several}


def _clones(view: View) -> dict[str, list[Symbol]]:
    """Return the functions that the compiler numbers, by their names without numbers."""
    found: dict[str, list[Symbol]] = defaultdict(list)
    for s in view.symbols():
        if s.type == STT_FUNC and s.size and is_numbered(s.name) and not s.name.endswith(_COLD):
            found[base_name(s.name)].append(s)
    return found


def _main(view: View, part: Symbol) -> Symbol | None:
    """Return the function that a cold part belongs to, None for what is no such part."""
    if not part.name.endswith(_COLD):
        return None
    name = part.name.removesuffix(_COLD)
    return next((s for s in view.symbols() if s.name == name and s.type == STT_FUNC), None)

# SPDX-License-Identifier: GPL-2.0-only
"""Twins: which symbol of the post object is which symbol of the pre object.

Names that the source gives pair by name.  Names that the compiler numbers (``count.3``,
``foo.constprop.0``) pair by use: the same place of the same instruction of two functions that are
otherwise alike.  What has no twin is new, or gone.
"""

from collections import defaultdict
from collections.abc import Iterable

from ksplicd.create.names import base_name, is_literal
from ksplicd.create.place import Place, Places
from ksplicd.elf import Relocation, Section, Symbol
from ksplicd.elf.model import STB_LOCAL, STT_FILE, STT_SECTION


class Twins:
    """A one-to-one pairing of symbols, readable in both directions."""

    def __init__(self) -> None:
        self.pre_of: dict[Symbol, Symbol] = {}
        self.post_of: dict[Symbol, Symbol] = {}

    def pair(self, pre: Symbol, post: Symbol) -> None:
        """Pair two symbols; the first pairing of a symbol stands."""
        if pre not in self.post_of and post not in self.pre_of:
            self.post_of[pre] = post
            self.pre_of[post] = pre

    def are_twins(self, pre: Symbol, post: Symbol) -> bool:
        """Tell whether the two are the same thing before and after."""
        if pre.section is None and post.section is None:
            return pre.name == post.name
        return self.post_of.get(pre) is post


def is_numbered(symbol: Symbol) -> bool:
    """Tell whether the compiler numbered this name: static locals, clones and ``__UNIQUE_ID``."""
    return symbol.bind == STB_LOCAL and base_name(symbol.name) != symbol.name


def correlate(pre: Places, post: Places) -> Twins:
    """Return the twins of two objects compiled with one section a symbol."""
    twins = Twins()
    pre_symbols, post_symbols = _candidates(pre), _candidates(post)
    for name, symbols in pre_symbols.items():
        others = post_symbols.get(name, [])
        if len(symbols) == len(others) == 1 and not is_numbered(symbols[0]):
            twins.pair(symbols[0], others[0])
    # Pairs found by use may bring functions together (clones), whose references then count too.
    done: set[Symbol] = set()
    while todo := [s for s in twins.post_of if s.is_function and s not in done]:
        for function in todo:
            done.add(function)
            _pair_by_use(twins, pre, post, function, twins.post_of[function])
    _pair_leftovers(twins, pre_symbols, post_symbols)
    return twins


def _candidates(places: Places) -> dict[str, list[Symbol]]:
    by_name: dict[str, list[Symbol]] = defaultdict(list)
    for s in places.obj.symbols:
        if s.section is not None and s.name and s.type not in (STT_SECTION, STT_FILE):
            by_name[s.name].append(s)
    return by_name


def relocations_in(symbol: Symbol) -> list[Relocation]:
    """Return the relocations inside a symbol's bytes, by offset."""
    assert symbol.section is not None
    end = symbol.value + max(symbol.size, 1)
    inside = (r for r in symbol.section.relocations if symbol.value <= r.offset < end)
    return sorted(inside, key=lambda r: r.offset)


def _pair_by_use(
    twins: Twins, pre: Places, post: Places, pre_function: Symbol, post_function: Symbol
) -> None:
    """Pair the numbered symbols to which two twin functions refer in the same order."""
    before = _numbered_references(pre, pre_function)
    after = _numbered_references(post, post_function)
    for name, symbols in before.items():
        others = after.get(name, [])
        if len(symbols) == len(others):
            for a, b in zip(symbols, others, strict=True):
                if a.size == b.size or a.is_function:
                    twins.pair(a, b)


def _numbered_references(places: Places, function: Symbol) -> dict[str, list[Symbol]]:
    """Return the numbered symbols that ``function`` uses, in order of first use, by base name."""
    found: dict[str, dict[Symbol, None]] = defaultdict(dict)
    assert function.section is not None
    for r in relocations_in(function):
        place = places.locate(function.section, r)
        s = place.symbol
        if s is not None and s.section is not None and is_numbered(s) and not is_literal(s):
            found[base_name(s.name)][s] = None
    return {name: list(symbols) for name, symbols in found.items()}


def _pair_leftovers(
    twins: Twins, pre: dict[str, list[Symbol]], post: dict[str, list[Symbol]]
) -> None:
    """Pair numbered symbols that nobody paired by use and whose base name is unambiguous."""

    def by_base(
        groups: Iterable[list[Symbol]], taken: dict[Symbol, Symbol]
    ) -> dict[str, list[Symbol]]:
        found: dict[str, list[Symbol]] = defaultdict(list)
        for group in groups:
            for s in group:
                if s not in taken and is_numbered(s) and not is_literal(s):
                    found[base_name(s.name)].append(s)
        return found

    others = by_base(post.values(), twins.pre_of)
    for name, symbols in by_base(pre.values(), twins.post_of).items():
        if len(symbols) == 1 and len(others.get(name, [])) == 1:
            twins.pair(symbols[0], others[name][0])


def same_place(twins: Twins, pre: Place, post: Place) -> bool:
    """Tell whether two places that have symbols are the same place before and after."""
    if pre.symbol is None or post.symbol is None or pre.offset != post.offset:
        return False
    return twins.are_twins(pre.symbol, post.symbol)


def code_section_of(symbol: Symbol) -> Section:
    """Return the section of a defined symbol."""
    assert symbol.section is not None
    return symbol.section

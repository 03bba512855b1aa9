# SPDX-License-Identifier: GPL-2.0-only
"""A changed C file, before and after: its hunks, and the items that each of them changes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ksplicd.create.ledger.c_items import CFile, Item, Kind
from ksplicd.create.patch.hunks import ChangedLines


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An item before and after the change; None where it is not there."""

    before: Item | None
    after: Item | None

    @property
    def items(self) -> list[Item]:
        """Both, the newer one first."""
        return [i for i in (self.after, self.before) if i is not None]

    @property
    def kind(self) -> Kind:
        """What the item is."""
        return self.items[0].kind

    @property
    def names(self) -> frozenset[str]:
        """What it defines."""
        return frozenset().union(*(i.names for i in self.items))

    @property
    def mentions(self) -> frozenset[str]:
        """What it mentions."""
        return frozenset().union(*(i.mentions for i in self.items))

    @property
    def head(self) -> str:
        """Its name for messages."""
        return self.items[0].head

    @property
    def is_static(self) -> bool:
        """Tell whether it has no name outside of its unit."""
        return any("static" in i.text.split() for i in self.items)


@dataclass(frozen=True, kw_only=True)
class ChangedText:
    """A changed file as C, before and after, and where it differs."""

    path: str
    before: CFile
    after: CFile
    hunks: Sequence[ChangedLines]
    numbers: Sequence[int]
    """By line of the new file, its number in the post objects (``patch/line_numbers.py``)."""
    built: Mapping[int, bool] = field(default_factory=dict)
    """By position of the hunk, whether a unit that was asked compiles it; others do."""

    def number(self, line: int) -> int:
        """Return the number of a line of the new file in the post objects."""
        return self.numbers[line - 1] if 0 < line <= len(self.numbers) else line

    @cached_property
    def pairs(self) -> Sequence[Sequence[Pair]]:
        """By position of the hunk, the items that it changes."""
        return [
            pairs_of(self, list(h.before.lines), list(h.after.lines)) for h in self.hunks
        ]  # fmt: skip

    @cached_property
    def functions_at(self) -> Mapping[int, Sequence[Item]]:
        """By number in the post objects, the functions of the new file that have such a line."""
        found: dict[int, list[Item]] = defaultdict(list)
        for item in filter(_is_function, self.after.items):
            for number in {self.number(n) for n in item.lines}:
                found[number].append(item)
        return found

    @cached_property
    def mentioning(self) -> Mapping[str, Sequence[Item]]:
        """By identifier, the items that mention it, of both versions."""
        found: dict[str, list[Item]] = defaultdict(list)
        for file in (self.before, self.after):
            for item in file.items:
                for word in item.mentions if item.kind is not Kind.CONDITION else ():
                    found[word].append(item)
        return found

    def spread(self, names: frozenset[str]) -> frozenset[str]:
        """Return names, and those of items that mention one of them, by any detour."""
        known, todo = set(names), list(names)
        while todo:
            for item in self.mentioning.get(todo.pop(), ()):
                more = item.names - known
                known |= more
                todo += more
        return frozenset(known)


def _is_function(item: Item) -> bool:
    return item.kind is Kind.FUNCTION


def pairs_of(text: ChangedText, old: Sequence[int], new: Sequence[int]) -> list[Pair]:
    """Return the items that stand on changed lines, each with its other version."""
    left = text.before.items_on(old)
    pairs = []
    for item in text.after.items_on(new):
        twin = next((i for i in left if is_same(i, item)), None)
        if twin is not None:
            left.remove(twin)
        else:
            twin = next((i for i in text.before.items if is_same(i, item)), None)
        pairs.append(Pair(before=twin, after=item))
    for item in left:
        twin = next((i for i in text.after.items if is_same(i, item)), None)
        pairs.append(Pair(before=item, after=twin))
    return pairs


def is_same(a: Item, b: Item) -> bool:
    """Tell whether two items are one, before and after."""
    if a.kind is not b.kind:
        return False
    if a.kind in (Kind.INCLUDE, Kind.CONDITION, Kind.OTHER):
        return a.text == b.text
    return a.text == b.text or bool(a.names and a.names == b.names)

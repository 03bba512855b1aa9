# SPDX-License-Identifier: GPL-2.0-only
"""What stays in the running kernel: each function and datum of the plain objects, and its twin.

What the plain post object has otherwise must be redirected, or nobody that stays may lead there.
What was inlined or cloned is seen by itself: the function that has it has other instructions.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ksplicd.create.referee.bodies import BodyComparison, spot
from ksplicd.create.referee.meaning import (
    describe,
    function_names,
    is_boot,
    is_constant,
    is_descriptor,
    is_exit,
    is_private,
    things_at,
)
from ksplicd.create.referee.nameless import Nameless, is_same_nameless, is_same_text
from ksplicd.create.referee.pairs import Pairs, base_name, pair
from ksplicd.create.referee.view import Place, Reference, View
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import STB_LOCAL, Section, Symbol

_UNREAD: Final = (
    "__ksymtab", "___ksymtab", "__kcrctab", "___kcrctab", ".export_symbol", ".discard", ".modinfo",
    ".altinstr", ".printk_index", "__tracepoints_ptrs", "__syscalls_metadata", "_ftrace_events",
    "_kprobe_blacklist", "_error_injection_whitelist", ".static_call_tramp", ".initcall",
    ".exitcall", "__mcount_loc", ".con_initcall",
)  # fmt: skip
"""Beginnings of the names of sections whose references nobody follows while the kernel runs."""
_IGNORED: Final = ".ksplice_ignore_function"
"""The section of KPATCH_IGNORE_FUNCTION() (kmodsrc/kpatch-macros.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Something that differs, and stays."""

    symbol: Symbol
    root: Symbol
    """By which it is reached from outside of the unit."""
    sentence: str


class Standing:
    """The plain objects of a unit: what is the same in both, and what is not."""

    def __init__(self, pre: View, post: View, *, is_module: bool) -> None:
        """Raises ``ElfError``."""
        self.pre, self.post, self.is_module = pre, post, is_module
        self.pairs: Pairs = pair(pre, post)
        self.succeeded: set[tuple[str, str]] = set()
        """Names of functions that are led to others, with those of the latter."""
        self._comparing: set[tuple[Symbol, Symbol]] = set()
        self._nameless = Nameless(pre), Nameless(post)
        self._bodies = BodyComparison(pre, post, self.why_leads_elsewhere)

    @cached_property
    def differing(self) -> Mapping[Symbol, str]:
        """The pre functions and data that the post object has otherwise or not at all, and why."""
        found = {}
        for s in self.pre.symbols():
            if s.section is None or not s.section.is_alloc or not s.size or s in self.ignored:
                continue
            twin = self.pairs.post_of.get(s)
            if twin is None:
                found[s] = "is gone"
            elif why := self.why_differs(s, twin):
                found[s] = why
        return found

    @cached_property
    def ignored(self) -> frozenset[Symbol]:
        """The pre functions that the patch says to leave as they are, with their cold parts."""
        places = (
            self.post.place(r)
            for section in self.post.obj.sections if section.name == _IGNORED
            for r in self.post.relocations.get(section, [])
        )  # fmt: skip
        found = {
            s for p in places if p.section is not None
            if (s := self.post.symbol_at(p.section, p.offset)) is not None
        }  # fmt: skip
        names = {f"{s.name}.cold" for s in found}
        old = {self.pairs.pre_of[s] for s in found if s in self.pairs.pre_of}
        return frozenset({*old, *(s for s in self.pre.symbols() if s.name in names)})

    def why_differs(self, a: Symbol, b: Symbol) -> str | None:
        """Return why a post symbol is not the same as its twin, None when it is."""
        assert a.section is not None
        assert b.section is not None
        if a.section.is_text != b.section.is_text:
            return "is code in one and data in the other"
        if a.section.is_text:
            return self._bodies.why_differs(self.pre.body(a), self.post.body(b))
        return self.why_data_differ(a, b)

    # --- data -----------------------------------------------------------------------------------

    def why_data_differ(self, a: Symbol, b: Symbol) -> str | None:
        """Compare the content of two data, with what they refer to."""
        if a.size != b.size:
            return f"has {b.size} bytes instead of {a.size}"
        for at, why in self.differences_in(a, b):
            return f"+{at:#x} {why}"
        return None

    def differences_in(self, a: Symbol, b: Symbol) -> Iterator[tuple[int, str]]:
        """Yield where the content of two data of one size differs, and how."""
        (data_a, before), (data_b, after) = self.pre.content(a), self.post.content(b)
        if a.section and b.section and is_descriptor(a.section) and is_descriptor(b.section):
            # struct _ddebug: the third pointer is the file's name, behind the fourth is the line
            before, after = before[:2] + before[3:4], after[:2] + after[3:4]
        else:
            pairs = enumerate(zip(data_a, data_b, strict=False))
            yield from ((at, "has other bytes") for at, (x, y) in pairs if x != y)
        places = dict(before)
        for at, q in after:
            p = places.pop(at, None)
            if p is None:
                yield at, f"refers to {describe(self.post, q)} instead of nothing"
            elif why := self.why_leads_elsewhere(_kept(p), _kept(q)):
                yield at, why
        for at, p in places.items():
            yield at, f"refers to nothing instead of {describe(self.pre, p)}"

    # --- references -----------------------------------------------------------------------------

    def why_leads_elsewhere(self, a: Reference, b: Reference) -> str | None:
        """Return why a reference of the post object does not lead where the pre one's does."""
        if self.is_same(a, b):
            return None
        before, after = describe(self.pre, a.place), describe(self.post, b.place)
        more = ", whose content differs" if before == after else f" instead of {before}"
        return f"refers to {after}{more}"

    def is_same(self, a: Reference, b: Reference) -> bool:
        """Tell whether two references mean the same thing."""
        p, q = a.place, b.place
        if a.role is Role.ADDRESS and self.is_succession(p, q):
            return True
        if p.section is None or q.section is None:
            return self.is_same_external(p, q)
        if p.section.is_strings and q.section.is_strings:
            return self.pre.text_at(p.section, p.offset) == self.post.text_at(q.section, q.offset)
        if p.section.is_merged_constants and q.section.is_merged_constants:
            n = p.section.entsize
            return p.section.data[p.offset :][:n] == q.section.data[q.offset :][:n]
        if p.section.is_text and q.section.is_text:
            x, y = spot(self.pre, p), spot(self.post, q)
            return bool(x and y and x[1] == y[1] and self.are_twins(x[0], y[0]))
        return self.is_same_datum(a, b)

    def are_twins(self, a: Symbol, b: Symbol) -> bool:
        """Tell whether a post symbol is what a pre symbol becomes."""
        return self.pairs.post_of.get(a) is b

    def is_succession(self, p: Place, q: Place) -> bool:
        """Tell whether a place has a function in the place of one that is led there."""
        if not self.succeeded:
            return False
        new = function_names(self.post, q)
        return any((x, y) in self.succeeded for x in function_names(self.pre, p) for y in new)

    def is_same_external(self, p: Place, q: Place) -> bool:
        """Compare two places of which at least one is in another object."""
        ours, theirs = self._names(self.pre, p), self._names(self.post, q)
        return any(x in theirs for x in ours)

    @staticmethod
    def _names(view: View, place: Place) -> set[tuple[str, int]]:
        """Return the names by which other objects know a place, with offsets."""
        if place.section is None:
            return {(place.symbol.name, place.offset)} if place.symbol else set()
        s = view.symbol_at(place.section, place.offset)
        if s is None or s.bind == STB_LOCAL:
            return set()
        names = view.names[place.section, s.value]
        return {(name, place.offset - s.value) for name in names}

    def is_same_datum(self, a: Reference, b: Reference) -> bool:
        """Compare two places of data, each of which may mean several things."""
        ours = things_at(self.pre, a.place, a.role)
        theirs = things_at(self.post, b.place, b.role)
        for x, at in ours:
            for y, to in theirs:
                if at == to and (self.are_twins(x, y) or self.is_alike(x, y)):
                    return True
        mine, other = self._nameless
        if ours or theirs:
            return is_same_text(mine, a.place, other, b.place)
        return is_same_nameless(mine, a.place, other, b.place)

    def is_alike(self, x: Symbol, y: Symbol) -> bool:
        """Tell whether it does not matter which of two data is meant: of constants the content."""
        if x.section is None or y.section is None or base_name(x.name) != base_name(y.name):
            return False
        if is_private(x) and is_private(y):
            return not is_descriptor(x.section) or not self.why_data_differ(x, y)
        if not (is_constant(x.section) and is_constant(y.section)):
            return False
        if x in self.pairs.post_of and y in self.pairs.pre_of and x.name == y.name:
            return False
        if (x, y) in self._comparing:
            return True
        self._comparing.add((x, y))
        try:
            return not self.why_data_differ(x, y)
        finally:
            self._comparing.remove((x, y))

    # --- who leads there ------------------------------------------------------------------------

    @cached_property
    def references(self) -> Mapping[Symbol, Collection[Symbol]]:
        """By pre function or datum that the running kernel uses, what it leads to."""
        return {s: {t for t, _ in self._targets(s)} for s in self._users() if not self._is_boot(s)}

    @cached_property
    def roots(self) -> Mapping[Symbol, str]:
        """The pre functions and data that others than the unit's own lead to, and who does.

        Other units, lists that the linker makes, and boot code, which has handed their addresses
        over.
        """
        found = {s: "" for s in self.references if s.bind != STB_LOCAL}
        for section in self.pre.obj.sections:
            if self._is_list(section):
                for r in self.pre.relocations.get(section, []):
                    place = self.pre.place(r)
                    if self.pre.symbol_at(section, r.offset) is None and place.section is not None:
                        target = self.pre.symbol_at(place.section, place.offset)
                        if target is not None:
                            found.setdefault(target, section.name)
        for s in self._users():
            if self._is_boot(s):
                for target, role in self._targets(s):
                    if role is not Role.BRANCH:
                        found.setdefault(target, s.name)
            elif s.section is not None and self._is_list(s.section):
                found.setdefault(s, "")
        return found

    def _users(self) -> Iterator[Symbol]:
        """Yield the pre functions and data whose references somebody follows."""
        for section in self.pre.obj.sections:
            is_read = section.is_alloc and not section.name.startswith(_UNREAD)
            if is_read and section.name not in self.pre.sizes:
                yield from (s for s in self.pre.symbols_in(section) if s.size)

    def _is_boot(self, s: Symbol) -> bool:
        return s.section is not None and self.is_gone_by_now(s.section)

    def _is_list(self, section: Section) -> bool:
        """Tell whether the linker makes one list of the units' sections of this name."""
        return (
            section.is_alloc
            and not section.is_text
            and section.name not in self.pre.sizes
            and not section.name.startswith((".data", ".rodata", ".bss", *_UNREAD))
            and not self.is_gone_by_now(section)
        )

    def _targets(self, s: Symbol, exchanged: Collection[int] = ()) -> Iterator[tuple[Symbol, Role]]:
        """Yield what a symbol leads to, but for pointers at some offsets."""
        assert s.section is not None
        if s.section.is_text:
            found = [r for o in self.pre.body(s).operations for r in o.references]
        else:
            found = [_kept(p) for at, p in self.pre.content(s)[1] if at not in exchanged]
        for r in found:
            if r.place.section is not None:
                target = self.pre.symbol_at(r.place.section, r.place.offset)
                if target is not None and target is not s:
                    yield target, r.role

    def is_gone_by_now(self, section: Section) -> bool:
        """Tell whether what a section has is not in the kernel any more, or never was."""
        return is_boot(section) or (is_exit(section) and not self.is_module)

    def is_left_as_it_is(self, s: Symbol) -> bool:
        """Tell whether it does not matter that a pre symbol differs."""
        return s.section is None or self.is_gone_by_now(s.section) or is_private(s)

    def _is_gone_constant(self, s: Symbol) -> bool:
        is_ours = s.bind == STB_LOCAL and s.section is not None and is_constant(s.section)
        return is_ours and s not in self.pairs.post_of

    def is_made_good(self, table: Symbol, exchanged: Collection[int]) -> bool:
        """Tell whether a table differs only where its fields are exchanged."""
        twin = self.pairs.post_of.get(table)
        if twin is None or twin.size != table.size:
            return False
        return all(at in exchanged for at, _ in self.differences_in(table, twin))

    def contradictions(
        self,
        redirected: Collection[Symbol],
        exchanged: Mapping[Symbol, Collection[int]],
        dead: Collection[Symbol] = (),
    ) -> Iterator[Contradiction]:
        """Yield what stays and is reached, though the plain post object has it otherwise.

        ``redirected``: pre functions that lead to new code; ``exchanged``: by pre table, where its
        fields are exchanged; ``dead``: globals to which nothing leads.
        """
        todo = [(s, s, by) for s, by in self.roots.items() if s not in dead]
        seen = set()
        while todo:
            s, root, by = todo.pop()
            if s in seen or s in redirected:
                continue
            why = self.differing.get(s)
            if why is not None and not by and s.bind != STB_LOCAL:
                continue  # a global: others are asked who calls it
            seen.add(s)
            if why is not None and is_private(s):
                continue  # it stays with all that belongs to it: the __func__ of a pr_debug()
            if why is None:
                # What it leads to has been found alike: of constants any of that content.
                targets = {t for t in self.references.get(s, ()) if not self._is_gone_constant(t)}
                todo += [(target, root, s.name) for target in targets]
                continue
            if not by and s.section is not None and self._is_list(s.section):
                why = None  # the ledger says what a list has as it was
            if s in exchanged and self.is_made_good(s, exchanged[s]):
                targets = {t for t, _ in self._targets(s, exchanged[s])}
                todo += [(target, root, s.name) for target in targets]
            elif why is None or self.is_left_as_it_is(s):
                todo += [(target, root, s.name) for target in self.references.get(s, ())]
            else:
                sentence = f"{s.name} {why} in plain post, yet {by} stays and leads to it"
                yield Contradiction(symbol=s, root=root, sentence=sentence)


def _kept(place: Place) -> Reference:
    """Return a reference of data, which is an address that is kept."""
    return Reference(Role.ADDRESS, place)

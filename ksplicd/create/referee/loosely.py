# SPDX-License-Identifier: GPL-2.0-only
"""Compares the same source compiled in two ways, function by function, by what they refer to.

New code of modules reads its static keys, where the kernel's own code has branches that are
patched; new code of vmlinux reads runtime constants.  So the compiler chose other registers, and
may have inlined otherwise.  What is referred to must be the same: each side is extended by what a
function refers to that the other side has inlined, everywhere or in one place of several.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ksplicd.create.referee.meaning import is_constant, is_private, things_at
from ksplicd.create.referee.pairs import Pairs
from ksplicd.create.referee.view import Reference, View, is_cold
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import Section, Symbol

_COMPILERS: Final = ("__x86_indirect_", "__x86_return_", "__stack_chk_", "__fentry__", "__SCT__")
"""Beginnings of the names of what the compiler, not the source, refers to."""
_NAME: Final = "name"
_TEXT: Final = "text"
_RUNTIME_CONSTANT: Final = re.compile(r"runtime_(?:ptr|shift)_(\w+)")
_FUNCTIONS: Final = ("function", "other function")
_KEYS: Final = ("__jump_table", ".static_call_sites")

_Token = tuple[str, object]
"""A kind (name, text, function, datum, other function, other datum) and what it is.  The last two
are the second object's own, of which the first one has nothing."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What one function refers to and the other does not."""

    is_missing: bool
    """Whether the second one does not."""
    kind: str
    what: object
    """A symbol, a name, or a text."""

    def __str__(self) -> str:
        name = self.what.name if isinstance(self.what, Symbol) else self.what
        verb = "lacks" if self.is_missing else "also has"
        return f"{verb} a reference to the {self.kind} {name}"

    @property
    def is_of_source(self) -> bool:
        """Tell whether it is no symbol of one object, but a name or a text of the source."""
        return self.kind in (_NAME, _TEXT)


class LooseComparison:
    """Compares functions of one object with those of another one of the same source."""

    def __init__(self, a: View, b: View, pairs: Pairs) -> None:
        """``pairs``: which symbol of ``b`` is which of ``a``."""
        self.a, self.b, self.pairs = a, b, pairs

    def differences(self, a: Symbol, b: Symbol) -> list[Difference]:
        """Return what one refers to and the other does not."""
        mine, optional = set(self.tokens(self.a, a)), set(self.keys(a))
        other = set(self.tokens(self.b, b))
        done: set[object] = {a, b}
        while True:
            missing, extra = mine - other, other - mine
            todo = [t for t in missing | extra if t[0] in _FUNCTIONS and t[1] not in done]
            if not todo and (missing | extra) - optional:  # inlined in one place of several
                todo = [t for t in mine & other if t[0] == "function" and t[1] not in done]
            if not todo:
                break
            for token in todo:
                kind, s = token
                assert isinstance(s, Symbol)
                done.add(s)
                more = set(self.tokens(self.a if kind == "function" else self.b, s))
                mine |= more if token not in extra else set()
                other |= more if token not in missing else set()
                optional |= set(self.keys(s)) if kind == "function" else set()
        left = [t for t in missing | extra if t not in optional and t[0] not in _FUNCTIONS]
        return [Difference((kind, x) in missing, kind, x) for kind, x in sorted(left, key=str)]

    def tokens(self, view: View, s: Symbol) -> Iterator[_Token]:
        """Yield what a function and its cold part refer to, as things of ``a``."""
        for body in view.bodies(s):
            for operation in body.operations:
                for r in operation.references:
                    yield from self.token(view, r)

    def keys(self, a: Symbol) -> Iterator[_Token]:
        """Yield what the kernel patches into a function of ``a``, which its code does not name.

        Static keys, and runtime constants (include/asm-generic/vmlinux.lds.h, ``RUNTIME_CONST``).
        """
        for body in self.a.bodies(a):
            for section, name in self._constants:
                if any(self.a.place(r) in body for r in section.relocations):
                    yield from self.names_of(name)
            for entry in self.a.entries_of(body):
                for _, place in entry.references if entry.table in _KEYS else ():
                    yield from self.token(self.a, Reference(Role.MEMORY, place))

    @cached_property
    def _constants(self) -> list[tuple[Section, str]]:
        """The sections of ``a`` that say where a runtime constant is, and its name."""
        found = ((s, _RUNTIME_CONSTANT.fullmatch(s.name)) for s in self.a.obj.sections)
        return [(s, m[1]) for s, m in found if m is not None]

    def names_of(self, name: str) -> Iterator[_Token]:
        """Yield how the second object may refer to a variable by its name."""
        yield _NAME, name
        for s in self.a.symbols():
            if s.name == name:
                yield "datum", s

    def token(self, view: View, r: Reference) -> Iterator[_Token]:
        """Yield what a reference means; nothing for constants, which may be in the code."""
        section = r.place.section
        if section is None:
            if r.place.symbol and not r.place.symbol.name.startswith(_COMPILERS):
                yield _NAME, r.place.symbol.name
        elif section.is_strings:
            yield _TEXT, view.text_at(section, r.place.offset)
        elif section.is_text:
            s = view.symbol_at(section, r.place.offset)
            if s is not None and not is_cold(s):
                yield self.named(view, "function", s)
        else:
            for s, _ in things_at(view, r.place, r.role)[:1]:
                if s.section is not None and not is_constant(s.section) and not is_private(s):
                    yield self.named(view, "datum", s)

    def named(self, view: View, kind: str, s: Symbol) -> _Token:
        """Return a symbol as that of ``a``."""
        if view is self.a:
            return kind, s
        twin = self.pairs.pre_of.get(s)
        return (f"other {kind}", s) if twin is None else (kind, twin)

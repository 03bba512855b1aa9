# SPDX-License-Identifier: GPL-2.0-only
"""The new code of one unit, and what it asks of the running kernel."""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from ksplicd.elf.model import Object, Symbol
from ksplicd.model import PatchedFunction, PatchedPointer


class UnitInKernel(Protocol):
    """One unit in the running kernel, and what that kernel offers to its new code."""

    @property
    def source(self) -> str:
        """The unit's name, for messages: its source file."""
        ...

    @property
    def target(self) -> str:
        """What the unit is part of: ``vmlinux`` or a module."""
        ...

    @property
    def traceable(self) -> frozenset[str]:
        """The unit's functions that livepatch can redirect: that start with fentry."""
        ...

    @property
    def probeable(self) -> frozenset[str]:
        """The unit's functions that a kprobe may redirect."""
        ...

    def is_exported(self, name: str) -> bool:
        """Tell whether every module may link to ``name``."""
        ...

    def livepatch_symbol(self, name: str, *, is_local: bool) -> str | None:
        """Return ``.klp.sym.OBJECT.NAME,POS`` for a symbol of the running kernel.

        ``is_local``: the symbol that the unit itself defines; otherwise the global one.  None when
        the kernel has no such symbol.
        """
        ...

    def sympos(self, name: str) -> int:
        """Return the position in kallsyms of a function that the unit defines; 0 when unique."""
        ...

    def is_sealed(self, symbol: str) -> bool:
        """Tell whether a livepatch symbol is a function that must not be called by pointers."""
        ...

    def is_function(self, name: str) -> bool:
        """Tell whether ``name``, which no unit at hand defines, is known for a function."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirected:
    """One function that livepatch redirects."""

    name: str
    sympos: int
    alias: str
    """Global symbol of the new code's object, or a function of the kernel's own."""
    reason: str
    """Why it is in."""
    unit: str = ""
    """The source file that has the function, when it is another one."""
    tables: tuple[str, ...] = ()
    """Data of the unit that name another function in its place."""


class RedirectKind(Enum):
    """How the kernel part leads to new code without livepatch (kmodsrc/redirect.c)."""

    PROBE = "kprobe"
    POINTER = "pointer"
    VALUE = "value"
    EXIT = "exit"


FIELDS: Final = (RedirectKind.POINTER, RedirectKind.VALUE)
"""What is exchanged in the kernel's data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """One place, besides livepatch's functions, that leads to new code, or has a new value."""

    kind: RedirectKind
    name: str
    """The function, or the table that the field is in."""
    sympos: int
    place: str
    """Symbol of the old function or of the table; empty for a module's exit function."""
    new: str
    """Symbol of the new function; empty for a value."""
    reason: str
    """Why it is in."""
    offset: int = 0
    """Of the field in the table."""
    old: str = ""
    """Symbol of what the pointer holds before; empty: nothing."""
    value: tuple[bytes, bytes] = b"", b""
    """The old and the new value, in as many bytes."""
    tables: tuple[str, ...] = ()
    """Of a function: data of the unit that name another one in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCall:
    """One hook, and its global symbol in the new code's object."""

    kind: str
    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """What livepatch has to look for on stacks besides (anchors.py)."""

    function: str
    """Whose part it is, as the source has it."""
    alias: str
    """Global symbol of the new code's object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCode:
    """The new code of one unit."""

    unit: str
    target: str
    obj: Object
    redirected: tuple[Redirected, ...] = ()
    """The functions that livepatch redirects."""
    redirects: tuple[Redirect, ...] = ()
    """What else leads to new code."""
    called_only: tuple[str, ...] = ()
    """Changed functions without a way to redirect them, all of whose callers are replaced."""
    anchors: tuple[Anchored, ...] = ()
    keeps_code: bool = False
    """Whether somebody may keep the address of a new function."""
    hooks: tuple[HookCall, ...] = ()
    shared: tuple[str, ...] = ()
    """New functions and data that the new code of other units uses."""
    copied_constants: tuple[Symbol, ...] = ()
    """Constants, of the post object, of which the new code has a copy of its own."""
    notes: tuple[str, ...] = ()
    """What the user should know of, such as a tracepoint that does not fire."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells the unit from all others: several modules may have an object."""
        return self.unit, self.target

    @property
    def reasons(self) -> dict[str, str]:
        """Why each of the functions is in."""
        of_functions = {r.name: r.reason for r in self.redirected}
        return of_functions | {r.name: r.reason for r in self.redirects}

    @property
    def functions(self) -> list[PatchedFunction]:
        """The functions that lead to new code."""
        return [
            *(PatchedFunction(name=r.name, sympos=r.sympos, unit=r.unit or self.unit)
              for r in self.redirected),
            *(PatchedFunction(name=r.name, sympos=r.sympos, unit=self.unit, how=r.kind.value)
              for r in self.redirects if r.kind not in FIELDS),
        ]  # fmt: skip

    @property
    def pointers(self) -> list[PatchedPointer]:
        """The pointers that lead to new code, and the other fields that change."""
        return [
            PatchedPointer(table=r.name, offset=r.offset, unit=self.unit, how=r.kind.value)
            for r in self.redirects if r.kind in FIELDS
        ]  # fmt: skip

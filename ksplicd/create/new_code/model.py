# SPDX-License-Identifier: GPL-2.0-only
"""The new code of one unit, and what it asks of the running kernel."""

from dataclasses import dataclass, field
from typing import Protocol

from ksplicd.create.new_code.redirects import Redirect, RedirectKind
from ksplicd.elf import Object
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
class Replacement:
    """One function to redirect."""

    name: str
    sympos: int
    alias: str
    """Global symbol of the new code's object."""
    reason: str
    """Why it is in."""


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


@dataclass(slots=True, kw_only=True)
class NewCode:
    """The new code of one unit."""

    unit: str
    target: str
    obj: Object
    replacements: list[Replacement] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    anchors: list[Anchored] = field(default_factory=list)
    keeps_code: bool = False
    """Whether somebody may keep the address of a new function."""
    hooks: list[HookCall] = field(default_factory=list)
    new_functions: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    """New functions and data that the new code of other units uses."""
    copied_constants: list[str] = field(default_factory=list)
    """Constants of which the new code has its own copy, because it needs another than the kernel's.
    """
    notes: list[str] = field(default_factory=list)
    """What the user should know of, such as a tracepoint that does not fire."""

    @property
    def reasons(self) -> dict[str, str]:
        """Why each of the functions is in."""
        return {r.name: r.reason for r in self.replacements} | {
            r.name: r.reason for r in self.redirects
        }

    @property
    def functions(self) -> list[PatchedFunction]:
        """The functions that lead to new code."""
        return [
            *(PatchedFunction(name=r.name, sympos=r.sympos, unit=self.unit)
              for r in self.replacements),
            *(PatchedFunction(name=r.name, sympos=r.sympos, unit=self.unit, how=r.kind.value)
              for r in self.redirects if r.kind is not RedirectKind.POINTER),
        ]  # fmt: skip

    @property
    def pointers(self) -> list[PatchedPointer]:
        """The pointers that lead to new code."""
        return [
            PatchedPointer(table=r.name, offset=r.offset, unit=self.unit)
            for r in self.redirects if r.kind is RedirectKind.POINTER
        ]  # fmt: skip

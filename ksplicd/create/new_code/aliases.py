# SPDX-License-Identifier: GPL-2.0-only
"""Aliases: the global names by which an update's objects reach each other's new code.

New code keeps the names of the source for traces and debuggers, where several objects may have the
same.  So what another object refers to, the klp_patch among them, has a global name beside its own.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

from ksplicd.create.diff.difference import UnitChange
from ksplicd.elf.model import Symbol

_FUNCTION: Final = "ksplice_new_"
_HOOK: Final = "ksplice_hook_"
"""Hooks replace nothing, so they keep their own names in the finished module as well."""
_DATUM: Final = "ksplice_data_"


class Aliases:
    """Deals out the aliases of one update, each once: ``ksplice_new_0``, ``ksplice_data_1``."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._dealt: set[str] = set()

    def __contains__(self, name: object) -> bool:
        """Tell whether ``name`` was dealt out."""
        return name in self._dealt

    def for_function(self) -> str:
        """Return an alias for a function."""
        return self._next(_FUNCTION)

    def for_hook(self) -> str:
        """Return an alias for a hook."""
        return self._next(_HOOK)

    def for_datum(self) -> str:
        """Return an alias for new data that the new code of several files uses."""
        return self._next(_DATUM)

    def for_shared(self, changes: Iterable[UnitChange]) -> dict[Symbol, str]:
        """Return an alias for each symbol that the new code of other units refers to."""
        return {
            s: self.for_function() if s.is_function else self.for_datum()
            for c in changes
            for s in c.shared
        }

    def _next(self, prefix: str) -> str:
        alias = f"{prefix}{next(self._numbers)}"
        self._dealt.add(alias)
        return alias


def is_function_alias(name: str) -> bool:
    """Tell whether ``name`` is the alias of a function, but not of a hook."""
    return name.startswith(_FUNCTION)


def aliases_by_name(change: UnitChange, shared: Mapping[Symbol, str]) -> dict[str, str]:
    """Return by which alias a unit's new code defines what it shares, and reaches the others'."""
    own = {s.name: shared[s] for s in change.shared}
    return {name: shared[s] for name, s in change.borrowed.items()} | own

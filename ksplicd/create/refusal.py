# SPDX-License-Identifier: GPL-2.0-only
"""What cannot be changed in a running kernel, by name."""

from collections.abc import Iterable
from dataclasses import dataclass

from ksplicd.elf.model import Section, Symbol
from ksplicd.errors import UnsupportedChangeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A change that cannot be made in a running kernel, and the way out."""

    symbol: str
    section: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.symbol} ({self.section}): {self.reason}; {self.hint}"


class Refusals:
    """Collects what stands in the way of one unit's new code, in the order of finding."""

    def __init__(self, unit: str, found: Iterable[Refusal] = ()) -> None:
        self.unit = unit
        self._found = list(found)

    def add(self, symbol: str, section: Section | None, reason: str, hint: str) -> None:
        """Add one of a symbol in ``section``; without one it is undefined."""
        name = section.name if section else "undefined"
        self._found.append(Refusal(symbol=symbol, section=name, reason=reason, hint=hint))

    def raise_any(self) -> None:
        """Raise ``UnsupportedChangeError`` when there is one."""
        if found := list(dict.fromkeys(self._found)):
            raise UnsupportedChangeError(refusals_text(self.unit, found), found)


def refuse(s: Symbol, reason: str, hint: str) -> Refusal:
    """Return a refusal of what happens to ``s``."""
    section = s.section.name if s.section else "undefined"
    return Refusal(symbol=s.name, section=section, reason=reason, hint=hint)


def refusals_text(unit: str, refusals: Iterable[Refusal]) -> str:
    """Return the message that names every refusal in ``unit`` once."""
    lines = "\n".join(f"  {r}" for r in dict.fromkeys(refusals))
    return f"{unit}: cannot be changed in a running kernel:\n{lines}"

# SPDX-License-Identifier: GPL-2.0-only
"""What cannot be changed in a running kernel, by name."""

from collections.abc import Iterable
from dataclasses import dataclass

from ksplicd.elf import Symbol


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A change that cannot be made in a running kernel, and the way out."""

    symbol: str
    section: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.symbol} ({self.section}): {self.reason}; {self.hint}"


def refuse(s: Symbol, reason: str, hint: str) -> Refusal:
    """Return a refusal of what happens to ``s``."""
    section = s.section.name if s.section else "undefined"
    return Refusal(symbol=s.name, section=section, reason=reason, hint=hint)


def refusals_text(unit: str, refusals: Iterable[Refusal]) -> str:
    """Return the message that names every refusal in ``unit`` once."""
    lines = "\n".join(f"  {r}" for r in dict.fromkeys(refusals))
    return f"{unit}: cannot be changed in a running kernel:\n{lines}"

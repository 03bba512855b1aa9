# SPDX-License-Identifier: GPL-2.0-only
"""The clock, as something that is passed in."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

_FILE: Final = Path(__file__)
"""dpkg(1) keeps the times that files had when the package was built."""


class Clock(Protocol):
    """The times that the host needs."""

    def time(self) -> float:
        """Return seconds since 1970, UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that nobody can turn back."""

    def earliest(self) -> float:
        """Return seconds since 1970 that have passed, whatever ``time`` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A time on both clocks; 0: it has not come yet."""

    time: float = 0.0
    up: float = 0.0

    @classmethod
    def now(cls, clock: Clock) -> "Moment":
        """Return the present."""
        return cls(time=clock.time(), up=clock.monotonic())


class SystemClock:
    """The clocks of the machine."""

    def time(self) -> float:
        """Return seconds since 1970, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds on CLOCK_MONOTONIC."""
        return time.monotonic()

    def earliest(self) -> float:
        """Return when this package was built."""
        return built()


def built() -> float:
    """Return when this package was built, in seconds since 1970; 0: it is not known."""
    with contextlib.suppress(OSError):
        return _FILE.stat().st_mtime
    return 0.0

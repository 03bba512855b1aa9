# SPDX-License-Identifier: GPL-2.0-only
"""The clock, as something that is passed in."""

import contextlib
import time
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

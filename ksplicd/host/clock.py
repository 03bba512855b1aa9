# SPDX-License-Identifier: GPL-2.0-only
"""The clock, as something that is passed in."""

import time
from typing import Protocol


class Clock(Protocol):
    """The two times that the host needs."""

    def time(self) -> float:
        """Return seconds since 1970, UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that nobody can turn back."""


class SystemClock:
    """The clocks of the machine."""

    def time(self) -> float:
        """Return seconds since 1970, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds on CLOCK_MONOTONIC."""
        return time.monotonic()

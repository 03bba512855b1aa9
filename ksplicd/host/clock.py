# SPDX-License-Identifier: GPL-2.0-only
"""Time, as something that is passed in."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the host half needs to know of time."""

    def time(self) -> float:
        """Return seconds since 1970, UTC."""

    def monotonic(self) -> float:
        """Return seconds that no administrator can turn back."""


class SystemClock:
    """The machine's own clocks."""

    def time(self) -> float:
        """Return seconds since 1970, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds on CLOCK_MONOTONIC."""
        return time.monotonic()

# SPDX-License-Identifier: GPL-2.0-only
"""How long to wait before what failed is tried again.  Nothing is ever given up."""

from typing import Final

from ksplicd.config import Settings

HOUR: Final = 3600.0
FIRST_SECONDS: Final = 5.0
"""Before the first try after a fault of the machine; each later pause is twice as long."""
_MOST_DOUBLINGS: Final = 20


def pause_of_fault(attempt: int, first: float = FIRST_SECONDS) -> float:
    """Return the seconds before a try after a fault of the machine; ``attempt`` counts from 0."""
    return min(HOUR, first * (1 << min(attempt, _MOST_DOUBLINGS)))


def pause_of_busy(attempt: int, settings: Settings) -> float:
    """Return the seconds before a try after one that a task held up; ``attempt`` counts from 0.

    After ``retries`` of them it goes on hourly: a user's task must not end it by patience.
    """
    if attempt < settings.retries:
        return settings.retry_delay
    return max(HOUR, settings.retry_delay)

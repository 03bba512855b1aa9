# SPDX-License-Identifier: GPL-2.0-only
"""What failed is tried again in growing pauses, and never given up."""

from ksplicd.bus.pauses import HOUR, pause_of_busy, pause_of_fault
from ksplicd.config import Settings


def test_faults() -> None:
    pauses = [pause_of_fault(attempt) for attempt in range(12)]
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses == sorted(pauses)
    assert pause_of_fault(10_000) == pauses[-1] == HOUR


def test_busy_code_goes_on_hourly() -> None:
    """A user's own task must not end it by patience."""
    settings = Settings(retries=3, retry_delay=300)
    assert [pause_of_busy(n, settings) for n in range(5)] == [300, 300, 300, HOUR, HOUR]
    assert pause_of_busy(10_000, settings) == HOUR
    assert pause_of_busy(0, Settings(retries=0)) == HOUR
    assert pause_of_busy(9, Settings(retries=1, retry_delay=86400)) == 86400

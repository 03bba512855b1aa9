# SPDX-License-Identifier: GPL-2.0-only
"""Times for people: in local time, and how long ago."""

from datetime import datetime
from typing import Final

_UNITS: Final = (("day", 86400), ("hour", 3600), ("minute", 60))


def to_local(iso: str) -> str:
    """Return a time in ISO 8601 as local time: ``2026-01-31 12:00:00.000+01:00``."""
    when = datetime.fromisoformat(iso).astimezone()
    return when.isoformat(sep=" ", timespec="milliseconds")


def format_ago(seconds: float) -> str:
    """Return ``2 days ago``."""
    return "just now" if seconds < _UNITS[-1][1] else f"{format_span(seconds)} ago"


def format_span(seconds: float) -> str:
    """Return a time in the largest unit that it has twice, or once of minutes: ``41 days``."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}s"
    return "1 minute" if seconds >= _UNITS[-1][1] else "less than a minute"

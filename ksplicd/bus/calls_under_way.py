# SPDX-License-Identifier: GPL-2.0-only
"""The calls that are under way, and how many a user may have."""

import time
from collections import Counter
from typing import Final

CALLS_PER_USER: Final = 16
"""Calls of one user that are under way; root has no limit."""
_PAUSE: Final = 1.0
"""Seconds for which a user who had too many may have no more: answers cost more than refusals."""


class Calls:
    """The calls that are under way, by user."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], tuple[int, bool]] = {}
        """(caller, serial) → user, and whether an answer is waited for."""
        self._count: Counter[int] = Counter()
        self._pauses: dict[int, float] = {}

    def has_room(self, uid: int) -> bool:
        """Return whether a user may have another call."""
        now = time.monotonic()
        if uid and self._count[uid] >= CALLS_PER_USER:
            self._pauses[uid] = now + _PAUSE
        elif uid in self._pauses and now >= self._pauses[uid]:
            del self._pauses[uid]
        return uid not in self._pauses

    def begin(self, uid: int, caller: str, serial: int, *, wants_reply: bool) -> bool:
        """Count a call; False when one with this serial is under way."""
        if (caller, serial) in self._open:
            return False
        self._open[caller, serial] = uid, wants_reply
        self._count[uid] += 1
        return True

    def end(self, caller: str, serial: int) -> bool:
        """Count a call off; returns whether its answer is waited for."""
        uid, wants_reply = self._open.pop((caller, serial), (None, True))
        if uid is not None:
            self._count[uid] -= 1
            if not self._count[uid]:
                del self._count[uid]
        return wants_reply

# SPDX-License-Identifier: GPL-2.0-only
"""Whose the connections to the bus are."""

from typing import Final

from ksplicd.bus.incoming import Message

_HELD_PER_CALLER: Final = 16
_HELD_BYTES: Final = 8 << 20
"""Messages that wait until the bus has said whose they are."""
_CALLERS: Final = 4096
"""Connections whose users are remembered."""


class Callers:
    """Whose the connections are, and the calls that wait until that is known."""

    def __init__(self) -> None:
        self.uids: dict[str, int] = {}
        self.polkit = ""
        """The connection that is polkit's, set by the loop's thread; empty: none."""
        self._held: dict[str, list[Message]] = {}
        self._size = 0

    def hold(self, caller: str, call: Message) -> bool:
        """Keep a call; False when there are too many."""
        held = self._held.get(caller, [])
        size = self._size + len(call.data)
        if len(held) >= _HELD_PER_CALLER or size > _HELD_BYTES:
            return False
        self._size = size
        self._held[caller] = [*held, call]
        return True

    def is_asked_about(self, caller: str) -> bool:
        """Return whether calls of a connection wait."""
        return caller in self._held

    def learn(self, caller: str, uid: int | None) -> list[Message]:
        """Return the calls that waited; ``uid`` is None for a caller who has gone."""
        if uid is not None:
            if len(self.uids) >= _CALLERS:
                del self.uids[next(iter(self.uids))]
            self.uids[caller] = uid
        calls = self._held.pop(caller)
        self._size -= sum(len(call.data) for call in calls)
        return calls

# SPDX-License-Identifier: GPL-2.0-only
"""Waits for another process, or a guest, to do something."""

import time
from collections.abc import Callable
from typing import Any, Final

PATIENCE: Final = 60.0
"""Seconds for what takes a fraction of one on an idle machine."""
GUEST_PATIENCE: Final = 120.0
"""The same for a guest, whose processors are emulated."""
GUEST_PAUSE: Final = 0.2
"""Seconds between two looks at a guest, which has something else to do meanwhile."""


def wait_for(
    what: Callable[[], Any],
    seconds: float = PATIENCE,
    *,
    pause: float = 0.01,
    why: Callable[[], object] = lambda: "waited in vain",
) -> Any:
    """Return what ``what`` returns, as soon as that is true; ``why`` explains that it is not."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, why()
        time.sleep(pause)
    return answer


def wait_in_guest(what: Callable[[], Any], why: Callable[[], object] = lambda: "in vain") -> Any:
    """Wait for what happens in a guest."""
    return wait_for(what, GUEST_PATIENCE, pause=GUEST_PAUSE, why=why)

# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for what another process does."""

import time
from collections.abc import Callable
from typing import Any, Final

PATIENCE: Final = 20.0
"""Seconds for what takes a fraction of one on an idle machine."""


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return what ``what`` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return answer

# SPDX-License-Identifier: GPL-2.0-only
"""What ``--debug=PHASE`` shows: one logger of the standard library for each phase.

Nothing is printed until the command adds a handler, and nothing here decides what an update holds.
Lines of a loop are guarded with ``LOG.isEnabledFor(logging.DEBUG)`` where their words cost time.
"""

import logging
from typing import Final

PHASES: Final = ("affected", "twins", "cut")
"""Why a unit is in or out; why a symbol has its twin; what is cut, and by which names it links."""


def phase(name: str) -> logging.Logger:
    """Return the logger of a phase."""
    assert name in PHASES, name
    return logging.getLogger(f"ksplice.{name}")

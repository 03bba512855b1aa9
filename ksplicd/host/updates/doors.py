# SPDX-License-Identifier: GPL-2.0-only
"""What the steps of the engine work with: the doors of one host, and the settings in force."""

from collections.abc import Callable
from dataclasses import dataclass

from ksplicd.config import Settings
from ksplicd.host.clock import Clock
from ksplicd.host.kernel.door import KernelDoor
from ksplicd.host.stages import Event
from ksplicd.host.store.store import Store
from ksplicd.host.trust.keyring import Keyring


@dataclass(slots=True, eq=False, kw_only=True)
class Doors:
    """One host, as its updates see it."""

    store: Store
    kernel: KernelDoor
    keyring: Keyring
    clock: Clock
    settings: Settings
    """Replaced as a whole when ksplicd.conf is read again."""
    on_event: Callable[[Event], None] = lambda event: None
    """Called with every event after it was written, in the thread that uses the engine."""
    find_crash: Callable[[str, float], str] = lambda boot_id, since: ""
    """Returns what shows that a boot crashed after a time, or nothing (``CrashTraces.find``)."""
    owner: int = 0
    """The user who may drop bundles."""

# SPDX-License-Identifier: GPL-2.0-only
"""A whole host for tests: store and keys in a folder, the simulator, and an engine on them."""

import os
from pathlib import Path

from ksplicd import minisign
from ksplicd.config import Settings
from ksplicd.host.engine import Engine
from ksplicd.host.stages import Actor, Event, UpdateInfo, Via
from ksplicd.host.store.history import History
from ksplicd.host.store.store import Store
from ksplicd.host.trust.keyring import Keyring
from ksplicd.host.updates.doors import Doors
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.host.simulator import Simulator, StoppedClock

KID = samples.KID
CORE, OLD, NEW = f"ksplice_{KID}", f"ksplice_{KID}_vmlinux_old", f"ksplice_{KID}_new"

ALICE = Actor(uid=1000, pid=4711, unit="session-2.scope", via=Via.DBUS)
ROOT = Actor(uid=0, via=Via.DROP)

EVENT = Event(
    time=1700000000.25,
    boot_id="0" * 32,
    kid="8c4o6ucj",
    stage=Stage.FAILED,
    cause="no_match",
    detail="vmlinux: do_fcntl+0x1c: expected 0f1f, found 9090",
    actor=Actor(uid=1000, pid=12, unit="user@1000.service", via=Via.DBUS),
    mismatch={"function": "do_fcntl", "offset": "0x1c"},
)


def all_events(history: History) -> list[Event]:
    """Return all events of a history, oldest first."""
    return [event for events in reversed(list(history.read_back())) for event in events]


class Host:
    """What a machine has; ``start`` is a start of the daemon on it."""

    def __init__(self, folder: Path) -> None:
        """Trust ``samples.KEY``."""
        self.root = folder / "ksplice"
        self.keys = folder / "keys.d"
        self.keys.mkdir(exist_ok=True)
        (self.keys / "test.pub").write_text(minisign.write_public_key(samples.KEY.public))
        (self.keys / "test.pub").chmod(0o644)
        self.kernel = Simulator()
        self.clock = StoppedClock()
        self.events: list[Event] = []
        self.settings = Settings()
        self.crash_trace = "/var/crash/dmesg is from after it was applied"
        """What a crash leaves; a power cut leaves nothing."""
        self.engine = self.new_engine()
        self.engine.reconcile()

    def new_engine(self) -> Engine:
        """Return what a daemon that has just been started has."""
        return Engine(
            Doors(
                store=Store(self.root),
                kernel=self.kernel,
                keyring=Keyring(self.keys, os.getuid()),
                clock=self.clock,
                settings=self.settings,
                on_event=self.events.append,
                find_crash=lambda boot_id, since: self.crash_trace,
                owner=os.getuid(),
            )
        )

    def stage(self, data: bytes = b"") -> UpdateInfo:
        """Stage a signed bundle."""
        data = data or samples.bundle()
        return self.engine.stage(data, samples.signature(data), ALICE)

    def apply(self, kid: str = samples.KID) -> UpdateInfo:
        """Apply an update, the kernel being willing."""
        transition = self.engine.start_apply(kid, ALICE)
        self.engine.tidy(transition)
        self.kernel.complete()
        return self.engine.finish(transition)

    def undo(self, kid: str = samples.KID) -> UpdateInfo:
        """Undo an update, the kernel being willing."""
        transition = self.engine.start_undo(kid, ALICE)
        self.kernel.complete()
        return self.engine.finish(transition)

    def reboot(self, *, clean: bool = True) -> None:
        """Go down, shut down or crashed, and come up."""
        if clean:
            self.engine.soak.mark_clean()
        self.kernel.reboot()

    def last_event(self) -> Event:
        """Return the newest event of the history."""
        return next(self.engine.records.events())

    def stages(self) -> list[str]:
        """Return the stages of the history, oldest first."""
        return [event.stage.value for event in list(self.engine.records.events())[::-1]]

# SPDX-License-Identifier: GPL-2.0-only
"""Module events that are lost or cannot be read."""

import errno
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from gi.repository import GLib

from ksplicd.bus import module_watch
from ksplicd.bus.coroutines import sleep
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.module_watch import ModuleWatch
from ksplicd.bus.reconciler import Reconciler
from tests.support.bus.loop import run
from tests.support.bus.parts import NoJournal

if TYPE_CHECKING:
    from collections.abc import Callable


class Noticed:
    """Stands for ``Reconciler``."""

    def __init__(self) -> None:
        self.modules: list[str] = []
        self.losses = 0

    def notice_module(self, name: str) -> None:
        self.modules.append(name)

    def notice_loss(self) -> None:
        self.losses += 1


class Monitor:
    """Gives what it has; errors are raised."""

    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def fileno(self) -> int:
        return 0

    def poll(self, timeout: float) -> Any:
        event = self._events.pop(0) if self._events else None
        if isinstance(event, Exception):
            raise event
        return event

    def filter_by(self, name: str) -> None:
        pass

    def start(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (OSError(errno.ENOBUFS, "No buffer space"), True),
        (OSError(errno.EIO, "I/O"), False),
        (ValueError("a bad event"), False),
    ],
)
def test_events_go_on_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    goes_on: bool,  # noqa: FBT001
) -> None:
    event = SimpleNamespace(sys_name="ksplice_8c4o6ucj", action="remove")
    monitors = [Monitor([event, error, event]), Monitor([event])]
    fake = SimpleNamespace(
        Context=lambda: None,
        Monitor=SimpleNamespace(from_netlink=lambda *_, **__: monitors.pop(0)),
    )
    callbacks: list[Callable[[int, int], bool]] = []
    loop = SimpleNamespace(
        PRIORITY_DEFAULT=0,
        IOCondition=GLib.IOCondition,
        io_add_watch=lambda *args: callbacks.append(args[-1]),
    )
    monkeypatch.setitem(sys.modules, "pyudev", fake)
    monkeypatch.setattr(module_watch, "GLib", loop)
    monkeypatch.setattr(module_watch, "_RETRY_SECONDS", 0.01)
    noticed = Noticed()
    watch = ModuleWatch(cast(EngineWorker, None), cast(Reconciler, noticed), NoJournal())
    watch.watch()

    async def main() -> None:
        assert callbacks[0](0, 0) is goes_on
        while not noticed.losses:
            await sleep(0.01)
        assert len(callbacks) == (1 if goes_on else 2)
        assert callbacks[-1](0, 0)

    run(main())
    assert (noticed.modules, noticed.losses) == (["ksplice_8c4o6ucj"] * 2, 1)

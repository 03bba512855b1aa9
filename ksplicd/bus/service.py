# SPDX-License-Identifier: GPL-2.0-only
"""Everything between the bus and the engine, wired together.

::

    manager, update ─▸ jobs ─▸ running_job ─▸ engine_worker ─▸ host.engine
    drop_watch ─▸ automatic ──▴                    │ events
    soak_watch ─▸ undo_on_warning ─▴               ▾
    module_watch ─▸ reconciler ─▴          shown ─▸ objects, and whoever wants the list

The daemon decides when these are started and stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ksplicd.bus.automatic import Automatic
from ksplicd.bus.catch_up import CatchUp
from ksplicd.bus.drop_watch import RETRY_SECONDS, DropWatch
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.events import Events
from ksplicd.bus.heartbeat import BEAT_SECONDS, Heartbeat
from ksplicd.bus.jobs import SYSFS_MODULES, Jobs
from ksplicd.bus.kernel_log import KMSG
from ksplicd.bus.manager import Manager
from ksplicd.bus.module_watch import ModuleWatch
from ksplicd.bus.objects import Objects
from ksplicd.bus.pauses import FIRST_SECONDS
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.reconciler import Reconciler
from ksplicd.bus.shown import Shown
from ksplicd.bus.soak_watch import SoakWatch
from ksplicd.bus.stuck_watch import IDLE_SECONDS
from ksplicd.bus.tripwire_watch import TripwireWatch
from ksplicd.bus.undo_on_warning import UndoOnWarning
from ksplicd.host.engine import Engine
from ksplicd.host.report.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the daemon reads beside the bus and the engine; tests pass their own."""

    why_disabled: Callable[[], str] = lambda: ""
    """Returns what turns automatic applies off, or empty text (``host.boot.why_disabled``)."""
    modules: Path = SYSFS_MODULES
    kmsg: Path = KMSG
    drop_retry_seconds: float = RETRY_SECONDS
    apply_retry_seconds: float = FIRST_SECONDS
    """Before the first further try of what a fault of the machine ended: an apply, a record."""
    beat_seconds: float = BEAT_SECONDS
    """Between two checks of all updates."""
    idle_seconds: float = IDLE_SECONDS
    """For which the worker may wait for the machine, and do nothing, before it counts as stuck."""


class Service:
    """The parts that the daemon starts and stops; the others live through them."""

    def __init__(
        self, engine: Engine, bus: Any, journal: Journal, surroundings: Surroundings
    ) -> None:
        """``bus`` is a pydbus bus."""
        self.worker = worker = EngineWorker(engine, surroundings.idle_seconds)
        polkit = Polkit(bus.con, bus.hear_polkit)
        self.objects = Objects(bus, polkit.check_inspect)
        jobs = Jobs(worker, polkit, journal, surroundings.modules)
        self.shown = shown = Shown(worker, self.objects, jobs, polkit.check_inspect)
        self._events = Events(worker, shown, journal)
        self.reconciler = Reconciler(worker, jobs, shown)
        manager = Manager(worker, jobs, shown, polkit, surroundings.why_disabled)
        self.objects.add_root(manager)
        self.automatic = Automatic(
            worker, jobs, surroundings.why_disabled, journal, surroundings.apply_retry_seconds
        )
        self.drops = DropWatch(worker, shown, self.automatic, surroundings.drop_retry_seconds)
        self.modules = ModuleWatch(worker, self.reconciler, journal)
        self._tripwires = TripwireWatch(worker, journal, manager.TripwireHit)
        self._soak = SoakWatch(worker, UndoOnWarning(worker, jobs, shown), surroundings.kmsg)
        self.heartbeat = Heartbeat(worker, shown, surroundings.beat_seconds)
        catch_up = CatchUp(worker, surroundings.apply_retry_seconds)
        shown.on_shown += [self._tripwires.show, self._soak.show, self.automatic.show]
        shown.on_shown.append(catch_up.show)

    def stop(self) -> None:
        """Stop watching, and end the worker's thread."""
        self._soak.stop()
        self._tripwires.stop()
        self.worker.stop()

# SPDX-License-Identifier: GPL-2.0-only
"""The daemon: one GLib loop, one worker thread, and what wakes them.

::

    D-Bus calls ──────────────▸ bus.manager ─▸ bus.runner ─▸ worker: host.engine ─▸ kernel
    /var/lib/ksplice (inotify) ─▸ bus.drops ──────┘   ▴
    kernel: stage notices, module uevents, log ──────┘

Idle, it wakes for the watchdog only.  It is ready when its records agree with the kernel.  Killing
it loses nothing: a transition goes on in the kernel and is found again at the next start.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gi.repository import GLib

from ksplicd import __version__
from ksplicd.bus import coroutines, names
from ksplicd.bus.automatic import Automatic
from ksplicd.bus.drop_watch import Drops
from ksplicd.bus.job import Job
from ksplicd.bus.manager import Manager
from ksplicd.bus.objects import Objects
from ksplicd.bus.polkit import DBUS, Polkit, call_bus
from ksplicd.bus.runner import SYSFS_MODULES, Runner
from ksplicd.bus.soak_watch import KMSG, SoakWatch
from ksplicd.bus.tripwire_watch import Tripwires
from ksplicd.bus.update import Update
from ksplicd.config import CONFIG_FILE, KEYS_DIR, Settings, read_settings
from ksplicd.errors import HostError, KspliceError
from ksplicd.host import boot
from ksplicd.host.clock import SystemClock
from ksplicd.host.engine import Engine
from ksplicd.host.kernel.linux import LinuxKernel
from ksplicd.host.report import journal
from ksplicd.host.stages import Event, UpdateInfo
from ksplicd.host.store.store import STORE_DIR, Store
from ksplicd.host.trust.keyring import Keyring
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

_NOT_AT_BOOT: Final = (
    "ksplicd-boot.service has not applied it; `journalctl -b -u ksplicd-boot` says why, unless "
    "that unit is off; `ksplice apply {}` applies it by hand"
)

_DO_NOT_QUEUE: Final = 4
_PRIMARY_OWNER: Final = 1
"""Flag and answer of RequestName (D-Bus specification, "Message Bus Messages")."""


class Daemon:
    """What runs between start and stop."""

    def __init__(
        self,
        engine: Engine,
        bus: Any,
        *,
        book: journal.Journal,
        config: Path = CONFIG_FILE,
        notify: Callable[[str], object] = lambda state: None,
        modules: Path = SYSFS_MODULES,
        why_disabled: Callable[[], str] = lambda: "",
        kmsg: Path = KMSG,
    ) -> None:
        """Use ``bus``, a pydbus bus; ``notify`` is sd_notify(3); ``modules`` is /sys/module.

        ``why_disabled`` tells what there is against applying by ourselves, each time that we would
        (``host.boot.why_disabled``).
        ``config`` is read again at SIGHUP; what holds at start is in ``engine.settings``.
        ``kmsg`` is the kernel's log.
        """
        self._engine = engine
        self._bus = bus
        self._book = book
        self._config = config
        self._notify = notify
        self._loop = GLib.MainLoop()
        self._status = 0
        self._worker = coroutines.Worker()
        self._polkit = Polkit(bus.con)
        self._objects = Objects(bus, self._polkit.check_inspect)
        self._runner = Runner(engine, self._worker, self._objects, self._polkit, book, modules)
        self._runner.on_shown = self._on_shown
        manager = Manager(self._runner, why_disabled)
        self._objects.add_root(manager)
        self._tripwires = Tripwires(self._runner, book, manager.TripwireHit)
        self._why_disabled = why_disabled
        self._automatic = Automatic(self._runner, why_disabled, book)
        self._drops = Drops(self._runner, self._automatic)
        self._soak = SoakWatch(self._runner, kmsg)
        self._keep: list[object] = []
        """What would end when nobody held it: monitors."""

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the exit status."""
        sources = [
            GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGTERM, self._stop, 0),
            GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGINT, self._stop, 0),
            GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGHUP, self._on_hangup),
        ]
        closed = self._bus.con.connect("closed", lambda *_: self._stop(1))
        if seconds := watchdog_seconds(os.environ, os.getpid()):
            sources.append(GLib.timeout_add_seconds(seconds, self._on_watchdog))
        coroutines.spawn(self._start())
        try:
            self._loop.run()
        finally:
            self._notify("STOPPING=1")
            for source in sources:
                GLib.source_remove(source)
            self._bus.con.disconnect(closed)
            self._soak.stop()
            self._tripwires.stop()
            self._worker.stop()
            if not self._bus.con.is_closed():
                self._objects.clear()
        return self._status

    def _on_shown(self, infos: Sequence[UpdateInfo]) -> None:
        """Have ``systemctl status`` show how many updates are applied, and time their soak."""
        applied = sum(info.stage is Stage.APPLIED for info in infos)
        self._notify(f"STATUS={applied} of {len(infos)} updates applied")
        self._tripwires.show(infos)
        self._soak.show(infos)
        self._automatic.show(infos)
        if self._engine.settings.metrics_file is not None:
            coroutines.spawn(self._write_metrics())

    async def _write_metrics(self) -> None:
        try:
            await self._worker.run(self._engine.write_metrics)
        except KspliceError as e:
            _log.error("the metrics are not written: %s", e)

    # --- start and stop -------------------------------------------------------------------------

    async def _start(self) -> None:
        """Find out what is so, then take calls."""
        try:
            found = await self._runner.reconcile()
            await self._take_name()
            self._watch_modules()
            self._drops.watch()
        except KspliceError as e:
            _log.critical("%s", e)
            self._stop(1)
            return
        except Exception:
            _log.exception("the daemon cannot start")
            self._stop(1)
            return
        infos = await self._runner.list_updates()
        applied = [info.kid for info in infos if info.stage is Stage.APPLIED]
        self._book.write(journal.about_start(self._engine.kernel.release(), applied))
        self._notify("READY=1")
        coroutines.spawn(
            self._write_metrics()
        )  # or delete what the configuration of then asked for
        for kid, why in found.waiting.items():
            self._book.write(journal.about_waiting(kid, why))
        if not self._why_disabled():
            if self._engine.settings.apply_at_boot:
                for kid in found.reapply:
                    self._book.write(journal.about_waiting(kid, _NOT_AT_BOOT.format(kid)))
            await self._automatic.resume()
        await self._drops.scan()

    async def _take_name(self) -> None:
        args = GLib.Variant("(su)", (names.BUS_NAME, _DO_NOT_QUEUE))
        reply = await call_bus(self._bus.con, DBUS, "RequestName", args)
        if reply.unpack() != (_PRIMARY_OWNER,):
            raise HostError(f"{names.BUS_NAME} is taken on this bus: another ksplicd runs")

    def _stop(self, status: int) -> bool:
        self._status = status
        self._loop.quit()
        return True  # the source stays: run() removes it

    def _on_hangup(self) -> bool:
        self._notify("RELOADING=1")
        try:
            self._engine.settings = read_settings(self._config)
            coroutines.spawn(self._reconcile())
            if not self._why_disabled():
                coroutines.spawn(self._automatic.apply_dropped())
            coroutines.spawn(self._drops.scan())
            coroutines.spawn(self._write_metrics())
        except KspliceError as e:
            _log.error("the old configuration stays in force: %s", e)
        self._notify("READY=1")
        return True  # the next one counts too

    def _on_watchdog(self) -> bool:
        self._notify("WATCHDOG=1")
        return True  # again

    # --- what happens around us -----------------------------------------------------------------

    def _watch_modules(self) -> None:
        """Hear of modules of ours that others load or unload."""
        try:
            import pyudev

            monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
            monitor.filter_by("module")
            monitor.start()
        except (ImportError, OSError) as e:
            _log.warning("module events are not heard: %s", e)
            return
        self._keep.append(monitor)
        fd = monitor.fileno()
        GLib.io_add_watch(fd, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, self._on_uevent, monitor)

    def _on_uevent(self, _fd: int, _condition: int, monitor: Any) -> bool:
        while (device := monitor.poll(timeout=0)) is not None:
            if not device.sys_name.startswith("ksplice_"):
                continue
            if device.action == "change":
                coroutines.spawn(self._tell_target(device.sys_name, device.properties))
            else:
                self._runner.hear_module(device.sys_name)
        return True  # more will come

    async def _tell_target(self, core: str, said: Mapping[str, str]) -> None:
        """Tell the journal what a core says of a module that was loaded or unloaded."""
        kid = core.removeprefix("ksplice_")
        target, state = said.get("KSPLICE_TARGET", ""), said.get("KSPLICE_STATE", "")
        try:
            now = await self._worker.run(self._engine.kernel.core, kid)
        except KspliceError as e:
            _log.error("%s", e)
            return
        self._book.write(journal.about_target(kid, target, state, now))

    async def _reconcile(self) -> None:
        try:
            await self._runner.reconcile()
        except KspliceError as e:
            _log.error("our records do not agree with the kernel: %s", e)


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> int:
    """Return how often the service manager wants to hear of us: twice in WatchdogSec=.

    0 when it does not, or means another process (sd_watchdog_enabled(3)).
    """
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0
    return int(environment.get("WATCHDOG_USEC", "0")) // 2_000_000


def connect(address: str) -> Any:
    """Return the pydbus bus at ``address``: ``system``, ``session``, or as in DBUS_*_ADDRESS."""
    import pydbus

    match address:
        case "system":
            return pydbus.SystemBus()
        case "session":
            return pydbus.SessionBus()
        case _:
            return pydbus.connect(address)


def introspect(name: str) -> int:
    """Print the XML of one of our interfaces, or the names of all."""
    xml = {cls.interface: cls.xml() for cls in (Manager, Update, Job)}
    if name != "list" and name not in xml:
        sys.stderr.write(f"ksplicd: no interface {name}; there are {', '.join(xml)}\n")
        return 1
    sys.stdout.write(xml[name] if name in xml else "".join(f"{known}\n" for known in xml))
    return 0


def run_boot(engine: Engine, book: journal.Journal, disabled: str) -> int:
    """Apply again what was applied before the machine went down; the daemon does not run yet."""

    def on_event(event: Event) -> None:
        if entry := journal.about_event(event):
            book.write(entry)

    engine.on_event = on_event
    boot.apply_again(engine, lambda kid, why: book.write(journal.about_waiting(kid, why)), disabled)
    return 0


def run_shutdown(engine: Engine) -> int:
    """Note that the machine is being shut down, for the crash guard; the daemon has stopped."""
    engine.open()
    engine.mark_clean()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon on the system bus, or one of the short ways beside it."""
    parser = argparse.ArgumentParser(prog="ksplicd", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"ksplicd {__version__}")
    parser.add_argument(
        "--bus", metavar="ADDRESS", default="system", help="system, session, or a D-Bus address"
    )
    parser.add_argument("--store", metavar="DIR", type=Path, default=STORE_DIR)
    parser.add_argument("--config", metavar="FILE", type=Path, default=CONFIG_FILE)
    parser.add_argument("--keys", metavar="DIR", type=Path, default=KEYS_DIR)
    parser.add_argument(
        "--bus-introspect", metavar="INTERFACE|list", nargs="?", const="list",
        help="print the XML of an interface, or the names of all, and exit",
    )  # fmt: skip
    short = parser.add_mutually_exclusive_group()
    short.add_argument(
        "--boot", action="store_true", help="apply again what was applied, without a bus, and exit"
    )
    short.add_argument(
        "--shutdown", action="store_true", help="note that this is a clean shutdown, and exit"
    )
    args = parser.parse_args(argv)
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(journal.LogFormatter(os.environ))
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr])
    if args.bus_introspect:
        return introspect(args.bus_introspect)
    from systemd.daemon import notify

    try:
        engine = Engine(
            Store(args.store),
            LinuxKernel(),
            Keyring(args.keys, os.geteuid()),
            Settings() if args.shutdown else read_settings(args.config),  # a typo is no crash
            SystemClock(),
            owner=os.geteuid(),
        )
        if args.shutdown:
            return run_shutdown(engine)
        if args.boot:
            return run_boot(engine, journal.SystemJournal(), boot.why_disabled())
        daemon = Daemon(
            engine, connect(args.bus), book=journal.SystemJournal(), config=args.config,
            notify=notify, why_disabled=boot.why_disabled,
        )  # fmt: skip
    except (KspliceError, GLib.Error) as e:
        _log.critical("%s", e)
        return 1
    return daemon.run()

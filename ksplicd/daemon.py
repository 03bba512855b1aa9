# SPDX-License-Identifier: GPL-2.0-only
"""The daemon: one GLib loop, one worker thread, and what wakes them.

::

    D-Bus calls ────────────────▸ bus.manager ─▸ bus.jobs ─▸ worker: host.engine ─▸ kernel
    /var/lib/ksplice (inotify) ─▸ bus.drop_watch ───┘  ▴
    kernel: stage notices, module uevents, log ────────┘

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
from typing import Final

from gi.repository import GLib

from ksplicd import __version__
from ksplicd.bus import coroutines, names
from ksplicd.bus.connection import GatedBus, connect
from ksplicd.bus.job import Job
from ksplicd.bus.manager import Manager
from ksplicd.bus.polkit import DBUS, call_bus
from ksplicd.bus.service import Service, Surroundings
from ksplicd.bus.update import Update
from ksplicd.config import CONFIG_FILE, KEYS_DIR, Settings, read_settings
from ksplicd.errors import ConfigFileError, HostError, KspliceError
from ksplicd.host import boot
from ksplicd.host.clock import SystemClock
from ksplicd.host.engine import Engine
from ksplicd.host.kernel.crash_traces import CrashTraces
from ksplicd.host.kernel.linux import LinuxKernel
from ksplicd.host.report.journal import (
    Journal,
    LogFormatter,
    SystemJournal,
    about_event,
    about_start,
    about_waiting,
)
from ksplicd.host.stages import Event, Reconciliation, UpdateInfo
from ksplicd.host.store.store import STORE_DIR, Store
from ksplicd.host.trust import last_good
from ksplicd.host.trust.keyring import Keyring
from ksplicd.host.trust.last_good import keep_copy
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.missing import NOT_YET
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

_NOT_AT_BOOT: Final = (
    "ksplicd-boot.service has not applied it; `journalctl -b -u ksplicd-boot` says why, unless "
    "that unit is off; it is applied now"
)

_DO_NOT_QUEUE: Final = 4
_PRIMARY_OWNER: Final = 1
"""Flag and answer of RequestName (D-Bus specification, "Message Bus Messages")."""


class Daemon:
    """What runs between start and stop."""

    def __init__(
        self,
        engine: Engine,
        bus: GatedBus,
        *,
        journal: Journal,
        config: Path = CONFIG_FILE,
        notify: Callable[[str], object] = lambda state: None,
        surroundings: Surroundings,
    ) -> None:
        """Use ``bus`` until the end; ``notify`` is sd_notify(3).

        ``config`` is read again at SIGHUP; the settings at the start are
        in ``engine.doors.settings``.
        """
        self._engine = engine
        self._bus = bus
        self._journal = journal
        self._config = config
        self._notify = notify
        self._why_disabled = surroundings.why_disabled
        self._loop = GLib.MainLoop()
        self._status = 0
        self._service = Service(engine, bus, journal, surroundings)
        self._service.shown.on_shown.append(self._on_shown)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the exit status."""
        sources = [
            GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGTERM, self._stop, 0),
            GLib.unix_signal_add(GLib.PRIORITY_HIGH, signal.SIGINT, self._stop, 0),
            GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGHUP, self._on_hangup),
        ]
        closed = self._bus.con.connect("closed", lambda *_: self._stop(1))
        if seconds := watchdog_seconds(os.environ, os.getpid()):
            sources.append(GLib.timeout_add_seconds(seconds, self._on_watchdog, seconds))
        coroutines.spawn(self._start())
        try:
            self._loop.run()
        finally:
            self._notify("STOPPING=1")
            for source in sources:
                GLib.source_remove(source)
            self._bus.con.disconnect(closed)
            self._service.stop()
            if not self._bus.con.is_closed():
                self._service.objects.clear()
            self._bus.close()
            coroutines.close_waiting()
        return self._status

    # --- start and stop -------------------------------------------------------------------------

    async def _start(self) -> None:
        """Reconcile with the kernel, then take calls."""
        try:
            found = await self._service.reconciler.reconcile()
            await self._take_name()
            self._service.modules.watch()
        except KspliceError as e:
            _log.critical("%s", e)
            self._stop(1)
            return
        except Exception:
            _log.exception("the daemon cannot start")
            self._stop(1)
            return
        infos = await self._service.worker.list_updates()
        applied = [info.kid for info in infos if info.stage is Stage.APPLIED]
        self._journal.write(about_start(self._engine.doors.kernel.release(), applied))
        self._notify("READY=1")
        coroutines.spawn(self._write_metrics())  # or delete the file of an earlier configuration
        await self._resume(found)
        self._service.heartbeat.start()
        # only now, or what is dropped meanwhile would be found by both
        self._service.drops.watch()
        await self._service.drops.scan()

    async def _resume(self, found: Reconciliation) -> None:
        """Report what is not applied again, and go on with what is to be applied."""
        for kid, why in found.waiting.items():
            self._journal.write(about_waiting(kid, why))
        if self._why_disabled():
            return
        if self._engine.doors.settings.apply_at_boot:
            missing = await self._service.worker.run(self._engine.missing)
            for kid in found.reapply:
                if missing.get(kid) == NOT_YET:
                    self._journal.write(about_waiting(kid, _NOT_AT_BOOT))
        await self._service.automatic.resume()

    async def _take_name(self) -> None:
        args = GLib.Variant("(su)", (names.BUS_NAME, _DO_NOT_QUEUE))
        reply = await call_bus(self._bus.con, DBUS, "RequestName", args)
        if reply.unpack() != (_PRIMARY_OWNER,):
            raise HostError(f"{names.BUS_NAME} is taken on this bus: another ksplicd runs")

    def _stop(self, status: int) -> bool:
        self._status = status
        self._loop.quit()
        return True  # the source stays: run() removes it

    # --- while it runs --------------------------------------------------------------------------

    def _on_shown(self, infos: Sequence[UpdateInfo]) -> None:
        """Have ``systemctl status`` and the metrics show what is applied, and what is missing."""
        applied = sum(info.stage is Stage.APPLIED for info in infos)
        coroutines.spawn(self._notify_status(f"{applied} of {len(infos)} updates applied"))
        if self._engine.doors.settings.metrics_file is not None:
            coroutines.spawn(self._write_metrics())

    async def _notify_status(self, text: str) -> None:
        try:
            missing = await self._service.worker.run(self._engine.missing)
        except KspliceError as e:
            text += f"; what is wanted and not applied is not known: {e}"
        else:
            text += f"; wanted and not applied: {' '.join(missing)}" if missing else ""
        self._notify(f"STATUS={text}")

    async def _write_metrics(self) -> None:
        try:
            await self._service.worker.run(self._engine.write_metrics)
        except KspliceError as e:
            _log.error("the metrics are not written: %s", e)

    def _on_hangup(self) -> bool:
        self._notify("RELOADING=1")
        try:
            self._engine.doors.settings = read_settings(self._config)
            keep_copy(self._config, self._engine.doors.store.config_copy)
            coroutines.spawn(self._reconcile())
            if not self._why_disabled():
                coroutines.spawn(self._service.automatic.apply_missing())
                coroutines.spawn(self._service.automatic.apply_dropped())
            coroutines.spawn(self._service.drops.scan())
            coroutines.spawn(self._write_metrics())
        except KspliceError as e:
            _log.error("the old configuration stays in force: %s", e)
        self._notify("READY=1")
        return True  # the next one counts too

    async def _reconcile(self) -> None:
        await self._service.reconciler.try_reconcile()

    def _on_watchdog(self, seconds: int) -> bool:
        if why := self._service.worker.why_stuck(seconds):
            self._give_up(why)
        self._notify("WATCHDOG=1")
        return True  # again

    def _give_up(self, why: str) -> None:
        """End, and be started again: the worker's thread is stuck, and nobody could end it.

        The kernel may keep the process until what the thread waits for comes.  So the name is given
        back first, and the watchdog, which hears no more, has systemd start another one.
        """
        _log.critical("the engine is stuck: %s; the service ends, and is started again", why)
        self._bus.close()
        logging.shutdown()
        os._exit(1)


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> int:
    """Return the seconds between two notices to the watchdog: two in each WatchdogSec=.

    0 when there is no watchdog, or it is of another process (sd_watchdog_enabled(3)).
    """
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0
    return int(environment.get("WATCHDOG_USEC", "0")) // 2_000_000


def introspect(name: str) -> int:
    """Print the XML of one of our interfaces, or the names of all."""
    xml = {cls.interface: cls.xml() for cls in (Manager, Update, Job)}
    if name != "list" and name not in xml:
        sys.stderr.write(f"ksplicd: no interface {name}; there are {', '.join(xml)}\n")
        return 1
    sys.stdout.write(xml[name] if name in xml else "".join(f"{known}\n" for known in xml))
    return 0


def run_boot(engine: Engine, journal: Journal, disabled: str) -> int:
    """Apply again what is wanted; the daemon does not run yet.

    Returns 1 when something is missing that neither a person nor policy has turned off, so that the
    unit shows as failed.
    """

    def on_event(event: Event) -> None:
        if entry := about_event(event):
            journal.write(entry)

    engine.doors.on_event = on_event
    boot.apply_again(engine, lambda kid, why: journal.write(about_waiting(kid, why)), disabled)
    is_off = bool(disabled) or not engine.doors.settings.apply_at_boot
    missing = {} if is_off else engine.missing()
    for kid, why in missing.items():
        _log.error("update %s is wanted and not applied: %s", kid, why)
    return 1 if missing else 0


def run_shutdown(engine: Engine) -> int:
    """Note that the machine is being shut down, for the crash guard; the daemon has stopped."""
    engine.open()
    engine.soak.mark_clean()
    return 0


def check_config(path: Path) -> int:
    """Say what is wrong with the configuration, for an administrator and for ExecReload=."""
    try:
        read_settings(path)
    except ConfigFileError as e:
        _log.error("%s", e)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ksplicd's command line."""
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
    short.add_argument(
        "--check-config", action="store_true", help="check the configuration, and exit"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon on the system bus, or do one of the short jobs beside it."""
    args = build_parser().parse_args(argv)
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(LogFormatter(os.environ))
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr])
    if args.bus_introspect:
        return introspect(args.bus_introspect)
    if args.check_config:
        return check_config(args.config)
    from systemd.daemon import notify

    store = Store(args.store)
    try:
        # a typo must not make a clean shutdown look like a crash
        settings, mistake = Settings(), ""
        if not args.shutdown:
            copy = store.config_copy
            settings, mistake = last_good.read_settings(args.config, copy, or_defaults=args.boot)
        if mistake:
            _log.critical("%s", mistake)
        engine = Engine(
            Doors(
                store=store,
                kernel=LinuxKernel(),
                keyring=Keyring(args.keys, os.geteuid()),
                clock=SystemClock(),
                settings=settings,
                find_crash=CrashTraces().find,
                owner=os.geteuid(),
            )
        )
        if args.shutdown:
            return run_shutdown(engine)
        if args.boot:
            return run_boot(engine, SystemJournal(), boot.why_disabled())
        surroundings = Surroundings(why_disabled=boot.why_disabled)
        daemon = Daemon(
            engine, connect(args.bus), journal=SystemJournal(), config=args.config,
            notify=notify, surroundings=surroundings,
        )  # fmt: skip
    except (KspliceError, GLib.Error) as e:
        _log.critical("%s", e)
        return 1
    return daemon.run()

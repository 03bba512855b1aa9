# SPDX-License-Identifier: GPL-2.0-only
"""The daemon, as the command sees it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.bus.errors import class_of, text_of
from ksplicd.cli import output
from ksplicd.errors import KspliceError, NoDaemonError, PermissionDeniedError, by_abort_cause
from ksplicd.memory_file import open_memory_file

_NO_TIMEOUT: Final = GLib.MAXINT
_PAGE: Final = 1000
"""Hunks that are asked for at a time."""
_REFUSED_SECONDS: Final = 30.0
"""For how long a call that the bus has no room for is made again."""
_REFUSED_PAUSE: Final = 0.05
_INTERACTIVE: Final = Gio.DBusCallFlags.ALLOW_INTERACTIVE_AUTHORIZATION

Properties = dict[str, Any]
"""The properties of an object on the bus, values as plain Python data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """How a job ended."""

    job: int
    kid: str
    result: str
    """``done`` or an abort cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusObjects:
    """The objects on the bus now."""

    updates: tuple[Properties, ...] = ()
    """By kid."""
    jobs: tuple[Properties, ...] = field(default=())


class Client:
    """A connection to the bus that the daemon is on."""

    def __init__(self, connection: Gio.DBusConnection, timeout: int = 0) -> None:
        """Wait at most ``timeout`` seconds for each answer; 0: without limit."""
        self._connection = connection
        self._timeout = timeout

    # --- requests ------------------------------------------------------------------------------

    def stage(self, bundle: bytes, signature: bytes | None) -> str:
        """Hand the daemon a bundle; returns its kid."""
        options = {} if signature is None else {"signature": GLib.Variant("ay", signature)}
        fd = open_memory_file("ksplice-bundle")
        with os.fdopen(fd, "w+b") as f:
            f.write(bundle)
            f.flush()
            fds = Gio.UnixFDList.new()
            args = GLib.Variant("(ha{sv})", (fds.append(fd), options))
            kid, _ = self._call("Stage", args, fds=fds)
        return str(kid)

    def apply(self, kid: str) -> EndedJob:
        """Apply an update and wait for the end of the transition."""
        return self._run_job("Apply", kid)

    def undo(self, kid: str) -> EndedJob:
        """Undo an update and wait for the end of the transition."""
        return self._run_job("Undo", kid)

    def release(self, kid: str) -> None:
        """Let a quarantined update be applied again."""
        self._call("Release", GLib.Variant("(st)", (kid, 0)))

    def remove(self, kid: str) -> None:
        """Have the daemon delete the bundle of an update."""
        self._call("Remove", GLib.Variant("(st)", (kid, 0)))

    def describe(self, kid: str) -> Properties:
        """Return everything known about an update."""
        (known,) = self._call("Describe", GLib.Variant("(s)", (kid,)))
        return dict(known)

    def history(self, limit: int = 0) -> list[Properties]:
        """Return the last ``limit`` events (0: as many as one answer holds), newest first."""
        (events,) = self._call("ListHistory", GLib.Variant("(tu)", (0, limit)))
        return list(events)

    def hunks(self, kid: str, count: int) -> list[Properties]:
        """Return the ledger of an update, which has ``count`` hunks, page by page."""
        found: list[Properties] = []
        where = {"path": names.update_path(kid), "interface": names.UPDATE}
        while len(found) < count:
            args = GLib.Variant("(tuu)", (0, len(found), _PAGE))
            (page,) = self._call("ListHunks", args, **where)
            if not page:
                break  # another bundle of this id was staged meanwhile
            found += page
        return found

    def conflicts(self, job: int) -> list[tuple[int, str, str, str]] | None:
        """Return who holds a job up: pid, command, stack, function; None: it is not told to us.

        No password is asked for.
        """
        where = {"path": names.job_path(job), "interface": names.JOB}
        try:
            args = GLib.Variant("(t)", (0,))
            (found,) = self._call("ListConflicts", args, flags=Gio.DBusCallFlags.NONE, **where)
        except PermissionDeniedError:
            return None
        except KspliceError:
            return []  # it has ended meanwhile
        return [*found]

    def service(self) -> Properties:
        """Return the service's own properties."""
        args = GLib.Variant("(s)", (names.MANAGER,))
        (known,) = self._call("GetAll", args, interface=names.PROPERTIES)
        return dict(known)

    def objects(self) -> BusObjects:
        """Return every update and job."""
        (objects,) = self._call("GetManagedObjects", None, interface=names.OBJECT_MANAGER)
        updates = [o[names.UPDATE] for o in objects.values() if names.UPDATE in o]
        jobs = [o[names.JOB] for o in objects.values() if names.JOB in o]
        return BusObjects(
            updates=tuple(sorted(updates, key=lambda update: str(update["Kid"]))),
            jobs=tuple(sorted(jobs, key=lambda job: int(job["Id"]))),
        )

    # --- details -------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        args: GLib.Variant | None,
        *,
        path: str = names.ROOT_PATH,
        interface: str = names.MANAGER,
        fds: Gio.UnixFDList | None = None,
        flags: Gio.DBusCallFlags = _INTERACTIVE,
    ) -> tuple[Any, ...]:
        """Call the daemon; raises the ``KspliceError`` that it raised, or ``NoDaemonError``."""
        call = self._connection.call_with_unix_fd_list_sync
        where = (names.BUS_NAME, path, interface, method)
        patience = 1000 * self._timeout or _NO_TIMEOUT
        end = time.monotonic() + (self._timeout or _REFUSED_SECONDS)
        while True:
            try:
                reply, _ = call(*where, args, None, flags, patience, fds, None)
            except GLib.Error as e:
                if e.matches(Gio.io_error_quark(), Gio.IOErrorEnum.TIMED_OUT):
                    raise NoDaemonError(f"ksplicd has not answered for {self._timeout} s") from e
                if not _is_refused(e) or time.monotonic() >= end:
                    raise _translate(e) from e
                time.sleep(_REFUSED_PAUSE)
            else:
                return tuple(reply.unpack())

    def _run_job(self, method: str, kid: str) -> EndedJob:
        """Start a job and wait for its end; Ctrl-C cancels it, as soon as it has begun.

        Raises the ``ApplyError`` of the result when the goal is not reached.
        """
        loop = GLib.MainLoop()
        ended: dict[int, EndedJob] = {}

        def on_removed(*signal_args: Any) -> None:
            job, _path, of_kid, result = signal_args[-1].unpack()
            ended[job] = EndedJob(job=job, kid=of_kid, result=result)
            loop.quit()

        path = ""
        with self._watch_jobs(on_removed, loop) as has_stopped:
            # the loop does not run before there is a path
            cancel = GLib.unix_signal_add(
                GLib.PRIORITY_HIGH, signal.SIGINT, lambda: self._cancel(path)
            )
            try:
                job, path = self._call(method, GLib.Variant("(st)", (kid, 0)))
                while job not in ended and not has_stopped():
                    loop.run()
            finally:
                GLib.source_remove(cancel)
        if job not in ended:
            raise NoDaemonError(
                f"{kid}: ksplicd stopped; the kernel continues. See `ksplice status`"
            )
        return self._check_result(ended[job], method)

    def _check_result(self, job: EndedJob, method: str) -> EndedJob:
        """Return a job that is done; raise the error for any other result."""
        if job.result == names.DONE:
            return job
        detail = next((u["Detail"] for u in self.objects().updates if u["Kid"] == job.kid), "")
        failed = "not applied" if method == "Apply" else "not undone"
        raise by_abort_cause(job.result)(
            f"{job.kid}: {failed}: {job.result}" + (f": {detail}" if detail else "")
        )

    def _cancel(self, path: str) -> bool:
        try:
            self._call("Cancel", None, path=path, interface=names.JOB)
        except KspliceError as e:
            output.print_error(f"ksplice: not cancelled: {e}")
        return True  # keep the source: a second Ctrl-C does no harm

    @contextmanager
    def _watch_jobs(
        self, on_removed: Callable[..., None], loop: GLib.MainLoop
    ) -> Iterator[Callable[[], bool]]:
        """Watch for jobs that end, and for the daemon's end; yields "has it stopped"."""
        bus, stopped = self._connection, []

        def on_owner(*signal_args: Any) -> None:
            if not signal_args[-1].unpack()[2]:
                stopped.append(True)
                loop.quit()

        none = Gio.DBusSignalFlags.NONE
        subscriptions = [
            bus.signal_subscribe(
                names.BUS_NAME, names.MANAGER, "JobRemoved", None, None, none, on_removed
            ),
            bus.signal_subscribe(
                names.DBUS, names.DBUS, "NameOwnerChanged", None, names.BUS_NAME, none, on_owner
            ),
        ]
        try:
            yield lambda: bool(stopped)
        finally:
            for subscription in subscriptions:
                bus.signal_unsubscribe(subscription)


def connect(timeout: int = 0) -> Client:
    """Return a client on the system bus; ``DBUS_SYSTEM_BUS_ADDRESS`` names another one."""
    try:
        return Client(Gio.bus_get_sync(Gio.BusType.SYSTEM, None), timeout)
    except GLib.Error as e:
        raise NoDaemonError(f"the system bus cannot be reached: {text_of(e)}") from e


def _is_refused(error: GLib.Error) -> bool:
    """Return whether a call has not reached the daemon, because others fill the bus or its gate."""
    return bool(error.matches(Gio.dbus_error_quark(), Gio.DBusError.LIMITS_EXCEEDED))


def _translate(error: GLib.Error) -> KspliceError:
    """Return our error for one that came over the bus."""
    if cls := class_of(error):
        return cls(text_of(error))
    if error.matches(Gio.dbus_error_quark(), Gio.DBusError.SERVICE_UNKNOWN):
        return NoDaemonError("ksplicd is not running; start it with: systemctl start ksplicd")
    return NoDaemonError(f"ksplicd: {text_of(error)}")

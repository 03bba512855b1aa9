# SPDX-License-Identifier: GPL-2.0-only
"""The root object: what callers ask of the daemon."""

import os
import stat
from collections.abc import Callable
from itertools import islice
from typing import Final

from gi.repository import GLib

from ksplicd import __version__
from ksplicd.bundle import MAX_BUNDLE_SIZE
from ksplicd.bus import names
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.errors import refuse_unknown_flags, refuse_unknown_options
from ksplicd.bus.interface import BusObject, Signal, method, readable, to_microseconds
from ksplicd.bus.job import Job
from ksplicd.bus.jobs import Ended, Jobs
from ksplicd.bus.names import Action
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.shown import Shown
from ksplicd.bus.wrapper import MAX_ANSWER, Call
from ksplicd.errors import BadBundleError
from ksplicd.host.stages import Actor, Direction, Event, UpdateInfo

STAGE_OPTIONS: Final = {"signature": "ay"}


class Manager(BusObject, interface=names.MANAGER):
    """Updates of this host."""

    JobNew = Signal("t job, o path")
    JobRemoved = Signal("t job, o path, s kid, s result")
    TripwireHit = Signal("s kid, s cve, s place, a{sv} details")

    def __init__(
        self,
        worker: EngineWorker,
        jobs: Jobs,
        shown: Shown,
        polkit: Polkit,
        why_disabled: Callable[[], str],
    ) -> None:
        """``why_disabled`` returns why nothing is applied automatically, or nothing."""
        self._worker = worker
        self._engine = worker.engine
        self._jobs = jobs
        self._shown = shown
        self._polkit = polkit
        self._why_disabled = why_disabled
        self._sizes: dict[str, int] = {}
        self._missing: dict[str, str] = {}
        self._stale: list[str] = []
        jobs.on_new.append(self._on_job_new)
        jobs.on_ended.append(self._on_job_ended)

    def _on_job_new(self, job: Job) -> None:
        self.JobNew(job.number, job.path)

    def _on_job_ended(self, job: Job, ended: Ended) -> None:
        self.JobRemoved(job.number, job.path, job.transition.kid, ended.result)

    async def refresh(self) -> None:
        """Ask the store for its sizes, and what is missing.  Raises ``StoreError``."""
        self._sizes = await self._worker.run(self._engine.doors.store.sizes)
        self._missing = await self._worker.run(self._engine.missing)
        self._stale = await self._worker.run(self._engine.staging.stale)

    @readable("s", emits="const")
    def version(self) -> str:
        """Return the version of the service."""
        return __version__

    @readable("s", emits="const")
    def kernel(self) -> str:
        """Return the release of the running kernel."""
        return self._engine.doors.kernel.release()

    @readable("s", emits="false")
    def disabled(self) -> str:
        """Return why nothing is applied automatically; empty when it is."""
        return self._why_disabled()

    @readable("a{ss}", emits="false")
    def wanted_missing(self) -> dict[str, str]:
        """Return the updates that are wanted for this kernel and not applied; kid and reason."""
        return self._missing

    @readable("as", emits="false")
    def stale(self) -> list[str]:
        """Return the stored updates whose kernels are not installed here any more."""
        return self._stale

    @readable("t", emits="false")
    def last_check(self) -> int:
        """Return when the service last compared its records with the kernel: µs since 1970."""
        return to_microseconds(self._engine.last_check.time)

    @readable("t", emits="false")
    def last_check_monotonic(self) -> int:
        """Return the same on CLOCK_MONOTONIC."""
        return to_microseconds(self._engine.last_check.up)

    @readable("a{st}", emits="false")
    def store_size(self) -> dict[str, int]:
        """Return the bytes of each part of the store: updates, rejected, history, dropped."""
        return self._sizes

    @readable("a{st}", emits="false")
    def store_limit(self) -> dict[str, int]:
        """Return the bytes that a part may have, where it has a limit."""
        return self._engine.doors.settings.limits()

    @method("t flags", "a(sso) updates")
    async def list_updates(self, call: Call, flags: int) -> list[tuple[str, str, str]]:
        """Return (kid, stage, path) of every update."""
        refuse_unknown_flags(flags)
        await self._polkit.check_inspect(call)
        infos = await self._worker.list_updates()
        return [(info.kid, info.stage.value, names.update_path(info.kid)) for info in infos]

    @method("h bundle, a{sv} options", "s kid, o path")
    async def stage(
        self, call: Call, bundle: int, options: dict[str, GLib.Variant]
    ) -> tuple[str, str]:
        """Verify a bundle and keep it; option ``signature`` (``ay``) is its minisign signature."""
        refuse_unknown_options(options, STAGE_OPTIONS)
        await self._polkit.check(call, Action.STAGE)
        actor = await self._polkit.read_actor(call)
        signature = bytes(options["signature"].unpack()) if "signature" in options else None
        fd = call.take_fd(bundle)
        info = await self._worker.run(self._stage, fd, signature, actor)
        await self._shown.show()
        return info.kid, names.update_path(info.kid)

    def _stage(self, fd: int, signature: bytes | None, actor: Actor) -> UpdateInfo:
        """Read and stage in one go: of many bundles at once, one is in memory."""
        return self._engine.stage(_read_bundle(fd), signature, actor)

    @method("s kid", "a{sv} description")
    async def describe(self, call: Call, kid: str) -> dict[str, GLib.Variant]:
        """Return everything known about an update."""
        await self._polkit.check_inspect(call)
        known = await self._worker.run(self._engine.describe, kid)
        return {key: _to_variant(value) for key, value in known.items()}

    @method("s kid, t flags", "t job, o path")
    async def apply(self, call: Call, kid: str, flags: int) -> tuple[int, str]:
        """Verify, load, match and start to switch; the job ends with the transition."""
        return await self._jobs.serve(call, Direction.APPLY, kid, flags)

    @method("s kid, t flags", "t job, o path")
    async def undo(self, call: Call, kid: str, flags: int) -> tuple[int, str]:
        """Start to switch back; the job ends when the old code runs and all is unloaded."""
        return await self._jobs.serve(call, Direction.UNDO, kid, flags)

    @method("s kid, t flags")
    async def release(self, call: Call, kid: str, flags: int) -> None:
        """Let an update that is quarantined be applied again."""
        refuse_unknown_flags(flags)
        await self._polkit.check(call, Action.APPLY, kid=kid)
        actor = await self._polkit.read_actor(call)
        await self._worker.run(self._engine.release, kid, actor)
        await self._shown.show()

    @method("s kid, t flags")
    async def remove(self, call: Call, kid: str, flags: int) -> None:
        """Delete the bundle of an update that is not applied."""
        refuse_unknown_flags(flags)
        await self._polkit.check(call, Action.STAGE, kid=kid)
        actor = await self._polkit.read_actor(call)
        await self._worker.run(self._engine.remove, kid, actor)
        await self._shown.show()

    @method("t flags, u limit", "aa{sv} events")
    async def list_history(self, call: Call, flags: int, limit: int) -> GLib.Variant:
        """Return the last ``limit`` events (0: as many as one answer holds), newest first."""
        refuse_unknown_flags(flags)
        await self._polkit.check_inspect(call)
        return await self._worker.run(self._pack_history, limit)

    def _pack_history(self, limit: int) -> GLib.Variant:
        """Return the events as ``aa{sv}``; there may be many, and this is the worker's thread."""
        found: list[GLib.Variant] = []
        size = 0
        for event in islice(self._engine.records.events(), limit or None):
            packed = GLib.Variant("a{sv}", _describe_event(event))
            size += packed.get_size()
            if found and size > MAX_ANSWER:
                break
            found.append(packed)
        return GLib.Variant.new_array(GLib.VariantType("a{sv}"), found)


def _describe_event(event: Event) -> dict[str, GLib.Variant]:
    """Return an event as the bus shows it; ``Time`` is in microseconds since 1970, UTC."""
    return {
        "Time": GLib.Variant("t", to_microseconds(event.time)),
        "BootId": GLib.Variant("s", event.boot_id),
        "Kid": GLib.Variant("s", event.kid),
        "Stage": GLib.Variant("s", event.stage.value),
        "Cause": GLib.Variant("s", event.cause),
        "Detail": GLib.Variant("s", event.detail),
        "Uid": GLib.Variant("u", event.actor.uid),
        "Pid": GLib.Variant("u", event.actor.pid),
        "Unit": GLib.Variant("s", event.actor.unit),
        "Via": GLib.Variant("s", event.actor.via.value),
    }


def _to_variant(value: str | int | list[str]) -> GLib.Variant:
    match value:
        case str():
            return GLib.Variant("s", value)
        case int():
            return GLib.Variant("x", value)
        case list():
            return GLib.Variant("as", value)


def _read_bundle(fd: int) -> bytes:
    """Return the whole file behind ``fd`` and close it.

    Raises ``BadBundleError`` if it is no regular file (a pipe could keep us waiting) or too large.
    Its owner may write to the file meanwhile: only the bytes that are returned are used.
    """
    with open(fd, "rb", buffering=0):
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise BadBundleError("the descriptor is no regular file; pass an open bundle file")
        if about.st_size > MAX_BUNDLE_SIZE:
            raise BadBundleError(f"the file has {about.st_size} bytes; at most {MAX_BUNDLE_SIZE}")
        parts, pos = [], 0
        size = about.st_size + 1
        try:
            while pos <= MAX_BUNDLE_SIZE and (part := os.pread(fd, size, pos)):
                parts.append(part)  # one, as a rule, which is then not copied
                pos += len(part)
                size = 1 << 20
        except OSError as e:  # opened for writing only, or with O_PATH
            raise BadBundleError(f"the descriptor cannot be read: {e.strerror}") from None
    if pos > MAX_BUNDLE_SIZE:
        raise BadBundleError(f"the file has more than {MAX_BUNDLE_SIZE} bytes")
    return b"".join(parts)

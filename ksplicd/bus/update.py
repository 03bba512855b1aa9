# SPDX-License-Identifier: GPL-2.0-only
"""An update as an object on the bus; its stage is the kernel's truth at each reading.

Its ledger may have thousands of hunks, and is a method that answers by pages.
"""

import dataclasses
from typing import Final, Protocol

from gi.repository import GLib

from ksplicd.bus import names
from ksplicd.bus.engine_worker import EngineWorker
from ksplicd.bus.errors import refuse_unknown_flags
from ksplicd.bus.interface import BusObject, method, readable, to_microseconds
from ksplicd.bus.wrapper import MAX_ANSWER, Call, Guard
from ksplicd.host.stages import Direction, UpdateInfo
from ksplicd.model import Hunk, Ledger, Manifest, Stage

_MOST_HUNKS: Final = 1000
"""Hunks in one answer.  They take half a second of the engine's thread, and everybody may ask."""


class Starter(Protocol):
    """Starts jobs for callers (``jobs``)."""

    async def serve(
        self, call: Call, direction: Direction, kid: str, flags: int
    ) -> tuple[int, str]:
        """Apply or undo; returns the job's number and path."""


class Update(BusObject, interface=names.UPDATE):
    """One update, whatever its stage."""

    def __init__(
        self, worker: EngineWorker, starter: Starter, check_inspect: Guard, info: UpdateInfo
    ) -> None:
        self._worker = worker
        self._starter = starter
        self._check_inspect = check_inspect
        self._info = info
        self._packed: GLib.Variant | None = None

    async def refresh(self) -> None:
        """Ask the kernel where the update is.  Raises ``NoSuchUpdateError``."""
        self.show(await self._worker.get_update(self._info.kid))

    def show(self, info: UpdateInfo) -> None:
        """Show ``info`` from now on, and send PropertiesChanged for what is new in it."""
        if info == self._info:
            return
        before, self._info, self._packed = self.get_all(), info, None
        self.send_changes(name for name, v in self.get_all().items() if not v.equal(before[name]))

    def packed(self) -> GLib.Variant:
        """Return interface and properties, packed once: one call may ask for a hundred updates."""
        if self._packed is None:
            self._packed = super().packed()
        return self._packed

    def show_stage(self, stage: Stage, cause: str) -> None:
        """Show a stage that was just reached, while the engine is still at work."""
        self.show(dataclasses.replace(self._info, stage=stage, abort_cause=cause))

    @method("t flags", "t job, o path")
    async def apply(self, call: Call, flags: int) -> tuple[int, str]:
        """Apply it, as the Manager's method does."""
        return await self._starter.serve(call, Direction.APPLY, self._info.kid, flags)

    @method("t flags", "t job, o path")
    async def undo(self, call: Call, flags: int) -> tuple[int, str]:
        """Undo it, as the Manager's method does."""
        return await self._starter.serve(call, Direction.UNDO, self._info.kid, flags)

    @method("t flags, u offset, u limit", "aa{sv} hunks")
    async def list_hunks(self, call: Call, flags: int, offset: int, limit: int) -> GLib.Variant:
        """Return ``limit`` hunks of the ledger (0: as many as one answer holds) from ``offset``.

        ``Hunks`` is how many there are; a page may be shorter than was asked for.
        """
        refuse_unknown_flags(flags)
        await self._check_inspect(call)
        return await self._worker.run(pack_hunks, self._info.manifest, offset, limit)

    @readable("s")
    def kid(self) -> str:
        """Return the update's id."""
        return self._info.kid

    @readable("s")
    def stage(self) -> str:
        """Return a ``model.Stage``."""
        return self._info.stage.value

    @readable("s")
    def abort_cause(self) -> str:
        """Return why it failed last, or the empty string."""
        return self._info.abort_cause

    @readable("s")
    def detail(self) -> str:
        """Return the same for people."""
        return self._info.detail

    @readable("s")
    def description(self) -> str:
        """Return the description by its author."""
        return self._info.manifest.description

    @readable("as")
    def targets(self) -> list[str]:
        """Return ``vmlinux`` and the modules that it patches."""
        return [target.name for target in self._info.manifest.targets]

    @readable("as")
    def cves(self) -> list[str]:
        """Return the CVE ids that it fixes."""
        return list(self._info.manifest.cves)

    @readable("s")
    def kernel(self) -> str:
        """Return the kernel release that it was built for."""
        return self._info.manifest.kernel.release

    @readable("b")
    def wanted(self) -> bool:
        """Return whether it is to be applied, whatever happened to it."""
        return self._info.is_wanted

    @readable("t")
    def since(self) -> int:
        """Return when it came to its stage, in microseconds since 1970; 0: it is not known."""
        return to_microseconds(self._info.since)

    @readable("t")
    def since_monotonic(self) -> int:
        """Return the same on CLOCK_MONOTONIC; 0: in another boot, or it is not known."""
        return to_microseconds(self._info.since_up)

    @readable("b")
    def soaked(self) -> bool:
        """Return whether it has run for its soak time in this boot."""
        return self._info.is_soaked

    @readable("b")
    def complete(self) -> bool:
        """Return whether its ledger accounts for the whole patch; a bundle may have no ledger."""
        return self._info.manifest.is_complete

    @readable("u")
    def hunks(self) -> int:
        """Return how many hunks its ledger has; 0: it has no ledger."""
        return len((self._info.manifest.ledger or Ledger()).hunks)


def pack_hunks(manifest: Manifest, offset: int, limit: int) -> GLib.Variant:
    """Return a page of the ledger as ``aa{sv}``; there may be many, and this is a worker's job."""
    end = offset + min(limit or _MOST_HUNKS, _MOST_HUNKS)
    hunks = (manifest.ledger or Ledger()).hunks[offset:end]
    redirects = manifest.redirects if hunks else []
    found: list[GLib.Variant] = []
    size = 0
    for hunk in hunks:
        packed = GLib.Variant("a{sv}", _describe_hunk(hunk, redirects))
        size += packed.get_size()
        if found and size > MAX_ANSWER:
            break
        found.append(packed)
    return GLib.Variant.new_array(GLib.VariantType("a{sv}"), found)


def _describe_hunk(hunk: Hunk, redirects: list[str]) -> dict[str, GLib.Variant]:
    """Return a hunk as the bus shows it; its places are a first line and a number of lines."""
    return {
        "File": GLib.Variant("s", hunk.file),
        "Before": GLib.Variant("(uu)", hunk.before),
        "After": GLib.Variant("(uu)", hunk.after),
        "Account": GLib.Variant("s", hunk.account.value),
        "By": GLib.Variant("as", [redirects[i] for i in hunk.by]),
        "More": GLib.Variant("u", hunk.more),
        "Note": GLib.Variant("s", hunk.note),
        "Accepted": GLib.Variant("b", hunk.is_accepted),
    }

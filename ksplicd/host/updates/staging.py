# SPDX-License-Identifier: GPL-2.0-only
"""How bundles come in and go: the first arrow of the engine's story, and the way out.

::

    dropped ─verify▸ staged ─remove▸ removed
       └▸ rejected

What is known of the updates, and is asked most, is here too.  Nothing here touches the kernel.
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksplicd.config import Settings
from ksplicd.errors import (
    AlreadyStagedError,
    BundleError,
    HostError,
    InUseError,
    NoSuchUpdateError,
    ReplayedError,
    StoreError,
    StoreFullError,
    cause_of,
)
from ksplicd.host.clock import Clock
from ksplicd.host.kernel.door import KernelDoor
from ksplicd.host.stages import DAEMON, Actor, Event, UpdateInfo, is_moving
from ksplicd.host.store.crash_guard import Guard
from ksplicd.host.store.drop_dir import Drop, DropDir, mark
from ksplicd.host.store.store import Store, Stored
from ksplicd.host.trust import verify
from ksplicd.host.trust.keyring import Keyring
from ksplicd.host.updates.records import Book
from ksplicd.model import Stage

_FILE_KID: Final = re.compile(r"ksplice-([a-z0-9]{8})\.tar\.gz")


@dataclass(eq=False, repr=False)
class Intake:
    """The store, and who may put what into it."""

    store: Store
    kernel: KernelDoor
    keyring: Keyring
    settings: Settings
    """May be replaced at any time."""
    clock: Clock
    on_event: Callable[[Event], None] = lambda event: None
    owner: int = field(default=0, kw_only=True)
    """The user who may drop bundles."""

    def __post_init__(self) -> None:
        self._guard = Guard(self.store.guard_file)
        self._book = Book(
            self.store,
            self.kernel,
            self.clock,
            lambda event: self.on_event(event),
            lambda: self.settings.limits()["history"],
        )

    # --- questions ------------------------------------------------------------------------------

    def list_updates(self) -> list[UpdateInfo]:
        """Return every update of the store and every one found in the kernel, by kid."""
        return self._book.infos()

    def get_update(self, kid: str) -> UpdateInfo:
        """Return one update, its stage as the kernel shows it.  Raises ``NoSuchUpdateError``."""
        if not self._book.has(kid):
            raise NoSuchUpdateError(f"{kid}: no update of this id is known here")
        return self._book.info(kid)

    # --- dropped ─verify▸ staged ----------------------------------------------------------------

    def stage_file(self, path: Path, sig_path: Path | None, actor: Actor) -> UpdateInfo:
        """Take a dropped bundle in: verify it, keep it under ``updates/KID/``, remove the drop.

        On a ``BundleError`` or ``HostError`` the files are moved to ``rejected/`` with a
        ``.reason`` beside them, the event is REJECTED, and the error is raised.  A ``StoreError``
        or ``KeyFileError`` (our fault, not the file's) leaves the drop where it is.  So does a
        ``FileNotFoundError``, when a file is gone again: another of its name may be there by now.
        """
        marks = mark(path), mark(sig_path) if sig_path is not None else None
        drop = Drop(bundle=path, signature=sig_path, marks=marks)
        folder = DropDir(path.parent, require_signature=self.settings.require_signature)
        try:
            data = verify.read_file(path, owner=self.owner)
            signature = None
            if sig_path is not None:
                signature = verify.read_file(sig_path, verify.MAX_SIGNATURE_SIZE, self.owner)
            info = self.stage(data, signature, actor)
        except StoreError:
            raise
        except (BundleError, HostError) as e:
            place = folder.reject(drop, e)
            claimed = _FILE_KID.fullmatch(path.name)
            self._book.record(
                claimed[1] if claimed else "",
                Stage.REJECTED,
                actor,
                cause=cause_of(e),
                detail=f"{e} (moved to {place})",
            )
            with contextlib.suppress(StoreError):  # why it was rejected tells more
                folder.prune(self.settings.limits()["rejected"])
            raise
        folder.forget(drop)
        return info

    def stage(self, bundle: bytes, signature: bytes | None, actor: Actor) -> UpdateInfo:
        """Verify a bundle and keep it; the same bytes again change nothing.

        Raises ``BadSignatureError``, ``BadBundleError``, ``WrongKernelError``,
        ``ModulePresentError``, ``AlreadyStagedError`` (same kid, other bytes), ``KeyFileError``,
        ``StoreError``.
        """
        stored = Stored(bundle=bundle, signature=signature)
        trusted = self._check(stored)
        manifest = trusted.bundle.manifest
        kid = manifest.kid
        verify.check_kernel(manifest, self.kernel)
        if self.store.has(kid):
            return self._stage_again(kid, stored, trusted, actor)
        if not self._book.is_in_kernel(kid):
            verify.check_modules(manifest, self.kernel)
        self._make_room(kid, stored)
        self._book.know(kid, trusted)
        self.store.add(kid, stored)
        if not self._book.is_in_kernel(kid):
            self._book.record(kid, Stage.STAGED, actor, detail=manifest.description)
        return self._book.info(kid)

    def _stage_again(
        self, kid: str, stored: Stored, trusted: verify.Trusted, actor: Actor
    ) -> UpdateInfo:
        before = self.store.read(kid)
        if before.bundle != stored.bundle:
            raise AlreadyStagedError(
                f"{kid}: another bundle of this id is stored; `ksplice remove {kid}` first, "
                "or build it with another id"
            )
        if stored.signature is not None and stored.signature != before.signature:
            self.store.set_signature(kid, stored.signature)
        self._book.know(kid, trusted)
        last = self._book.last(kid)
        if last is None or last.stage is Stage.REMOVED:  # it came when nothing could be written
            self._book.record(kid, Stage.STAGED, actor, detail=trusted.bundle.manifest.description)
        return self._book.info(kid)

    def remove(self, kid: str, actor: Actor, why: str = "") -> None:
        """Delete an update that is not applied; ``why`` is for the history.

        Raises ``InUseError``, ``NoSuchUpdateError``.
        """
        info = self.get_update(kid)
        if info.stage is Stage.APPLIED or is_moving(info.stage):
            raise InUseError(f"{kid}: is {info.stage}; undo it before it is removed")
        self._guard.forget(kid)
        self.store.take_out(kid)
        self._book.forget(kid)
        self._book.record(kid, Stage.REMOVED, actor, detail=why)
        with contextlib.suppress(StoreError):  # the next start sweeps
            self.store.sweep()

    def _make_room(self, kid: str, stored: Stored) -> None:
        """Remove unused updates until one more fits, that which moved longest ago first.

        An update is unused that was undone, or that is for another kernel.  ``StoreFullError``.
        """
        limit = self.settings.limits()["updates"]
        self.store.prepare()  # what is half written takes room too
        self._finish_removals(DAEMON)  # and so does what is half deleted
        more = self.store.sizes()["updates"] + len(stored.bundle) - limit
        unused = [old for old in self._book.in_order() if more > 0 and self._is_unused(old)]
        while more > 0 and unused:
            more -= len(self.store.read(unused[0]).bundle)
            self.remove(unused.pop(0), DAEMON, why=f"to make room for {kid}")
        if more > 0:
            raise StoreFullError(
                f"{kid}: does not fit into the {self.settings.store_limit} MiB of store-limit; "
                "`ksplice remove` what is not used, or raise it in ksplicd.conf"
            )

    def _is_unused(self, kid: str) -> bool:
        if not self.store.has(kid) or self._book.is_in_kernel(kid):
            return False
        stage = self._book.info(kid).stage
        is_idle = stage in {Stage.STAGED, Stage.FAILED}  # what is quarantined must stay so
        return stage is Stage.REVERSED or (is_idle and bool(self._book.why_other_kernel(kid)))

    def check_not_undone(self, kid: str) -> None:
        """Raise ``ReplayedError`` when an update was undone, or quarantined, and not applied since.

        Nothing but a person's call may apply it then: whoever drops an old bundle anew must not
        bring back what somebody took out, or what may have crashed the machine.
        """
        last = self._book.last(kid)
        if last is not None and last.stage is Stage.QUARANTINED:
            return  # it has to be released first: ``check_apply`` says so
        word = self._book.last_word(kid)
        if word is not None and word is not Stage.APPLIED:
            what = "undone" if word is Stage.REVERSED else "quarantined"
            raise ReplayedError(
                f"{kid}: was {what} here and is not applied by itself again; "
                f"`ksplice apply {kid}` applies it"
            )

    # --- detail ---------------------------------------------------------------------------------

    def _finish_removals(self, actor: Actor) -> None:
        """Record what was removed when the daemon was killed, or the disk was full."""
        for kid in self.store.taken_out():
            last = self._book.last(kid)
            if last is None or last.stage is not Stage.REMOVED:
                self._book.record(kid, Stage.REMOVED, actor)
        self.store.sweep()

    def _check(self, stored: Stored) -> verify.Trusted:
        return verify.check_bundle(stored, self.keyring, self.settings, self.clock.time())

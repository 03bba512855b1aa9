# SPDX-License-Identifier: GPL-2.0-only
"""How bundles come into the store and leave it.

::

    dropped ─verify▸ staged ─remove▸ removed
       └▸ rejected

The kernel is asked, never changed.
"""

import contextlib
import re
from pathlib import Path
from typing import Final

from ksplicd.errors import (
    AlreadyStagedError,
    BundleError,
    HostError,
    InUseError,
    KspliceError,
    ReplayedError,
    SignerNotAllowedError,
    StoreError,
    StoreFullError,
    cause_of,
)
from ksplicd.host.stages import DAEMON, Actor, UpdateInfo, Via, is_at_work, is_moving
from ksplicd.host.store.drop_dir import Drop, DropDir, mark
from ksplicd.host.store.history import TAKEN
from ksplicd.host.store.store import Stored, is_passing
from ksplicd.host.trust.signers import why_no_claim
from ksplicd.host.trust.verify import MAX_SIGNATURE_SIZE, Trusted, check_bundle, read_file
from ksplicd.host.updates import fit
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.order import Order
from ksplicd.host.updates.records import Records
from ksplicd.host.updates.soak import Soak
from ksplicd.model import VMLINUX, Manifest, Stage

_FILE_KID: Final = re.compile(r"ksplice-([a-z0-9]{8})\.tar\.gz")


class Staging:
    """The way into the store, and out of it."""

    def __init__(self, doors: Doors, records: Records, soak: Soak, order: Order) -> None:
        self._doors = doors
        self._records = records
        self._soak = soak
        self._order = order

    # --- dropped ─verify▸ staged ----------------------------------------------------------------

    def stage_file(self, path: Path, sig_path: Path | None, actor: Actor) -> UpdateInfo:
        """See ``Engine.stage_file``."""
        marks = mark(path), mark(sig_path) if sig_path is not None else None
        drop = Drop(bundle=path, signature=sig_path, marks=marks)
        settings, owner = self._doors.settings, self._doors.owner
        folder = DropDir(path.parent, require_signature=settings.require_signature)
        try:
            data = read_file(path, owner=owner)
            signature = None
            if sig_path is not None:
                signature = read_file(sig_path, MAX_SIGNATURE_SIZE, owner)
            info = self.stage(data, signature, actor)
        except StoreError:
            raise
        except (BundleError, HostError) as e:
            place = folder.reject(drop, e)
            claimed = _FILE_KID.fullmatch(path.name)
            self._records.record(
                claimed[1] if claimed else "",
                Stage.REJECTED,
                actor,
                cause=cause_of(e),
                detail=f"{e} (moved to {place})",
            )
            with contextlib.suppress(StoreError):  # the reason for the reject is the better error
                folder.prune(settings.limits()["rejected"])
            raise
        folder.forget(drop)
        return info

    def stage(self, bundle: bytes, signature: bytes | None, actor: Actor) -> UpdateInfo:
        """See ``Engine.stage``."""
        stored = Stored(bundle=bundle, signature=signature)
        trusted = self._check(stored)
        manifest = trusted.bundle.manifest
        kid = manifest.kid
        is_next = fit.is_for_next(manifest, self._doors.kernel)
        if not is_next:
            fit.check_kernel(manifest, self._doors.kernel)
        if self._doors.store.has(kid) and not self._takes_place(kid, stored, trusted):
            return self._stage_again(kid, stored, trusted, actor)
        if not self._records.is_in_kernel(kid) and not is_next:
            fit.check_modules(manifest, self._doors.kernel)
        self._make_room(kid, stored)
        self._records.trust(kid, trusted)
        self._doors.store.add(kid, stored)
        if not self._records.is_in_kernel(kid):
            self._record_staged(kid, actor)
        return self._records.info(kid)

    def _record_staged(self, kid: str, actor: Actor) -> None:
        """Record that an update came, and which claims between it and others have no effect."""
        texts = [self._records.manifest(kid).description, *self._order.void_claims(kid)]
        self._records.record(kid, Stage.STAGED, actor, detail="; ".join(filter(None, texts)))

    def _takes_place(self, kid: str, stored: Stored, trusted: Trusted) -> bool:
        """Remove the stored bundle of this id, if it is another one that must not have the id.

        Who uses an id again must be allowed to sign what is there.  If what is there may sign the
        new bundle too, it stays, and ``_stage_again`` refuses.  If neither may sign the other, a
        fix of the kernel itself has the id, and among others the first one.  Raises
        ``SignerNotAllowedError``, ``InUseError``.
        """
        rules, there = self._doors.settings.signers, self._records.trusted(kid)
        if self._doors.store.read(kid).bundle == stored.bundle:
            return False
        new, old = trusted.bundle.manifest, self._records.manifest(kid)
        no_right = why_no_claim(trusted, old, rules, is_whole=there is not None)
        why = why_no_claim(there, new, rules)
        if no_right and not (why and _patches_kernel(new) and not _patches_kernel(old)):
            raise SignerNotAllowedError(
                f"{kid}: another bundle of this id is stored, and {no_right}"
            )
        if not why:
            return False
        info = self._records.info(kid)
        if is_at_work(info.stage):
            raise InUseError(
                f"{kid}: is {info.stage} from another bundle of this id, though {why}; "
                f"`ksplice undo {kid}` first"
            )
        self.remove(kid, DAEMON, why=f"another update has this id: {why}", cause=TAKEN)
        return True

    def _stage_again(self, kid: str, stored: Stored, trusted: Trusted, actor: Actor) -> UpdateInfo:
        store = self._doors.store
        before = store.read(kid)
        if before.bundle != stored.bundle:
            raise AlreadyStagedError(
                f"{kid}: another bundle of this id is stored; `ksplice remove {kid}` first, "
                "or build it with another id"
            )
        if stored.signature is not None and stored.signature != before.signature:
            store.set_signature(kid, stored.signature)
        self._records.trust(kid, trusted)
        last = self._records.last(kid)
        if last is None or last.stage is Stage.REMOVED:  # the first time, nothing could be written
            self._record_staged(kid, actor)
        return self._records.info(kid)

    def _make_room(self, kid: str, stored: Stored) -> None:
        """Remove unused updates, the longest unchanged first, until one more fits.

        Unused is an update that was undone, or whose kernel is gone.  Raises ``StoreFullError``.
        """
        settings, store = self._doors.settings, self._doors.store
        store.prepare()  # half-written bundles take room too
        self.finish_removals(DAEMON)  # and so do half-deleted ones
        more = store.sizes()["updates"] + len(stored.bundle) - settings.limits()["updates"]
        unused = [old for old in self._records.in_order() if more > 0 and self._is_unused(old)]
        while more > 0 and unused:
            more -= len(store.read(unused[0]).bundle)
            self.remove(unused.pop(0), DAEMON, why=f"to make room for {kid}")
        if more > 0:
            raise StoreFullError(
                f"{kid}: does not fit into store-limit = {settings.store_limit} MiB; "
                "`ksplice remove` unused updates, or raise the limit in ksplicd.conf"
            )

    def _is_unused(self, kid: str) -> bool:
        if not self._doors.store.has(kid) or self._records.is_in_kernel(kid):
            return False
        stage = self._records.info(kid).stage
        is_idle = stage in {Stage.STAGED, Stage.FAILED}  # a quarantine must not be forgotten
        return stage is Stage.REVERSED or (is_idle and self._is_stale(kid))

    def stale(self) -> list[str]:
        """Return the stored updates whose kernels are not installed here any more, sorted."""
        return [kid for kid in self._doors.store.kids() if self._is_stale(kid)]

    def _is_stale(self, kid: str) -> bool:
        """Return whether an update is for a kernel that is gone; not where that is not known."""
        is_other = bool(self._records.why_other_kernel(kid))
        return is_other and not fit.is_for_next(self._records.manifest(kid), self._doors.kernel)

    # --- what is staged -------------------------------------------------------------------------

    def check_all(self) -> None:
        """Verify every stored bundle; one that fails does not keep the others from being used."""
        for kid in self._doors.store.kids():
            try:
                self.check(kid)
            except KspliceError as e:
                if is_passing(e.__cause__):
                    raise
                self._records.distrust(kid, cause_of(e), str(e))

    def check(self, kid: str) -> Trusted:
        """Verify a stored bundle, with the keys and settings of this moment.

        Raises ``NoSuchUpdateError``, and as ``check_bundle`` does.
        """
        trusted = self._check(self._doors.store.read(kid))
        self._records.trust(kid, trusted)
        return trusted

    def _check(self, stored: Stored) -> Trusted:
        doors = self._doors
        return check_bundle(stored, doors.keyring, doors.settings, self._records.now())

    def dropped(self) -> list[tuple[str, Actor]]:
        """Return the updates that were dropped and have only been staged since; with the actor."""
        lasts = [self._records.last(kid) for kid in self._doors.store.kids()]
        return [
            (last.kid, last.actor)
            for last in lasts
            if last is not None and last.stage is Stage.STAGED and last.actor.via is Via.DROP
            # one for another kernel waits for that one to boot, once it is wanted
            if last.kid not in self._records.wants or not self._records.why_other_kernel(last.kid)
        ]

    def check_not_undone(self, kid: str) -> None:
        """Raise ``ReplayedError`` when an update was undone, or quarantined, and not applied since.

        Only a person's call may apply such an update.  An old bundle that is dropped again must not
        bring back code that somebody took out, or that may have crashed the machine.
        """
        last = self._records.last(kid)
        if last is not None and last.stage is Stage.QUARANTINED:
            return  # it has to be released first: ``Engine.check_apply`` says so
        if kid in self._records.wants:
            return  # wanted again since: what ended it before ended the want
        word = self._records.last_word(kid)
        if word is not None and word is not Stage.APPLIED:
            what = "undone" if word is Stage.REVERSED else "quarantined"
            raise ReplayedError(
                f"{kid}: was {what} here and is not applied again automatically; "
                f"`ksplice apply {kid}` applies it"
            )

    # --- staged ─remove▸ removed ----------------------------------------------------------------

    def remove(self, kid: str, actor: Actor, why: str = "", cause: str = "") -> None:
        """See ``Engine.remove``; ``why`` and ``cause`` are for the history."""
        info = self._records.get(kid)
        if info.stage is Stage.APPLIED or is_moving(info.stage):
            raise InUseError(f"{kid}: is {info.stage}; undo it before it is removed")
        self._soak.forget(kid)
        self._doors.store.take_out(kid)
        self._records.forget(kid)
        self._records.record(kid, Stage.REMOVED, actor, cause=cause, detail=why)
        with contextlib.suppress(StoreError):  # the next start sweeps
            self._doors.store.sweep()

    def finish_removals(self, actor: Actor) -> None:
        """Finish the removals that a kill or a full disk cut short, and record them."""
        store = self._doors.store
        for kid in store.taken_out():
            last = self._records.last(kid)
            if last is None or last.stage is not Stage.REMOVED:
                self._records.record(kid, Stage.REMOVED, actor)
        store.sweep()


def _patches_kernel(manifest: Manifest) -> bool:
    return any(target.name == VMLINUX for target in manifest.targets)

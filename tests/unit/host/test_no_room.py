# SPDX-License-Identifier: GPL-2.0-only
"""A full or read-only /var: what has proven itself comes back, and records have a reserve.

``ReadOnly`` and ``Full`` stand for the disk: a test without privileges can make neither.
"""

import errno
import os
from pathlib import Path

import pytest

from ksplicd.errors import StoreError
from ksplicd.host.boot import apply_again
from ksplicd.host.store.crash_guard import Guard, Known
from ksplicd.host.store.history import History
from ksplicd.host.store.store import Reserve
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import ALICE, EVENT, Host, all_events


def refuse(number: int) -> StoreError:
    error = StoreError(f"store: {os.strerror(number)}")
    error.__cause__ = OSError(number, os.strerror(number))
    return error


class ReadOnlyHistory(History):
    def _write(self) -> None:
        raise refuse(errno.EROFS)


class ReadOnlyGuard(Guard):
    def _write(self, known: Known) -> None:
        raise refuse(errno.EROFS)


class FullHistory(History):
    """There is no room but that of the reserve."""

    room: Path

    def _write(self) -> None:
        if self.room.exists():
            raise refuse(errno.ENOSPC)
        super()._write()


def apply_one_that_soaks_and_one_that_does_not(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID))
    host.apply(KID)
    host.engine.soak.watch()
    host.clock.now += 700
    host.engine.soak.watch()
    host.apply(OTHER_KID)


@pytest.fixture
def read_only(host: Host) -> Host:
    """A host that comes up with a store that it cannot write; only ``KID`` has soaked."""
    apply_one_that_soaks_and_one_that_does_not(host)
    host.reboot()
    host.engine = host.new_engine()
    host.engine.records._history = ReadOnlyHistory(host.engine.doors.store.history_file)
    host.engine.soak._guard = ReadOnlyGuard(host.engine.doors.store.guard_file)
    return host


def test_what_has_proven_itself_comes_back(read_only: Host) -> None:
    """An update that has not would be applied at each boot, should it crash the machine."""
    told: list[str] = []
    engine = read_only.engine

    def sleep(_seconds: float) -> None:
        read_only.kernel.complete()

    assert apply_again(engine, lambda kid, why: told.append(f"{kid}: {why}"), "", sleep) == [KID]
    assert told == [f"{OTHER_KID}: store: Read-only file system"]
    assert engine.get_update(KID).stage is Stage.APPLIED
    assert [*engine.missing()] == [OTHER_KID]


def test_who_asks_for_it_is_told(read_only: Host) -> None:
    read_only.engine.reconcile()
    with pytest.raises(StoreError, match="Read-only"):
        read_only.engine.start_apply(KID, ALICE)


def test_what_cannot_be_settled_keeps_no_other_from_coming_back(host: Host) -> None:
    """A quarantine that cannot be written down holds for this boot all the same."""
    apply_one_that_soaks_and_one_that_does_not(host)
    host.reboot(clean=False)
    host.engine = host.new_engine()
    host.engine.records._history = ReadOnlyHistory(host.engine.doors.store.history_file)
    found = host.engine.reconcile()
    assert found.reapply == (KID,)
    assert host.engine.get_update(OTHER_KID).stage is Stage.QUARANTINED


def test_reserve_without_its_size_is_made_anew(tmp_path: Path) -> None:
    """A kill came after the file was made."""
    reserve = Reserve(tmp_path / "reserve")
    reserve.path.touch()
    reserve.keep()
    assert reserve.path.stat().st_size == 256 << 10


def test_reserve_is_spent_on_a_record_and_made_again(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    reserve.keep()
    assert reserve.path.stat().st_blocks * 512 >= 256 << 10
    history = FullHistory(tmp_path / "history.jsonl", reserve=reserve)
    history.room = reserve.path
    history.append(EVENT)
    assert all_events(history) == [EVENT]
    assert not reserve.path.exists()
    history.append(EVENT)
    reserve.keep()
    assert reserve.path.exists()


def test_without_a_reserve_the_disk_is_full(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "none/reserve")
    reserve.keep()  # where nothing can be made, nothing is
    calls = []

    def write() -> None:
        calls.append(1)
        raise refuse(errno.ENOSPC)

    with pytest.raises(StoreError, match="No space left"):
        reserve.write(write)
    assert calls == [1]

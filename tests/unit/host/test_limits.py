# SPDX-License-Identifier: GPL-2.0-only
"""The limits of the store, and what is removed at each limit."""

import gc
import random
import tracemalloc
from dataclasses import replace

import pytest

from ksplicd.config import Settings
from ksplicd.errors import BadSignatureError, ReplayedError, StoreFullError
from ksplicd.host.stages import DAEMON
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.host.host import ROOT, Host

MIB = 1 << 20


def big(kid: str) -> bytes:
    """A bundle of a quarter of a MiB, or a little more."""
    return samples.bundle(kid, description=random.Random(1).randbytes(115_000).hex())


def kids(host: Host) -> set[str]:
    return {info.kid for info in host.engine.list_updates()}


def test_unused_updates_make_room(host: Host) -> None:
    host.engine.doors.settings = Settings(store_limit=1)
    for kid in ("undone00", "applied0", "staged00"):
        host.stage(big(kid))
    host.apply("undone00")
    host.undo("undone00")
    host.apply("applied0")
    assert host.engine.doors.store.sizes()["updates"] > MIB * 3 // 4
    host.stage(big("newer000"))
    assert kids(host) == {"applied0", "staged00", "newer000"}
    (removed,) = [event for event in host.events if event.stage is Stage.REMOVED]
    assert (removed.kid, removed.actor) == ("undone00", DAEMON)
    assert removed.detail == "to make room for newer000"
    with pytest.raises(ReplayedError, match="undone00"):
        host.engine.staging.check_not_undone("undone00")
    with pytest.raises(StoreFullError, match=r"does not fit into store-limit = 1 MiB; `ksplice"):
        host.stage(big("another0"))
    assert kids(host) == {"applied0", "staged00", "newer000"}


def test_updates_of_another_kernel_make_room(host: Host) -> None:
    host.engine.doors.settings = Settings(store_limit=1)
    for kid in ("other001", "other002", "other003"):
        host.stage(big(kid))
    host.apply("other002")
    host.reboot(clean=False)
    host.kernel.kernel = kernel = replace(samples.KERNEL, build_id="ff" * 20)
    host.engine = host.new_engine()
    host.engine.reconcile()
    host.engine.doors.settings = Settings(store_limit=1)
    assert host.engine.get_update("other002").stage is Stage.QUARANTINED
    host.stage(samples.bundle("newer000", kernel=kernel, description="x" * 100))
    host.stage(samples.bundle("newer001", kernel=kernel))
    assert kids(host) == {"other001", "other002", "other003", "newer000", "newer001"}
    data = samples.bundle(
        "newer002", kernel=kernel, description=random.Random(2).randbytes(280_000).hex()
    )
    host.stage(data)
    assert kids(host) == {"other002", "newer000", "newer001", "newer002"}


def test_what_is_half_written_or_half_deleted_takes_no_room(host: Host) -> None:
    """A full disk leaves them; the next attempt deletes them, not only the next start."""
    host.engine.doors.settings = Settings(store_limit=1)
    for name in (".halfhalf.new", ".gonegone.gone"):
        folder = host.engine.doors.store.updates / name
        folder.mkdir()
        (folder / "ksplice-halfhalf.tar.gz").write_bytes(bytes(600_000))
    host.stage(big("newer000"))
    assert kids(host) == {"newer000"}
    assert host.engine.doors.store.kids() == [
        p.name for p in host.engine.doors.store.updates.iterdir()
    ]


def test_rejects_are_bounded(host: Host) -> None:
    host.engine.doors.settings = Settings(keep_rejected=1)
    for _ in range(3):
        bad = host.root / "ksplice-aaaaaaaa.tar.gz"
        bad.write_bytes(bytes(600_000))
        with pytest.raises(BadSignatureError, match="missing"):
            host.engine.stage_file(bad, None, ROOT)
    assert 600_000 <= host.engine.doors.store.sizes()["rejected"] <= MIB


def test_history_is_bounded(host: Host) -> None:
    """Not by much: a full file is 1 MiB before it is compressed."""
    host.engine.doors.settings = Settings(keep_history=1)
    assert host.engine.records._history._keep() == MIB


def test_what_is_known_of_an_update_takes_little_memory(host: Host) -> None:
    """The files' digests, half of it, are needed only while the files are checked."""
    updates = 20
    for number in range(updates):
        host.stage(samples.bundle(f"kid{number:05}"))
    host.new_engine().reconcile()  # so that no import is counted
    engine = host.new_engine()
    tracemalloc.start()
    engine.reconcile()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < updates * 4500

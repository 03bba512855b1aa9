# SPDX-License-Identifier: GPL-2.0-only
"""A whole store as each released version left it is read, and what it says still holds.

The files are kept as they were written, and never made anew: ``data/store-VERSION``.  The keys are
those of ``samples``.  In the store of 0.1.0 an update with a ledger was applied when the machine
was shut down; others wait, were undone, did not match, or were new in a crash; a drop was refused;
and two files of the history are full.
"""

import shutil
from pathlib import Path

import pytest

from ksplicd.bundle import unpack
from ksplicd.host.stages import Reconciliation
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import Host

DATA = Path(__file__).parent / "data"
VERSIONS = sorted(path.name.removeprefix("store-") for path in DATA.glob("store-*"))


def open_store(folder: Path, version: str) -> tuple[Host, Reconciliation]:
    """Return a host in its third boot, after two with that version."""
    shutil.copytree(DATA / f"store-{version}", folder / "ksplice")
    for path in (folder / "ksplice/updates").glob("*/*.tar.gz"):
        # kept with a comment of the tests' own; every release's commands name the file
        path.with_name(f"{path.name}.minisig").write_bytes(samples.signature(path.read_bytes()))
    host = Host(folder)
    for _ in range(2):
        host.kernel.reboot()
    host.engine = host.new_engine()
    return host, host.engine.reconcile()


def test_there_is_one_of_each_release() -> None:
    assert VERSIONS == ["0.1.0"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_so_is_so(tmp_path: Path, version: str) -> None:
    host, found = open_store(tmp_path, version)
    assert {info.kid: info.stage for info in host.engine.list_updates()} == {
        KID: Stage.STAGED,
        "crashed1": Stage.QUARANTINED,
        "failed01": Stage.FAILED,
        "waiting1": Stage.STAGED,
        OTHER_KID: Stage.REVERSED,
    }
    assert (found.reapply, found.waiting) == ((KID,), {})
    assert host.engine.records.last_word(OTHER_KID) is Stage.REVERSED
    assert host.engine.get_update("failed01").abort_cause == "no_match"
    assert len(list(host.engine.records.events())) == 29
    assert {*host.stages()} == {*Stage} - {Stage.DROPPED}


@pytest.mark.parametrize("version", VERSIONS)
def test_its_updates_are_applied(tmp_path: Path, version: str) -> None:
    host, _ = open_store(tmp_path, version)
    assert host.apply(KID).stage is Stage.APPLIED
    assert host.engine.get_update(KID).manifest.ledger == samples.INCOMPLETE
    assert host.apply(OTHER_KID).stage is Stage.APPLIED
    assert host.apply("waiting1").stage is Stage.APPLIED


@pytest.mark.parametrize("version", VERSIONS)
def test_its_bundles_have_all_they_had(version: str) -> None:
    (path,) = (DATA / f"store-{version}/updates" / OTHER_KID).glob("*.tar.gz")
    manifest = unpack(path.read_bytes()).manifest
    assert (manifest.replaces, manifest.excludes) == (("older001",), ("other001",))
    (path,) = (DATA / f"store-{version}/updates" / KID).glob("*.tar.gz")
    assert unpack(path.read_bytes()).manifest.ledger == samples.INCOMPLETE

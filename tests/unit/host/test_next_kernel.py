# SPDX-License-Identifier: GPL-2.0-only
"""Updates for a kernel that is installed and does not run, and for kernels that are gone."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.config import Settings
from ksplicd.errors import AlreadyReversedError, StoreFullError, WrongKernelError
from ksplicd.host.kernel.linux import LinuxKernel
from ksplicd.host.stages import BOOT
from ksplicd.model import Kernel, Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import ALICE, ROOT, Host

NEXT = Kernel(release="6.12.0-1-cloud-amd64", build_id="ab" * 20)


@pytest.fixture
def host(host: Host) -> Host:
    """A host with a newer kernel beside the one that runs."""
    host.kernel.installed.add(NEXT.release)
    return host


def stage(host: Host, kid: str = KID, kernel: Kernel = NEXT, text: str = "") -> None:
    data = samples.bundle(kid, kernel=kernel, description=text)
    host.engine.stage(data, samples.signature(data), ALICE)


def restart(host: Host, kernel: Kernel) -> tuple[str, ...]:
    """Boot a kernel; return what is to be applied."""
    host.reboot()
    host.kernel.installed.add(host.kernel.kernel.release)
    host.kernel.kernel = kernel
    host.engine = host.new_engine()
    return host.engine.reconcile(BOOT).reapply


def test_it_is_staged_and_waits(host: Host) -> None:
    stage(host)
    info = host.engine.get_update(KID)
    assert (info.stage, info.is_wanted) == (Stage.STAGED, False)
    assert f"waits: {KID}: is for kernel {NEXT.release}" in info.detail
    assert restart(host, NEXT) == ()
    assert host.apply().stage is Stage.APPLIED


@pytest.mark.parametrize("build", [NEXT.build_id, "cd" * 20])
def test_kernel_that_is_not_installed(host: Host, build: str) -> None:
    host.kernel.installed.clear()
    with pytest.raises(WrongKernelError, match="is for kernel"):
        stage(host, kernel=replace(NEXT, build_id=build))


def test_other_build_of_the_running_release_is_refused(host: Host) -> None:
    with pytest.raises(WrongKernelError, match="another build"):
        stage(host, kernel=replace(samples.KERNEL, build_id="cd" * 20))


@pytest.mark.parametrize("who", ["policy", "a person"])
def test_what_is_wanted_is_applied_when_that_kernel_boots(host: Host, who: str) -> None:
    stage(host)
    if who == "policy":
        host.engine.records.want(KID, ROOT)
    else:
        with pytest.raises(WrongKernelError, match="it is applied when that kernel boots"):
            host.engine.start_apply(KID, ALICE)
    assert host.engine.missing() == {}
    assert restart(host, samples.KERNEL) == ()
    assert restart(host, NEXT) == (KID,)
    host.apply()
    assert restart(host, samples.KERNEL) == ()
    assert restart(host, NEXT) == (KID,)


def test_undo_ends_that_too(host: Host) -> None:
    stage(host)
    host.engine.records.want(KID, ROOT)
    with pytest.raises(AlreadyReversedError, match="it is not wanted any more"):
        host.engine.start_undo(KID, ALICE)
    assert restart(host, NEXT) == ()


def test_wanted_again_after_an_undo(host: Host) -> None:
    stage(host)
    host.engine.records.want(KID, ALICE)
    with pytest.raises(AlreadyReversedError, match="not wanted any more"):
        host.engine.start_undo(KID, ALICE)
    host.clock.now += 1
    with pytest.raises(WrongKernelError, match="it is applied when that kernel boots"):
        host.engine.start_apply(KID, ALICE)
    host.engine.staging.check_not_undone(KID)
    assert restart(host, NEXT) == (KID,)


def test_dropped_one_is_asked_for_once(host: Host) -> None:
    data = samples.bundle(KID, kernel=NEXT)
    host.engine.stage(data, samples.signature(data), ROOT)
    assert host.engine.staging.dropped() == [(KID, ROOT)]
    host.engine.records.want(KID, ROOT)
    assert host.engine.staging.dropped() == []


def test_it_is_not_the_first_to_go(host: Host) -> None:
    """Those of kernels that are gone go first, and then nothing else does."""
    text = random.Random(1).randbytes(115_000).hex()
    host.engine.doors.settings = Settings(store_limit=1)
    gone = replace(NEXT, release="6.10.0")
    host.kernel.installed.add(gone.release)
    stage(host, KID, text=text)
    stage(host, OTHER_KID, gone, text=text)
    stage(host, "third000", text=text)
    host.kernel.installed.discard(gone.release)
    stage(host, "fourth00", text=text)
    assert host.engine.doors.store.kids() == ["8c4o6ucj", "fourth00", "third000"]
    with pytest.raises(StoreFullError, match="does not fit"):
        stage(host, "fifth000", text=text)


def test_stale_is_what_is_for_no_kernel_here(host: Host) -> None:
    stage(host)
    host.stage(samples.bundle(OTHER_KID))
    assert host.engine.staging.stale() == []
    host.kernel.installed.clear()
    assert host.engine.staging.stale() == [KID]


def test_kernels_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "lib/modules" / NEXT.release / "kernel").mkdir(parents=True)
    (tmp_path / "lib/modules/6.10.0").mkdir()  # what is left of one that was removed
    kernel = LinuxKernel(tmp_path)
    found = [kernel.is_installed(name) for name in (NEXT.release, "6.10.0", "6.9.0", "a/b")]
    assert found == [True, False, False, False]

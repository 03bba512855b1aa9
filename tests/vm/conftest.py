# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the tests that need a guest.

``fresh_guest`` is a guest for one test, restored in a moment; ``shared_guest`` is one for those
tests of a file that do not disturb each other.  A file may say which of them ``guest`` is; it
is a fresh one otherwise.  Tests of ksplicd on a host take ``installed_guest`` or
``shared_installed_guest``, where ksplicd is installed as by its package.  All run ``kernel``,
which is 6.1, or 6.12 with ``KSPLICE_KERNEL=next``; a test with the mark ``kernels("6.1", "6.12")``
is run on each of these.  All else in the guest is of ``suite``, which is Debian 12; a test with the
mark ``suites("bookworm", "trixie")`` is run on each of these.  ``KSPLICE_SUITE`` overrides both.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache, to_stderr
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab import root_archive
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import Snapshot, take_snapshot
from tests.support.guest.commands import with_commands
from tests.support.guest.golden import begin_log, check_log
from tests.support.guest.hand import TAKE_BACK, UNLOAD, Update, is_clean
from tests.support.guest.host import forget_updates
from tests.support.guest.hostile import make_hostile_bundle
from tests.support.guest.install import package_layer
from tests.support.guest.installed import Signed, signed_fix
from tests.support.guest.keep import REPORTS, guest_for, stay_if_failed
from tests.support.guest.maker import Maker
from tests.support.guest.modules import altered_romfs, make_modules_bundle, prepare_mounts
from tests.support.kernels import slice as sample
from tests.support.kernels.stock import KERNELS

UNDER_TEST: Final = "6.12" if os.environ.get("KSPLICE_KERNEL") == "next" else "6.1"


SUITE: Final = os.environ.get("KSPLICE_SUITE") or root_archive.SUITE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.vm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember how a test went, for its fixtures."""
    report = yield
    item.stash.setdefault(REPORTS, []).append(report)
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on the kernel and suite under test, or on each of those that its marks name."""
    marks = {"kernel": ("kernels", UNDER_TEST), "suite": ("suites", SUITE)}
    for fixture, (name, usual) in marks.items():
        if fixture in metafunc.fixturenames:
            mark = metafunc.definition.get_closest_marker(name)
            # whoever asks for a suite wants that one
            asked = fixture == "suite" and "KSPLICE_SUITE" in os.environ
            names = mark.args if mark and not asked else (usual,)
            ids = names if len(names) > 1 else (pytest.HIDDEN_PARAM,)
            metafunc.parametrize(fixture, names, ids=ids, indirect=True, scope="session")


@pytest.fixture(scope="session")
def lab_cache() -> Cache:
    return Cache(progress=to_stderr)


@pytest.fixture(scope="session")
def kernel(request: pytest.FixtureRequest, lab_cache: Cache) -> KernelPackages:
    return KERNELS[request.param](lab_cache)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> str:
    """The suite of all that is in the guest but the kernel."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def fix(kernel: KernelPackages) -> sample.Fix:
    """A change of Debian's in the kernel's vmlinux that a program can see."""
    return next(fix for fix in (sample.FCNTL, sample.DCACHE) if fix.old == kernel.version)


@pytest.fixture(scope="session")
def tree(lab_cache: Cache, kernel: KernelPackages) -> Path:
    return sample.source_tree(lab_cache, kernel)


@pytest.fixture(scope="session")
def machine(lab_cache: Cache, kernel: KernelPackages, suite: str) -> Machine:
    image = build_image(kernel, suite=suite)
    return Machine(image=image, accelerator=probe_accelerator(lab_cache, image.kernel))


@pytest.fixture(scope="session")
def snapshot(lab_cache: Cache, machine: Machine) -> Snapshot:
    return take_snapshot(lab_cache, machine)


@pytest.fixture
def fresh_guest(snapshot: Snapshot, request: pytest.FixtureRequest) -> Iterator[Guest]:
    with guest_for(request, snapshot) as running:
        yield running


@pytest.fixture
def guest(fresh_guest: Guest) -> Guest:
    return fresh_guest


@pytest.fixture(scope="module")
def module_guest(snapshot: Snapshot) -> Iterator[Guest]:
    with Guest(snapshot) as running:
        yield running


@contextlib.contextmanager
def lent(
    guest: Guest, request: pytest.FixtureRequest, take_back: Callable[[], object]
) -> Iterator[None]:
    """Lend the guest of a file to a test: it comes back clean, or new after a test that failed."""
    begin_log(guest)
    yield
    if stay_if_failed(request, guest):
        guest.reset()
    else:
        take_back()
        guest.run(UNLOAD)
        assert is_clean(guest)


@pytest.fixture
def shared_guest(module_guest: Guest, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest of all tests of a file that leave nothing behind but what is taken back here.

    Nothing of an update may stay; after a test that failed the guest is new.
    """
    with lent(module_guest, request, lambda: module_guest.run(TAKE_BACK, check=False)):
        yield module_guest


@pytest.fixture(scope="session")
def installed_snapshot(
    lab_cache: Cache, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> Snapshot:
    layer = with_commands(package_layer(tmp_path_factory.mktemp("install")))
    return take_snapshot(lab_cache, machine, layer)


@pytest.fixture
def installed_guest(
    installed_snapshot: Snapshot, request: pytest.FixtureRequest
) -> Iterator[Guest]:
    with guest_for(request, installed_snapshot) as running:
        yield running


@pytest.fixture(scope="module")
def module_installed_guest(installed_snapshot: Snapshot) -> Iterator[Guest]:
    with Guest(installed_snapshot) as running:
        yield running


@pytest.fixture
def shared_installed_guest(
    module_installed_guest: Guest, request: pytest.FixtureRequest
) -> Iterator[Guest]:
    """The host of all tests of a file that neither restart ksplicd nor read all of its history.

    Their updates are undone and removed; after a test that failed the guest is new.
    """
    with lent(module_installed_guest, request, lambda: forget_updates(module_installed_guest)):
        yield module_installed_guest


@pytest.fixture(scope="module")
def maker(
    lab_cache: Cache, kernel: KernelPackages, tmp_path_factory: pytest.TempPathFactory
) -> Maker:
    return Maker(lab_cache, kernel, tmp_path_factory.mktemp("maker"))


@pytest.fixture(scope="session")
def signed(
    lab_cache: Cache,
    kernel: KernelPackages,
    fix: sample.Fix,
    tmp_path_factory: pytest.TempPathFactory,
) -> Signed:
    return signed_fix(lab_cache, kernel, fix, tmp_path_factory.mktemp("signed"))


@pytest.fixture(scope="session")
def modules_bundle(
    lab_cache: Cache,
    kernel: KernelPackages,
    fix: sample.Fix,
    tmp_path_factory: pytest.TempPathFactory,
) -> bundle.Bundle:
    return make_modules_bundle(lab_cache, kernel, fix, tmp_path_factory.mktemp("modules"))


@pytest.fixture
def modules_update(guest: Guest, modules_bundle: bundle.Bundle, fix: sample.Fix) -> Update:
    prepare_mounts(guest)
    guest.put("/root/reproducer.py", fix.reproducer.encode())
    return Update(guest, modules_bundle)


@pytest.fixture(scope="session")
def altered(kernel: KernelPackages) -> bytes:
    """Return romfs with a change where the update of modules leaves it alone."""
    return altered_romfs(kernel)


@pytest.fixture(scope="session")
def hostile_bundle(
    lab_cache: Cache,
    kernel: KernelPackages,
    fix: sample.Fix,
    tmp_path_factory: pytest.TempPathFactory,
) -> bundle.Bundle:
    return make_hostile_bundle(lab_cache, kernel, fix, tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def golden_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end, compare the kernel's log with the golden one of this test."""
    kinds = {"fresh_guest", "installed_guest", "shared_guest", "shared_installed_guest"}
    found = kinds & set(request.fixturenames)
    guests: list[Guest] = [request.getfixturevalue(name) for name in found]
    yield
    for guest in guests:
        file, test = request.path.stem, request.node.name
        check_log(guest, file.removeprefix("test_"), test.removeprefix("test_"))

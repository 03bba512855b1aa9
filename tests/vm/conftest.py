# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the tests that need a guest.

``guest`` is a fresh guest for each test, restored in a moment.  Tests of ksplicd on a host take
``installed_guest``, where it is installed as its package would install it.
"""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from ksplicd.lab.cache import Cache, to_stderr
from ksplicd.lab.debian import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import Snapshot, take_snapshot
from tests.support.guest.golden import check_log
from tests.support.guest.install import package_layer
from tests.support.guest.keep import REPORTS, guest_for
from tests.support.guest.maker import Maker
from tests.support.kernels import slice as sample
from tests.support.kernels.stock import stock_kernel


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


@pytest.fixture(scope="session")
def lab_cache() -> Cache:
    return Cache(progress=to_stderr)


@pytest.fixture(scope="session")
def kernel(lab_cache: Cache) -> KernelPackages:
    return stock_kernel(lab_cache)


@pytest.fixture(scope="session")
def tree(lab_cache: Cache, kernel: KernelPackages) -> Path:
    return sample.source_tree(lab_cache, kernel)


@pytest.fixture(scope="session")
def machine(lab_cache: Cache) -> Machine:
    image = build_image(stock_kernel(lab_cache))
    return Machine(image=image, accelerator=probe_accelerator(lab_cache, image.kernel))


@pytest.fixture(scope="session")
def snapshot(lab_cache: Cache, machine: Machine) -> Snapshot:
    return take_snapshot(lab_cache, machine)


@pytest.fixture
def guest(snapshot: Snapshot, request: pytest.FixtureRequest) -> Iterator[Guest]:
    with guest_for(request, snapshot) as running:
        yield running


@pytest.fixture(scope="session")
def installed_snapshot(
    lab_cache: Cache, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> Snapshot:
    layer = package_layer(tmp_path_factory.mktemp("install"))
    return take_snapshot(lab_cache, machine, layer)


@pytest.fixture
def installed_guest(
    installed_snapshot: Snapshot, request: pytest.FixtureRequest
) -> Iterator[Guest]:
    with guest_for(request, installed_snapshot) as running:
        yield running


@pytest.fixture(scope="module")
def maker(lab_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(lab_cache, tmp_path_factory.mktemp("maker"))


@pytest.fixture
def golden_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end, compare the kernel's log with the golden one of this test."""
    found = {"guest", "installed_guest"} & set(request.fixturenames)
    guests: list[Guest] = [request.getfixturevalue(name) for name in found]
    yield
    for guest in guests:
        file, test = request.path.stem, request.node.name
        check_log(guest, file.removeprefix("test_"), test.removeprefix("test_"))

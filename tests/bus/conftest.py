# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the tests on a private bus."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ksplicd import minisign
from tests.support.bundles import samples
from tests.support.bus.forks import Fork
from tests.support.bus.host import Host


@pytest.fixture
def bare_host(tmp_path: Path) -> Iterator[Host]:
    """A host whose bus runs, and nothing else."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/test.pub").write_text(minisign.write_public_key(samples.KEY.public))
    host = Host(tmp_path)
    host.kernel.boot()
    try:
        host.start_bus()
        yield host
    finally:
        host.close()


@pytest.fixture
def polkit(bare_host: Host) -> Fork:
    """The host's polkit."""
    return bare_host.start_polkit()


@pytest.fixture
def host(bare_host: Host, polkit: Fork) -> Host:
    """A host with polkit and the daemon."""
    bare_host.start()
    return bare_host

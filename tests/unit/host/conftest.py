# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from tests.support.host.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)

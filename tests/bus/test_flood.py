# SPDX-License-Identifier: GPL-2.0-only
"""Users who flood the daemon, while root has something to do."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from gi.repository import Gio, GLib

from tests.support.bus.calls import BUNDLE, KID, MANAGER, SIGNATURE
from tests.support.bus.flood import KINDS
from tests.support.bus.forks import ROOT
from tests.support.bus.host import USERS, Host
from tests.support.needs import have_root
from tests.support.waiting import wait_for

pytestmark = have_root

_LIMIT: Final = 64 << 20
_SECONDS: Final = 1.0
"""For the middle one of three tries."""


def figure(host: Host, name: str) -> int:
    """Return a size from the daemon's status, in bytes."""
    status = Path(f"/proc/{host.daemon.pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) << 10


@contextmanager
def flood(host: Host, *kinds: str) -> Iterator[None]:
    """Have one user for each kind flood the daemon."""
    program = [sys.executable, "-m", "tests.support.bus.flood", host.address_for_users]
    users = [
        subprocess.Popen([*program, str(uid), kind], cwd=ROOT, stdout=subprocess.PIPE)
        for uid, kind in zip(USERS, kinds, strict=True)
    ]
    try:
        for user in users:
            assert user.stdout is not None
            assert user.stdout.readline() == b"floods\n"
        time.sleep(1)
        yield
        assert [user.poll() for user in users] == [None] * len(kinds)
    finally:
        for user in users:
            user.kill()
            user.communicate()


@pytest.mark.parametrize("kinds", [(kind,) * 3 for kind in KINDS] + [tuple(KINDS)], ids=str)
def test_root_is_obeyed_while_three_users_flood(host: Host, kinds: tuple[str, ...]) -> None:
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    client.apply(KID)
    took = []
    with flood(host, *kinds):
        for _ in range(3):
            root = host.connect()
            begin = time.monotonic()
            args = GLib.Variant("(st)", (KID, 0))
            root.call_sync(*MANAGER, "Undo", args, None, Gio.DBusCallFlags.NONE, -1, None)
            took.append(time.monotonic() - begin)
            wait_for(lambda: host.stage_of() == "reversed")
            client.apply(KID)
        fds = len(list(Path(f"/proc/{host.daemon.pid}/fd").iterdir()))
    assert sorted(took)[1] < _SECONDS, took  # other tests run beside this one
    assert figure(host, "VmHWM") < _LIMIT
    assert fds < 40

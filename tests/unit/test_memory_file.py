# SPDX-License-Identifier: GPL-2.0-only
"""Files in memory, as this machine's kernel makes them."""

import fcntl
import os

from ksplicd.memory_file import open_memory_file


def test_it_can_be_sealed_and_is_not_to_be_run() -> None:
    """Which vm.memfd_noexec=2 asks for, from 6.3 on."""
    with os.fdopen(open_memory_file("a"), "wb") as f:
        seals = fcntl.fcntl(f, fcntl.F_GET_SEALS)
        assert not seals & fcntl.F_SEAL_SEAL
        major, minor = map(int, os.uname().release.split(".")[:2])
        if (major, minor) >= (6, 3):
            assert seals & 0x0020  # F_SEAL_EXEC
            assert os.fstat(f.fileno()).st_mode & 0o111 == 0

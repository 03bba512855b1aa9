# SPDX-License-Identifier: GPL-2.0-only
"""Traces of a crash are found by name and time; what else lies there is none."""

import os
from pathlib import Path

import pytest

from ksplicd.host.kernel.crash_traces import CrashTraces

BOOT_ID = "1" * 32
NOW = 1_700_000_000


def leave(root: Path, name: str, when: float) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (when, when))


@pytest.mark.parametrize(
    "name",
    [
        "sys/fs/pstore/dmesg-efi-170000000001001",
        "sys/fs/pstore/dmesg-ramoops-0",
        "var/lib/systemd/pstore/170000000/dmesg.txt",
        "var/lib/systemd/pstore/dmesg-erst-7312345.enc.z",
        "var/crash/202311142213/dmesg.202311142213",
        "var/crash/202311142213/dump.202311142213",
        "var/crash/127.0.0.1-2023-11-14-22:13:20/vmcore",
    ],
)
def test_trace(tmp_path: Path, name: str) -> None:
    leave(tmp_path, name, NOW + 5)
    traces = CrashTraces(tmp_path, has_journal=False, owner=os.getuid())
    assert traces.find(BOOT_ID, NOW) == f"/{name} is from after it was applied"
    assert traces.find(BOOT_ID, NOW + 3600) == "", "it is of an earlier crash"


@pytest.mark.parametrize(
    "name",
    ["sys/fs/pstore/console-ramoops-0", "var/crash/kexec_cmd", "var/crash/_usr_bin_ssh.0.crash"],
)
def test_no_trace(tmp_path: Path, name: str) -> None:
    leave(tmp_path, name, NOW + 5)
    assert CrashTraces(tmp_path, has_journal=False, owner=os.getuid()).find(BOOT_ID, NOW) == ""


def test_journal_without_that_boot(tmp_path: Path) -> None:
    assert CrashTraces(tmp_path).find(BOOT_ID, NOW) == ""


def test_file_of_a_user(tmp_path: Path) -> None:
    """Everybody may write into /var/crash on some systems, and must not keep a fix out."""
    leave(tmp_path, "var/crash/dmesg.202311142213", NOW + 5)
    traces = CrashTraces(tmp_path, has_journal=False, owner=os.getuid() + 1)
    assert traces.find(BOOT_ID, NOW) == ""

# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors of files that answer when their server likes, and of those that answer at once."""

import os
import threading
from pathlib import Path

import pytest

from ksplicd.bus.descriptors import Closer, why_unreadable
from tests.support.bus.fuse import unreadable_file
from tests.support.waiting import wait_for

MOUNTS = (
    "27 1 254:0 / / rw - {} /dev/vda rw\n"
    "30 27 0:27 / /dev/shm rw shared:3 - tmpfs a\\040-\\040b rw,size=1k\n"
)


def mounted(folder: Path, kind: str, number: int = 27) -> tuple[int, Path]:
    """Return a descriptor of a pipe that proc(5) has on a file system of this kind."""
    fd, other = os.pipe()
    os.close(other)
    for process in ("1", "self/fdinfo"):
        (folder / process).mkdir(parents=True)
    (folder / "1/mountinfo").write_text(MOUNTS.format(kind))
    (folder / "self/mountinfo").write_text("")
    (folder / f"self/fdinfo/{fd}").write_text(f"pos:\t0\nflags:\t02\nmnt_id:\t{number}\nino:\t7\n")
    return fd, folder


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_local_files_are_read(tmp_path: Path, kind: str) -> None:
    fd, proc = mounted(tmp_path, kind)
    assert why_unreadable(fd, proc) == ""
    os.close(fd)


@pytest.mark.parametrize(
    "kind", ["fuse.sshfs", "fuseblk", "fuse", "nfs4", "cifs", "9p", "virtiofs", "overlay", "proc"]
)
def test_files_that_somebody_serves_are_not_read(tmp_path: Path, kind: str) -> None:
    fd, proc = mounted(tmp_path, kind)
    assert f"it is on {kind}; pass a memory file" in why_unreadable(fd, proc)
    os.close(fd)


def test_a_mount_that_the_host_does_not_have_is_not_known(tmp_path: Path) -> None:
    fd, proc = mounted(tmp_path, "ext4", number=28)
    assert "the host has no mount that it is on" in why_unreadable(fd, proc)
    os.close(fd)


def test_memory_files_are_read_wherever_they_are(tmp_path: Path) -> None:
    with os.fdopen(os.memfd_create("bundle")) as f:
        assert why_unreadable(f.fileno(), tmp_path) == ""


def test_a_file_of_this_host_is_read(tmp_path: Path) -> None:
    with (tmp_path / "bundle").open("wb") as f:
        assert why_unreadable(f.fileno()) == ""


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_what_is_no_file_is_not_read(flags: int) -> None:
    fd = os.open("/proc/self/status", flags)
    assert "no regular file" in why_unreadable(fd)
    os.close(fd)


def test_nobody_waits_for_a_file_that_does_not_close() -> None:
    closer = Closer()
    with unreadable_file(os.getpid()) as fd:
        assert "local file system" in why_unreadable(fd)
        closer.close([os.dup(fd) for _ in range(32)])
        assert not closer.has_room
        assert threading.current_thread().is_alive()
    wait_for(lambda: closer.has_room)

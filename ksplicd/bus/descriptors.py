# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors that callers hand over: which may be read, and how they are closed.

A file of FUSE or of a network answers when its server likes, and the server may be the caller.  Not
only read(2) waits for that, but fstat(2), fstatfs(2) and close(2) too (fs/fuse/inode.c,
fuse_statfs(); fs/fuse/file.c, fuse_flush()).  So what a file is on is found out from what the
kernel knows by itself, and until that is known nothing else is done with the descriptor.  What is
not to be read is closed in a thread of its own, on which nobody waits.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Final

LOCAL: Final = (
    *("bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "iso9660"),
    *("jfs", "nilfs2", "ntfs3", "ramfs", "squashfs", "tmpfs", "udf", "vfat", "xfs", "zfs"),
)
"""File systems whose files are read without a server.  overlay is none of them: what lies below
may be anything."""
_PROCESSES: Final = ("1", "self")
"""Whose mounts are known.  Mounts have numbers that no other one has while somebody uses them, so
that a mount of a namespace that a user made is not taken for one of these."""
_MOST_WAITING: Final = 32


def why_unreadable(fd: int, proc: Path = Path("/proc")) -> str:
    """Return why a descriptor is not read, or empty text; waits for no file system."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # EINVAL for all but memory files and tmpfs
        return ""
    kind = _file_system_of(fd, proc)
    if kind in LOCAL:
        return ""
    where = f"it is on {kind}" if kind else "the host has no mount that it is on"
    return (
        "the descriptor is no regular file of a local file system, whose reading nobody can hold"
        f" up: {where}; pass a memory file (memfd_create(2)), as `ksplice` does"
    )


def _file_system_of(fd: int, proc: Path) -> str:
    """Return the type of the file system, by the number of the mount (proc(5)); "": not known."""
    with contextlib.suppress(OSError, ValueError):
        _, _, rest = (proc / "self/fdinfo" / str(fd)).read_text().partition("mnt_id:")
        mount = rest.split()[0] if rest else ""
        for process in _PROCESSES:
            for line in (proc / process / "mountinfo").read_text().splitlines():
                if line.partition(" ")[0] == mount:
                    return line.rpartition(" - ")[2].split()[0]
    return ""


class Closer:
    """Closes descriptors, and lets nobody wait for that."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[list[int]] = SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="ksplicd-closer", daemon=True).start()

    @property
    def has_room(self) -> bool:
        """Whether more may be handed over: else one of them does not come to an end."""
        return self._waiting < _MOST_WAITING

    def close(self, fds: Iterable[int]) -> None:
        """Close descriptors, soon."""
        if each := [*fds]:
            self._count(len(each))
            self._queue.put(each)

    def _count(self, change: int) -> None:
        with self._lock:
            self._waiting += change

    def _run(self) -> None:
        while True:
            for fd in self._queue.get():
                with contextlib.suppress(OSError):
                    os.close(fd)
                self._count(-1)

# SPDX-License-Identifier: GPL-2.0-only
"""Small files of sysfs and procfs: what they say, and whether they are there.

"It is gone" and "it cannot be read now" are two answers: a daemon that is out of descriptors must
not take an applied update for a reversed one.
"""

import contextlib
import errno
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from ksplicd.errors import UnexpectedError

_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH})
"""The module, the livepatch or the task has ended, maybe meanwhile; any other errno says nothing
about it: out of descriptors, a livepatch is still there."""

NOT_SHOWN: Final = _GONE | {errno.EACCES, errno.EPERM}
"""Where it does not matter whether it is gone or not for us to see."""

_STACK_DEPTH: Final = 16
_MAX_ATTRIBUTE: Final = 1 << 16
"""Bytes; sysfs gives no more than a page, /proc/PID/stack hardly more."""


def read_attribute(path: Path, gone: Collection[int] = _GONE) -> str | None:
    """Return what a small file of sysfs or procfs says, or None when it is gone.

    Raises ``UnexpectedError`` when that cannot be told.
    """
    try:
        with path.open("rb", buffering=0) as f:  # one open, one read: this is asked often
            return f.read(_MAX_ATTRIBUTE).decode(errors="replace").strip()
    except OSError as e:
        if e.errno in gone:
            return None
        raise UnexpectedError(f"{path}: {e.strerror}") from e


def folders_with(file: str, parent: Path) -> Iterator[str]:
    """Yield the names of the folders in ``parent`` that have a ``file``."""
    with unexpected(parent):
        try:
            folders = list(parent.iterdir())
        except FileNotFoundError:
            return
        for folder in folders:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (folder / file).stat()
                yield folder.name


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder of sysfs or procfs; nothing when it is gone, or is a file.

    ``Path.glob`` fails where a folder goes while it looks.  Raises ``UnexpectedError``.
    """
    try:
        return list(folder.iterdir())
    except OSError as e:
        if e.errno in _GONE:
            return []
        raise UnexpectedError(f"{folder}: {e.strerror}") from e


@contextlib.contextmanager
def unexpected(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into an ``UnexpectedError`` that names the file at fault, or ``path``."""
    try:
        yield
    except OSError as e:
        raise UnexpectedError(f"{e.filename or path}: {e.strerror}") from e


def read_stack(text: str) -> str:
    """Return ``a < b < c`` of /proc/PID/stack's ``[<0>] a+0x1/0x2`` lines."""
    names = [line.rpartition("] ")[2].partition("+")[0] for line in text.splitlines()]
    return " < ".join(names[:_STACK_DEPTH])

# SPDX-License-Identifier: GPL-2.0-only
"""Small files of sysfs and procfs: their contents, and whether they exist.

"Gone" and "cannot be read now" are different answers: a daemon that is out of descriptors must not
take an applied update for a reversed one.
"""

import contextlib
import errno
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from ksplicd.errors import UnexpectedError

_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH})
"""The module, the livepatch or the task has ended.  Any other errno, such as EMFILE, does not show
that."""

NOT_SHOWN: Final = _GONE | {errno.EACCES, errno.EPERM}
"""For files where a missing permission counts as absence."""

_STACK_DEPTH: Final = 16
_MAX_ATTRIBUTE: Final = 1 << 16
"""Bytes; a sysfs file has at most a page, /proc/PID/stack hardly more."""


def read_attribute(path: Path, gone: Collection[int] = _GONE) -> str | None:
    """Return the contents of a small file of sysfs or procfs, or None when it is gone.

    Raises ``UnexpectedError`` when it cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as f:  # one open, one read: this runs often
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
    """Return the entries of a folder of sysfs or procfs; none when it is gone, or is a file.

    ``Path.glob`` would fail when a folder vanishes during the walk.  Raises ``UnexpectedError``.
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
